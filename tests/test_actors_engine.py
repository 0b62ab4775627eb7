"""The engine: turns that happen entirely or not at all, and plain Thespian actors on it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from thespian.actors import Actor, ActorExitRequest, ActorSystem, WakeupMessage

from forge_consensus.actors.messages import AppendEntries, AppendReply, OpenSession, Refused
from forge_consensus.actors.notices import ApplyCommitted
from forge_consensus.actors.replication import ReplicationActor
from forge_consensus.errors import OperationFailedError, StorageError
from tests.one_node import OneNode
from tests.test_actors_election import lead
from tests.test_actors_replication import noop


class BrokenError(Exception):
    pass


def break_replication(monkeypatch: pytest.MonkeyPatch) -> None:
    """The replication actor takes entries and then fails."""
    take = ReplicationActor.handlers[AppendEntries]

    def fail(actor: Any, message: Any, sender: Any) -> None:
        take(actor, message, sender)
        raise BrokenError

    monkeypatch.setitem(ReplicationActor.handlers, AppendEntries, fail)


def test_a_turn_with_a_fault_happens_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    node = OneNode()
    node.request("n2", "replication", AppendEntries(3, 1, 0, 1, 0, (noop(2, 3),)))
    node.sent.clear()
    events = len(node.events)
    break_replication(monkeypatch)
    node.engine.turn([(node.frame("n3", "replication", AppendEntries(4, 2, 3, 1, 0, (noop(3, 4),))), "->n3")], [])
    assert (node.ledger.term, node.ledger.log.last) == (3, 2)
    assert not node.messages(AppendReply)
    assert len(node.events) == events


def test_after_a_fault_the_actors_begin_again_as_followers(monkeypatch: pytest.MonkeyPatch) -> None:
    node = OneNode()
    lead(node)
    node.request("", "gateway", OpenSession(1000))
    with monkeypatch.context() as patch:
        patch.setitem(ReplicationActor.handlers, ApplyCommitted, fail_once)
        node.answer("n2", "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))
    assert node.engine.board.role == "follower"
    assert node.last(Refused).code == "CONSENSUS_OUTCOME_UNKNOWN"
    for peer in ("n2", "n3"):
        node.greet(peer)
    node.request("n2", "replication", AppendEntries(9, 1, 0, 1, 0, ()))
    assert node.last(AppendReply).term == 9


def fail_once(actor: Any, message: Any, sender: Any) -> None:
    ReplicationActor.handlers[ApplyCommitted] = ReplicationActor.receiveMsg_ApplyCommitted
    raise BrokenError


def test_too_many_faults_end_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    node = OneNode()
    break_replication(monkeypatch)
    with pytest.raises(OperationFailedError, match="faults of actors"):
        for _ in range(10):
            node.request("n2", "replication", AppendEntries(3, 1, 0, 1, 0, ()))
            node.greet("n2")


def test_after_a_storage_error_nothing_leaves() -> None:
    node = OneNode()
    node.tables.fail_next_commit(StorageError("the disk is broken"))
    with pytest.raises(StorageError):
        node.request("n2", "replication", AppendEntries(3, 1, 0, 1, 0, (noop(2, 3),)))
    assert not node.messages(AppendReply)
    with pytest.raises(StorageError):
        node.request("n2", "replication", AppendEntries(3, 1, 0, 1, 0, (noop(2, 3),)))
    assert not node.sent


def test_event_numbers_rise_by_one() -> None:
    node = OneNode()
    lead(node)
    numbers = [event.sequence for event in node.events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert all(event.node_id == "n1" and event.cluster_id == "demo" for event in node.events)


# --- any Thespian actor runs on our base -----------------------------------------------------------------------------


class Child(Actor):  # type: ignore[misc]
    def receiveMessage(self, message: Any, sender: Any) -> None:  # noqa: N802
        self.send(sender, ("child says", message))


class Parent(Actor):  # type: ignore[misc]
    heard: list[Any] = []  # noqa: RUF012

    def receiveMessage(self, message: Any, sender: Any) -> None:  # noqa: N802
        self.heard.append(message)
        if message == "start":
            self.child = self.createActor(Child)
            self.send(self.child, "hello")
            self.wakeupAfter(timedelta(seconds=1), "later")
        if isinstance(message, WakeupMessage):
            self.send(self.child, ActorExitRequest())
            self.send(self.child, "too late")


class Base:
    """Only what `ActorSystem.createActor` needs of a base."""

    def __init__(self, node: OneNode) -> None:
        self.node = node

    def newPrimaryActor(self, kind: type, requirements: Any, name: Any, source: Any) -> Any:  # noqa: N802
        return self.node.engine.create(kind, name, None)  # type: ignore[arg-type]


def test_a_plain_thespian_actor_lives_here() -> None:
    node = OneNode(1)
    Parent.heard.clear()
    system = ActorSystem(systemBase=Base(node), transientUnique=True)
    parent = system.createActor(Parent)
    node.engine.next_turn(parent, "start")
    node.turn()
    assert Parent.heard == ["start", ("child says", "hello")]
    node.wait(1.1)
    assert type(Parent.heard[2]) is WakeupMessage
    assert Parent.heard[2].payload == "later"
    assert len(Parent.heard) == 3
