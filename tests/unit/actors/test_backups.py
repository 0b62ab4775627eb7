"""The backup desk: snapshots on request, listed, and read part by part, for clients that come and go."""

from __future__ import annotations

from forge_consensus.actors import backups
from forge_consensus.actors.messages import (
    ListSnapshots,
    MakeSnapshot,
    OpenSession,
    ReadSnapshot,
    Refused,
    SnapshotList,
    SnapshotMade,
    SnapshotPart,
)
from forge_consensus.errors import OperationFailedError, SnapshotFailedError
from tests.worlds.one_node import OneNode


def leader() -> OneNode:
    """A cluster of one that leads and has applied its no-op."""
    node = OneNode(size=1)
    node.wait(3.0)
    assert node.ledger.leading_term is not None
    return node


def pass_time(node: OneNode) -> None:
    """Let the helpers of a node do their work."""
    for _ in range(4):
        node.wait(0.1)
        node.run_jobs()


def ask(node: OneNode, message: object) -> None:
    node.request("", "gateway", message)


def test_a_snapshot_is_made_listed_and_read_in_parts() -> None:
    node = leader()
    ask(node, MakeSnapshot(node.ledger.applied))
    assert not node.messages(SnapshotMade)
    pass_time(node)
    made = node.last(SnapshotMade)
    assert (made.node, made.index) == (node.ledger.identity.node_id, node.ledger.applied)
    ask(node, ListSnapshots())
    assert node.last(SnapshotList).snapshots == ((made.index, made.term, made.size),)
    read = b""
    while len(read) < made.size:
        ask(node, ReadSnapshot(made.index, made.term, len(read), 100))
        pass_time(node)
        part = node.last(SnapshotPart)
        assert part.offset == len(read)
        assert 0 < len(part.data) <= 100
        read += part.data
    newest = node.engine.opened.snapshots.newest
    assert newest is not None
    assert read == newest.path.read_bytes()


def test_a_snapshot_that_is_new_enough_is_the_answer_at_once() -> None:
    node = leader()
    ask(node, MakeSnapshot(1))
    pass_time(node)
    first = node.last(SnapshotMade)
    before = len(node.messages(SnapshotMade))
    ask(node, MakeSnapshot(first.index))
    assert len(node.messages(SnapshotMade)) == before + 1
    assert node.last(SnapshotMade) == first


def test_a_snapshot_is_made_at_once_although_another_one_is_being_read() -> None:
    """It waited for half a minute, until the next look at who still reads."""
    node = leader()
    ask(node, MakeSnapshot(1))
    pass_time(node)
    first = node.last(SnapshotMade)
    ask(node, ReadSnapshot(first.index, first.term, 0, 100))
    pass_time(node)
    assert node.messages(SnapshotPart)
    ask(node, OpenSession(60_000))
    ask(node, MakeSnapshot(first.index + 1))
    pass_time(node)
    assert node.last(SnapshotMade).index > first.index


def test_a_client_that_waits_for_what_never_comes_is_forgotten() -> None:
    node = leader()
    ask(node, MakeSnapshot(10_000))
    node.wait(backups.WAIT_SECONDS + 1)
    assert not node.messages(SnapshotMade)
    assert not node.messages(Refused)


def test_a_snapshot_that_fails_is_told_with_its_reason() -> None:
    node = leader()

    def fail() -> None:
        raise SnapshotFailedError("the disk refuses")

    node.engine.opened.snapshots.capture = fail  # type: ignore[method-assign,assignment]
    ask(node, MakeSnapshot(1))
    pass_time(node)
    refused = node.last(Refused)
    assert refused.code == OperationFailedError.code
    assert "the disk refuses" in refused.text


def test_a_part_of_a_file_that_is_not_there_is_refused() -> None:
    node = leader()
    ask(node, ReadSnapshot(77, 3, 0, 100))
    assert node.last(Refused).code == OperationFailedError.code
    assert "snapshot of entry 77" in node.last(Refused).text
