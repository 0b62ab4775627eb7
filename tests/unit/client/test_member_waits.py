"""Waiting for a change of members: it ends when it is done, and late with the one error that says what is the case."""

from __future__ import annotations

import time

import pytest

from forge_consensus.client.member_calls import looks_until_done
from forge_consensus.client.members import ClusterMembers, MembersPlan, Step
from forge_consensus.errors import ConsensusTimeoutError, NoLeaderError, NotStartedError
from forge_consensus.storage.ledger.changes import Action, Change, changed
from forge_consensus.storage.ledger.configuration import Configuration

BEFORE = Configuration.of({"n1": "a:1", "n2": "b:1", "n3": "c:1"})
AFTER = changed(BEFORE, [Change(Action.DEMOTE, "n3")])
PLAN = MembersPlan(7, Step.of(BEFORE), (Step.of(AFTER),))


def members(configuration: Configuration, *, committed: bool = True) -> ClusterMembers:
    return ClusterMembers("n1", "demo", "n1", Step.of(configuration).members, 7, committed, committed)


def test_it_ends_when_the_change_is_committed() -> None:
    looks = looks_until_done(PLAN, time.monotonic() + 60)
    assert 59 < next(looks) <= 60
    assert looks.send(members(BEFORE)) <= 60
    assert looks.send(members(AFTER, committed=False)) <= 60
    assert looks.send(NoLeaderError("an election goes on")) <= 60
    with pytest.raises(StopIteration):
        looks.send(members(AFTER))


@pytest.mark.parametrize("error", [NoLeaderError("no leader"), ConsensusTimeoutError("no answer")])
def test_an_error_of_the_last_look_says_that_the_change_is_begun(error: ConsensusTimeoutError | NoLeaderError) -> None:
    looks = looks_until_done(PLAN, time.monotonic() - 1)
    assert next(looks) == 0.001
    with pytest.raises(ConsensusTimeoutError, match="is begun and not complete yet") as caught:
        looks.send(error)
    assert caught.value.__cause__ is error


def test_an_error_that_no_later_look_mends_is_raised_at_once() -> None:
    looks = looks_until_done(PLAN, time.monotonic() + 60)
    next(looks)
    with pytest.raises(NotStartedError):
        looks.send(NotStartedError())


def test_what_was_only_tried_is_not_waited_for() -> None:
    with pytest.raises(StopIteration):
        next(looks_until_done(MembersPlan(0, PLAN.before, PLAN.steps), time.monotonic() + 60))
