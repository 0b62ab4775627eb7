"""The history: the configurations in a log, each in force from its entry on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Final

import msgpack

from forge_consensus.errors import BusyError, CorruptionError
from forge_consensus.storage.ledger.changes import check_follows
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.levels import LEVEL

CONFIGURATIONS: Final = b"configurations"
"""The key under which the ledger stores the indexes of the log's configuration entries."""


class ConfigurationHistory:
    """The configurations in the log, each in force from its entry on.

    Only the indexes of their entries are stored, in the transaction that writes the log; the contents are always read
    from the entries, so truncating an entry takes its configuration back.
    """

    def __init__(self, level: int = LEVEL) -> None:
        self.level = level
        """The highest feature level that the program of this node has. It reads no configuration of a higher one."""
        self.base = Configuration(())
        """The configuration as of the log's base: the part of the log that is compacted away."""
        self.rows: list[tuple[int, Configuration]] = []

    def load(self, base_index: int, base: bytes, indexes: bytes | None, read: Callable[[int], bytes]) -> None:
        """Take the base (its bytes, empty if nothing is compacted) and the entries at the stored indexes.

        `read` returns the data of the entry at an index. A node that joins has a base without members, and no entries.
        Raises `CorruptionError`, `UnsupportedVersionError`.
        """
        self.base = Configuration.decode(base, self.level) if base else Configuration(())
        self.rows = [
            (index, Configuration.decode(read(index), self.level))
            for index in msgpack.unpackb(indexes or b"\x90")
            if index > base_index
        ]
        if not self.current.members and not base:
            raise CorruptionError("the store knows no configuration, so the node does not run")

    def stored(self) -> bytes:
        """The indexes of the entries, as bytes to be stored."""
        stored: bytes = msgpack.packb([index for index, _ in self.rows])
        return stored

    @property
    def current(self) -> Configuration:
        """The configuration in force: the last one in the log, committed or not (dissertation 4.1)."""
        return self.rows[-1][1] if self.rows else self.base

    def at(self, index: int) -> Configuration:
        """The configuration that was in force at an index."""
        place = bisect_right(self.rows, index, key=lambda row: row[0])
        return self.rows[place - 1][1] if place else self.base

    @property
    def last(self) -> int:
        """The index of the last configuration entry, 0 if all of them are compacted, so committed."""
        return self.rows[-1][0] if self.rows else 0

    def in_doubt(self, commit_index: int) -> tuple[Configuration, Configuration]:
        """The configuration in force and the committed one: whichever an election leads to may turn out to be in force.

        A node stands if it votes in either, because the newest one may be known to it alone (dissertation 4.2.2).
        """
        return self.current, self.at(commit_index)

    def check_change(self, commit_index: int, *, led: bool) -> None:
        """Raise `BusyError` if a leader must not append another configuration yet (I12).

        It must not before an entry of its own term is committed (`led`), because two leaders could otherwise each act
        on a change that the other does not know; nor while an earlier configuration is uncommitted, because only two
        that follow each other are known to have majorities that meet (dissertation 4.1, and its erratum of 2015).
        """
        if not led or self.last > commit_index:
            raise BusyError("another configuration, or the leader's first entry, waits for a majority: try again")

    def add(self, index: int, data: bytes) -> None:
        """Note that an entry with this configuration was appended.

        Raises the errors of `Configuration.decode`, and `LogInconsistentError` if it may not follow the one before it.
        """
        found = Configuration.decode(data, self.level)
        check_follows(self.current, found)
        self.rows.append((index, found))

    def truncate(self, first: int) -> None:
        """Forget the configurations of the entries from `first` on, because those were truncated."""
        while self.rows and self.rows[-1][0] >= first:
            self.rows.pop()

    def compacted(self, index: int, configuration: bytes) -> None:
        """Forget the entries up to `index`, because they were compacted; `configuration` was in force at `index`."""
        self.base = Configuration.decode(configuration, self.level)
        self.rows = [row for row in self.rows if row[0] > index]
