"""Handing over, on one node alone: what a leader does that is told to retire."""

from __future__ import annotations

import pytest

from forge_consensus.actors.messages import (
    AppendEntries,
    AppendReply,
    CheckPeer,
    CheckPeerReply,
    OpenSession,
    PreVoteReply,
    Refused,
    RequestPreVote,
    RequestVote,
    TimeoutNow,
    VoteReply,
)
from forge_consensus.actors.notices import PeerDown, Retire, TransferRequested
from forge_consensus.errors import NoLeaderError, OutcomeUnknownError
from forge_consensus.events.types import LeaderTransfer
from tests.worlds.one_node import OneNode


def leading(nodes: int = 3) -> OneNode:
    """A node that leads term 1, and has every peer in step."""
    node = OneNode(nodes)
    peers = sorted(set(node.peers) - {"n1"})
    node.wait(2.0)
    for peer in peers:
        node.answer(peer, "election", PreVoteReply(node.ledger.term, node.last(RequestPreVote).round, True))
    for peer in peers:
        node.answer(peer, "election", VoteReply(1, True))
    for peer in peers:
        node.answer(peer, "health", CheckPeerReply(node.last(CheckPeer).number))
        node.answer(peer, "replication", AppendReply(1, True, node.ledger.log.last, 0, 0))
    assert node.ledger.leading_term == 1
    return node


def targets(node: OneNode) -> list[str]:
    return [to for to, _ in node.messages(TimeoutNow)]


def stopping(node: OneNode) -> str:
    return node.engine.stopping


def retire(node: OneNode) -> None:
    node.engine.retire("SIGTERM")
    node.turn()


def test_a_follower_that_is_told_to_retire_stops_at_once() -> None:
    node = OneNode()
    retire(node)
    assert stopping(node) == "SIGTERM"


def test_a_leader_without_others_stops_at_once() -> None:
    node = OneNode(1)
    node.wait(2.0)
    assert node.ledger.leading_term is not None
    retire(node)
    assert stopping(node) == "SIGTERM"


def test_a_leader_hands_over_and_stops_when_the_other_one_leads() -> None:
    node = leading()
    retire(node)
    (target,) = targets(node)
    assert not stopping(node)
    node.request(target, "election", RequestVote(2, node.ledger.log.last, 1, transfer=True))
    assert not stopping(node), "its vote is needed, and clients are to hear who leads"
    node.request(target, "replication", AppendEntries(2, node.ledger.log.last, 1, 0, 0, ()))
    assert not stopping(node), "its last answers are to leave"
    node.wait(0.1)
    assert stopping(node) == "SIGTERM"


def test_it_stops_after_an_election_timeout_if_nobody_takes_over() -> None:
    node = leading()
    retire(node)
    node.wait(node.settings.election_timeout_min - 0.1)
    assert not stopping(node)
    node.wait(0.11)
    assert stopping(node) == "SIGTERM"


def test_if_the_target_is_lost_the_next_one_is_told_and_without_any_it_stops() -> None:
    node = leading()
    retire(node)
    (first,) = targets(node)
    node.turn(notices=[node.engine.peers.link(first, False)])
    assert targets(node) == [first, "n3" if first == "n2" else "n2"]
    assert not stopping(node)
    node.turn(notices=[PeerDown(targets(node)[1])])
    assert stopping(node) == "SIGTERM"


def test_a_node_that_is_told_twice_stops_at_once() -> None:
    node = leading()
    retire(node)
    retire(node)
    assert stopping(node) == "SIGTERM"


def test_a_node_whose_actors_fail_meanwhile_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    node = leading()
    election = node.engine.actor("election").cell.actor  # type: ignore[union-attr]
    monkeypatch.setattr(type(election), "hand_over_or_stop", lambda self, reason: 1 / 0)
    monkeypatch.setitem(type(election).handlers, Retire, type(election).receiveMsg_Retire)
    retire(node)
    assert stopping(node) == "SIGTERM"


def test_scenario_54_a_vote_of_a_higher_term_ends_a_handover_cleanly() -> None:
    node = leading()
    last = node.ledger.log.last
    node.request("", "gateway", OpenSession(60_000))  # the target lacks this entry, so it is not told yet
    node.engine.next_turn(node.engine.actor("election"), TransferRequested("n2", None))
    node.turn()
    assert node.engine.shared.handover is not None
    node.request("", "gateway", OpenSession(60_000))
    assert not node.messages(Refused), "it waits for the end of the handover"
    node.request("n3", "election", RequestVote(2, last + 1, 1, transfer=True))
    assert node.ledger.leading_term is None
    assert node.engine.shared.handover is None
    assert node.last(VoteReply).granted
    answers = [message for to, message in node.messages(Refused) if to == "->client"]
    assert {message.code for message in answers} == {OutcomeUnknownError.code, NoLeaderError.code}, "both are answered"
    node.wait(node.settings.election_timeout_min - 0.1)
    assert not targets(node), "what was due for the handover is void"
    assert not node.told(LeaderTransfer)
    node.request("n3", "replication", AppendEntries(2, last, 1, 0, 0, ()))
    assert node.engine.shared.leader == "n3"
