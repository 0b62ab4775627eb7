"""The draft: what one command of the key-value machine is about to change; merged only if the command succeeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from forge_consensus.storage.machines.kv_overlay import Span
from forge_consensus.storage.machines.kv_rows import row_after, value_size
from forge_consensus.storage.machines.leases import OWN_BITS, Leases

READ_BYTES_MAX: Final = 8 << 20
"""The most bytes of stored values that one command reads: a few bytes of a batch or a prefix can name large values.
Nothing else happens on the node meanwhile, for up to 10 ms a MiB when its machine is busy, so it is far below an
election timeout. Like the bound of results this one decides the outcome, so it is no setting."""


class State(Protocol):
    """The state that a command reads. `pack` is a msgpack packer that keeps its buffer between calls."""

    pack: Callable[[Any], bytes]
    leases: Leases

    def row(self, key: str) -> bytes | None:
        """Return the row of a key, or None."""

    def fresh_row(self, key: str) -> bytes | None:
        """Return the row of a key if it is in memory, None if it was deleted there, or `UNSEEN`."""

    def has(self, key: str) -> bool:
        """Return whether a key exists, without reading its value."""

    def created(self, key: str, row: bytes) -> int:
        """Return the index of the entry since which a key exists that has this row."""

    def span_rows(self, span: Span) -> Iterator[tuple[str, bytes]]:
        """Yield the keys of a span and their rows, in order."""


class Draft:
    """The writes of one command, which it sees itself. Leases are changed at once, and taken back if it fails."""

    __slots__ = ("gone", "index", "leases", "left", "number", "pack", "revoked", "state", "whole", "writes")

    def __init__(self, state: State, index: int) -> None:
        self.state = state
        self.index = index
        """The index of the command's entry."""
        self.leases = state.leases
        self.pack = state.pack
        self.writes: dict[str, bytes | None] = {}
        """Rows by key; None for a deleted key."""
        self.gone: dict[str, int] = {}
        """The keys that existed before the command and that it deletes, with their leases."""
        self.number: int | None = None
        """The number of the op within a batch or a transaction, None for a command by itself."""
        self.whole = ""
        """What the command is that consists of ops: a batch or a transaction."""
        self.left: int | None = None
        """How many bytes of values a batch or a transaction may still read; None for a command by itself."""
        self.revoked = 0
        """How many keys went with leases that it revoked."""

    @property
    def own_lease(self) -> int:
        """The id of the lease that is made for the key which is written now."""
        return self.index | (self.number or 0) << OWN_BITS

    def row(self, key: str) -> bytes | None:
        """Return the row of a key as the command sees it: after its own writes. Raises `ValueError` beyond a bound."""
        if key in self.writes:
            return self.writes[key]
        row = self.state.row(key)
        if row is not None and self.left is not None:
            self.left -= value_size(row)
            if self.left < 0:
                raise ValueError(f"it reads more than {READ_BYTES_MAX} bytes of values: split the {self.whole}")
        return row

    def put(self, key: str, value: bytes, lease: int) -> None:
        """Write a key with a packed value, on a lease that may take it; 0 for none."""
        self.leases.move(key, lease)
        below = self.writes[key] if key in self.writes else self.state.fresh_row(key)
        self.writes[key] = row_after(below, self.index, lease, value)

    def delete(self, key: str) -> None:
        """Delete a key that is there."""
        lease = self.leases.of_key.get(key, 0)
        if lease:
            self.leases.move(key, 0)
        self.forget(key, lease)

    def forget(self, key: str, lease: int) -> None:
        """Delete a key that is there and whose lease, which it hung on, has let it go."""
        if key not in self.writes or (key not in self.gone and self.state.has(key)):
            self.gone.setdefault(key, lease)
        self.writes[key] = None
