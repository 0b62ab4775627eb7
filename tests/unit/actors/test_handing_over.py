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


def handing_over_to_n2() -> tuple[OneNode, int]:
    """A leader that begins to hand over to n2, which lacks its last entry; returns the node and that entry's index."""
    node = leading()
    node.request("", "gateway", OpenSession(60_000))
    node.engine.next_turn(node.engine.actor("election"), TransferRequested("n2", None))
    node.turn()
    assert node.engine.shared.handover is not None
    return node, node.ledger.log.last


def acknowledge(node: OneNode, last: int) -> None:
    """Both peers have the log up to there."""
    frames = [(node.frame(peer, "replication", AppendReply(1, True, last, 0, 0)), None) for peer in ("n2", "n3")]
    node.turn(*frames)


def test_a_target_that_is_told_late_has_its_time_to_stand_before_the_leader_takes_entries_again() -> None:
    node, last = handing_over_to_n2()
    node.request("", "gateway", OpenSession(60_000))
    node.clock.seconds += node.settings.election_timeout_min + 0.5  # suspended, and the alarm is due in the next turn
    acknowledge(node, last)
    assert targets(node) == ["n2"]
    assert node.ledger.log.last == last, "who is told to stand has the whole log"
    node.wait(node.settings.election_timeout_min - 0.1)
    acknowledge(node, last)
    assert node.ledger.log.last == last
    node.wait(0.11)
    assert node.engine.shared.handover is None
    assert node.ledger.log.last == last + 1, "what waited is taken now"


def test_a_target_that_does_not_catch_up_in_time_is_not_told() -> None:
    node, last = handing_over_to_n2()
    node.request("", "gateway", OpenSession(60_000))
    node.clock.seconds += node.settings.election_timeout_min
    acknowledge(node, last - 1)
    assert node.engine.shared.handover is None
    assert node.ledger.log.last == last + 1
    acknowledge(node, last + 1)
    assert not targets(node)


def test_the_alarm_of_a_handover_that_was_given_up_does_not_end_the_next_one() -> None:
    node, last = handing_over_to_n2()
    node.turn(notices=[node.engine.peers.link("n2", False)])
    assert node.engine.shared.handover is None
    node.greet("n2")
    node.answer("n2", "health", CheckPeerReply(node.last(CheckPeer).number))
    acknowledge(node, last)
    node.clock.seconds += node.settings.election_timeout_min + 0.01  # the first one would be over in the next turn
    node.engine.next_turn(node.engine.actor("election"), TransferRequested("n2", None))
    acknowledge(node, last)
    assert targets(node) == ["n2"]
    assert node.engine.shared.handover is not None
