"""The simulation: many seeds under faults with every invariant checked, and replay byte for byte."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields

import pytest
from loguru import logger

from forge_consensus.events.types import LeaderElected
from forge_consensus.testing.faults.drawn import WILD
from forge_consensus.testing.simulator.conditions import UNEQUAL, Conditions
from forge_consensus.testing.simulator.plan import PACES, Plan
from forge_consensus.testing.simulator.simulation import Simulation, run_seed
from tests.worlds.effort import effort

SEEDS = int(os.environ.get("FORGE_SEEDS", "0")) or effort(100, 330)
FIRST = int(os.environ.get("FORGE_FIRST_SEED", "1"))
BLOCK = 5
SECONDS = effort(7, 12)
"""How long faults strike, in virtual seconds: more seeds find more than longer runs."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nodes that fail on purpose need not say so."""
    logger.disable("forge_consensus")
    yield
    logger.enable("forge_consensus")


@pytest.mark.timeout(0)
@pytest.mark.parametrize("first", range(FIRST, FIRST + SEEDS, BLOCK))
def test_a_cluster_keeps_every_invariant_under_faults_and_serves_when_they_end(first: int) -> None:
    for seed in range(first, min(first + BLOCK, FIRST + SEEDS)):
        run_seed(seed, SECONDS)


@pytest.mark.skipif(
    "FORGE_SEEDS" in os.environ or "FORGE_FIRST_SEED" in os.environ, reason="other seeds were asked for"
)
def test_the_sample_has_every_condition_and_every_size_of_a_cluster() -> None:
    plans = [Plan.of(seed) for seed in range(FIRST, FIRST + SEEDS)]
    found = [plan.conditions for plan in plans]
    usual = Conditions()
    assert {plan.nodes for plan in plans} == {1, 2, 3, 4, 5, 6, 7}
    assert {plan.pace for plan in plans} == set(PACES)
    for each in fields(Conditions):
        assert {getattr(conditions, each.name) for conditions in found} > {getattr(usual, each.name)}, each.name
    assert {kind for conditions in found for kind in conditions.wild} == WILD
    assert {group for conditions in found for group in conditions.unequal} == set(UNEQUAL)


def test_a_seed_replays_byte_for_byte() -> None:
    for seed in (3, 4):
        assert run_seed(seed, 3.0) == run_seed(seed, 3.0)
    assert run_seed(3, 3.0) != run_seed(4, 3.0)


def test_a_seed_replays_byte_for_byte_in_another_process() -> None:
    # In the second one members are removed: a set of texts once decided in which order they were parted from.
    script = (
        "from loguru import logger; logger.remove()\n"
        "from forge_consensus.testing.simulator.simulation import run_seed\n"
        "print(run_seed(6, 6.0), run_seed(6000600, 7.0))"
    )
    digests = set()
    for hash_seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        ended = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=100, check=True
        )
        digests.add(ended.stdout.strip())
    assert digests == {f"{run_seed(6, 6.0)} {run_seed(6000600, 7.0)}"}


def test_an_undisturbed_cluster_elects_once_and_serves_all() -> None:
    seconds = 10.0
    with Simulation(Plan(1, nodes=3, faults=False, seconds=seconds)) as world:
        elected: list[tuple[float, int]] = []
        world.subscribe(LeaderElected, lambda event: elected.append((world.cluster.timeline.now, event.term)))
        world.run()
        # Then all is healed, whether or not anything was ill, which breaks a connection or two.
        assert {term for at, term in elected if at < seconds} == {1}
        assert world.judge.answers > 200
