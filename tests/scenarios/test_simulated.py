"""The numbered scenarios that are no stories but runs: slow voters, a storm of elections, commands that time out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
from loguru import logger

from forge_consensus.actors.codec import Frame, decode
from forge_consensus.actors.messages import AppendEntries, VoteReply
from forge_consensus.client.pending import Pending
from forge_consensus.config.raft import RaftSettings
from forge_consensus.errors import OutcomeUnknownError
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.rules.invariants import Invariants
from forge_consensus.testing.rules.violations import demand
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.session_driver import SimulatedDriver
from forge_consensus.testing.simulator.simulation import Simulation
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.cluster import SimulatedCluster
from forge_consensus.testing.world.network import Connection, Network
from tests.worlds.effort import effort

FRAME_BYTES_MAX = 1 << 30


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nodes that are cut off need not say so."""
    logger.disable("forge_consensus")
    yield
    logger.enable("forge_consensus")


# --- 22 --------------------------------------------------------------------------------------------------------------


class SlowVoters(Network):
    """Most votes are under way for longer than a candidate waits for them."""

    slow = True
    late = 0

    def transmit(self, connection: Connection, data: bytes, forth: bool, *, in_order: bool) -> None:
        """Plan a frame's arrival, a vote's perhaps much later."""
        vote = not forth and b"election" in data[:16] and isinstance(decode(data, len(data)).message, VoteReply)
        if not (self.slow and vote and self.chance.random() < 0.6):
            super().transmit(connection, data, forth, in_order=in_order)
            return
        self.late += 1
        late = self.chance.uniform(0.7, 2.5)
        self.timeline.after(late, lambda: self.arrive(connection, data, forth))


@pytest.mark.parametrize("seed", [1, 5, 6])  # 5 and 6 find out who counts votes of an earlier term
def test_scenario_22_late_votes_elect_at_most_one_leader_a_term(seed: int) -> None:
    at_once = RaftSettings(election_timeout_max=0.82)
    with Simulation(Plan(seed, nodes=5, clients=1, faults=False, raft=at_once)) as world:
        cluster = world.cluster
        network = cluster.network = SlowVoters(cluster.timeline)
        world.start()
        for client in world.clients:
            client.start()
        for _ in range(20):
            world.advance(2.0)
            if (leader := world.leader()) is not None:
                world.partition([leader])
        network.cut.clear()
        terms = max(base.engine.ledger.term for base in cluster.running())
        assert network.late > 10
        assert terms > len(world.invariants.leaders), "some terms were lost to votes that came late"
        network.slow = False
        world.be_quiet()


# --- 23 --------------------------------------------------------------------------------------------------------------


class OneVoice:
    """What a transport can check: all entries of a term come from one node."""

    def __init__(self) -> None:
        self.voices: dict[int, str] = {}

    def began(self, node: SimulatedBase) -> None:
        """Of no interest here."""

    def ended(self, node: SimulatedBase, error: BaseException | None) -> None:
        """Of no interest here."""

    def durable(self, node: SimulatedBase, batch: Batch) -> None:
        """Of no interest here."""

    def answers(self, node: SimulatedBase, connection: Connection, frame: Frame) -> None:
        """Of no interest here."""

    def turned(self, node: SimulatedBase) -> None:
        """Of no interest here."""

    def asks(self, node: SimulatedBase, to: str, data: bytes) -> None:
        """A request leaves."""
        message = decode(data, FRAME_BYTES_MAX).message
        if isinstance(message, AppendEntries):
            voice = self.voices.setdefault(message.term, node.name)
            demand(voice == node.name, "I1", f"{voice} and {node.name} send entries of term {message.term}")


@pytest.mark.parametrize("seed", range(1, 1 + effort(1, 3)))
def test_scenario_23_ten_leaders_cut_off_under_load_leave_one_leader_a_term_and_equal_machines(seed: int) -> None:
    with Simulation(Plan(seed, nodes=5, clients=4, faults=False)) as world:
        voices = OneVoice()
        world.cluster.watchers.append(voices)
        world.start()
        for client in world.clients:
            client.start()
        led = []
        for _ in range(10):
            leader = world.wait_for_leader()
            led.append(leader)
            served = world.judge.answers
            assert world.advance(10.0, lambda served=served: world.judge.answers > served + 20)  # type: ignore[misc]
            world.partition([leader])
            elected = world.advance(10.0, lambda leader=leader: world.leader() not in (None, leader))  # type: ignore[misc]
            assert elected, f"nobody followed {leader}"
            world.advance(0.3)
            world.cluster.network.cut.clear()
        assert len(world.invariants.leaders) > 10
        assert len(set(led)) > 1
        assert set(world.invariants.leaders) <= set(voices.voices)
        world.be_quiet()  # all machines are compared, and all that clients saw


# --- 34 --------------------------------------------------------------------------------------------------------------


class Caller:
    """A user of the shipped client's core who makes many calls and keeps those that ended."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self.timeline = cluster.timeline
        self.chance = self.timeline.chance("caller")
        self.calls: list[Pending[Any]] = []
        self.resolved: list[Pending[Any]] = []
        self.driver = SimulatedDriver(cluster, "caller", self.resolved.extend)

    def call(self, seconds: float) -> None:
        """Increment a key of its own, with so much time for it."""
        command = Command("increment", {"key": f"k{len(self.calls)}"})
        pending: Pending[Any] = Pending(command.encode(), self.timeline.now + seconds)
        self.calls.append(pending)
        self.driver.submit([pending])


def times_applied(cluster: SimulatedCluster, number: int) -> int:
    """How often a command was applied, as all nodes say."""
    values = {base.engine.ledger.applier.query(f"k{number}") for base in cluster.running()}
    assert len(values) == 1
    return cast("int", values.pop() or 0)


@pytest.mark.parametrize("seed", range(1, 1 + effort(2, 5)))
def test_scenario_34_concurrent_commands_with_short_timeouts_end_once_and_may_be_applied_later(seed: int) -> None:
    invariants = Invariants()
    with SimulatedCluster(3, seed, watchers=[invariants]) as cluster:
        cluster.start()
        assert cluster.run(10.0, lambda: cluster.leader() is not None)
        weather = cluster.network.weather
        cluster.network.weather = replace(weather, loss=0.02, delay_seconds_min=0.005, delay_seconds_max=0.03)
        caller = Caller(cluster)
        caller.call(5.0)
        assert cluster.run(5.0, lambda: bool(caller.resolved))
        for round_ in range(40):
            for _ in range(25):
                caller.call(caller.chance.choice((0.01, 0.03, 0.05, 0.1, 0.5, 3.0)))
            if round_ % 10 == 5 and (leader := cluster.leader()) is not None:
                cluster.network.part([leader.name], [name for name in cluster.names if name != leader.name])
            if round_ % 10 == 9:
                cluster.network.cut.clear()
            cluster.run(0.2)
        cluster.network.heal()
        assert cluster.run(10.0, lambda: len(caller.resolved) == len(caller.calls))
        assert cluster.run(10.0, cluster.settled)
        outcomes = [(type(call.error), times_applied(cluster, number)) for number, call in enumerate(caller.calls)]
        assert len(caller.resolved) == len(set(caller.resolved)) == len(caller.calls) == 1001
        assert {times for _, times in outcomes} == {0, 1}
        assert all(times == 1 for error, times in outcomes if error is type(None))
        assert all(times == 0 for error, times in outcomes if error not in (type(None), OutcomeUnknownError))
        assert (OutcomeUnknownError, 1) in outcomes, "one that timed out was carried out all the same"
        assert (type(None), 1) in outcomes
