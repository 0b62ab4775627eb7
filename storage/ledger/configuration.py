"""The configuration: who the members are, as it stands in a log entry."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import msgpack

from forge_consensus.errors import CorruptionError, InvalidConfigError
from forge_consensus.storage.ledger.quorum import Quorum


@dataclass(frozen=True)
class Configuration:
    """Members as (node id, address) sorted by id, and what all of them must agree on.

    Its bytes hold nothing local, so the first log entry is the same on every node and its hash is part of the
    cluster's identity. `lease_reads` is here because a lease is safe only if every voter honours it.
    """

    members: tuple[tuple[str, str], ...]
    lease_reads: bool = False

    @classmethod
    def of(cls, peers: Mapping[str, str], *, lease_reads: bool = False) -> Configuration:
        """The configuration of these members (node id -> address).

        Raises `InvalidConfigError` when there is nobody, or two members share an address.
        """
        if not peers:
            raise InvalidConfigError("the list of peers is empty: a cluster has at least one member")
        members = tuple(sorted(peers.items()))
        if len({address for _, address in members}) != len(members):
            raise InvalidConfigError(f"two peers share one address in {cls(members).text}: give each its own")
        return cls(members, lease_reads)

    @cached_property
    def voters(self) -> frozenset[str]:
        """The ids of those who vote."""
        return frozenset(node for node, _ in self.members)

    @cached_property
    def quorum(self) -> Quorum:
        """Decides what a majority is. Every such question goes through it, so that a joint configuration is one change.

        Today there is one set of voters; a joint configuration will give its outgoing voters here as the second.
        """
        return Quorum(self.voters)

    @cached_property
    def addresses(self) -> dict[str, str]:
        """Node id -> address."""
        return dict(self.members)

    def encode(self) -> bytes:
        """The bytes, equal on every node."""
        return cast("bytes", msgpack.packb((self.members, self.lease_reads)))

    @classmethod
    def decode(cls, data: bytes) -> Configuration:
        """The configuration in those bytes. Raises `CorruptionError`."""
        try:
            members, lease_reads = msgpack.unpackb(data, use_list=False)
            return cls(tuple((str(node), str(address)) for node, address in members), bool(lease_reads))
        except (ValueError, TypeError) as error:
            raise CorruptionError("a configuration entry of the log does not decode") from error

    @cached_property
    def digest(self) -> str:
        """What nodes compare when they greet each other."""
        return hashlib.sha256(self.encode()).hexdigest()[:16]

    @property
    def text(self) -> str:
        """For people: n1=host:port,n2=..."""
        listed = ",".join(f"{node}={address}" for node, address in self.members)
        return listed + (" with lease reads" if self.lease_reads else "")


CONFIGURATIONS = b"configurations"


class ConfigurationHistory:
    """The configurations in the log, each in force from its entry on, behind the one of the compacted part.

    Only the indexes are stored, with the log itself and in its transaction; the contents are always read from the
    entries, so a truncated entry takes its configuration back.
    """

    def __init__(self) -> None:
        self.base = Configuration(())
        self.rows: list[tuple[int, Configuration]] = []

    def load(self, base_index: int, base: bytes, indexes: bytes | None, read: Callable[[int], bytes]) -> None:
        """Take up the base and the entries at the stored indexes; `read` gives an entry's data.

        Raises `CorruptionError`.
        """
        self.base = Configuration.decode(base) if base else Configuration(())
        self.rows = [
            (index, Configuration.decode(read(index)))
            for index in msgpack.unpackb(indexes or b"\x90")
            if index > base_index
        ]
        if not self.current.members:
            raise CorruptionError("the store knows no configuration, so the node does not run")

    def stored(self) -> bytes:
        """The indexes, to be stored."""
        stored: bytes = msgpack.packb([index for index, _ in self.rows])
        return stored

    @property
    def current(self) -> Configuration:
        """The one in force: the last in the log, committed or not (dissertation 4.1)."""
        return self.rows[-1][1] if self.rows else self.base

    def at(self, index: int) -> Configuration:
        """The one as of an index."""
        place = bisect_right(self.rows, index, key=lambda row: row[0])
        return self.rows[place - 1][1] if place else self.base

    def add(self, index: int, data: bytes) -> None:
        """An entry with a configuration was appended."""
        self.rows.append((index, Configuration.decode(data)))

    def truncate(self, first: int) -> None:
        """The entries from `first` on are gone."""
        while self.rows and self.rows[-1][0] >= first:
            self.rows.pop()

    def compacted(self, index: int, configuration: bytes) -> None:
        """The entries up to `index` are gone; this was the configuration as of that index."""
        self.base = Configuration.decode(configuration)
        self.rows = [row for row in self.rows if row[0] > index]
