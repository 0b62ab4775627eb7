"""The configuration: the members of the cluster and what all of them must agree on, as a log entry holds it.

The bytes. Version 1 is the msgpack array `[members, lease_reads]`, with `members` an array of `[node id, address]`.
Every later version is an array that begins with its number. Version 2 is `[2, members, lease_reads, lease_ms,
drift_ppm, machine]`. Version 3 has the feature level behind these. A number that this program does not know is refused
with `UnsupportedVersionError`, because a node that ignored a field could count a majority among the wrong nodes. So is
a feature level that the program does not have. Version 4 has `incoming`, `outgoing`, `learners_next`, `joining` and
`folders` behind the level, version 5 `recovery` behind these, version 6 `priorities` and `no_leader`, version 7 `urls`;
all of them are of the first level, because no program without them was ever released.

To add a field: give `Configuration` the field with a default that means what the earlier version meant; raise
`VERSION`; let `encode` write the new version only for a configuration that uses the field, so that a plain list of
members keeps its bytes, its digest and its readers; let `decode` fill in the default for earlier versions; propose such
a configuration only when the level that brought it is in force (`forge_consensus.storage.ledger.levels`).

Which configuration may follow which is decided in `forge_consensus.storage.ledger.changes`, who is a majority in
`forge_consensus.storage.ledger.quorum`; the configurations of a log are in `forge_consensus.storage.ledger.history`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, cast

import msgpack

from forge_consensus.errors import CorruptionError, InvalidConfigError, UnsupportedVersionError
from forge_consensus.storage.ledger.levels import FIRST_LEVEL, LEVEL, beyond
from forge_consensus.storage.ledger.quorum import Quorum

VERSION: Final = 7
"""The newest version of a configuration's bytes that this program reads."""
LEASE_MS: Final = 800
DRIFT_PPM: Final = 100_000
"""The lease of a configuration of version 1, which names none: the defaults of the settings that leases went by."""
FIELDS: Final = (2, 5, 6, 11, 12, 14, 15)
"""How many fields each version has, from version 1 on."""
WITH_SETS: Final = 4
"""The version that names who votes."""
MEMBERS_MAX: Final = 200
"""So many members a cluster has at most: every message that names all of them fits into its frame then."""
VOTER: Final = "voter"
LEAVING: Final = "leaving"
LEARNER: Final = "learner"
PRIORITY_MAX: Final = 1_000_000
URL: Final = re.compile(r"[!-~]{1,256}")
"""What a URL of a member may be: it goes into the headers of answers."""


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
    incoming: tuple[str, ...] = ()
    """The ids of the members that vote, sorted; empty if all of them do. In a joint configuration: the voters of the
    configuration that is to come."""
    outgoing: tuple[str, ...] = ()
    """In a joint configuration (dissertation 4.3): the ids of the voters of the one that it takes the place of, sorted.
    Empty in a plain one."""
    learners_next: tuple[str, ...] = ()
    """The outgoing voters that remain as learners when the joint configuration is left, sorted. Other voters that are
    in the outgoing set only are no members afterwards."""
    joining: tuple[str, ...] = ()
    """The learners that are to vote as soon as they hold almost the whole log (dissertation 4.2.1), sorted."""
    folders: tuple[tuple[str, str], ...] = ()
    """By node id, sorted: the incarnation of the folder of each member that was added after the founding. Only a node
    with that folder is the member: one on another folder has forgotten what the member promised, or is what is left of
    an earlier member of the same id."""
    recovery: str = ""
    """A token of the last forced recovery, empty if there was none. A configuration with another token than the one
    before it was written by the operators, who gave up a lost majority, so it may follow any
    (`forge_consensus.storage.recovery`)."""
    priorities: tuple[tuple[str, int], ...] = ()
    """By node id, sorted: how much a member is preferred as the leader; members that are not named have priority 0."""
    no_leader: tuple[str, ...] = ()
    """The ids of the members that never lead, sorted. They vote like others, if they are voters."""
    urls: tuple[tuple[str, str], ...] = ()
    """By node id, sorted: where the application of a member answers HTTP, as the member told when it greeted. Nothing
    in the protocol depends on it."""

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
        Raises `InvalidConfigError` if there is no member, if there are too many, or if two share an address.
        """
        if not peers:
            raise InvalidConfigError("the list of peers is empty: a cluster has at least one member")
        if len(peers) > MEMBERS_MAX:
            raise InvalidConfigError(f"there are {len(peers)} peers, and a cluster has at most {MEMBERS_MAX} members")
        members = tuple(sorted(peers.items()))
        if len({address for _, address in members}) != len(members):
            raise InvalidConfigError(f"two peers share one address in {cls(members).text}: give each its own")
        if not lease_reads:
            lease_ms, drift_ppm = LEASE_MS, DRIFT_PPM
        return cls(members, lease_reads, lease_ms, drift_ppm, machine)

    @cached_property
    def nodes(self) -> frozenset[str]:
        """The ids of all members, voters and learners: each receives the log."""
        return frozenset(node for node, _ in self.members)

    @cached_property
    def quorum(self) -> Quorum:
        """Decides which nodes are a majority. All code uses it, so joint configurations are counted in one place."""
        incoming = frozenset(self.incoming) if self.incoming else self.nodes
        return Quorum(incoming, frozenset(self.outgoing) if self.outgoing else None)

    @property
    def voters(self) -> frozenset[str]:
        """The ids of the members that vote, in either set of a joint configuration."""
        return self.quorum.voters

    @property
    def incoming_voters(self) -> frozenset[str]:
        """The ids of the members that vote, and still will once a joint configuration is left."""
        return self.quorum.sets[0][0]

    @cached_property
    def learners(self) -> frozenset[str]:
        """The ids of the members that receive the log and do not vote."""
        return self.nodes - self.voters

    @property
    def is_joint(self) -> bool:
        """Whether majorities of two sets of voters are needed."""
        return bool(self.outgoing)

    def part_of(self, node: str) -> str:
        """The part that a node has: voter, leaving (it votes in the outgoing set only), learner, or "" for none."""
        if node in self.incoming_voters:
            return VOTER
        if node in self.voters:
            return LEAVING
        return LEARNER if node in self.nodes else ""

    def folder_of(self, node: str) -> str:
        """The incarnation of the folder with which a member was added, "" for one that founded the cluster."""
        return dict(self.folders).get(node, "")

    @property
    def willing(self) -> frozenset[str]:
        """The voters that may lead, and will be voters once a joint configuration is left."""
        return self.incoming_voters.difference(self.no_leader)

    def url_of(self, node: str) -> str:
        """Where the application of a member answers HTTP, "" if it is not known."""
        return next((url for named, url in self.urls if named == node), "")

    def may_lead(self, node: str) -> bool:
        """Whether a node is not marked never to lead."""
        return node not in self.no_leader

    def priority_of(self, node: str) -> int:
        """How much a node is preferred as the leader; 0 is usual, and the highest is preferred."""
        return dict(self.priorities).get(node, 0)

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
        changed = (self.incoming, self.outgoing, self.learners_next, self.joining, self.folders)
        wishes = (self.priorities, self.no_leader)
        if self.urls:
            return cast("bytes", msgpack.packb((7, *row, self.level, *changed, self.recovery, *wishes, self.urls)))
        if any(wishes):
            return cast("bytes", msgpack.packb((6, *row, self.level, *changed, self.recovery, *wishes)))
        if self.recovery:
            return cast("bytes", msgpack.packb((5, *row, self.level, *changed, self.recovery)))
        if any(changed):
            return cast("bytes", msgpack.packb((4, *row, self.level, *changed)))
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
            return cls.of_row(row if version > 1 else (1, *row))
        except (ValueError, TypeError) as error:
            raise CorruptionError("a configuration entry of the log does not decode") from error

    @classmethod
    def of_row(cls, row: tuple[Any, ...]) -> Configuration:
        """The configuration of a row that begins with its version. Raises `ValueError`, `TypeError`."""
        version, fields = row[0], row[1:]
        if version < 1 or len(fields) != FIELDS[version - 1]:
            raise ValueError("a number of fields that cannot be")
        defaults: tuple[Any, ...] = (LEASE_MS, DRIFT_PPM, "", FIRST_LEVEL, (), (), (), (), (), "", (), (), ())
        members, lease_reads, *rest = (*fields, *defaults[len(fields) - 2 :])
        lease_ms, drift_ppm, machine, level, *added = rest
        if type(level) is not int or level < FIRST_LEVEL:
            raise ValueError("a feature level that cannot be")
        if not (type(lease_ms) is int and lease_ms > 0 and type(drift_ppm) is int and 0 <= drift_ppm < 1_000_000):
            raise ValueError("a lease that cannot be")
        named = tuple((str(node), str(address)) for node, address in members)
        found = cls(
            named,
            bool(lease_reads),
            lease_ms,
            drift_ppm,
            str(machine),
            level,
            *added,
        )
        if version >= WITH_SETS and not found.is_sound:
            raise ValueError("voters and learners that cannot be")
        return found

    def begun_anew(self, members: Mapping[str, str], token: str) -> Configuration:
        """The configuration with which these voters begin a cluster of their own, out of the state of this one.

        Wishes about others are left behind, and so is "never to lead" if nobody could lead else. Where their
        applications answer the members tell anew.
        """
        no_leader = tuple(node for node in self.no_leader if node in members)
        return replace(
            self,
            members=tuple(sorted(members.items())),
            incoming=(),
            outgoing=(),
            learners_next=(),
            joining=(),
            folders=(),
            recovery=token,
            priorities=tuple((node, priority) for node, priority in self.priorities if node in members),
            no_leader=() if set(no_leader) == set(members) else no_leader,
            urls=(),
        )

    @property
    def without_members(self) -> Configuration:
        """What a node that joins knows before it is a member: what all agree on, and nothing about anybody."""
        return replace(self, members=(), priorities=(), no_leader=(), urls=())

    @property
    def is_sound(self) -> bool:
        """Whether the sets fit together and each has one way to be written, so that equal ones have equal bytes."""
        added = tuple(node for node, _ in self.folders)
        preferred = tuple(node for node, _ in self.priorities)
        told = tuple(node for node, _ in self.urls)
        lists = (
            self.incoming, self.outgoing, self.learners_next, self.joining, added, preferred, self.no_leader, told,
        )  # fmt: skip
        incoming = set(self.incoming) or self.nodes
        return (
            all(tuple(sorted(set(each))) == each and self.nodes.issuperset(each) for each in lists)
            and len(self.nodes) == len(self.members)
            and (set(self.incoming) != self.nodes or not self.nodes)
            and set(self.learners_next) <= set(self.outgoing) - incoming
            and not set(self.joining) & (incoming | set(self.outgoing))
            and type(self.recovery) is str
            and all(type(folder) is str and folder for _, folder in self.folders)
            and all(type(priority) is int and 0 < abs(priority) <= PRIORITY_MAX for _, priority in self.priorities)
            and all(type(url) is str and URL.fullmatch(url) is not None for _, url in self.urls)
        )

    @cached_property
    def digest(self) -> str:
        """A hash of the bytes. Nodes compare it when they greet each other, to refuse a member of another cluster."""
        return hashlib.sha256(self.encode()).hexdigest()[:16]

    def noted(self, node: str) -> str:
        """What a member is besides a plain voter, as the text of the configuration names it."""
        part, priority = self.part_of(node), self.priority_of(node)
        told = [] if part == VOTER else [part]
        told += [f"priority {priority}"] if priority else []
        told += [] if self.may_lead(node) else ["no leader"]
        return f" ({', '.join(told)})" if told else ""

    @property
    def text(self) -> str:
        """The configuration for people to read: n1=host:port,n2=..."""
        listed = ",".join(f"{node}={address}{self.noted(node)}" for node, address in self.members)
        if self.is_joint:
            listed += f", jointly with the voters {','.join(self.outgoing)}"
        if self.lease_reads:
            listed += f" with lease reads of {self.lease_ms} ms less {self.drift_ppm / 10_000:g} %"
        if self.urls:
            listed += f", HTTP at {','.join(f'{node}={url}' for node, url in self.urls)}"
        if self.machine:
            listed += f" and the state machine {self.machine!r}"
        return listed + (f" at feature level {self.level}" if self.level != FIRST_LEVEL else "")


def quorum_of(members: Iterable[tuple[str, str, bool]]) -> Quorum:
    """The quorum of members that are told one by one: (node id, part, whether it is one of the outgoing voters)."""
    rows = list(members)
    outgoing = frozenset(node for node, _, leaves in rows if leaves)
    return Quorum(frozenset(node for node, part, _ in rows if part == VOTER), outgoing or None)


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
