"""The simulation: many seeds under faults with every invariant checked, replay byte for byte, and the tester tested."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from loguru import logger

from tests.simulated_mutants import MUTANTS
from tests.simulated_world import Plan, ViolationError, World, run_seed

SEEDS = int(os.environ.get("FORGE_SEEDS", "60"))
FIRST = int(os.environ.get("FORGE_FIRST_SEED", "1"))
BLOCK = 10
MUTANT_SEEDS_MAX = 60


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


REGRESSIONS = {
    51: "a frame for an earlier boot was answered to an actor that takes no greeting: nobody greeted again",
    9: "a greeting that was lost was never repeated",
}


@pytest.mark.parametrize("seed", REGRESSIONS, ids=[f"{seed}: {what}" for seed, what in REGRESSIONS.items()])
def test_what_a_seed_found_once_stays_found(seed: int) -> None:
    run_seed(seed)


def test_a_seed_replays_byte_for_byte() -> None:
    for seed in (3, 4):
        assert run_seed(seed, 6.0) == run_seed(seed, 6.0)
    assert run_seed(3, 6.0) != run_seed(4, 6.0)


def test_a_seed_replays_byte_for_byte_in_another_process() -> None:
    script = (
        "from loguru import logger; logger.remove()\n"
        "from tests.simulated_world import run_seed; print(run_seed(6, 6.0))"
    )
    digests = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        ended = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        digests.add(ended.stdout.strip())
    assert digests == {run_seed(6, 6.0)}


def test_an_undisturbed_cluster_elects_once_and_serves_all() -> None:
    with World(Plan(1, nodes=3, faults=False, seconds=10.0)) as world:
        world.run()
        assert list(world.invariants.leaders) == [1]
        assert world.history.answers > 200


@pytest.mark.parametrize("name", MUTANTS)
def test_a_fault_put_in_on_purpose_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    found = seeds_until_found()
    assert found, f"no violation in {MUTANT_SEEDS_MAX} seeds"


def seeds_until_found() -> str:
    """What was found first, or nothing."""
    for seed in range(1, MUTANT_SEEDS_MAX + 1):
        try:
            run_seed(seed)
        except ViolationError as violation:
            return f"seed {seed}: {violation}"
        except Exception as error:  # the node's own checks found it
            return f"seed {seed}: {type(error).__name__}: {error}"
    return ""
