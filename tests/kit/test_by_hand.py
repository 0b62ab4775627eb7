"""A simulation moved by hand: every step is a call, and an exception of a subscriber ends the run."""

from __future__ import annotations

from typing import Any

import pytest

from forge_consensus.errors import (
    AlreadyStartedError,
    CommandError,
    InvalidConfigError,
    NodeNotFoundError,
    NoLeaderError,
    NotLeaderError,
    NotStartedError,
    OperationFailedError,
    OutcomeUnknownError,
    UnavailableError,
)
from forge_consensus.events.types import BecameLeader, ConsensusEvent, LeaderElected
from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing import Simulation

WRITE = Command("increment", {"key": "mine", "by": 2})


def test_a_crashed_leader_is_replaced_and_returns_as_a_follower() -> None:
    with Simulation(nodes=3, seed=4) as simulation:
        first = simulation.wait_for_leader()
        assert simulation.crash("leader") == first
        with pytest.raises(UnavailableError, match=f"{first} is down"):
            simulation.query(first, {"get": "key"})
        second = simulation.wait_for_leader()
        assert second != first
        simulation.restart(first)
        assert simulation.advance(10.0, simulation.cluster.settled)
        assert simulation.leader() == second


def test_a_leader_in_a_minority_steps_down_and_the_rest_elects() -> None:
    with Simulation(nodes=5, seed=4) as simulation:
        old = simulation.wait_for_leader()
        other = next(name for name in simulation.cluster.names if name != old)
        simulation.partition([old, other])
        ledger = simulation.cluster.nodes[old].base
        assert ledger is not None
        assert simulation.advance(10.0, lambda: ledger.engine.ledger.leading_term is None)
        assert simulation.advance(10.0, lambda: simulation.leader() not in (None, old, other))
        simulation.heal()
        assert simulation.advance(10.0, simulation.cluster.settled)


def test_a_paused_leader_is_replaced() -> None:
    with Simulation(nodes=3, seed=4) as simulation:
        old = simulation.wait_for_leader()
        assert simulation.pause("leader", 5.0) == old
        assert simulation.advance(4.0, lambda: simulation.leader() not in (None, old))


def test_a_subscriber_receives_events_of_all_nodes_and_its_exception_ends_the_run() -> None:
    heard: list[str] = []

    def listen(event: ConsensusEvent) -> None:
        heard.append(event.node_id)
        assert event.term < 2, "a second term"

    with Simulation(nodes=3, seed=4) as simulation:
        simulation.subscribe(LeaderElected, listen)
        simulation.wait_for_leader()
        simulation.advance(2.0)
        assert sorted(heard) == ["n1", "n2", "n3"]
        simulation.crash("leader")
        with pytest.raises(AssertionError, match="a second term"):
            simulation.advance(10.0)


def test_errors_name_the_known_nodes_and_explain_a_missing_leader() -> None:
    with Simulation(nodes=3, seed=4) as simulation:
        simulation.start()
        with pytest.raises(NodeNotFoundError, match="n1, n2, n3"):
            simulation.crash("n9")
        with pytest.raises(NoLeaderError, match=r"n1 runs in term 0 with entries 1 to 1, .*; n2 runs"):
            simulation.crash("leader")
        simulation.partition("n1", "n2")
        with pytest.raises(
            NoLeaderError, match=r"after 5 virtual seconds: .*; nothing passes from n1 to n2, from n1 to"
        ):
            simulation.wait_for_leader(5.0)


# --- within handlers, twice, and when all is over ---------------------------------------------------------------------


@pytest.mark.parametrize("move", ["advance", "run", "wait_for_leader", "submit", "restart", "heal"])
def test_a_handler_must_not_advance_the_simulation(move: str) -> None:
    arguments = {"advance": (1.0,), "submit": (WRITE,), "restart": ("n1",)}.get(move, ())
    with Simulation(nodes=3, seed=4) as simulation:
        simulation.subscribe(LeaderElected, lambda event: getattr(simulation, move)(*arguments))
        with pytest.raises(OperationFailedError, match=rf"^{move}\(\) was called by a handler of .*leader\.elected"):
            simulation.advance(10.0)


def test_a_handler_of_an_election_event_may_crash_the_new_leader() -> None:
    with Simulation(nodes=3, seed=4) as simulation:
        crashed: list[str] = []

        def crash(event: ConsensusEvent) -> None:
            if not crashed:
                crashed.append(simulation.crash(event.node_id))

        simulation.subscribe(BecameLeader, crash)
        simulation.advance(10.0)
        assert simulation.leader() not in (None, *crashed)


def test_a_simulation_runs_once() -> None:
    with Simulation(nodes=1, seed=4, seconds=0.5, faults=False) as simulation:
        simulation.wait_for_leader()
        simulation.run()
        with pytest.raises(AlreadyStartedError, match="has run already: make another one"):
            simulation.run()


@pytest.mark.parametrize(
    ("move", "arguments"),
    [
        ("start", ()),
        ("run", ()),
        ("advance", (1.0,)),
        ("leader", ()),
        ("wait_for_leader", ()),
        ("crash", ("n1",)),
        ("restart", ("n1",)),
        ("pause", ("n1", 1.0)),
        ("partition", ("n1",)),
        ("heal", ()),
        ("query", ("n1", {"get": "key"})),
        ("submit", (Command("get", {"key": "key"}),)),
        ("subscribe", (LeaderElected, print)),
    ],
)
def test_a_simulation_that_is_closed_says_so(move: str, arguments: tuple[Any, ...]) -> None:
    with Simulation(nodes=3, seed=4) as simulation:
        simulation.wait_for_leader()
    with pytest.raises(NotStartedError, match="this simulation is closed"):
        getattr(simulation, move)(*arguments)


# --- writing ----------------------------------------------------------------------------------------------------------


def test_a_command_sent_by_hand_is_applied_by_all_and_returns_its_result() -> None:
    with Simulation(nodes=3, seed=4, faults=False, seconds=1.0) as simulation:
        assert [simulation.submit(WRITE) for _ in range(3)] == [2, 4, 6]
        assert simulation.advance(5.0, simulation.cluster.settled)
        assert [simulation.query(node, {"get": "mine"}) for node in ("n1", "n2", "n3")] == [6, 6, 6]
        simulation.run()


def test_a_write_follows_the_leader_and_is_carried_out_once() -> None:
    with Simulation(nodes=3, seed=4) as simulation:
        simulation.wait_for_leader()
        assert simulation.submit(WRITE) == 2
        simulation.cluster.network.weather.loss = 0.5
        results = [simulation.submit(WRITE, timeout=60.0) for _ in range(5)]
        simulation.cluster.network.weather.loss = 0.0
        old = simulation.wait_for_leader()
        simulation.crash("leader")
        results.append(simulation.submit(WRITE))
        assert results == [4, 6, 8, 10, 12, 14]
        assert simulation.leader() != old


def test_a_write_that_is_not_carried_out_says_why() -> None:
    with Simulation(nodes=3, seed=4) as simulation:
        leader = simulation.wait_for_leader()
        with pytest.raises(CommandError, match="the state machine answered"):
            simulation.submit(Command("nonsense", {"key": "mine"}))
        other = next(name for name in simulation.cluster.names if name != leader)
        with pytest.raises(NotLeaderError, match=leader):
            simulation.submit(WRITE, other)
        assert simulation.submit(WRITE, leader) == 2
        simulation.partition([leader], [other])
        with pytest.raises(OutcomeUnknownError, match=r"may have been"):
            simulation.submit(WRITE, leader, timeout=3.0)
        simulation.crash(other)
        with pytest.raises(UnavailableError, match=f"{other} is down"):
            simulation.submit(WRITE, other)
        simulation.advance(5.0)
        with pytest.raises(NoLeaderError, match="no leader was found before the deadline"):
            simulation.submit(WRITE, timeout=3.0)


# --- arguments of moves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "5", None, True])
@pytest.mark.parametrize("move", ["advance", "pause", "wait_for_leader", "submit"])
def test_a_time_that_cannot_pass_is_refused(move: str, seconds: Any) -> None:
    before = {"pause": ("n1",), "submit": (WRITE, "leader")}.get(move, ())
    with Simulation(nodes=3, seed=4) as simulation:
        simulation.start()
        with pytest.raises(InvalidConfigError, match="virtual seconds are"):
            getattr(simulation, move)(*before, seconds)


def test_groups_of_a_partition_are_names_or_lists_and_no_node_is_in_two() -> None:
    with Simulation(nodes=5, seed=4) as simulation:
        network = simulation.cluster.network
        simulation.partition("n1", "n2")
        one_by_one = set(network.cut)
        simulation.partition(["n1"], ["n2"])
        assert network.cut == one_by_one
        assert ("n1", "n2") in network.cut
        with pytest.raises(InvalidConfigError, match="n2 is in two groups"):
            simulation.partition(["n1", "n2"], ["n2", "n3"])
        assert network.cut == one_by_one


@pytest.mark.parametrize(
    ("kind", "handler", "said"),
    [
        ("consensus.leadr.*", print, r"matches 'consensus.leadr.\*'.*LeaderElected.*'consensus.leader.elected'"),
        (int, print, "is not an event class.*LeaderElected"),
        (LeaderElected, None, "handler=None cannot be called"),
    ],
)
def test_a_subscription_to_no_events_is_refused(kind: Any, handler: Any, said: str) -> None:
    with Simulation(nodes=3, seed=4) as simulation, pytest.raises(InvalidConfigError, match=said):
        simulation.subscribe(kind, handler)


def test_malformed_commands_and_endless_waits_are_refused() -> None:
    bad: Any = "increment"
    with Simulation(nodes=3, seed=4) as simulation:
        with pytest.raises(InvalidConfigError, match="is not a command"):
            simulation.submit(bad)
        with pytest.raises(InvalidConfigError, match="until='increment' cannot be called"):
            simulation.advance(1.0, bad)
        with pytest.raises(NotStartedError, match="no node of this simulation was started yet"):
            simulation.crash("n1")
