"""The plan of a random seed: the size of the cluster, its settings, its clients and its faults."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Final

from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.testing.simulator.conditions import (
    SHARES,
    Conditions,
    Shares,
    drawn_limits,
    drawn_size,
    with_largest,
)

CHUNK_BYTES_LARGE: Final = 5_000
SECONDS: Final = 12.0
"""How long faults are injected, in virtual seconds at pace 1, if nothing else is said."""
CHANGES_LAST: Final = 2
"""So many times longer are runs whose members change, because a change waits for a leader and for learners."""
PACES = (1.0, 1.0, 10.0, 20.0, 40.0)


@dataclass(frozen=True, slots=True)
class Plan:
    """The description of a run. `Plan.of` draws it from a random seed."""

    seed: int
    nodes: int = 3
    own_machine: bool = False
    """If the caller gives no machine: run a `CountingMachine` instead of the machine in the ledger."""
    lease_reads: bool = False
    clients: int = 3
    seconds: float = SECONDS
    """The duration of the faults, in virtual seconds at pace 1."""
    pace: float = 1.0
    """The factor by which all times of nodes, network, faults and clients are stretched.

    At 10 a leader sends a heartbeat once a second and an election takes ten, as between continents. Timers that are no
    settings then meet times of another order than at pace 1.
    """
    faults: bool = True
    kinds: tuple[str, ...] = ()
    """The kinds of faults to use; empty for the kinds that the seed draws."""
    skip: frozenset[int] = frozenset()
    """The numbers of the strikes to leave out; this is how a failure is shrunk."""
    storage: StorageSettings = field(default_factory=StorageSettings)
    raft: RaftSettings = field(default_factory=RaftSettings)
    conditions: Conditions = field(default_factory=Conditions)

    @classmethod
    def of(cls, seed: int, seconds: float = SECONDS, *, shares: Shares = SHARES) -> Plan:
        """Return the plan of a seed; its sizes are small, so that snapshots and compaction happen.

        Args:
            seed: whatever is drawn comes from it.
            seconds: how long faults are injected, in virtual seconds at pace 1; twice as long if members change.
            shares: how often each unusual condition is drawn: `SHARES`, or `HARD` for several in nearly every plan.

        """
        chance = random.Random(f"plan {seed}")
        snapshot_entries = chance.choice((20, 60, 200, 100_000))
        storage = StorageSettings(
            tail_bytes_max=chance.choice((2_000, 20_000, 1 << 20)),
            checkpoint_entries=chance.choice((5, 40, 1000)),
            checkpoint_seconds=chance.choice((0.5, 30.0)),
            snapshot_entries=snapshot_entries,
            snapshot_seconds_min=0.1,
            trailing_entries=chance.choice((0, 3, 30)),
            sweep_entries=chance.choice((5, 100)),
            verify_entries=50,
        )
        raft = RaftSettings(
            chunk_bytes=chance.choice((100, 500, 256 * 1024)),
            append_bytes_max=chance.choice((200, 2_000, 512 * 1024)),
            inflight_frames_max=chance.choice((2, 64)),
            apply_entries_max=chance.choice((1, 3, 4096)),
            chunk_timeout=0.3,
            election_timeout_max=chance.choice((0.82, 1.2)),
        )
        unusual = random.Random(f"conditions {seed}")  # of its own, so that it moves no other draw
        storage, raft = drawn_limits(unusual, storage, raft, shares)
        nodes = drawn_size(unusual, chance.choice((1, 2, 3, 3, 3, 5)), shares)
        conditions = Conditions.drawn(unusual, shares).with_members(seed, shares).with_reads(seed, shares)
        conditions = conditions.with_leases(seed, shares).with_access(seed, shares)
        conditions, storage = conditions.bounded(seed, storage, shares)
        if conditions.largest:
            raft = with_largest(seed, raft)
        if conditions.hostile:  # results of a megabyte may be in a snapshot, and each chunk takes a round trip
            raft = replace(raft, chunk_bytes=max(raft.chunk_bytes, CHUNK_BYTES_LARGE))
        return cls(
            seed,
            nodes=nodes,
            own_machine=chance.random() < 0.5,
            lease_reads=chance.random() < 0.4,
            clients=chance.choice((1, 2, 4, 8)),
            seconds=seconds * (CHANGES_LAST if conditions.spares else 1),
            # A flood costs the more the longer it lasts, and where timeouts are long, 0.3 s endanger no leader.
            pace=1.0 if conditions.calm else chance.choice(PACES),
            storage=storage,
            raft=raft,
            conditions=conditions,
        )

    def paced(self) -> tuple[StorageSettings, RaftSettings]:
        """Return the settings of storage and Raft, stretched by the pace."""
        storage, raft, pace = self.storage, self.raft, self.pace
        return (
            replace(
                storage,
                checkpoint_seconds=storage.checkpoint_seconds * pace,
                snapshot_seconds_min=storage.snapshot_seconds_min * pace,
                snapshot_seconds_max=storage.snapshot_seconds_max * pace,
            ),
            replace(
                raft,
                heartbeat_interval=raft.heartbeat_interval * pace,
                election_timeout_min=raft.election_timeout_min * pace,
                election_timeout_max=raft.election_timeout_max * pace,
                rank_delay=raft.rank_delay * pace,
                check_interval=raft.check_interval * pace,
                chunk_timeout=raft.chunk_timeout * pace,
            ),
        )
