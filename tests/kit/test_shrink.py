"""Tests of the shrinker: the result is small, fails in the same way, and is found within its limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from loguru import logger

from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.testing.campaign.shrink import shrink, split
from forge_consensus.testing.faults.strike import Ordered
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.plan_text import reproduction
from forge_consensus.testing.simulator.trial import Failure, Trial, attempt
from tests.simulation.mutants.catalogue import MUTANTS
from tests.simulation.mutants.patch import Patch
from tests.worlds.campaign_runs import MUTANT, with_mutant
from tests.worlds.effort import effort

STRIKES = 100
KINDS = ("kill", "mend", "pause", "split")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger.disable("forge_consensus")
    yield
    logger.enable("forge_consensus")


def strikes_of(plan: Plan) -> tuple[Ordered, ...]:
    """Ten strikes a second, of four kinds in turn."""
    count = min(STRIKES, int(plan.seconds * 10)) if plan.faults else 0
    all_of_them = [Ordered(number / 10, KINDS[number % 4], "", number) for number in range(1, count + 1)]
    return tuple(one for one in all_of_them if one.number not in plan.skip)


def pretended(fails: Callable[[Plan, set[int]], str], at: float = 9.5) -> Callable[[Plan], Trial]:
    """A run that fails in the way that a function says of its plan and the numbers of its strikes."""

    def run(plan: Plan) -> Trial:
        ordered = strikes_of(plan)
        kind = fails(plan, {one.number for one in ordered})
        failure = Failure(kind, f"{kind}: pretended", at, STRIKES, "the story") if kind else None
        return Trial(plan, "", 0, at, 0, len(ordered), 0, 0, 0.0, failure, ordered)

    return run


def test_shrinking_keeps_only_the_necessary_strikes() -> None:
    shrunk = shrink(Plan(1), pretended(lambda plan, strikes: "I4" if {13, 77} <= strikes else ""))
    assert [one.number for one in shrunk.best.ordered] == [13, 77]
    assert shrunk.runs <= 60
    assert not shrunk.ended_early


def test_shrinking_removes_every_fault_from_a_failure_that_needs_none() -> None:
    shrunk = shrink(Plan(1), pretended(lambda plan, strikes: "I4"))
    assert not shrunk.best.plan.faults
    assert shrunk.best.plan.nodes == 1
    assert shrunk.best.plan.clients == 0


def test_shrinking_resets_every_setting_that_the_failure_does_not_need() -> None:
    plan = replace(Plan.of(1), nodes=5, clients=4, pace=10.0, own_machine=True, lease_reads=True, faults=True)

    def fails(plan: Plan, strikes: set[int]) -> str:
        return (
            "I1" if plan.nodes >= 3 and plan.storage != StorageSettings() and plan.lease_reads and 5 in strikes else ""
        )

    best = shrink(plan, pretended(fails)).best.plan
    assert (best.nodes, best.clients, best.pace, best.own_machine) == (3, 0, 1.0, False)
    assert best.lease_reads
    assert best.storage == plan.storage
    assert best.raft == RaftSettings()


def test_shrinking_does_not_accept_another_kind_of_failure() -> None:
    def fails(plan: Plan, strikes: set[int]) -> str:
        return "I4" if {3, 60} <= strikes else "liveness" if 3 in strikes else ""

    shrunk = shrink(Plan(1), pretended(fails))
    assert shrunk.failure.kind == "I4"
    assert [one.number for one in shrunk.best.ordered] == [3, 60]


def test_the_run_ends_soon_after_the_failure() -> None:
    shrunk = shrink(Plan(1), pretended(lambda plan, strikes: "I4" if 13 in strikes else "", at=1.4))
    assert 1.4 < shrunk.best.plan.seconds < 1.5


def test_a_failure_after_the_faults_is_looked_for_in_shorter_runs() -> None:
    shrunk = shrink(Plan(1), pretended(lambda plan, strikes: "liveness" if 13 in strikes else "", at=32.0))
    assert shrunk.best.plan.seconds == 1.5


def test_shrinking_ends_at_its_limit_of_runs_or_seconds() -> None:
    run = pretended(lambda plan, strikes: "I4" if {13, 77} <= strikes else "")
    shrunk = shrink(Plan(1), run, runs_max=7)
    assert shrunk.ended_early
    assert shrunk.runs == 7
    assert {13, 77} <= {one.number for one in shrunk.best.ordered}
    assert "no more runs or no more time" in shrunk.text()
    assert shrink(Plan(1), run, seconds_max=0.0).runs == 0


def test_a_plan_without_a_failure_is_not_shrunk() -> None:
    with pytest.raises(ValueError, match="seed 7 does not fail"):
        shrink(Plan(7), pretended(lambda plan, strikes: ""))


def test_parts_are_about_equal_and_make_the_whole() -> None:
    parts = list(split(range(10), 4))
    assert sorted(len(part) for part in parts) == [2, 2, 3, 3]
    assert frozenset.union(*parts) == frozenset(range(10))
    assert max(parts[0]) == 9


def first_failing() -> Trial:
    """A seed that finds the mutant under some faults."""
    for seed in range(100):
        trial = with_mutant(Plan(seed, clients=2, seconds=6.0))
        if trial.failure is not None and trial.faults > 4:
            return trial
    raise AssertionError("no seed finds the mutant")


def test_a_mutant_s_failure_becomes_a_story_of_few_faults_that_fails_again() -> None:
    first = first_failing()
    shrunk = shrink(first, with_mutant, runs_max=effort(12, 40), seconds_max=600.0)
    assert first.failure is not None
    assert shrunk.failure.kind == first.failure.kind
    assert shrunk.best.faults < first.faults
    text = shrunk.text()
    for part in ("What happened:", "LEADS", "The last messages", "AppendEntries", "To see it again:", "Shrunk from"):
        assert part in text
    assert f"--replay {first.plan.seed}" in text
    program = reproduction(shrunk.best.plan)
    assert program.splitlines()[-1] in text
    names: dict[str, Any] = {}
    with Patch() as patch:
        MUTANTS[MUTANT].change(patch)
        with pytest.raises(BaseException, match=rf"^{first.failure.kind}: ") as raised:
            exec(program, names)
    assert str(raised.value) == shrunk.failure.text
    assert any("The last messages" in note for note in raised.value.__notes__)
    assert attempt(shrunk.best.plan).failure is None
