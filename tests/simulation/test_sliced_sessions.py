"""Snapshots with many sessions, installed in many slices, while nodes crash and are cut off between them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from loguru import logger

from forge_consensus.config.storage import StorageSettings
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.machines import session_import
from forge_consensus.storage.machines.session_import import SessionImport
from forge_consensus.storage.snapshots.store import Installation, Snapshots
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.simulation import Simulation
from tests.worlds.bystander import open_sessions
from tests.worlds.effort import effort

OFTEN = StorageSettings(
    snapshot_entries=5, snapshot_seconds_min=0.1, trailing_entries=0, checkpoint_entries=5, sweep_entries=5
)
KINDS = ("isolate", "isolate_leader", "mend", "kill", "snapshot", "fail_turn")


class Watch:
    """Counts what happens to installations in all nodes."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.slices = self.begun = self.switched = 0
        step, begin, finish = SessionImport.step, Snapshots.begin_install, Snapshots.finish_install

        def stepped(importing: SessionImport, batch: Batch, over: Any) -> bool:
            self.slices += 1
            return step(importing, batch, over)

        def began(snapshots: Snapshots, info: Any) -> Installation:
            self.begun += 1
            return begin(snapshots, info)

        def finished(snapshots: Snapshots, installation: Installation) -> bool:
            self.switched += 1
            return finish(snapshots, installation)

        patch.setattr(SessionImport, "step", stepped)
        patch.setattr(Snapshots, "begin_install", began)
        patch.setattr(Snapshots, "finish_install", finished)


@pytest.mark.parametrize("own_machine", [False, True])
def test_snapshots_in_many_slices_break_no_invariant(monkeypatch: pytest.MonkeyPatch, own_machine: bool) -> None:
    """The simulation checks all of them after each step: what is applied at most once above all (I14)."""
    monkeypatch.setattr(session_import, "SLICE_ROWS", 1)
    watch = Watch(monkeypatch)
    logger.disable("forge_consensus")
    try:
        for seed in range(1, 1 + effort(2, 5)):
            plan = Plan(
                seed, nodes=3, clients=8, seconds=12.0, pace=1.0, own_machine=own_machine, storage=OFTEN, kinds=KINDS
            )
            with Simulation(plan) as world:
                world.run()
    finally:
        logger.enable("forge_consensus")
    assert watch.switched > effort(2, 5)
    assert watch.slices > 5 * watch.begun


def importing(world: Simulation, name: str, after: int) -> bool:
    """Whether a node has imported so many sessions of a snapshot, and not all of them."""
    for base in world.cluster.running():
        installing = base.engine.opened.snapshots.installing
        if base.name == name and installing is not None and not installing.sessions.done:
            return len(installing.sessions.gathered.live) >= after
    return False


def sessions_of(world: Simulation, name: str) -> list[int]:
    """The sessions in force on a node."""
    (base,) = [base for base in world.cluster.running() if base.name == name]
    return sorted(base.engine.ledger.applier.sessions.live)


def log_is_cut(world: Simulation, name: str) -> bool:
    """Whether a node's log begins behind most of the sessions."""
    return any(base.name == name and base.engine.ledger.log.base_index > 40 for base in world.cluster.running())


@pytest.mark.parametrize("own_machine", [False, True])
def test_a_node_that_ends_between_two_slices_has_its_old_sessions_or_all_new_ones(
    monkeypatch: pytest.MonkeyPatch, own_machine: bool
) -> None:
    monkeypatch.setattr(session_import, "SLICE_ROWS", 1)
    with Simulation(Plan(1, nodes=3, faults=False, own_machine=own_machine, storage=OFTEN)) as world:
        world.wait_for_leader()
        leader = world.cluster.leader()
        assert leader is not None
        name = next(base.name for base in world.cluster.running() if base is not leader)
        open_sessions(world, leader.name, 5)
        world.advance(1.0)
        world.partition([name])
        old = sessions_of(world, name)
        for _ in range(8):
            open_sessions(world, leader.name, 5)
            world.advance(1.0)
        assert world.advance(100.0, lambda: log_is_cut(world, leader.name)), "the log is no longer held for the node"
        world.cluster.network.cut.clear()
        for after in (20,) if own_machine else (1, 20, 39):
            assert world.advance(20.0, partial(importing, world, name, after))
            assert sessions_of(world, name) == old
            world.crash(name)
            world.restart(name)
            # The start of a user's machine restores the file, because it is whole.
            assert sessions_of(world, name) == (sessions_of(world, leader.name) if own_machine else old)
        assert world.advance(20.0, world.cluster.settled)
        assert sessions_of(world, name) == sessions_of(world, leader.name)
        assert len(sessions_of(world, name)) >= 45
