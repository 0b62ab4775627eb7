"""The unread answers of a connection: how they are counted, and how a node treats a client that reads too little."""

from __future__ import annotations

import msgpack
import pytest

from forge_consensus.actors.codec import STAMP
from forge_consensus.actors.messages import (
    EventPage,
    Locate,
    Located,
    OpenSession,
    Read,
    ReadEvents,
    ReadResults,
    Refused,
    Results,
    SessionOpened,
    Submit,
)
from forge_consensus.actors.runtime import unread
from forge_consensus.actors.runtime.refusals import CLIENT_READS_TOO_LITTLE
from forge_consensus.actors.runtime.unread import STAMP_BYTES, UNREAD_BYTES_MAX, UnreadAnswers
from forge_consensus.storage.machines.machine import Command
from tests.worlds.one_node import OneNode

MIB = 1 << 20
CLIENT = "->client"
VALUE = bytes(MIB - 1000)
GET = Command("get", {"key": "big"}).encode()
QUERY = msgpack.packb("big")


def send(answers: UnreadAnswers, connection: str, size: int) -> int:
    """Send an answer of so many bytes; returns its stamp."""
    stamp = answers.next_stamp(connection)
    answers.sent(connection, size, stamp)
    return stamp


def with_value() -> tuple[OneNode, int]:
    """A cluster of one, with a session of which the first command has set a value of almost 1 MiB."""
    node = OneNode(1)
    node.request("", "gateway", OpenSession(60_000))
    session = node.last(SessionOpened).session
    node.request("", "gateway", Submit(session, 1, ((1, Command("set", {"key": "big", "value": VALUE}).encode()),)))
    node.sent.clear()
    return node, session


def fill(node: OneNode) -> int:
    """Have too much sent to the client; returns the stamp by which it tells that it has read all of it."""
    send(node.engine.unread, CLIENT, UNREAD_BYTES_MAX)
    return send(node.engine.unread, CLIENT, 100)


# --- the accounts ----------------------------------------------------------------------------------------------------


def test_a_connection_is_full_until_its_client_repeats_a_stamp() -> None:
    answers = UnreadAnswers(10)
    stamps = [send(answers, "one", MIB) for _ in range(64)]
    assert answers.is_full("one")
    assert not answers.is_full("two")
    answers.note_read("one", stamps[1])
    assert answers.accounts["one"].unread == 62 * MIB
    answers.note_read("one", stamps[-1])
    assert (answers.accounts["one"].unread, answers.accounts["one"].stamped) == (0, {})


def test_a_stamp_counts_once_and_only_on_its_connection() -> None:
    answers = UnreadAnswers(10)
    for name in ("one", "two"):
        send(answers, name, MIB)
    stamp, other = send(answers, "one", MIB), send(answers, "two", MIB)
    for wrong in (other, stamp + 1, 0, None, b"bytes"):
        answers.note_read("one", wrong)
    answers.note_read("nobody", stamp)
    assert answers.accounts["one"].unread == 2 * MIB
    answers.note_read("one", stamp)
    send(answers, "one", MIB)
    answers.note_read("one", stamp)
    assert answers.accounts["one"].unread == MIB


def test_small_answers_are_seldom_stamped_so_an_account_is_short() -> None:
    answers = UnreadAnswers(10)
    stamps = [send(answers, "one", 1000) for _ in range(10_000)]
    assert 0 < sum(map(bool, stamps)) == len(answers.accounts["one"].stamped) <= 10_000_000 // STAMP_BYTES


def test_after_one_answer_larger_than_the_bound_the_next_one_carries_a_stamp() -> None:
    answers = UnreadAnswers(10)
    send(answers, "one", 2 * UNREAD_BYTES_MAX)
    stamp = send(answers, "one", 100)
    assert answers.is_full("one")
    answers.note_read("one", stamp)
    assert not answers.is_full("one")


def test_the_account_that_was_sent_nothing_for_longest_is_forgotten() -> None:
    answers = UnreadAnswers(2)
    for name in ("one", "two", "one", "three"):
        send(answers, name, 10)
    assert list(answers.accounts) == ["one", "three"]


# --- the node --------------------------------------------------------------------------------------------------------


def test_a_client_that_reads_too_little_is_busy_and_is_told_only_who_leads() -> None:
    node, session = with_value()
    stamp = fill(node)
    last = node.ledger.log.last
    for message in (Read("stale", ((1, QUERY),)), Submit(session, 1, ((2, GET),)), ReadEvents(1, 10), OpenSession(9)):
        node.request("", "gateway", message)
        assert node.last(Refused).code == "CONSENSUS_BUSY"
        assert "are unread" in node.last(Refused).text
    assert (node.ledger.log.last, node.engine.refusals.counts[CLIENT_READS_TOO_LITTLE]) == (last, 4)
    node.request("", "gateway", Locate(0, 0))
    assert node.last(Located).leader == "n1"
    node.request("", "gateway", Read("stale", ((1, QUERY),)), extension={STAMP: stamp})
    assert node.last(ReadResults).items == ((1, "", msgpack.packb(VALUE)),)


def test_a_burst_of_queries_is_answered_up_to_the_bound_and_the_rest_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "UNREAD_BYTES_MAX", 3 * MIB)
    node, _ = with_value()
    frames = [Read("linearizable", tuple((10 * part + n, QUERY) for n in range(10))) for part in range(3)]
    node.turn(*((node.frame("", "gateway", frame), CLIENT) for frame in frames))
    answered = [number for _, message in node.messages(ReadResults) for number, _, _ in message.items]
    refused = [number for _, message in node.messages(Refused) for number in message.numbers]
    assert sorted(answered + refused) == list(range(30)), "each is answered once"
    assert len(answered) >= 3
    gateway = node.engine.cells.actor("gateway")
    assert (gateway.waiting.asked, gateway.waiting.queries, len(node.engine.unanswered)) == ({}, 0, 0)
    assert not node.engine.unread.held
    node.request("", "gateway", Read("linearizable", ((99, QUERY),)))
    assert node.last(ReadResults).items[0][0] == 99


def test_results_that_are_not_sent_are_kept_and_a_retry_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "UNREAD_BYTES_MAX", 3 * MIB)
    node, session = with_value()
    count = Command("increment", {"key": "n"}).encode()
    left = {seq: GET if seq % 2 else count for seq in range(2, 18)}
    rounds = 0
    while left:
        node.sent.clear()
        node.request("", "gateway", Submit(session, 2, tuple(left.items())))
        got = {seq: payload for _, message in node.messages(Results) for seq, _, payload in message.items}
        assert got, "each retry gets some"
        for seq, payload in got.items():
            assert payload == msgpack.packb(VALUE if seq % 2 else seq // 2), "each was applied once"
            del left[seq]
        assert [message.code for _, message in node.messages(Refused)] == ["CONSENSUS_OUTCOME_UNKNOWN"] * bool(left)
        rounds += 1
    assert rounds > 1


def test_pages_of_events_are_bounded_within_a_turn_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "UNREAD_BYTES_MAX", 1000)
    node, _ = with_value()
    node.turn(*((node.frame("", "gateway", ReadEvents(1, 1000)), CLIENT) for _ in range(100)))
    assert 0 < len(node.messages(EventPage)) < 100
    assert len(node.messages(EventPage)) + len(node.messages(Refused)) == 100
