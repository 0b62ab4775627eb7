"""The configuration: the members of the cluster and what all of them must agree on, as a log entry holds it.

The bytes. Version 1 is the msgpack array `[members, lease_reads]`, with `members` an array of `[node id, address]`.
Every later version is an array that begins with its number. Version 2 is `[2, members, lease_reads, lease_ms,
drift_ppm, machine]`. Version 3 has the feature level behind these. A number that this program does not know is refused
with `UnsupportedVersionError`, because a node that ignored a field could count a majority among the wrong nodes. So is
a feature level that the program does not have.

To add a field (outgoing voters, learners, attributes): give `Configuration` the field with a default that means what
the earlier version meant; raise `VERSION`; let `encode` write the new version only for a configuration that uses the
field, so that a plain list of members keeps its bytes, its digest and its readers; let `decode` fill in the default for
earlier versions; propose such a configuration only when the level that brought it is in force
(`forge_consensus.storage.ledger.levels`).
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, cast

import msgpack

from forge_consensus.errors import BusyError, CorruptionError, InvalidConfigError, UnsupportedVersionError
from forge_consensus.storage.ledger.levels import FIRST_LEVEL, LEVEL, beyond
from forge_consensus.storage.ledger.quorum import Quorum

CONFIGURATIONS: Final = b"configurations"
"""The key under which the ledger stores the indexes of the log's configuration entries."""

VERSION: Final = 3
"""The newest version of a configuration's bytes that this program reads."""
LEASE_MS: Final = 800
DRIFT_PPM: Final = 100_000
"""The lease of a configuration of version 1, which names none: the defaults of the settings that leases went by."""


@dataclass(frozen=True)
class Configuration:
    """The members of the cluster, and the settings that all of them must agree on.

    Its bytes hold nothing local, so the first log entry is the same on every node, and its hash is part of the
    cluster's identity.
    """

    members: tuple[tuple[str, str], ...]
    """(node id, address) of each member, sorted by node id."""
    lease_reads: bool = False
    """Whether leaders may answer reads under a lease. All members share it, because a lease is safe only if every voter
    keeps its vote back for as long."""
    lease_ms: int = LEASE_MS
    """With leases: for how many milliseconds after a leader's request a member keeps its vote back from others. Leader
    and followers go by this value and never by a setting of their own, which may differ."""
    drift_ppm: int = DRIFT_PPM
    """With leases: by how many millionths of `lease_ms` a leader's own lease is shorter, because clocks do not run
    equally fast."""
    machine: str = ""
    """The name of the state machine that all members run. It is empty for the built-in one, and for a cluster that is
    older than the names."""
    level: int = FIRST_LEVEL
    """The feature level of the cluster: the programs of all members have it (`forge_consensus.storage.ledger.levels`).
    Every cluster begins with the first, because its first entry has equal bytes on all nodes, whichever program founds
    them."""

    @classmethod
    def of(
        cls,
        peers: Mapping[str, str],
        *,
        lease_reads: bool = False,
        lease_ms: int = LEASE_MS,
        drift_ppm: int = DRIFT_PPM,
        machine: str = "",
    ) -> Configuration:
        """Make the configuration of these members, given as node id -> address ("host:port").

        `lease_ms` and `drift_ppm` count with `lease_reads` only: without leases all lists of members have equal bytes.
        Raises `InvalidConfigError` if there is no member, or two members share an address.
        """
        if not peers:
            raise InvalidConfigError("the list of peers is empty: a cluster has at least one member")
        members = tuple(sorted(peers.items()))
        if len({address for _, address in members}) != len(members):
            raise InvalidConfigError(f"two peers share one address in {cls(members).text}: give each its own")
        if not lease_reads:
            lease_ms, drift_ppm = LEASE_MS, DRIFT_PPM
        return cls(members, lease_reads, lease_ms, drift_ppm, machine)

    @cached_property
    def voters(self) -> frozenset[str]:
        """The ids of the members that vote: today all of them."""
        return frozenset(node for node, _ in self.members)

    @cached_property
    def quorum(self) -> Quorum:
        """Decides which nodes are a majority. All code uses it, so a joint configuration is one change.

        Today there is one set of voters; a joint configuration will give its outgoing voters here as the second.
        """
        return Quorum(self.voters)

    @cached_property
    def addresses(self) -> dict[str, str]:
        """The address of each member, by node id."""
        return dict(self.members)

    def vote_kept(self, election_timeout_min: float) -> float:
        """For how many seconds after a leader's request a member keeps its vote back from others.

        With leases it is a value of the configuration, equal on all members, because their leader relies on it. Without
        leases nobody does, and each goes by its own minimal election timeout.
        """
        return self.lease_ms / 1000 if self.lease_reads else election_timeout_min

    @property
    def lease_ns(self) -> int:
        """How long a leader's lease lasts from the moment when the request left that a majority answered."""
        return self.lease_ms * (1_000_000 - self.drift_ppm)

    def encode(self) -> bytes:
        """The bytes of this configuration, the same on every node, in the earliest version that can hold it."""
        row = (self.members, self.lease_reads, self.lease_ms, self.drift_ppm, self.machine)
        if self.level != FIRST_LEVEL:
            return cast("bytes", msgpack.packb((3, *row, self.level)))
        if row[2:] == (LEASE_MS, DRIFT_PPM, ""):
            return cast("bytes", msgpack.packb(row[:2]))
        return cast("bytes", msgpack.packb((2, *row)))

    @classmethod
    def decode(cls, data: bytes, level: int = LEVEL) -> Configuration:
        """The configuration that `encode` gave these bytes for; `level` is the highest one that the program has.

        Raises `UnsupportedVersionError` if a later version wrote them or their feature level is higher,
        `CorruptionError` if they are damaged.
        """
        found = cls.decode_any(data)
        if found.level > level:
            raise beyond(found.level, level)
        return found

    @classmethod
    def decode_any(cls, data: bytes) -> Configuration:
        """What `decode` returns, whatever the feature level: for looking at it, never for a node to run with."""
        try:
            row = msgpack.unpackb(data, use_list=False)
            version = row[0] if isinstance(row, tuple) and row and type(row[0]) is int else 1
            if version > VERSION:
                raise UnsupportedVersionError(
                    f"a configuration of the cluster is written in version {version}, and this program reads versions "
                    f"up to {VERSION}: run a later version of the program on this node"
                )
            lease_ms, drift_ppm, machine, levels = LEASE_MS, DRIFT_PPM, "", []
            if version < 2:
                members, lease_reads = row
            else:
                _, members, lease_reads, lease_ms, drift_ppm, machine, *levels = row
            if len(levels) != max(0, version - 2):
                raise ValueError("a number of fields that cannot be")
            level = levels[0] if levels else FIRST_LEVEL
            if type(level) is not int or level < FIRST_LEVEL:
                raise ValueError("a feature level that cannot be")
            if not (type(lease_ms) is int and lease_ms > 0 and type(drift_ppm) is int and 0 <= drift_ppm < 1_000_000):
                raise ValueError("a lease that cannot be")
            named = tuple((str(node), str(address)) for node, address in members)
            return cls(named, bool(lease_reads), lease_ms, drift_ppm, str(machine), level)
        except (ValueError, TypeError) as error:
            raise CorruptionError("a configuration entry of the log does not decode") from error

    @cached_property
    def digest(self) -> str:
        """A hash of the bytes. Nodes compare it when they greet each other, to refuse a member of another cluster."""
        return hashlib.sha256(self.encode()).hexdigest()[:16]

    @property
    def text(self) -> str:
        """The configuration for people to read: n1=host:port,n2=..."""
        listed = ",".join(f"{node}={address}" for node, address in self.members)
        if self.lease_reads:
            listed += f" with lease reads of {self.lease_ms} ms less {self.drift_ppm / 10_000:g} %"
        if self.machine:
            listed += f" and the state machine {self.machine!r}"
        return listed + (f" at feature level {self.level}" if self.level != FIRST_LEVEL else "")


def lease_ms_of(election_timeout_min: float) -> int:
    """The lease in milliseconds that nodes with this minimal election timeout (seconds) can keep."""
    return math.floor(round(election_timeout_min * 1000, 6))


def drift_ppm_of(clock_drift: float) -> int:
    """A part of a lease in millionths, rounded up."""
    return math.ceil(round(clock_drift * 1_000_000, 6))


def check_lease(configuration: Configuration, election_timeout_min: float) -> None:
    """Raise `InvalidConfigError` for a node that could stand, and vote for itself, while a lease may still last."""
    if configuration.lease_reads and lease_ms_of(election_timeout_min) < configuration.lease_ms:
        lease = configuration.lease_ms / 1000
        raise InvalidConfigError(
            f"raft.election_timeout_min is {election_timeout_min} s, and the leases of this cluster last {lease} s "
            "since its founding: this node would stand for election while a leader may still answer reads by its "
            f"lease. Set raft.election_timeout_min to at least {lease} s on this node"
        )


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

        `read` returns the data of the entry at an index. Raises `CorruptionError`, `UnsupportedVersionError`.
        """
        self.base = Configuration.decode(base, self.level) if base else Configuration(())
        self.rows = [
            (index, Configuration.decode(read(index), self.level))
            for index in msgpack.unpackb(indexes or b"\x90")
            if index > base_index
        ]
        if not self.current.members:
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

    def check_change(self, commit_index: int, *, led: bool) -> None:
        """Raise `BusyError` if a leader must not append another configuration yet (I12).

        It must not before an entry of its own term is committed (`led`), because two leaders could otherwise each act
        on a change that the other does not know; nor while an earlier configuration is uncommitted, because only two
        that follow each other are known to have majorities that meet (dissertation 4.1, and its erratum of 2015).
        """
        if not led or self.last > commit_index:
            raise BusyError("another configuration, or the leader's first entry, waits for a majority: try again")

    def add(self, index: int, data: bytes) -> None:
        """Note that an entry with this configuration was appended. Raises the errors of `Configuration.decode`."""
        self.rows.append((index, Configuration.decode(data, self.level)))

    def truncate(self, first: int) -> None:
        """Forget the configurations of the entries from `first` on, because those were truncated."""
        while self.rows and self.rows[-1][0] >= first:
            self.rows.pop()

    def compacted(self, index: int, configuration: bytes) -> None:
        """Forget the entries up to `index`, because they were compacted; `configuration` was in force at `index`."""
        self.base = Configuration.decode(configuration, self.level)
        self.rows = [row for row in self.rows if row[0] > index]
