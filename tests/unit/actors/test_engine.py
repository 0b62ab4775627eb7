"""The engine: turns that happen entirely or not at all, and plain Thespian actors on it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from datetime import timedelta
from typing import Any

import pytest
from thespian.actors import Actor, ActorExitRequest, ActorSystem, WakeupMessage

from forge_consensus.actors.messages import AppendEntries, AppendReply, InstallSnapshot, OpenSession, Refused
from forge_consensus.actors.notices import ApplyCommitted, LeaderChanged, LeadershipEnded, LinkUp, PeerDown, PeerUp
from forge_consensus.actors.replication import ReplicationActor
from forge_consensus.actors.supervisor import ACTORS
from forge_consensus.errors import OperationFailedError, StorageError
from tests.unit.actors.test_election import lead
from tests.unit.actors.test_replication import noop
from tests.unit.actors.test_snapshot import filled, snapshot_of
from tests.worlds.one_node import OneNode


class BrokenError(Exception):
    pass


def break_replication(monkeypatch: pytest.MonkeyPatch) -> None:
    """The replication actor takes entries and then fails."""
    take = ReplicationActor.handlers[AppendEntries]

    def fail(actor: Any, message: Any, sender: Any) -> None:
        take(actor, message, sender)
        raise BrokenError

    monkeypatch.setitem(ReplicationActor.handlers, AppendEntries, fail)


def test_a_failed_turn_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert node.engine.shared.role == "follower"
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


# --- jobs for helpers ------------------------------------------------------------------------------------------------


def send_whole(node: OneNode, term: int) -> tuple[bytes, str]:
    """The frame with which a leader of `term` sends a whole snapshot, in one chunk."""
    path, index, entry_term = snapshot_of(filled(term=term))
    data = path.read_bytes()
    chunk = InstallSnapshot(term, index, entry_term, 0, len(data), data)
    return node.frame("n2", "snapshot", chunk), "->n2"


def turns_of(node: OneNode, *frames: tuple[Any, ...]) -> int:
    """How many turns the node takes by itself when these frames have arrived."""
    before = node.engine.totals.turns
    node.turn(*frames)
    return node.engine.totals.turns - before


@pytest.mark.parametrize(("commit", "turns"), [(1, 1), (2, 2)])
def test_a_turn_follows_a_flush_at_once_only_if_entries_can_be_applied(commit: int, turns: int) -> None:
    node = OneNode()
    request = AppendEntries(1, 1, 0, commit, 0, (noop(2, 1),))
    assert turns_of(node, (node.frame("n2", "replication", request), "->n2")) == turns
    assert node.ledger.applied == commit
    follower_turns = node.engine.totals.turns
    node.request("n2", "replication", AppendEntries(1, 2, 1, 2, 0, ()))
    assert node.engine.totals.turns == follower_turns + 1
    assert node.ledger.applied == 2, "what was on disk is applied in the turn that hears of the commit"


@pytest.mark.parametrize("early", [False, True])
def test_a_turn_follows_the_flush_of_a_leader_whose_disk_was_the_last_of_a_majority(early: bool) -> None:
    node = OneNode()
    lead(node)
    last = node.ledger.log.last + 1
    proposal = (node.frame("", "gateway", OpenSession(1000)), "->client")
    reply = (node.frame("n2", "replication", AppendReply(node.ledger.term, True, last, 0, 0)), None)
    if early:
        assert turns_of(node, proposal, reply) == 2
    else:
        assert turns_of(node, proposal) == 1
        assert node.ledger.commit_index == last - 1
        assert turns_of(node, reply) == 1
    assert node.ledger.commit_index == node.ledger.applied == last


def test_a_node_alone_commits_in_the_turn_after_its_flush() -> None:
    node = OneNode(size=1)
    node.wait(5.0)
    assert turns_of(node, (node.frame("", "gateway", OpenSession(1000)), "->client")) == 2
    assert node.ledger.commit_index == node.ledger.applied == node.ledger.log.last


def test_a_job_begins_after_the_commit_of_its_turn() -> None:
    """Else a file of term 5 has its name before term 5 is on disk, and whoever is killed there never starts again."""
    node = OneNode()
    frame = send_whole(node, 5)
    node.tables.before_commit = lambda batch: begun.append(len(node.jobs))
    begun: list[int] = []
    node.turn(frame)
    assert (begun, len(node.jobs)) == ([0], 1)
    assert node.ledger.hard_on_disk[0] == 5
    node.run_jobs()
    assert node.ledger.applied == 40


def test_no_job_begins_if_the_node_ends_at_the_commit() -> None:
    node = OneNode()
    node.tables.fail_next_commit(StorageError("the disk is broken"))
    with pytest.raises(StorageError):
        node.turn(send_whole(node, 5))
    assert not node.jobs
    node.engine.outbox.drop()  # as the base does when it closes
    assert not list(node.folder.iterdir())


def test_a_rolled_back_turn_begins_no_job_and_releases_its_file() -> None:
    node = OneNode()
    node.engine.after(0.0, node.engine.actor("health"), "a message that no actor knows")
    node.engine.turn([send_whole(node, 5)], [])
    assert node.ledger.term == 0
    assert not node.jobs
    assert not list(node.folder.iterdir())
    for peer in ("n2", "n3"):
        node.greet(peer)
    node.turn(send_whole(node, 5))
    node.run_jobs()
    assert node.ledger.applied == 40


def test_event_numbers_rise_by_one() -> None:
    node = OneNode()
    lead(node)
    numbers = [event.sequence for event in node.events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert all(event.node_id == "n1" and event.cluster_id == "demo" for event in node.events)


# --- who hears a notice ----------------------------------------------------------------------------------------------


def names(node: OneNode, kind: type) -> list[str]:
    """The actors that hear a notice, in the order in which they get it."""
    return [address.actorAddressString for address in node.engine.hearing(kind)]


HEARERS: dict[type, list[str]] = {
    LinkUp: ["membership"],
    PeerUp: ["election", "replication", "membership", "snapshot", "health"],
    PeerDown: ["election", "replication", "membership", "health"],
    LeaderChanged: ["replication", "membership", "snapshot", "health", "gateway"],
    LeadershipEnded: ["replication", "membership", "snapshot", "health", "gateway"],
}


def test_a_notice_reaches_the_actors_with_a_handler_in_the_order_of_the_table() -> None:
    node = OneNode()
    assert {kind: names(node, kind) for kind in HEARERS} == HEARERS
    node.engine.undo(RuntimeError("an actor failed"))
    assert not names(node, PeerDown), "nobody is there until the actors are rebuilt"
    node.turn()
    assert {kind: names(node, kind) for kind in HEARERS} == HEARERS, "the order survives a rebuild"


def test_no_actor_has_an_empty_handler() -> None:
    for kind in ACTORS.values():
        for message, handler in kind.handlers.items():
            body = ast.parse(textwrap.dedent(inspect.getsource(handler))).body[0].body  # type: ignore[attr-defined]
            assert len(body) > 1, f"{kind.__name__} does nothing with {message.__name__}"


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
        return self.node.engine.cells.create(kind, name, None)  # type: ignore[arg-type]


def test_the_engine_runs_plain_thespian_actors() -> None:
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
