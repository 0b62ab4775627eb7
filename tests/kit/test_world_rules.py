"""What the world draws besides faults, and what its rules demand: each test fails without the draw or the rule."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from loguru import logger

from forge_consensus.actors.raft.leadership import Leadership
from forge_consensus.config.raft import RaftSettings
from forge_consensus.errors import InvalidConfigError
from forge_consensus.storage.ledger.log_time import LogTime
from forge_consensus.storage.machines.machine import Command, Entry
from forge_consensus.testing.rules.agreement import Agreement, CountingMachine, WatchedMachine
from forge_consensus.testing.rules.leader_rules import has_room
from forge_consensus.testing.rules.machine_cost import CostOfMachine
from forge_consensus.testing.rules.violations import ViolationError
from forge_consensus.testing.simulator.conditions import Conditions, with_largest
from forge_consensus.testing.simulator.hostile import (
    ERRORS,
    HOSTILE,
    ODD_QUERIES,
    HostileWorkload,
    MoodyMachine,
)
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.simulation import Simulation
from forge_consensus.testing.simulator.workload import CountingWorkload


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nodes that fail on purpose need not say so."""
    logger.disable("forge_consensus")
    yield
    logger.enable("forge_consensus")


def led(**changes: Any) -> Simulation:
    """Make three nodes without faults, of which one leads."""
    simulation = Simulation(replace(Plan(7, nodes=3, faults=False), **changes))
    simulation.wait_for_leader()
    return simulation


# --- time that machines take ------------------------------------------------------------------------------------------


def test_a_snapshot_and_a_restore_take_time() -> None:
    spent: list[float] = []
    machine = WatchedMachine(CountingMachine(), "n1", Agreement(), cost=CostOfMachine(spent.append, 2.0))
    machine.apply(Entry(1, 1, 0, Command("increment", {"key": "a"})))
    spent.clear()
    chunks = list(machine.snapshot())
    machine.restore(iter(chunks))
    assert spent == [pytest.approx(0.2), pytest.approx(2.0)]
    assert not hasattr(machine, "import_chunk")  # each kind of machine stays recognizable


def test_what_a_machine_does_elsewhere_is_reported_later_and_holds_no_turn_up() -> None:
    with led() as simulation:
        base = simulation.cluster.running()[0]
        reports: list[float] = []
        timeline = simulation.cluster.timeline
        began, turns = timeline.now, simulation.invariants.checks
        base.offload(lambda: base.spend(3.0), lambda _, __: reports.append(timeline.now - began))
        simulation.advance(2.5)
        assert not reports
        assert simulation.invariants.checks > turns + 20
        simulation.advance(1.0)
        assert 3.0 < reports[0] < 3.3


# --- hostile queries, and the largest commands and frames -------------------------------------------------------------


def test_a_moody_machine_raises_for_queries_what_it_raises_for_commands() -> None:
    machine = MoodyMachine()
    for name in ERRORS:
        with pytest.raises(Exception):  # noqa: B017 - anything
            machine.query({"raise": name})
    assert len(machine.query({"large": 3})) == 3
    assert isinstance(machine.query({"unencodable": True}), set)
    assert machine.query({"get": "a"}) is None


@pytest.mark.parametrize("own_machine", [True, False])
def test_hostile_queries_move_no_other_draw(own_machine: bool) -> None:
    def calls(share: float) -> list[Any]:
        workload = HostileWorkload(CountingWorkload(), share, 0, own_machine=own_machine, seed=3)
        chance = random.Random(1)
        return [(workload.query(chance, "c"), workload.command(chance, "c"))[0] for _ in range(1500)]

    asked = [call.query for call in calls(0.2) if call.kind == HOSTILE]
    assert 200 < len(asked) < 400
    assert all(odd in asked for odd in ODD_QUERIES)
    assert any(isinstance(query, dict) and "raise" in query for query in asked) is own_machine
    assert all(call.kind != HOSTILE for call in calls(0.0))


@pytest.mark.parametrize("own_machine", [True, False])
def test_no_hostile_query_stops_a_node(own_machine: bool) -> None:
    plan = replace(Plan.of(5), nodes=3, pace=1.0, own_machine=own_machine, faults=False, seconds=6.0)
    with Simulation(replace(plan, conditions=Conditions(hostile=0.3))) as simulation:
        simulation.run()
        assert all(node.boots == 1 for node in simulation.cluster.nodes.values())


def test_the_largest_commands_meet_the_least_bounds_that_are_legal() -> None:
    usual = RaftSettings()
    drawn = [with_largest(seed, usual) for seed in range(60)]
    assert {one.command_bytes_max for one in drawn} == {2_000, 20_000, 100_000}
    for one in drawn[:20]:
        with pytest.raises(InvalidConfigError):
            replace(one, message_bytes_max=one.message_bytes_max - 1)
    plans = [Plan.of(seed) for seed in range(300)]
    for plan in plans:
        assert not plan.conditions.largest or plan.raft.command_bytes_max <= 100_000


@pytest.mark.parametrize("own_machine", [True, False])
def test_commands_of_exactly_the_largest_size_are_carried_out(own_machine: bool) -> None:
    plan = replace(Plan.of(5), nodes=3, pace=1.0, own_machine=own_machine, faults=False, seconds=6.0)
    raft = with_largest(1, plan.raft)
    with Simulation(replace(plan, raft=raft, conditions=Conditions(largest=True))) as simulation:
        simulation.run()
        sizes = [len(entry.command.encode()) for entry in simulation.agreement.entries]
        assert raft.command_bytes_max - 4 <= max(sizes) <= raft.command_bytes_max


def test_a_frame_that_nobody_takes_breaks_the_rule() -> None:
    with led() as simulation:
        base = simulation.cluster.running()[0]
        simulation.invariants.asks(base, "n2", bytes(base.engine.settings.message_bytes_max))
        with pytest.raises(ViolationError, match=r"size: n. sends n2"):
            simulation.invariants.asks(base, "n2", bytes(base.engine.settings.message_bytes_max + 1))


# --- leaders without room, and the time of the state ------------------------------------------------------------------


@pytest.mark.parametrize("what", ["no room", "half of the reserve", "the quota"])
def test_a_leader_that_cannot_append_and_leads_on_breaks_the_rule(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with led() as simulation:
        leader = next(base for base in simulation.cluster.running() if base.name == simulation.leader())
        if what == "the quota":
            leader.disk.quota_bytes = leader.disk.space().used_bytes + leader.engine.ledger.room.reserve_bytes - 1
        else:
            leader.disk.disk_free_bytes = 0 if what == "no room" else leader.engine.ledger.room.reserve_bytes // 2
        assert not has_room(leader, 1)
        monkeypatch.setattr(Leadership, "cannot_append", lambda self, now, reason: [])
        with pytest.raises(ViolationError, match=r"room: n. still leads"):
            simulation.advance(6.0)


def test_time_that_stands_still_in_a_core_breaks_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(Plan.of(3), nodes=5, pace=1.0, seconds=10.0, kinds=("kill",), conditions=Conditions(core=True))
    with Simulation(plan) as simulation:
        simulation.run()
        assert simulation.progress is not None
        assert simulation.progress.before is not None
    monkeypatch.setattr(LogTime, "elapsed_ms", lambda self, now: self.elapsed_from_ms)
    with Simulation(plan) as simulation, pytest.raises(ViolationError, match=r"time: .* everybody was well"):
        simulation.run()
    assert simulation.cluster.timeline.now < plan.seconds
