"""The small parts of the turn, each alone: timers, unanswered requests, reported facts, faults, refusals."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from loguru import logger

from forge_consensus.actors.messages import CheckPeer, Locate
from forge_consensus.actors.runtime.address import LocalAddress
from forge_consensus.actors.runtime.faults import Faults
from forge_consensus.actors.runtime.refusals import (
    CLIENT_TAKES_NO_ANSWER,
    ORDINARY,
    PEER_TAKES_NO_ANSWER,
    REPORT_EVERY,
    Refusals,
)
from forge_consensus.actors.runtime.reported import Reported
from forge_consensus.actors.runtime.shared import PeerStatus, PeerView, Role, SharedState
from forge_consensus.actors.runtime.timers import Timers
from forge_consensus.actors.runtime.unanswered import Unanswered
from forge_consensus.config.raft import RaftSettings
from forge_consensus.errors import OperationFailedError
from forge_consensus.storage.ledger.configuration import Configuration
from tests.worlds.one_node import HandClock, OneNode


class Listening:
    """A cell that only takes part in the mailbox."""

    def receive(self, message: Any, sender: Any) -> None:
        raise AssertionError("nobody runs the mailbox here")


def test_timers_deliver_in_the_order_of_their_times_and_then_of_their_setting() -> None:
    clock, queue = HandClock(), deque[Any]()
    address, timers = LocalAddress("election", queue), Timers(clock)
    address.cell = Listening()
    timers.after(2.0, address, "last")
    timers.after(1.0, address, "first")
    timers.after(1.0, address, "second")
    timers.after(0.5, address, "never").cancel()
    assert timers.patience(9.0) == 1.0, "a cancelled timer wakes nobody"
    timers.deliver_due()
    assert not queue
    clock.seconds += 2.0
    assert timers.patience(9.0) == 0.0
    timers.deliver_due()
    assert not queue, "a turn delivers what was due when it began"
    clock.begin_turn()
    timers.deliver_due()
    assert [message for _, message, _ in queue] == ["first", "second", "last"]
    assert timers.patience(9.0) == 9.0


def test_forgotten_timers_deliver_nothing() -> None:
    clock, queue = HandClock(), deque[Any]()
    address, timers = LocalAddress("election", queue), Timers(clock)
    address.cell = Listening()
    timers.after(0.0, address, "x")
    timers.clear()
    timers.deliver_due()
    assert not queue


def test_a_settled_request_is_forgotten_only_when_its_turn_is_committed() -> None:
    unanswered = Unanswered()
    unanswered.add("a")
    unanswered.add("b")
    unanswered.settle("a")
    unanswered.take_back()
    unanswered.commit()
    assert list(unanswered) == ["a", "b"], "the turn that settled it was taken back"
    unanswered.settle("a")
    unanswered.commit()
    assert list(unanswered) == ["b"]


ONE = Configuration.of({"n1": "a:1"})
TWO = Configuration.of({"n1": "a:1", "n2": "b:1"})


def test_unmarked_changes_are_rolled_back() -> None:
    shared = SharedState(peers={"n2": PeerView(), "n3": PeerView()})
    reported = Reported(shared, ONE)
    shared.role, shared.leader, reported.committed = Role.FOLLOWER, "n2", 7
    reported.configuration = TWO
    shared.peers["n2"].status = PeerStatus.ACTIVE
    reported.mark()
    shared.role, shared.leader, shared.leader_term, reported.committed = Role.LEADER, "n1", 3, 9
    reported.has_quorum, reported.details, reported.saving = True, ("x",), 4
    shared.peers["n2"].status = shared.peers["n3"].status = PeerStatus.FAILED
    reported.configuration = ONE
    reported.take_back()
    assert reported.configuration is TWO
    assert (shared.role, shared.leader, reported.committed) == (Role.FOLLOWER, "n2", 7)
    assert not (reported.has_quorum or reported.details or reported.saving)
    assert [view.status for view in shared.peers.values()] == [PeerStatus.ACTIVE, PeerStatus.INACTIVE]
    assert shared.leader_term == 3, "no event tells it, so it is not taken back"


def test_too_many_faults_within_a_time_are_fatal() -> None:
    options = RaftSettings(faults_max=2, faults_seconds=10.0)
    faults = Faults(options)
    for now in (0.0, 1.0, 10.5, 11.5):
        faults.note(RuntimeError("one"), now)
    with pytest.raises(OperationFailedError, match=r"3 faults of actors within 10 s.*RuntimeError: the last"):
        faults.note(RuntimeError("the last"), 12.0)


def test_refusals_are_all_counted_and_some_are_logged() -> None:
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), format="{message}")
    try:
        refusals = Refusals()
        for _ in range(REPORT_EVERY):
            refusals.report("CODE", "why")
            refusals.count("stale term")
    finally:
        logger.remove(sink)
    assert refusals.counts == {"CODE": REPORT_EVERY, "stale term": REPORT_EVERY}
    assert [line.strip() for line in lines] == [
        "refused (1 times): CODE: why",
        f"refused ({REPORT_EVERY} times): CODE: why",
    ]


def test_an_answer_that_nobody_takes_is_counted_by_who_had_asked_and_is_ordinary() -> None:
    node = OneNode()
    node.send_answer = lambda connection, frame: False  # type: ignore[method-assign]
    node.request("", "gateway", Locate(0, 0))
    assert node.engine.refusals.counts == {CLIENT_TAKES_NO_ANSWER: 1}
    node.request("n2", "health", CheckPeer(1))
    assert node.engine.refusals.counts == {CLIENT_TAKES_NO_ANSWER: 1, PEER_TAKES_NO_ANSWER: 1}
    assert node.engine.refusals.counts.keys() <= ORDINARY
