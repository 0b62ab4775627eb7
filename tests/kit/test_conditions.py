"""The conditions of a run: what is drawn works, silent connections heal as they should, damage is refused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import fields, replace
from math import inf
from typing import Any

import pytest
from loguru import logger

from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.storage.machines.machine import Command, Entry
from forge_consensus.testing.faults.drawn import KINDS, WILD
from forge_consensus.testing.rules.machine_cost import CostOfMachine, check_size, share_of
from forge_consensus.testing.rules.violations import ViolationError
from forge_consensus.testing.simulator.conditions import (
    HARD,
    SHARES,
    UNEQUAL,
    Conditions,
    core_of,
    drawn_limits,
    drawn_size,
    own_settings,
)
from forge_consensus.testing.simulator.hostile import (
    BROKEN,
    ERRORS,
    HOSTILE,
    LARGEST,
    HostileWorkload,
    MoodyMachine,
    largest_command,
)
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.simulation import Simulation
from forge_consensus.testing.simulator.workload import CountingWorkload
from forge_consensus.testing.world.network import Connection, Network
from forge_consensus.testing.world.timeline import SimulatedClock, Timeline


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nodes that fail on purpose need not say so."""
    logger.disable("forge_consensus")
    yield
    logger.enable("forge_consensus")


class End:
    """One end of a connection; it keeps what arrives and what it is told of its connections."""

    alive = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.got: list[bytes] = []
        self.told: list[bool] = []

    def take(self, data: bytes, connection: Any, sender: str) -> None:
        """Keep a frame."""
        self.got.append(data)

    def linked(self, node: str, stands: bool) -> None:
        """Keep what is told."""
        self.told.append(stands)


def linked(*, silence_seconds: float, backoff: bool = True) -> tuple[Timeline, Network, End, Connection]:
    """A network in which n1 is connected with n2, after a tenth of a second."""
    timeline = Timeline(1)
    network = Network(timeline, backoff=backoff, silence_seconds=silence_seconds)
    ends = End("n1"), End("n2")
    for end in ends:
        network.join(end)
    timeline.run_until(0.2)
    return timeline, network, ends[1], network.links["n1", "n2"]


# --- what is drawn ----------------------------------------------------------------------------------------------------


def test_each_condition_is_drawn_and_most_seeds_have_few() -> None:
    drawn = [Plan.of(seed).conditions for seed in range(600)]
    for name in ("unequal", "wild", "machine_seconds", "largest", "backoff", "core", "reads", "leases", "access"):
        count = sum(bool(getattr(one, name)) for one in drawn)
        assert 20 < count < 300, name
    assert sum(replace(one, reads=0.0, leases=False, access=False) == Conditions() for one in drawn) > 100, (
        "they cost nothing"
    )
    assert {kind for one in drawn for kind in one.wild} == WILD
    assert KINDS.keys() >= WILD
    assert {Plan.of(seed).nodes for seed in range(200)} == {1, 2, 3, 4, 5, 6, 7}


def test_own_settings_differ_and_fit_together() -> None:
    raft, storage = RaftSettings(), StorageSettings()
    drawn = [own_settings(seed, f"n{node}", frozenset(UNEQUAL), raft, storage) for seed in range(50) for node in (1, 2)]
    assert len({one for one, _ in drawn}) > 50
    assert all(one.election_timeout_min >= raft.election_timeout_min for one, _ in drawn)
    slowest = max(one.heartbeat_interval for one, _ in drawn)
    assert slowest * 2 <= min(one.election_timeout_min for one, _ in drawn)
    assert own_settings(1, "n1", frozenset(), raft, storage) == (raft, storage)


def test_limits_that_bind_are_rare_and_fit_together() -> None:
    storage, raft = StorageSettings(), RaftSettings()
    drawn = [drawn_limits(random.Random(seed), storage, raft) for seed in range(300)]
    bound = [one for one in drawn if one != (storage, raft)]
    assert 10 < len(bound) < 80
    assert all(one.outstanding_max <= 60 and other.uncommitted_entries_max <= 50 for other, one in bound)


def test_a_core_is_a_majority() -> None:
    for nodes in range(1, 8):
        names = [f"n{number}" for number in range(1, nodes + 1)]
        assert 2 * len(core_of(names, 3)) > nodes
    assert drawn_size(random.Random(1), 3) in {2, 3, 4, 6, 7}


def test_no_fault_touches_the_core() -> None:
    conditions = Conditions(core=True, wild=frozenset({"crash_loop", "cut_for_long", "full_disk_for_long"}))
    plan = replace(Plan.of(3), nodes=5, pace=1.0, conditions=conditions, seconds=10.0)
    with Simulation(plan) as simulation:
        simulation.run()
        cluster = simulation.cluster
        assert simulation.faults.ordered
        assert all(cluster.nodes[name].boots == 1 for name in cluster.core)
        assert any(cluster.nodes[name].boots > 1 for name in cluster.names if name not in cluster.core)


# --- connections that fall silent -------------------------------------------------------------------------------------


def test_a_cut_connection_heals_only_by_back_off() -> None:
    timeline, network, n2, connection = linked(silence_seconds=inf)
    network.part(["n1"], ["n2"])
    network.ask(connection, b"late")
    timeline.run_until(20.0)
    network.join_again(["n1"], ["n2"])
    network.ask(connection, b"later")
    timeline.run_until(21.0)
    assert n2.got == []  # TCP waits for about as long as the cut lasted
    timeline.run_until(42.0)
    assert n2.got == [b"late", b"later"]


def test_a_transport_that_notices_silence_connects_anew() -> None:
    timeline, network, n2, connection = linked(silence_seconds=1.5)
    network.part(["n1"], ["n2"], both_ways=False)
    network.ask(connection, b"lost")
    timeline.run_until(20.0)
    assert network.links.get(("n1", "n2")) is None
    network.join_again(["n1"], ["n2"])
    timeline.run_until(22.0)
    network.ask(network.links["n1", "n2"], b"new")
    timeline.run_until(22.1)
    assert n2.got == [b"new"]


def test_damage_changes_a_frame_in_each_way() -> None:
    _, network, _, _ = linked(silence_seconds=inf)
    frame = bytes(range(100))
    damaged = [network.damaged(frame) for _ in range(100)]
    assert any(len(one) == len(frame) and one != frame for one in damaged)
    assert any(one == frame[: len(one)] and len(one) < len(frame) for one in damaged)
    assert any(one[:1] != frame[:1] and len(one) != len(frame) for one in damaged)


# --- machines and hostile clients -------------------------------------------------------------------------------------


def test_a_machine_takes_the_same_time_for_a_command_on_every_node() -> None:
    spent: list[float] = []
    costs = [CostOfMachine(spent.append, 2.0) for _ in range(2)]
    for cost in costs:
        for index in range(1, 3000):
            cost.of_command(Entry(index, 1, 0, Command("set")))
    assert spent[:2999] == spent[2999:]
    assert max(spent) == pytest.approx(2.0)
    assert sum(spent) / len(spent) < 0.03
    assert share_of(199) < share_of(10) < share_of(2) < share_of(200)
    assert costs[0].of_query(lambda query: query)("what") == "what"


def test_a_result_that_is_far_too_large_is_found_before_it_is_encoded() -> None:
    entry = Entry(1, 1, 0, Command("batch"))
    check_size(entry, [b"x" * 1000] * 1000)
    with pytest.raises(ViolationError, match="cost: the command 'batch'"):
        check_size(entry, [b"x" * 100_000] * 100)


def test_a_moody_machine_raises_what_it_is_asked_to_and_changes_nothing() -> None:
    machine = MoodyMachine()
    before = machine.history
    for name in ERRORS:
        with pytest.raises(Exception):  # noqa: B017 - anything
            machine.apply(Entry(1, 1, 0, Command("raise", {"what": name})))
    with pytest.raises(KeyError):
        machine.apply(Entry(1, 1, 0, Command("increment", {})))
    assert machine.history == before
    assert machine.apply(Entry(1, 1, 0, Command("increment", {"key": "a"}))) == 1


@pytest.mark.parametrize("own_machine", [True, False])
def test_a_hostile_workload_mixes_in_what_no_honest_client_sends(own_machine: bool) -> None:
    workload, chance = HostileWorkload(CountingWorkload(), 0.2, 500, own_machine=own_machine), random.Random(1)
    calls = [workload.command(chance, "c") for _ in range(2000)]
    kinds = {call.kind: [one for one in calls if one.kind == call.kind] for call in calls}
    assert set(kinds) == {HOSTILE, LARGEST, "increment"}
    assert {call.data for call in kinds[HOSTILE]} >= set(BROKEN)
    assert max(len(call.data) for call in kinds[LARGEST]) == 500


@pytest.mark.parametrize("size", [100, 300, 70_000])
def test_a_largest_command_has_that_size(size: int) -> None:
    assert size - 4 <= len(largest_command(size)) <= size


# --- clocks and boots -------------------------------------------------------------------------------------------------


def test_a_wall_clock_that_creeps_does_not_jump() -> None:
    timeline = Timeline(1)
    clock = SimulatedClock(timeline, random.Random(1), 0.0)
    timeline.run_until(1000.0)
    before = clock.wall_ms()
    clock.creeps(0.05)
    assert abs(clock.wall_ms() - before) <= 1
    timeline.run_until(1010.0)
    assert abs(clock.wall_ms() - before - 10_500) <= 1


def test_boots_can_be_counted_by_the_thousand() -> None:
    with Simulation(nodes=3, seed=2, faults=False) as simulation:
        simulation.wait_for_leader()
        victim = next(name for name in simulation.cluster.names if name != simulation.leader())
        simulation.crash(victim)
        simulation.cluster.count_boots(victim, 100)
        simulation.restart(victim)
        running = simulation.cluster.nodes[victim].running
        assert running is not None
        assert running.engine.ledger.identity.boot == 102
        simulation.advance(5.0, simulation.cluster.settled)
        assert simulation.cluster.settled()


def test_in_hard_plans_several_conditions_meet() -> None:
    usual, hard = ([Plan.of(seed, shares=shares).conditions for seed in range(200)] for shares in (SHARES, HARD))

    def unusual(conditions: Conditions) -> int:
        plain = Conditions()
        return sum(getattr(conditions, each.name) != getattr(plain, each.name) for each in fields(conditions))

    assert sum(map(unusual, hard)) > 1.8 * sum(map(unusual, usual))
    assert not any(conditions.calm for conditions in hard)
