"""The simulation: many seeds under faults with every invariant checked, and replay byte for byte."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from loguru import logger

from forge_consensus.events.types import LeaderElected
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.simulation import Simulation, run_seed

SEEDS = int(os.environ.get("FORGE_SEEDS", "330"))
FIRST = int(os.environ.get("FORGE_FIRST_SEED", "1"))
BLOCK = 10


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
        run_seed(seed)


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
