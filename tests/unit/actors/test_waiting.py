"""Waiting requests: the outcome of each, and how many commands a client has outstanding."""

from __future__ import annotations

from forge_consensus.actors.raft.waiting import PendingRead, WaitingBatch, WaitingRequests
from forge_consensus.actors.runtime.address import SenderAddress
from forge_consensus.storage.ledger.applying import Applied
from forge_consensus.storage.machines.machine import DONE, Outcome
from tests.worlds.one_node import OneNode

FAILED = Outcome("CODE", b"why")


NODE = OneNode(greet=False)


def asker(connection: str) -> SenderAddress:
    return SenderAddress("", "gateway", connection, 1, 0, NODE.engine.outbox)


def test_the_results_of_two_frames_of_a_session_come_together_and_free_the_client() -> None:
    waiting, one, two = WaitingRequests(), asker("a"), asker("a")
    waiting.add_batch(WaitingBatch(5, 6, one, session=9))
    waiting.add_batch(WaitingBatch(8, 8, two, session=9))
    assert waiting.outstanding["a"] == 3
    found = waiting.take_applied([Applied(index, 1, 9, index, DONE) for index in (4, 5, 6, 7)])
    assert [(seq, code) for seq, code, _ in found.results["a", 9][1]] == [(5, ""), (6, "")]
    assert [batch.asker for batch in found.finished] == [one]
    assert waiting.outstanding["a"] == 1
    found = waiting.take_applied([Applied(8, 1, 9, 8, FAILED)])
    assert found.failed == [(8, FAILED)]
    assert found.results["a", 9][1] == [(8, "CODE", b"why")]
    assert (dict(waiting.outstanding), len(waiting.batches)) == ({}, 0)


def test_results_of_several_frames_leave_as_the_answer_to_the_newest() -> None:
    waiting, one, two = WaitingRequests(), asker("a"), asker("a")
    waiting.add_batch(WaitingBatch(5, 5, one, session=9))
    waiting.add_batch(WaitingBatch(6, 6, two, session=9))
    found = waiting.take_applied([Applied(index, 1, 9, index, DONE) for index in (5, 6)])
    to, results = found.results["a", 9]
    assert to is two
    assert [seq for seq, _, _ in results] == [5, 6]


def test_a_partly_applied_batch_stays_and_an_opened_session_is_named_by_its_index() -> None:
    waiting = WaitingRequests()
    waiting.add_batch(WaitingBatch(2, 2, asker("a"), session=0))
    waiting.add_batch(WaitingBatch(3, 4, asker("b"), session=7))
    found = waiting.take_applied([Applied(2, 1, 0, 0, DONE), Applied(3, 1, 7, 1, DONE)])
    assert [(who.connection, index) for who, index in found.opened] == [("a", 2)]
    assert [batch.asker.connection for batch in found.finished] == ["a"]
    assert [batch.first for batch in waiting.batches] == [3]


def test_a_read_waits_for_its_confirmation_and_then_for_its_index() -> None:
    waiting = WaitingRequests()
    waiting.unconfirmed[1] = PendingRead(asker("a"), ())
    assert waiting.take_readable(99) == []
    waiting.confirm(1, 7)
    waiting.confirm(1, 8)  # a second answer for a read that is confirmed, or refused, means nothing
    assert waiting.take_readable(6) == []
    assert [read.index for read in waiting.take_readable(7)] == [7]
    assert not (waiting.confirmed or waiting.unconfirmed)


def test_at_the_end_every_waiting_request_is_handed_out_once() -> None:
    waiting = WaitingRequests()
    waiting.add_batch(WaitingBatch(2, 2, asker("a"), session=7))
    waiting.unconfirmed[1] = PendingRead(asker("b"), ((1, b""),))
    waiting.confirmed = [PendingRead(asker("c"), ((1, b""),), index=5)]
    stale = PendingRead(asker("d"), ((1, b""),), stale=True)
    for read in (waiting.unconfirmed[1], *waiting.confirmed, stale):
        waiting.add_read(read)
    assert [who.connection for who in waiting.drop_batches()] == ["a"]
    assert [who.connection for who in waiting.drop_reads()] == ["b", "c"]
    assert not (waiting.drop_batches() or waiting.drop_reads() or waiting.outstanding)
    assert [*waiting.reads] == [stale]


def test_queries_are_counted_by_client_until_they_are_answered_or_dropped() -> None:
    waiting = WaitingRequests()
    first = PendingRead(asker("a"), ((1, b""), (2, b""), (3, b"")))
    waiting.add_read(first)
    assert waiting.fresh_queries("a", ((2, b""), (4, b""))) == ((4, b""),)
    assert waiting.fresh_queries("b", ((2, b""),)) == ((2, b""),)
    second = PendingRead(asker("a"), ((4, b""),))
    waiting.add_read(second)
    assert (waiting.queries, waiting.waiting_queries("a"), waiting.waiting_queries("b")) == (4, 4, 0)
    assert not waiting.answered(first, [1, 3])
    assert waiting.fresh_queries("a", ((1, b""), (2, b""))) == ((1, b""),)
    assert waiting.answered(first, [2])
    waiting.drop_read(second)
    waiting.drop_read(second)
    assert (second.dropped, first.dropped) == (True, False)
    assert (waiting.queries, waiting.asked, waiting.reads) == (0, {}, {})
