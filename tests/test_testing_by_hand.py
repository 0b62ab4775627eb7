"""A simulation moved by hand: every step is a call, and what a subscriber finds wrong ends the run."""

from __future__ import annotations

from typing import Any

import pytest

from forge_consensus.errors import InvalidConfigError, NodeNotFoundError, NoLeaderError
from forge_consensus.events.types import ConsensusEvent, LeaderElected
from forge_consensus.testing import Simulation


def test_a_leader_that_crashes_is_replaced_and_comes_back_as_a_follower() -> None:
    with Simulation(nodes=3, seed=4) as simulation:
        first = simulation.wait_for_leader()
        assert simulation.crash("leader") == first
        assert simulation.query(first, "key") is None
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
        assert simulation.advance(10.0, lambda: ledger.engine.ledger.leading is None)
        assert simulation.advance(10.0, lambda: simulation.leader() not in (None, old, other))
        simulation.heal()
        assert simulation.advance(10.0, simulation.cluster.settled)


def test_a_paused_leader_is_replaced() -> None:
    with Simulation(nodes=3, seed=4) as simulation:
        old = simulation.wait_for_leader()
        assert simulation.pause("leader", 5.0) == old
        assert simulation.advance(4.0, lambda: simulation.leader() not in (None, old))


def test_a_subscriber_hears_of_all_nodes_and_what_it_raises_ends_the_run() -> None:
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


@pytest.mark.parametrize("arguments", [{"nodes": 0}, {"nodes": 10}, {"faults": ["rain"]}])
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfigError):
        Simulation(**arguments)


def test_nodes_that_do_not_exist_and_leaders_that_do_not_are_named() -> None:
    with Simulation(nodes=3, seed=4) as simulation:
        with pytest.raises(NodeNotFoundError, match="n1, n2, n3"):
            simulation.crash("n9")
        with pytest.raises(NoLeaderError):
            simulation.crash("leader")
