"""Settings that change at any moment of a simulated run, on any node: every invariant holds, and clients are served."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from loguru import logger

from forge_consensus.actors.runtime.engine import SettingsChange
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.events.types import ConfigReloaded, ConsensusEvent
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.simulation import Simulation
from forge_consensus.testing.world.base import SimulatedBase

SEEDS = int(os.environ.get("FORGE_SEEDS", "330")) // 20
FIRST = 7_700_000
BLOCK = 4


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nodes that fail on purpose need not say so."""
    logger.disable("forge_consensus")
    yield
    logger.enable("forge_consensus")


def other_raft(chance: random.Random, raft: RaftSettings) -> RaftSettings:
    """Other hot settings of Raft. The bound of the backlog stays, because a rule of the simulator goes by it."""
    suspect = chance.randint(1, 4)
    return replace(
        raft,
        check_interval=min(max(raft.check_interval * chance.choice((0.5, 1.0, 2.0)), 0.01), 10.0),
        suspect_checks=suspect,
        fail_checks=suspect + chance.randint(0, 4),
        inflight_frames_max=chance.choice((1, 2, 7, 64)),
        inflight_bytes_max=chance.choice((1, 500, 8 << 20)),
        chunk_window=chance.choice((1, 2, 16)),
        snapshot_bytes_per_second=chance.choice((0, 0, 20_000, 1_000_000)),
        apply_entries_max=chance.choice((3, 50, 4096)),
        turn_seconds_max=chance.choice((0.001, 0.025)),
        turn_frames_max=chance.choice((8, 512)),
        clock_skew_max=chance.choice((0.0, 1.0)),
    )


def other_storage(chance: random.Random, storage: StorageSettings) -> StorageSettings:
    """Other hot settings of the storage."""
    return replace(
        storage,
        tail_bytes_max=chance.choice((0, 1_000, 32 << 20)),
        checkpoint_entries=chance.choice((1, 20, 20_000)),
        checkpoint_bytes=chance.choice((100, 16 << 20)),
        checkpoint_seconds=chance.choice((0.5, 30.0)),
        snapshot_entries=chance.choice((10, 100, 100_000)),
        snapshot_log_bytes=chance.choice((5_000, 128 << 20)),
        snapshot_interval=chance.choice((0.0, 0.5)),
        snapshot_seconds_min=chance.choice((0.1, 2.0)),
        trailing_entries=chance.choice((0, 20, 10_000)),
        trailing_bytes_max=chance.choice((0, 64 << 20)),
        sweep_entries=chance.choice((3, 1_000)),
        events_kept=chance.choice((50, 50_000)),
        events_seconds=chance.choice((1.0, 86_400.0)),
    )


class Reloads:
    """Has nodes take other settings while faults strike."""

    def __init__(self, world: Simulation, seed: int) -> None:
        self.cluster, self.plan = world.cluster, world.plan
        self.chance = random.Random(seed)
        self.asked = self.told = 0
        self.heard = list(self.cluster.names)
        """The nodes whose events are heard, which those of spare nodes are not."""
        world.subscribe(ConfigReloaded, self.hear)
        self.next()

    def hear(self, event: ConsensusEvent) -> None:
        """Count what is told."""
        self.told += 1

    def next(self) -> None:
        """Plan the next change."""
        self.cluster.timeline.after(self.chance.uniform(0.01, 0.5) * self.plan.pace, self.strike)

    def strike(self) -> None:
        """Have any node take other settings, between two of its turns."""
        if self.cluster.timeline.now > self.plan.seconds * self.plan.pace:
            return
        running = self.cluster.running()
        if running:
            self.change(self.chance.choice(running))
        self.next()

    def change(self, base: SimulatedBase) -> None:
        """Have a node take other settings."""
        engine = base.engine
        raft, storage = other_raft(self.chance, engine.settings), other_storage(self.chance, engine.ledger.settings)
        self.asked += base.name in self.heard
        base.reports.append(
            lambda: engine.take_settings(SettingsChange(raft, storage, (), (ConfigReloaded(trigger="call"),)))
        )
        base.wake(0.0)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("first", range(FIRST, FIRST + SEEDS, BLOCK))
def test_a_cluster_whose_settings_change_keeps_every_invariant(first: int) -> None:
    for seed in range(first, min(first + BLOCK, FIRST + SEEDS)):
        with Simulation(Plan.of(seed)) as world:
            reloads = Reloads(world, seed)
            world.run()
            assert reloads.told <= reloads.asked
            assert reloads.told > reloads.asked // 2, "a crash or a stop may come first, and nothing else"


def test_settings_that_change_all_the_time_disturb_no_leader() -> None:
    with Simulation(Plan(5, nodes=3, faults=False, seconds=10.0)) as world:
        reloads = Reloads(world, 5)
        world.run()
        assert len(world.invariants.leaders) <= 2
        assert reloads.told == reloads.asked > 20
        assert world.judge.answers > 200
