"""Tests of the trial and the story of its failure: when two failures are the same, and what the text shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from loguru import logger

from forge_consensus.actors.messages import AppendEntries
from forge_consensus.actors.replication import ReplicationActor
from forge_consensus.errors import CorruptionError, OperationFailedError
from forge_consensus.testing.faults.strike import Ordered
from forge_consensus.testing.rules.violations import ViolationError
from forge_consensus.testing.simulator.failure_story import HAPPENINGS_MAX, happened_text, kind_of
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.simulation import Simulation
from forge_consensus.testing.simulator.trial import attempt
from tests.simulation.mutants.patch import Patch
from tests.worlds.campaign_runs import ClockMachine

PLAN = Plan(2, seconds=1.0)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger.disable("forge_consensus")
    yield
    logger.enable("forge_consensus")


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ViolationError("I4: n1 leads"), "I4"),
        (ViolationError("pre-vote: n3 says yes"), "pre-vote"),
        (ViolationError("no number here"), "ViolationError"),
        (AssertionError("I16: a frame leaves"), "I16"),
        (CorruptionError("log entry 5: damaged"), "CorruptionError"),
        (caused(OperationFailedError("n1: TypeError: x"), TypeError("x")), "OperationFailedError from TypeError"),
    ],
)
def test_failures_of_one_kind_have_one_name(error: BaseException, kind: str) -> None:
    assert kind_of(error) == kind


def break_appends(patch: Patch, error: BaseException) -> None:
    def raises(self: Any, message: Any, sender: Any) -> None:
        raise error

    patch.handler(ReplicationActor, AppendEntries, lambda _: raises)


def test_the_story_shows_where_an_unexpected_error_was_raised() -> None:
    with Patch() as patch:
        break_appends(patch, TypeError("a slip"))
        failure = attempt(PLAN).failure
    assert failure is not None
    assert failure.kind == "OperationFailedError from TypeError"
    assert "in raises" in failure.story
    assert "Where the nodes stand:" in failure.story
    assert f"found after {failure.at:.6f} virtual seconds" in failure.story


def test_an_order_to_stop_is_no_failure_of_the_run() -> None:
    with Patch() as patch:
        break_appends(patch, SystemExit(3))
        with pytest.raises(SystemExit):
            attempt(PLAN)


def test_a_trial_counts_its_actions() -> None:
    trial = attempt(PLAN)
    assert trial.failure is None
    assert trial.digest == attempt(PLAN).digest
    assert trial.virtual_seconds > 1.0
    assert min(trial.turns, trial.operations, trial.frames, trial.terms) > 0
    assert trial.faults == len(trial.ordered)


def test_the_story_lists_only_the_last_of_many_happenings() -> None:
    ordered = [Ordered(number / 10, "kill", f"n{number}", number) for number in range(HAPPENINGS_MAX + 7)]
    text = happened_text(ordered, [(0.05, "n1", "", "starts")])
    assert "(8 more before)" in text
    assert text.splitlines()[-1].split() == ["6.600000", "fault", "66", "kill:", "n66"]
    assert happened_text([]) == "  nothing"


def test_the_story_prints_a_program_that_repeats_the_run() -> None:
    with Simulation(PLAN, state_machine=ClockMachine) as simulation, pytest.raises(ViolationError) as raised:
        simulation.run()
    told = raised.value.__notes__[-1]
    assert "state_machine=ClockMachine) as simulation" in told
    assert told.splitlines()[-1] == f"ViolationError: {raised.value}", "the end is what a terminal shows"
