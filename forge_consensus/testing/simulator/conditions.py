"""The conditions of a run beyond its faults: settings that differ, slow machines, hostile commands, silent connections.

Each of them is rare in a campaign, because most of them cost time, and because a run in which everything is unusual
finds less than many runs that each have one thing of their own.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.testing.faults.drawn import MISTAKES, WILD
from forge_consensus.testing.world.cluster import USUAL_BOUNDS, Bounds

COMMANDS_MAX = 12
"""The most commands in one frame of a simulated client; a limit below it would refuse such a frame for ever."""
CALM_SECONDS = 0.3
"""The longest time of a command in a calm run: far less than an election timeout."""
UNEQUAL = ("times", "sizes", "snapshots")
"""The groups of settings that may differ between the nodes of one cluster."""
Shares = Mapping[str, float]
SHARES: Shares = {
    "clusters": 0.2,
    "limits": 0.12,
    "largest": 0.1,
    "unequal": 0.15,
    "wild": 0.25,
    "machine": 0.1,
    "hostile": 0.12,
    "backoff": 0.15,
    "core": 0.12,
    "calm": 0.02,
    "sessions": 0.06,
    "outcomes": 0.05,
    "quota": 0.05,
    "mistakes": 0.08,
    "members": 0.3,
    "reads": 0.3,
    "leases": 0.33,
    "access": 0.12,
}
"""The share of seeds with each condition: clusters of another size; limits that bind; commands of the largest legal
size; settings that differ between nodes; faults of `WILD`; machines that take time; commands that no honest client
sends; connections that heal only by back-off; a majority that no fault touches; no fault at all, and a flood;
few sessions; sessions that keep little; stores with a small quota; faults of `MISTAKES`; members that change; reads on
nodes that do not lead; keys with leases, and watches, where the machine is the built-in one; a user who changes the
list of access.

Members have a large share, because changes together with crashes and partitions found most bugs in public analyses.
Neither they nor reads nor leases nor the list of access move a draw of the other seeds."""
HARD: Shares = {
    **SHARES,
    "clusters": 0.3,
    "limits": 0.4,
    "largest": 0.15,
    "unequal": 0.35,
    "wild": 0.55,
    "machine": 0.25,
    "hostile": 0.25,
    "backoff": 0.35,
    "calm": 0.0,
    "sessions": 0.15,
    "outcomes": 0.12,
    "quota": 0.12,
    "mistakes": 0.1,
    "members": 0.65,
    "reads": 0.65,
    "leases": 0.66,
    "access": 0.3,
}
"""The shares of hard plans: several unusual conditions meet in nearly every run. A run costs about twice as much."""
DRAWN_TOGETHER = tuple(SHARES)[:10]
"""The conditions that `Conditions.drawn` draws one after the other; a further one there would move all seeds."""
FRAME_BYTES_MORE = 64 * 1024
"""So much larger than a run of entries and a largest command must the largest frame be, see `RaftSettings`."""
SPARES_MAX = 3
"""At most so many new nodes join in a run."""
QUOTA_RESERVE_BYTES = 20_000
"""The reserve of a store with a small quota."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """The unusual conditions of a run; the defaults are those of an ordinary one."""

    unequal: frozenset[str] = frozenset()
    """The groups of `UNEQUAL` whose settings each node draws for itself."""
    wild: frozenset[str] = frozenset()
    """The kinds of faults of `WILD` that may strike in this run."""
    machine_seconds: float = 0.0
    """The longest time that a command or a query takes on the machine; most take far less, by their hash."""
    hostile: float = 0.0
    """The share of commands that no honest client sends: huge, nested, undecodable, or making the machine raise."""
    largest: bool = False
    """Whether clients also send commands of the largest legal size."""
    backoff: bool = False
    """Whether a cut stalls connections, as TCP does: they break only if somebody notices, and heal by back-off."""
    core: bool = False
    """Whether a majority is never disturbed. It must serve while the faults go on, see `Progress`."""

    calm: bool = False
    """Whether no fault strikes while a client floods the machine, which takes a while: the first leader stays."""
    reads: float = 0.0
    """The share of queries that other nodes than the leader may answer, that bound the age, or that name an entry."""
    leases: bool = False
    """Whether clients of the built-in machine use leases, revisions and transactions, and others watch."""
    access: bool = False
    """Whether a user changes and reads the list of access that is in the log."""
    bounds: Bounds = USUAL_BOUNDS
    """The bounds of sessions, of what they keep, and of the stores."""
    spares: int = 0
    """How many new nodes may join while members and leaders are changed (`CHANGES`); with 0 nothing of that happens."""

    @classmethod
    def drawn(cls, chance: random.Random, shares: Shares = SHARES) -> Conditions:
        """The conditions of a seed, each with its share."""
        has = {name: chance.random() < shares[name] for name in DRAWN_TOGETHER}
        groups = frozenset(chance.sample(UNEQUAL, chance.randint(1, len(UNEQUAL))))
        kinds = frozenset(chance.sample(sorted(WILD - MISTAKES), chance.randint(1, 2)))
        seconds = chance.choice((0.0003, 0.002, 0.05, 0.5, 1.5))
        share = chance.choice((0.01, 0.1))
        if has["calm"]:
            return cls(machine_seconds=CALM_SECONDS, calm=True)
        mistake = frozenset({chance.choice(sorted(MISTAKES))})
        mistakes = mistake if chance.random() < shares["mistakes"] else frozenset()
        return cls(
            unequal=groups if has["unequal"] else frozenset(),
            wild=(kinds if has["wild"] else frozenset()) | mistakes,
            machine_seconds=seconds if has["machine"] else 0.0,
            hostile=share if has["hostile"] else 0.0,
            largest=has["largest"],
            backoff=has["backoff"],
            core=has["core"],
        )

    def with_members(self, seed: int, shares: Shares = SHARES) -> Conditions:
        """Return the conditions with members that change, now and then; the draws are from a source of their own.

        Not with a core or in calm, whose rules are about members that stay.
        """
        chance = random.Random(f"members {seed}")
        changes, spares = chance.random() < shares["members"], chance.randint(1, SPARES_MAX)
        return replace(self, spares=spares) if changes and not self.core and not self.calm else self

    def with_reads(self, seed: int, shares: Shares = SHARES) -> Conditions:
        """Return the conditions with reads on any node, now and then; the draws are from a source of their own."""
        chance = random.Random(f"read rounds elsewhere {seed}")
        has, share = chance.random() < shares["reads"], chance.choice((0.3, 0.9))
        return replace(self, reads=share) if has and not self.calm else self

    def with_leases(self, seed: int, shares: Shares = SHARES) -> Conditions:
        """Return the conditions with leases and watches, now and then; the draws are from a source of their own."""
        has = random.Random(f"keys on leases {seed}").random() < shares["leases"]
        return replace(self, leases=True) if has and not self.calm else self

    def with_access(self, seed: int, shares: Shares = SHARES) -> Conditions:
        """Return the conditions with a list of access, now and then; the draws are from a source of their own."""
        has = random.Random(f"access list {seed}").random() < shares["access"]
        return replace(self, access=True) if has and not self.calm else self

    def bounded(
        self, seed: int, storage: StorageSettings, shares: Shares = SHARES
    ) -> tuple[Conditions, StorageSettings]:
        """Return the conditions with bounds that bind, now and then, and the settings of storage that fit them.

        The draws are from a source of their own, so that they move no other draw of the seed.
        """
        chance = random.Random(f"bounds {seed}")
        sessions, outcomes = chance.choice((2, 4, 10)), chance.choice((2, 5, COMMANDS_MAX))
        kept, quota = chance.choice((600, 1_500, 4_000)), chance.choice((30_000, 100_000))
        has = {name: chance.random() < shares[name] for name in ("sessions", "outcomes", "quota")}
        if self.calm:
            return self, storage
        bounds = USUAL_BOUNDS
        if has["sessions"]:
            bounds = replace(bounds, sessions_max=sessions)
        if has["outcomes"]:
            bounds = replace(bounds, outcomes_max=outcomes, outcome_bytes_max=kept)
        if has["quota"] and not self.core:  # a store that stays full serves nobody
            bounds = replace(bounds, quota_bytes=quota + QUOTA_RESERVE_BYTES)
            storage = replace(storage, reserve_bytes=QUOTA_RESERVE_BYTES)
        return replace(self, bounds=bounds), storage


def drawn_size(chance: random.Random, nodes: int, shares: Shares = SHARES) -> int:
    """The number of nodes: now and then an even or a large one instead of the usual."""
    other = chance.choice((2, 4, 4, 6, 7))
    return other if chance.random() < shares["clusters"] else nodes


def drawn_limits(
    chance: random.Random, storage: StorageSettings, raft: RaftSettings, shares: Shares = SHARES
) -> tuple[StorageSettings, RaftSettings]:
    """The settings with limits that bind, now and then; each is far below its default."""
    entries, size = chance.choice((COMMANDS_MAX, 50)), chance.choice((10_000, 50_000))
    outstanding, flying = chance.choice((COMMANDS_MAX, 20, 60)), chance.choice((500, 5_000))
    frames, turn_bytes = chance.choice((1, 3, 512)), chance.choice((500, 5_000))
    largest = chance.choice((2_000, 8_000))
    if chance.random() >= shares["limits"]:
        return storage, raft
    append, chunk = min(raft.append_bytes_max, 4_000), min(raft.chunk_bytes, 8_000)
    return (
        replace(storage, uncommitted_entries_max=entries, uncommitted_bytes_max=size),
        replace(
            raft,
            outstanding_max=outstanding,
            backlog_entries_max=2 * outstanding,
            inflight_bytes_max=flying,
            turn_frames_max=frames,
            turn_bytes_max=turn_bytes,
            command_bytes_max=largest,
            append_bytes_max=append,
            chunk_bytes=chunk,
            message_bytes_max=max(largest + append, chunk, 5_000) + 64 * 1024,
        ),
    )


def with_largest(seed: int, raft: RaftSettings) -> RaftSettings:
    """Return the settings of a run whose clients send the largest commands: those, and frames, have the least bounds.

    A frame must take a run of entries and a largest command besides, and a chunk of a snapshot.
    """
    chance = random.Random(f"largest {seed}")
    command = min(raft.command_bytes_max, chance.choice((2_000, 20_000, 100_000)))
    append, chunk = min(raft.append_bytes_max, chance.choice((2_000, 50_000))), min(raft.chunk_bytes, 50_000)
    return replace(
        raft,
        command_bytes_max=command,
        append_bytes_max=append,
        chunk_bytes=chunk,
        message_bytes_max=command + append + FRAME_BYTES_MORE,
    )


def own_settings(
    seed: int, name: str, unequal: frozenset[str], raft: RaftSettings, storage: StorageSettings
) -> tuple[RaftSettings, StorageSettings]:
    """The settings of one node: those of the plan, with values of its own in the groups that differ.

    Whatever is drawn works: no election timeout is below the plan's, and no heartbeat takes longer than half of it.
    """
    chance = random.Random(f"{seed}/settings of {name}")
    least, beat = raft.election_timeout_min, raft.heartbeat_interval
    longer, wider = chance.choice((1.0, 1.0, 1.5, 3.0, 6.0)), chance.choice((1.03, 1.2, 1.5))
    times: dict[str, Any] = {
        "election_timeout_min": least * longer,
        "election_timeout_max": least * longer * wider,
        "heartbeat_interval": min(beat * chance.choice((0.3, 1.0, 1.0, 2.0)), least / 3),
        "rank_delay": raft.rank_delay * chance.choice((0.0, 1.0, 3.0)),
        "check_interval": raft.check_interval * chance.choice((0.5, 1.0, 2.0)),
    }
    sizes: dict[str, Any] = {
        "chunk_bytes": chance.choice((100, 5_000, raft.chunk_bytes)),
        "append_bytes_max": chance.choice((200, raft.append_bytes_max)),
        "inflight_frames_max": chance.choice((1, 3, raft.inflight_frames_max)),
        "apply_entries_max": chance.choice((1, 10, raft.apply_entries_max)),
    }
    snapshots: dict[str, Any] = {
        "snapshot_entries": chance.choice((20, 200, storage.snapshot_entries)),
        "trailing_entries": chance.choice((0, 10, storage.trailing_entries)),
        "checkpoint_entries": chance.choice((5, 100, storage.checkpoint_entries)),
        "tail_bytes_max": chance.choice((2_000, storage.tail_bytes_max)),
    }
    raft = replace(raft, **(times if "times" in unequal else {}), **(sizes if "sizes" in unequal else {}))
    return raft, replace(storage, **snapshots) if "snapshots" in unequal else storage


def core_of(names: Sequence[str], seed: int) -> frozenset[str]:
    """The majority that no fault touches: one node more than half, or all but one of three."""
    return frozenset(random.Random(f"{seed}/core").sample(list(names), len(names) // 2 + 1))
