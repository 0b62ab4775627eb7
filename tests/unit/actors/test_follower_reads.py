"""Reads on a follower: it asks its leader for a read index, and answers from its own state; and the leader's part."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from forge_consensus.actors.messages import (
    NEVER_MS,
    AppendEntries,
    AppendReply,
    Read,
    ReadIndexReply,
    ReadResults,
    Refused,
    RequestReadIndex,
    RequestVote,
    VoteReply,
)
from forge_consensus.actors.raft.forwarded_reads import ForwardedRead
from forge_consensus.errors import NoLeaderError, NotLeaderError, StaleReadError
from forge_consensus.storage.ledger.configuration import Configuration
from tests.unit.actors.test_election import lead, stand
from tests.unit.actors.test_replication import follow, noop, put
from tests.worlds.one_node import OneNode

QUERY = ((1, b"\xa1k"),)
BY_FOLLOWER = Read("linearizable", QUERY, by_follower=True)


def follower(**options: Any) -> OneNode:
    """A follower of n2 in term 1 that has applied k = old at entry 3."""
    node = OneNode(**options)
    follow(node, 1, noop(2, 1), put(3, 1, "k", "old"), commit=3)
    assert node.ledger.applied == 3
    node.sent.clear()
    return node


def questions(node: OneNode) -> list[RequestReadIndex]:
    return [message for _, message in node.messages(RequestReadIndex)]


def confirm(node: OneNode, index: int, question: RequestReadIndex | None = None, *, by: str = "n2") -> None:
    asked = question or questions(node)[-1]
    node.answer(by, "replication", ReadIndexReply(node.ledger.term, asked.number, index))


def values(node: OneNode) -> list[object]:
    return [msgpack.unpackb(payload) for _, message in node.messages(ReadResults) for _, _, payload in message.items]


def ask(node: OneNode, number: int, **changed: Any) -> None:
    node.request("", "gateway", Read("linearizable", ((number, b"\xa1k"),), by_follower=True), **changed)


# --- the follower -----------------------------------------------------------------------------------------------------


def test_a_follower_answers_from_its_own_state_once_the_leader_has_named_the_index() -> None:
    node = follower()
    node.request("", "gateway", BY_FOLLOWER)
    assert [to for to, _ in node.messages(RequestReadIndex)] == ["n2"]
    assert not node.messages(ReadResults)
    confirm(node, 3)
    assert values(node) == ["old"]
    assert node.last(ReadResults).stale_ms == 0


def test_a_follower_without_leave_of_the_client_refuses_as_before() -> None:
    node = follower()
    node.request("", "gateway", Read("linearizable", QUERY))
    assert (node.last(Refused).code, node.last(Refused).leader) == (NotLeaderError.code, "n2")
    assert not questions(node)


def test_a_follower_waits_until_the_index_is_applied() -> None:
    node = follower()
    node.request("", "gateway", BY_FOLLOWER)
    confirm(node, 4)
    assert not node.messages(ReadResults)
    node.request("n2", "replication", AppendEntries(1, 3, 1, 3, 0, (put(4, 1, "k", "new"),)))
    assert not node.messages(ReadResults), "it has the entry and does not know that it is committed"
    node.request("n2", "replication", AppendEntries(1, 4, 1, 4, 0, ()))
    assert values(node) == ["new"]


def test_the_reads_of_a_turn_share_a_question_and_later_ones_share_the_next() -> None:
    node = follower()
    frames = [node.frame("", "gateway", Read("linearizable", ((n, b"\xa1k"),), by_follower=True)) for n in range(5)]
    node.turn(*((frame, "->client") for frame in frames))
    assert len(questions(node)) == 1
    for number in range(5, 9):
        ask(node, number)
    assert len(questions(node)) == 1, "one question is under way at a time"
    confirm(node, 3)
    assert len(values(node)) == 5
    assert len(questions(node)) == 2
    confirm(node, 3)
    assert len(values(node)) == 9
    assert len(questions(node)) == 2


@pytest.mark.parametrize("mistake", ["an earlier round", "another node", "an earlier boot", "not confirmed"])
def test_only_the_answer_to_the_question_under_way_confirms(mistake: str) -> None:
    node = follower()
    ask(node, 1)
    first = questions(node)[-1]
    confirm(node, 3, first)
    ask(node, 2)
    second = questions(node)[-1]
    assert second.number > first.number
    if mistake == "an earlier round":
        confirm(node, 3, first)
    elif mistake == "another node":
        confirm(node, 3, by="n3")
    elif mistake == "an earlier boot":
        node.answer("n2", "replication", ReadIndexReply(1, second.number, 3), to_boot=0)
    else:
        confirm(node, 0)
    assert len(values(node)) == 1
    assert len(node.engine.cells.actor("gateway").waiting.unconfirmed) == 1, "it waits on"


def test_no_number_is_used_twice_also_not_by_the_next_process() -> None:
    node = follower()
    ask(node, 1)
    first = questions(node)[-1].number
    boot = node.ledger.identity.boot
    assert first == (boot << 32) + 1
    again = OneNode(tables=node.tables.clone_durable())
    assert again.ledger.identity.boot > boot
    follow(again, 1, noop(2, 1), commit=2)
    ask(again, 1)
    assert questions(again)[-1].number > first + 1000


def test_a_lost_question_is_asked_again_under_its_number() -> None:
    node = follower()
    ask(node, 1)
    node.wait(node.settings.heartbeat_interval * 1.5)
    ask(node, 2)
    first, again = questions(node)
    assert first == again, "what came meanwhile is not in it"
    confirm(node, 3, first)
    assert len(values(node)) == 1


def test_without_an_answer_a_read_is_refused_after_an_election_timeout() -> None:
    node = follower()
    ask(node, 1)
    for _ in range(30):
        node.wait(0.1)
        node.request("n2", "replication", AppendEntries(1, 3, 1, 3, 0, ()))
    assert node.last(Refused).code == NoLeaderError.code
    assert "n2 did not confirm" in node.last(Refused).text
    assert not node.engine.unanswered
    assert not node.engine.cells.actor("replication").forwarded


def test_a_read_whose_index_is_not_applied_in_time_is_refused() -> None:
    node = follower()
    ask(node, 1)
    confirm(node, 9)
    node.wait(0.1)
    assert not node.messages(Refused)
    for _ in range(30):
        node.wait(0.1)
        node.request("n2", "replication", AppendEntries(1, 3, 1, 3, 0, ()))
    assert node.last(Refused).code == StaleReadError.code
    assert "entry 3" in node.last(Refused).text
    assert not (node.engine.unanswered or node.engine.cells.actor("gateway").waiting.confirmed)


def test_what_the_former_leader_did_not_answer_the_next_one_is_asked() -> None:
    node = follower()
    ask(node, 1)
    old = questions(node)[-1]
    node.request("n3", "replication", AppendEntries(2, 3, 1, 3, 0, ()))
    to, new = node.messages(RequestReadIndex)[-1]
    assert (to, new.term) == ("n3", 2)
    assert new.number > old.number
    node.answer("n2", "replication", ReadIndexReply(1, old.number, 3))
    confirm(node, 3, new, by="n2")
    assert not node.messages(ReadResults)
    confirm(node, 3, new, by="n3")
    assert values(node) == ["old"]


def test_without_a_leader_reads_are_refused() -> None:
    node = follower()
    ask(node, 1)
    node.wait(3.0)
    assert node.last(Refused).code == NoLeaderError.code
    node.sent.clear()
    ask(node, 2)
    assert node.last(Refused).code == NoLeaderError.code
    assert not node.engine.unanswered


def test_a_higher_term_in_the_answer_is_entered_and_confirms_nothing() -> None:
    node = follower()
    ask(node, 1)
    node.answer("n2", "replication", ReadIndexReply(5, questions(node)[-1].number, 3))
    assert node.ledger.term == 5
    node.wait(node.settings.heartbeat_interval * 2)
    assert not node.messages(ReadResults)
    assert node.last(Refused).code == NoLeaderError.code


def test_who_wins_an_election_meanwhile_confirms_the_read_itself() -> None:
    node = follower()
    ask(node, 1)
    forwarded = node.engine.cells.actor("replication").forwarded
    waiting = forwarded.take_all()
    stand(node)
    forwarded.waiting = [ForwardedRead(asked, node.clock.seconds) for asked in waiting]
    node.answer("n2", "election", VoteReply(node.ledger.term, True))
    node.wait(node.settings.heartbeat_interval * 1.5)
    assert not forwarded
    assert len(node.engine.cells.actor("replication").leadership.reads.queue) == 1


def test_rebuilt_actors_take_no_answer_to_a_question_of_those_before() -> None:
    node = follower()
    ask(node, 1)
    first = questions(node)[-1]
    gateway = node.engine.cells.actor("gateway")
    gateway.waiting = None
    node.request("", "gateway", BY_FOLLOWER)  # fails, so all actors are made anew
    assert node.engine.cells.actor("gateway") is not gateway
    node.request("n2", "replication", AppendEntries(1, 3, 1, 3, 0, ()))
    ask(node, 2)
    assert questions(node)[-1].number > first.number
    confirm(node, 3, first)
    assert not node.messages(ReadResults)


# --- its leader -------------------------------------------------------------------------------------------------------


def question(node: OneNode, number: int = 1, *, sender: str = "n2", term: int | None = None, **more: Any) -> None:
    message = RequestReadIndex(node.ledger.term if term is None else term, number, **more)
    node.request(sender, "replication", message)


def echo(node: OneNode, peer: str = "n3") -> None:
    """Answer the newest round."""
    last = node.ledger.log.last
    node.answer(peer, "replication", AppendReply(node.ledger.term, True, last, 0, node.last(AppendEntries).round))


def test_a_leader_answers_a_question_after_a_round_that_began_later() -> None:
    node = OneNode()
    lead(node)
    question(node)
    asked = node.last(AppendEntries)
    node.answer("n3", "replication", AppendReply(node.ledger.term, True, 2, 0, asked.round - 1))
    assert not node.messages(ReadIndexReply)
    echo(node)
    assert node.messages(ReadIndexReply) == [("->n2", ReadIndexReply(node.ledger.term, 1, 2))]
    assert not node.messages(ReadResults), "it serves no data"


def test_a_leader_answers_no_question_before_its_no_op() -> None:
    node = OneNode()
    follow(node, 1, put(2, 1, "k", "acknowledged"))
    node.wait(3.0)
    stand(node)
    node.answer("n2", "election", VoteReply(node.ledger.term, True))
    question(node)
    for peer in ("n2", "n3"):
        asked = node.last(AppendEntries)
        node.answer(peer, "replication", AppendReply(node.ledger.term, True, 2, 0, asked.round))
    assert not node.messages(ReadIndexReply)
    echo(node)
    assert node.last(ReadIndexReply).index == 3


def test_a_question_under_a_lease_is_answered_at_once_and_the_commit_index_goes_with_it() -> None:
    node = OneNode(lease_reads=True)
    node.wait(1.0)
    lead(node)
    node.sent.clear()
    question(node, lease=True)
    assert node.last(ReadIndexReply).index == 2
    assert [to for to, _ in node.messages(AppendEntries)] == ["n2"]
    node.sent.clear()
    node.clock.seconds += 0.75
    question(node, 2, lease=True)
    assert not node.messages(ReadIndexReply)


def test_a_question_that_is_repeated_is_answered_once() -> None:
    node = OneNode()
    lead(node)
    for _ in range(3):
        question(node)
    echo(node)
    reads = node.engine.cells.actor("replication").leadership.reads
    assert len(node.messages(ReadIndexReply)) == 1
    assert not (reads.queue or reads.questions)


@pytest.mark.parametrize("who", ["a follower", "a leader of another term", "no member"])
def test_who_cannot_confirm_says_so_and_enters_no_term(who: str) -> None:
    node = OneNode(4 if who == "no member" else 3)
    if who == "a follower":
        follow(node, 1, noop(2, 1))
    else:
        lead(node)
    term = node.ledger.term
    if who == "no member":
        left = {name: address for name, address in node.peers.items() if name != "n4"}
        node.ledger.configurations.rows = [(1, Configuration.of(left))]
        question(node, sender="n4")
    else:
        question(node, term=term + (0 if who == "a follower" else 7))
    assert node.last(ReadIndexReply) == ReadIndexReply(term, 1, 0)
    assert node.ledger.term == term


def test_a_leadership_that_ends_answers_the_questions_that_wait() -> None:
    node = OneNode()
    lead(node)
    question(node)
    node.sent.clear()
    node.request("n3", "replication", AppendEntries(9, 1, 0, 1, 0, ()))
    assert node.messages(ReadIndexReply) == [("->n2", ReadIndexReply(9, 1, 0))]


def test_a_question_of_an_earlier_term_is_not_queued_by_the_next_leadership() -> None:
    node = OneNode()
    lead(node)
    term = node.ledger.term
    question(node)
    node.request("n3", "election", RequestVote(term + 1, 9, 9, transfer=True))
    node.wait(2.0)
    stand(node)
    for peer in ("n2", "n3"):
        node.answer(peer, "election", VoteReply(node.ledger.term, True))
    question(node, 1, term=term)
    echo(node)
    assert {message.index for _, message in node.messages(ReadIndexReply)} == {0}


# --- bounds of the state ----------------------------------------------------------------------------------------------


def test_a_stale_read_waits_for_the_entry_that_it_names() -> None:
    node = follower()
    node.request("", "gateway", Read("stale", QUERY, after_index=4))
    assert not node.messages(ReadResults)
    node.request("n2", "replication", AppendEntries(1, 3, 1, 4, 0, (put(4, 1, "k", "new"),)))
    assert values(node) == ["new"]
    assert node.last(ReadResults).applied >= 4


def test_a_stale_read_waits_for_no_longer_than_an_election_timeout_or_its_client() -> None:
    node = follower()
    node.request("", "gateway", Read("stale", QUERY, wait_ms=200, after_index=4))
    node.wait(0.1)
    assert not node.messages(Refused)
    node.wait(0.1)
    assert node.last(Refused).code == StaleReadError.code
    node.request("", "gateway", Read("stale", QUERY, after_index=4))
    node.wait(node.settings.election_timeout_max + 0.2)
    assert len(node.messages(Refused)) == 2
    assert not node.engine.unanswered


def test_a_bounded_read_is_never_answered_from_an_older_state() -> None:
    node = follower()
    node.request("", "gateway", Read("stale", QUERY, stale_ms_max=1000))
    assert node.last(Refused).code == StaleReadError.code
    assert "unknown age" in node.last(Refused).text
    now = int(node.clock.seconds * 1e9)
    node.request("n2", "replication", AppendEntries(1, 3, 1, 3, 0, (), covered=3, confirmed_ns=now))
    node.clock.seconds += 0.9
    node.request("", "gateway", Read("stale", QUERY, stale_ms_max=1000))
    assert node.last(ReadResults).stale_ms in {900, 901}
    node.clock.seconds += 0.2
    node.request("", "gateway", Read("stale", QUERY, stale_ms_max=1000))
    assert "ms old, and at most 1000 ms" in node.last(Refused).text
    assert len(node.messages(ReadResults)) == 1
    assert node.last(Refused).leader == "n2", "it says whom to ask"


def test_the_bound_goes_by_what_the_state_covers_and_not_by_when_the_leader_was_heard() -> None:
    node = follower()
    now = int(node.clock.seconds * 1e9)
    node.request("n2", "replication", AppendEntries(1, 3, 1, 3, 0, (), covered=9, confirmed_ns=now))
    node.request("", "gateway", Read("stale", QUERY, stale_ms_max=NEVER_MS - 1))
    assert node.last(Refused).code == StaleReadError.code, "entry 9 was committed by then, and it is not here"
