"""The rule of a machine's snapshots: `snapshot()` always works; otherwise the log of a real node would grow forever.

A node survives a snapshot that fails: it publishes an event and tries again. So an error of the machine's own code is
detected here, where the code is called; an error of the disk comes from elsewhere and is no violation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from forge_consensus.storage.machines.machine import StateMachine
from forge_consensus.storage.snapshots.file import CHUNK_BYTES_MAX
from forge_consensus.testing.rules.violations import ViolationError

WANTED = (
    "snapshot() must return an iterable of bytes chunks, for example [msgpack.packb(self.state)]. It is iterated over "
    "later, while commands are applied, and must not see what they change: take a copy when it is called."
)


def checked_snapshot(node: str, machine: StateMachine) -> Iterator[bytes]:
    """Return the result of the machine's `snapshot()`, checked chunk by chunk. Raises `ViolationError`, also later."""
    who = f"{type(machine).__name__}.snapshot() on {node}"
    try:
        given: Any = machine.snapshot()
        if isinstance(given, str | bytes | bytearray | memoryview):
            raise TypeError(f"it returned {shown(given)} itself and no iterable of such")
        chunks = iter(given)
    except Exception as error:
        raise failed(who, error) from error
    return checked_chunks(who, chunks)


def checked_chunks(who: str, chunks: Iterable[Any]) -> Iterator[bytes]:
    """Yield the chunks. Raises `ViolationError` for a wrong chunk and for an error of the machine's iterator."""
    try:
        for chunk in chunks:
            if not isinstance(chunk, bytes | bytearray | memoryview):
                raise TypeError(f"a chunk is {shown(chunk)} and no bytes")
            if len(chunk) > CHUNK_BYTES_MAX:
                raise ValueError(f"a chunk has {len(chunk)} bytes, at most {CHUNK_BYTES_MAX}")
            yield bytes(chunk)
    except Exception as error:
        raise failed(who, error) from error


def failed(who: str, error: Exception) -> ViolationError:
    """Return the violation that quotes an error."""
    return ViolationError(f"snapshot: {who} failed, {type(error).__name__}: {error}. {WANTED}")


def shown(value: object) -> str:
    """Return a value and its class in a few characters."""
    return f"{type(value).__name__} {value!r}"[:80]
