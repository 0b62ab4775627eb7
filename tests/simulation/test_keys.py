"""Leases, revisions and watches under faults: each answer is compared with what a model makes of the log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from loguru import logger

from forge_consensus.testing.simulator.conditions import Conditions
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.simulation import Simulation

FIRST = 6_200_000


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nodes that fail on purpose need not say so."""
    logger.disable("forge_consensus")
    yield
    logger.enable("forge_consensus")


def test_keys_on_leases_are_what_a_model_makes_of_the_log_under_any_fault() -> None:
    ended = told = answers = anew = 0
    for seed in range(FIRST, FIRST + 8):
        plan = Plan.of(seed, 5.0)
        conditions = replace(plan.conditions, leases=True, calm=False, machine_seconds=0.0)
        with Simulation(replace(plan, own_machine=False, conditions=conditions)) as simulation:
            simulation.run()
            keys = simulation.keys
            assert keys is not None
            ended += keys.log.ended
            told += sum(watcher.told for watcher in keys.watchers)
            anew += sum(watcher.anew for watcher in keys.watchers)
            answers += simulation.judge.answers
    assert ended > 50
    assert told > 300
    assert answers > 1000


def test_watches_go_on_over_snapshots_and_leaders_that_end() -> None:
    kinds = ("crash_leader_in_turn", "isolate_leader", "mend", "snapshot", "kill")
    plan = replace(Plan.of(FIRST), nodes=3, pace=1.0, seconds=8.0, own_machine=False, kinds=kinds)
    with Simulation(replace(plan, conditions=Conditions(leases=True))) as simulation:
        simulation.run()
        keys = simulation.keys
        assert keys is not None
        assert len(simulation.invariants.leaders) > 2
        assert keys.watchers[0].told > 50
        assert keys.watchers[0].lives > 1
