"""Waiting for changes of members and of the leader: it ends when done, and late with the error that says what is so."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from forge_consensus.actors.messages import (
    GetMembers,
    Locate,
    Located,
    Members,
    MembersPlanned,
    TransferLeadership,
    TransferStarted,
)
from forge_consensus.client import member_calls
from forge_consensus.client.calls import Calls
from forge_consensus.client.member_calls import addition, until_done, until_transferred
from forge_consensus.client.members import ClusterMembers, MembersPlan, Step
from forge_consensus.client.pending import PendingNodeQuery
from forge_consensus.client.steps import Pause
from forge_consensus.errors import (
    BusyError,
    ConsensusTimeoutError,
    InvalidConfigError,
    NoLeaderError,
    NotStartedError,
    OperationFailedError,
)
from forge_consensus.storage.ledger.changes import Action, Change, changed
from forge_consensus.storage.ledger.configuration import Configuration

BEFORE = Configuration.of({"n1": "a:1", "n2": "b:1", "n3": "c:1"})
AFTER = changed(BEFORE, [Change(Action.DEMOTE, "n3")])
PLAN = MembersPlan(7, Step.of(BEFORE), (Step.of(AFTER),))


def members(configuration: Configuration, *, committed: bool = True) -> Members:
    commit = 7 if committed else 6
    return Members("n1", "demo", "n1", 7, commit, configuration.encode(), BEFORE.encode())


def seconds_of(look: object) -> float:
    """For how many seconds a look may go on."""
    assert isinstance(look, PendingNodeQuery)
    return look.deadline - time.monotonic()


def test_it_ends_when_the_change_is_committed() -> None:
    seen: list[ClusterMembers] = []
    steps = until_done(PLAN, time.monotonic() + 60, seen.append)
    assert 59 < seconds_of(next(steps)) <= 60
    for found in (members(BEFORE, committed=False), members(AFTER, committed=False)):
        assert isinstance(steps.send(found), Pause)
        assert seconds_of(next(steps)) <= 60
    assert isinstance(steps.throw(NoLeaderError("an election goes on")), Pause)
    next(steps)
    with pytest.raises(StopIteration):
        steps.send(members(AFTER))
    assert [each.committed for each in seen] == [False, False, True]


def test_a_node_that_has_not_heard_of_the_change_is_not_believed_though_all_once_was_as_meant() -> None:
    promoted = MembersPlan(9, Step.of(AFTER), (Step.of(BEFORE),))
    steps = until_done(promoted, time.monotonic() + 60)
    next(steps)
    assert isinstance(steps.send(members(BEFORE)), Pause), "before the demotion it was a voter as well"
    next(steps)
    with pytest.raises(StopIteration):
        steps.send(replace(members(BEFORE), index=9, commit=9))


def test_a_change_that_a_new_leader_took_back_is_not_waited_for() -> None:
    steps = until_done(PLAN, time.monotonic() + 60)
    next(steps)
    with pytest.raises(OperationFailedError, match="is not in force: a new leader took it back"):
        steps.send(members(BEFORE))


@pytest.mark.parametrize(
    ("address", "port", "whole"),
    [("10.0.1.13:7000", None, "10.0.1.13:7000"), ("10.0.1.13", 7000, "10.0.1.13:7000"), ("::1", 7000, "[::1]:7000")],
)
def test_a_node_is_added_by_its_address_or_by_host_and_port(address: str, port: int | None, whole: str) -> None:
    assert addition("n4", address, port, learner=False) == Change(Action.ADD, "n4", whole)
    assert addition("n4", address, port, learner=True) == Change(Action.ADD_LEARNER, "n4", whole)


def test_a_port_besides_an_address_that_has_one_is_refused() -> None:
    with pytest.raises(InvalidConfigError, match="is no host, and the port 7000 is given besides"):
        addition("n4", "10.0.1.13:7000", 7000, learner=False)


def test_what_is_begun_has_its_own_time_after_what_was_asked_for() -> None:
    def deadline(seconds: float | None) -> float:
        return time.monotonic() + (5.0 if seconds is None else seconds)

    def query(*_: Any, **__: Any) -> PendingNodeQuery[Any]:
        return PendingNodeQuery(GetMembers(), "", deadline(None))

    client = cast("Calls", SimpleNamespace(deadline=deadline, change_query=query))
    steps = Calls.change_steps(client, [Change(Action.DEMOTE, "n3")], None, patience=600.0)
    assert 4 < seconds_of(next(steps)) <= 5
    look = steps.send(MembersPlanned(7, (BEFORE.encode(), AFTER.encode())))
    assert 599 < seconds_of(look) <= 600


@pytest.mark.parametrize("error", [NoLeaderError("no leader"), ConsensusTimeoutError("no answer")])
def test_an_error_of_the_last_look_says_that_the_change_is_begun(error: ConsensusTimeoutError | NoLeaderError) -> None:
    steps = until_done(PLAN, time.monotonic() - 1)
    assert 0 < seconds_of(next(steps)) <= 0.001
    time.sleep(0.002)
    with pytest.raises(ConsensusTimeoutError, match="is begun and not complete yet") as caught:
        steps.throw(error)
    assert caught.value.__cause__ is error


def test_an_error_that_no_later_look_mends_is_raised_at_once() -> None:
    steps = until_done(PLAN, time.monotonic() + 60)
    next(steps)
    with pytest.raises(NotStartedError):
        steps.throw(NotStartedError())


def test_what_was_only_tried_is_not_waited_for() -> None:
    with pytest.raises(StopIteration):
        next(until_done(MembersPlan(0, PLAN.before, PLAN.steps), time.monotonic() + 60))


def located(leader: str, term: int) -> Located:
    return Located("n1", "demo", leader, "a:1", term, ())


def test_a_handover_to_a_named_node_is_asked_for_again_while_the_same_node_leads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(member_calls, "AGAIN_SECONDS", 0.0)
    steps = until_transferred(TransferStarted("n2", 3), "n2", time.monotonic() + 60)
    assert isinstance(locate := next(steps), PendingNodeQuery)
    assert isinstance(locate.message, Locate)
    assert isinstance(again := steps.send(located("n1", 3)), PendingNodeQuery)
    assert again.message == TransferLeadership("n2")
    assert isinstance(steps.throw(BusyError("it does not answer now")), Pause)
    next(steps)
    with pytest.raises(StopIteration) as done:
        steps.send(located("n2", 4))
    assert done.value.value == "n2"


def test_a_step_down_is_not_asked_for_again_and_says_in_the_end_that_the_same_node_leads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(member_calls, "AGAIN_SECONDS", 0.0)
    steps = until_transferred(TransferStarted("n2", 3), "", time.monotonic() + 0.01)
    next(steps)
    assert isinstance(steps.send(located("n1", 3)), Pause)
    time.sleep(0.02)
    next(steps)
    with pytest.raises(ConsensusTimeoutError, match="the same node still leads"):
        steps.send(located("n1", 3))
