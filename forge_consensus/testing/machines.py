"""The state machines of a simulation: every step of one is compared with that of the other nodes."""

from __future__ import annotations

from typing import Any

import msgpack

from forge_consensus.storage.kv import KeyValueMachine
from forge_consensus.storage.machine import Command, Entry
from forge_consensus.testing.invariants import Invariants
from forge_consensus.testing.violations import demand


class CheckedKeyValueMachine(KeyValueMachine):
    """The built-in machine, whose every step is compared with that of the other nodes."""

    invariants: Invariants | None = None

    def apply(self, entry: Entry) -> Any:
        """Apply, and compare with the others."""
        result = super().apply(entry)
        if self.invariants is not None:
            self.invariants.applies(entry, state_of(entry.command, result))
        return result


class CountingMachine:
    """A user's machine: counters, and a hash of all that was applied, so that any difference between nodes shows."""

    def __init__(self, invariants: Invariants | None = None) -> None:
        self.counters: dict[str, int] = {}
        self.history = 0
        self.index = 0
        self.invariants = invariants

    def apply(self, entry: Entry) -> Any:
        """Apply, and compare with the others."""
        demand(entry.index > self.index, "I5", f"entry {entry.index} is applied after {self.index}")
        self.index = entry.index
        self.history = hash((self.history, entry.index, entry.term, entry.time_ms))
        key = entry.command.payload["key"]
        self.counters[key] = self.counters.get(key, 0) + 1
        if self.invariants is not None:
            self.invariants.applies(entry, repr((self.history, sorted(self.counters.items()))).encode())
        return self.counters[key]

    def query(self, query: Any) -> Any:
        """A counter, None if nothing was counted."""
        return self.counters.get(query["get"])

    def snapshot(self) -> list[bytes]:
        """Everything."""
        row = (self.index, self.history, self.counters)
        return [msgpack.packb(part) for part in row]

    def restore(self, chunks: Any) -> None:
        """Everything again."""
        self.index, self.history, self.counters = (msgpack.unpackb(chunk) for chunk in chunks)


def state_of(command: Command, result: Any) -> bytes:
    """What identifies a step of a machine whose whole state is not looked at."""
    return repr((command.type, sorted(command.payload.items()), result)).encode()
