"""Elections, on one node alone: votes, pre-votes, stickiness, quick elections, leases."""

from __future__ import annotations

import pytest

from forge_consensus.actors.election import LEFT_TO_OTHERS_MAX, ElectionActor
from forge_consensus.actors.messages import (
    AppendEntries,
    AppendReply,
    OpenSession,
    PreVoteReply,
    RequestPreVote,
    RequestVote,
    SessionOpened,
    VoteReply,
)
from forge_consensus.events.types import LeaderElected, LeaderLost, LeaderStepDown
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.ledger.record import Kind, encode
from tests.worlds.one_node import OneNode


def stand(node: OneNode) -> None:
    """Bring a follower to ask for votes."""
    node.wait(2.0)
    asked = node.last(RequestPreVote)
    for peer in sorted(set(node.peers) - {"n1"}):
        node.answer(peer, "election", PreVoteReply(node.ledger.term, asked.round, True))


def test_a_pre_vote_moves_neither_term_nor_vote() -> None:
    node = OneNode()
    node.wait(2.0)
    assert node.messages(RequestPreVote)
    assert (node.ledger.term, node.ledger.vote) == (0, "")
    node.request("n2", "election", RequestPreVote(9, 1, 5, 3))
    assert node.last(PreVoteReply).granted
    assert (node.ledger.term, node.ledger.vote) == (0, "")


def test_a_candidate_asks_for_votes_after_its_own_vote_is_on_disk() -> None:
    node = OneNode()
    stand(node)
    kinds = [to if to == "disk" else type(message).__name__ for to, message in node.sent]
    assert kinds.index("disk") < kinds.index("RequestVote")
    assert (node.ledger.term, node.ledger.vote) == (1, "n1")


def test_a_duplicated_vote_counts_once() -> None:
    node = OneNode(5)
    stand(node)
    for _ in range(3):
        node.answer("n2", "election", VoteReply(1, True))
    assert node.engine.shared.role == "candidate"
    node.answer("n3", "election", VoteReply(1, True))
    assert node.engine.shared.role == "leader"
    (elected,) = node.told(LeaderElected)
    assert (elected.leader, elected.votes, elected.total, elected.term) == ("n1", 3, 5, 1)


def test_votes_and_pre_votes_are_never_counted_together() -> None:
    """A candidate that asks again for pre-votes must not win its old term by them."""
    node = OneNode(5)
    stand(node)
    node.answer("n2", "election", VoteReply(1, True))
    node.wait(2.0)
    again = node.last(RequestPreVote)
    node.answer("n3", "election", PreVoteReply(1, again.round, True))
    assert node.engine.shared.role == "candidate"
    assert node.ledger.leading_term is None


def test_late_pre_votes_do_not_end_the_leadership() -> None:
    """A candidate that asked again for pre-votes, and then won its old term by votes, goes on leading."""
    node = OneNode(5)
    stand(node)
    node.wait(2.0)
    again = node.last(RequestPreVote)
    assert again.term == 2
    for peer in ("n2", "n3"):
        node.answer(peer, "election", VoteReply(1, True))
    assert node.ledger.leading_term == 1
    for peer in ("n4", "n5"):
        node.answer(peer, "election", PreVoteReply(1, again.round, True))
    assert node.engine.shared.role == "leader"
    assert (node.ledger.term, node.ledger.leading_term) == (1, 1)


def test_pre_votes_of_an_earlier_round_do_not_count() -> None:
    node = OneNode()
    node.wait(1.3)
    first = node.last(RequestPreVote)
    node.wait(1.3)
    assert node.last(RequestPreVote).round > first.round
    node.answer("n2", "election", PreVoteReply(0, first.round, True))
    assert node.ledger.term == 0


def test_a_vote_from_a_stranger_does_not_count() -> None:
    node = OneNode()
    stand(node)
    node.ledger.identity.boots["n9"] = ("folder-n9", 1)
    node.answer("n9", "election", VoteReply(1, True))
    assert node.engine.shared.role == "candidate"


def test_a_vote_is_given_once_a_term_and_survives_a_restart() -> None:
    node = OneNode()
    node.request("n2", "election", RequestVote(5, 1, 0))
    assert node.last(VoteReply) == VoteReply(5, True)
    assert node.sent[-2][0] == "disk"
    again = OneNode(tables=node.tables.clone_durable())
    again.request("n3", "election", RequestVote(5, 9, 4))
    assert again.last(VoteReply) == VoteReply(5, False)
    again.request("n2", "election", RequestVote(5, 9, 4))
    assert again.last(VoteReply) == VoteReply(5, True)


def test_a_vote_requires_a_log_as_up_to_date_as_the_voters() -> None:
    node = OneNode()
    node.request("n2", "election", RequestVote(2, 0, 0))
    assert node.last(VoteReply) == VoteReply(2, False)


def lead(node: OneNode, *silent: str) -> None:
    """Make the node a leader whose no-op is committed; the `silent` peers acknowledge nothing."""
    stand(node)
    term = node.ledger.term
    for peer in sorted(set(node.peers) - {"n1"}):
        node.answer(peer, "election", VoteReply(term, True))
    for peer in sorted(set(node.peers) - {"n1", *silent}):
        node.answer(peer, "replication", AppendReply(term, True, node.ledger.log.last, 0, 0))
    assert node.engine.shared.role == "leader"
    assert node.ledger.commit_index == node.ledger.log.last


def test_a_vote_request_does_not_move_the_term_while_a_leader_is_alive() -> None:
    node = OneNode()
    node.request("n2", "replication", AppendEntries(3, 1, 0, 1, 0, ()))
    node.request("n3", "election", RequestVote(9, 9, 9))
    assert node.last(VoteReply) == VoteReply(3, False)
    assert node.ledger.term == 3


@pytest.mark.parametrize("lease_reads", [False, True])
def test_a_fault_of_an_actor_does_not_forget_the_leader_that_lives(lease_reads: bool) -> None:
    """In the turn after the fault the gate judges before the rebuilt actors have heard of anybody."""
    node = OneNode(lease_reads=lease_reads)
    node.wait(1.0)
    node.request("n2", "replication", AppendEntries(3, 1, 0, 1, 0, ()))
    node.engine.next_turn(node.engine.actor("health"), "no message of an actor's")
    node.engine.turn([], [])
    node.engine.turn([(node.frame("n3", "election", RequestVote(9, 9, 9)), "->n3")], [])
    assert node.last(VoteReply) == VoteReply(3, False)
    node.request("n3", "election", RequestVote(9, 9, 9))
    assert node.ledger.term == 3, "nor does the election actor when it has been rebuilt"
    node.wait(1.01 * node.settings.election_timeout_min)
    node.request("n3", "election", RequestVote(9, 9, 9))
    assert node.last(VoteReply) == VoteReply(9, True)


def test_a_node_whose_machine_is_being_restored_votes_but_does_not_stand() -> None:
    node = OneNode()
    node.request("n2", "replication", AppendEntries(3, 1, 0, 1, 0, ()))
    node.ledger.applier.replacing = True
    node.wait(3 * node.settings.election_timeout_max)
    assert not node.messages(RequestPreVote)
    assert node.told(LeaderLost), "it says all the same that it hears no leader"
    node.request("n3", "election", RequestPreVote(4, 1, 9, 9))
    assert node.last(PreVoteReply).granted
    node.request("n3", "election", RequestVote(4, 9, 9))
    assert node.last(VoteReply) == VoteReply(4, True)
    node.request("n3", "replication", AppendEntries(4, 1, 0, 1, 0, ()))
    node.wait(2 * LEFT_TO_OTHERS_MAX * node.settings.election_timeout_max)
    assert not node.messages(RequestPreVote), "alone for that long, it does not stand either"
    assert any("restores the snapshot" in detail for detail in node.engine.reported.details)
    node.ledger.applier.replacing = False
    node.wait(node.settings.election_timeout_max)
    assert node.messages(RequestPreVote), "it stands as soon as the machine has its state"
    assert not any("restores the snapshot" in detail for detail in node.engine.reported.details)


def test_a_broken_connection_to_the_leader_ends_stickiness_and_starts_a_quick_election() -> None:
    node = OneNode()
    node.request("n2", "replication", AppendEntries(3, 1, 0, 1, 0, ()))
    node.turn(notices=[node.engine.peers.link("n2", False)])
    node.wait(0.1)
    assert node.messages(RequestPreVote)
    assert node.told(LeaderLost)[0].leader == "n2"


def test_a_connection_that_is_given_up_because_the_leader_moved_starts_no_election() -> None:
    node = OneNode()
    node.request("n2", "replication", AppendEntries(3, 1, 0, 1, 0, ()))
    peers = node.engine.peers
    peers.follow({**node.peers, "n2": "elsewhere:2"}, node.clock.now())
    node.turn(notices=[peers.link("n2", False)])
    node.wait(0.1)
    assert not node.messages(RequestPreVote)
    assert node.engine.shared.leader == "n2"
    node.turn(notices=[peers.link("n2", True)])
    node.turn(notices=[peers.link("n2", False)])
    node.wait(0.1)
    assert node.messages(RequestPreVote), "at its new address it is lost like any other"


def test_messages_of_a_dead_leader_do_not_cancel_the_quick_election() -> None:
    node = OneNode()
    node.request("n2", "replication", AppendEntries(3, 1, 0, 1, 0, ()))
    node.turn(notices=[node.engine.peers.link("n2", False)])
    node.request("n2", "replication", AppendEntries(3, 2, 0, 1, 0, ()))
    node.request("n3", "election", RequestPreVote(4, 1, 9, 9))
    assert node.last(PreVoteReply).granted
    node.wait(0.3)
    assert node.messages(RequestPreVote)


def test_new_leader_is_followed_even_if_the_old_connection_breaks_in_that_turn() -> None:
    node = OneNode()
    node.request("n2", "replication", AppendEntries(3, 1, 0, 1, 0, ()))
    heard = (node.frame("n3", "replication", AppendEntries(4, 1, 0, 1, 0, ())), "->n3")
    node.turn(heard, notices=[node.engine.peers.link("n2", False)])
    assert node.engine.shared.leader == "n3"
    node.wait(0.3)
    assert not node.messages(RequestPreVote)


def test_a_follower_follows_its_leader_again_after_a_broken_connection() -> None:
    node = OneNode()
    node.request("n2", "replication", AppendEntries(3, 1, 0, 1, 0, ()))
    node.turn(notices=[node.engine.peers.link("n2", False)])
    node.wait(0.2)
    node.request("n2", "replication", AppendEntries(3, 2, 0, 1, 0, ()))
    assert node.engine.shared.leader == "n2"
    node.request("n3", "election", RequestPreVote(4, 1, 9, 9))
    assert not node.last(PreVoteReply).granted


def test_a_pre_vote_is_refused_in_the_turn_that_receives_the_leaders_entries() -> None:
    node = OneNode()
    node.turn(
        (node.frame("n2", "replication", AppendEntries(3, 1, 0, 1, 0, ())), "->n2"),
        (node.frame("n3", "election", RequestPreVote(4, 1, 9, 9)), "->n3"),
    )
    assert node.engine.shared.leader == "n2"
    assert not node.last(PreVoteReply).granted


def test_with_leases_a_broken_connection_does_not_end_stickiness() -> None:
    node = OneNode(lease_reads=True)
    node.wait(1.0)
    node.request("n2", "replication", AppendEntries(3, 1, 0, 1, 0, ()))
    node.turn(notices=[node.engine.peers.link("n2", False)])
    node.wait(0.1)
    node.request("n3", "election", RequestVote(9, 9, 9))
    assert node.last(VoteReply) == VoteReply(3, False)


def test_with_leases_a_node_does_not_vote_soon_after_its_start() -> None:
    node = OneNode(lease_reads=True)
    node.request("n3", "election", RequestVote(9, 9, 9))
    assert node.last(VoteReply).granted is False
    node.wait(1.0)
    node.request("n3", "election", RequestVote(9, 9, 9))
    assert node.last(VoteReply).granted is True


def test_a_leader_without_a_majority_steps_down_within_an_election_timeout() -> None:
    node = OneNode()
    lead(node)
    node.wait(node.settings.election_timeout_min + 2 * node.settings.heartbeat_interval)
    assert node.engine.shared.role != "leader"
    assert "majority" in node.told(LeaderStepDown)[0].reason


def test_a_leader_steps_down_on_a_higher_term_in_any_reply() -> None:
    node = OneNode()
    lead(node)
    node.answer("n2", "replication", AppendReply(7, False, 0, 0, 0))
    assert node.ledger.term == 7
    assert node.engine.shared.role == "follower"


def test_a_leader_does_not_lead_a_term_twice_after_its_actors_were_rebuilt() -> None:
    node = OneNode()
    lead(node)
    term = node.ledger.term
    node.engine.undo(RuntimeError("an actor failed"))
    node.turn()
    for peer in ("n2", "n3"):
        node.answer(peer, "election", VoteReply(term, True))
    assert node.ledger.leading_term is None


def test_a_candidate_of_a_lower_term_is_answered_with_the_current_term() -> None:
    node = OneNode()
    node.request("n2", "election", RequestVote(5, 1, 0))
    node.request("n3", "election", RequestVote(4, 1, 0))
    assert node.last(VoteReply) == VoteReply(5, False)


def test_a_single_node_leads_at_once_and_only_with_its_vote_on_disk() -> None:
    node = OneNode(1)
    assert node.engine.shared.role == "leader"
    assert node.ledger.hard_on_disk[:2] == (1, "n1")


def test_a_granted_pre_vote_starts_no_election_in_a_turn_that_moves_the_term() -> None:
    node = OneNode()
    node.wait(2.0)
    granted = PreVoteReply(0, node.last(RequestPreVote).round, True)
    node.turn(
        (node.frame("n2", "election", granted), None),
        (node.frame("n3", "election", RequestVote(1, 9, 1)), "->n3"),
    )
    assert (node.ledger.term, node.ledger.vote) == (1, "n3")
    assert node.last(VoteReply) == VoteReply(1, True)


def test_a_full_node_lets_some_election_timeouts_pass_before_it_stands() -> None:
    node = OneNode()
    node.tables.disk_free_bytes = 0
    node.wait(4.5)
    assert not node.messages(RequestPreVote)
    node.wait(3.0)
    assert node.messages(RequestPreVote), "perhaps nobody else can lead"


def test_the_only_member_stands_although_it_is_full() -> None:
    tables = MemoryTables(disk_free_bytes=0)
    assert OneNode(1, tables=tables).ledger.leading_term is not None


def slow_disk(node: OneNode) -> float:
    """Let every commit of the node take longer than an election timeout; returns how many seconds."""
    commit, seconds = node.tables.commit, 1.1 * node.settings.election_timeout_min

    def slow(batch: object) -> None:
        node.clock.seconds += seconds
        commit(batch)  # type: ignore[arg-type]

    node.tables.commit = slow  # type: ignore[method-assign]
    return seconds


@pytest.mark.parametrize("size", [1, 3])
def test_a_slow_commit_alone_ends_no_leadership(size: int) -> None:
    """All disks may be as slow, and then a successor would be no better; the only member has none."""
    node = OneNode(size)
    if size > 1:
        lead(node)
    slow_disk(node)
    for _ in range(5):
        node.request("", "gateway", OpenSession(60_000))
        if size > 1:
            node.answer("n2", "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))
    assert not node.told(LeaderStepDown)
    assert len(node.messages(SessionOpened)) == 5


@pytest.mark.parametrize("writes", [True, False])
def test_a_leader_resigns_if_nobody_answers_what_it_sent_after_a_slow_commit(writes: bool) -> None:
    """Whether its next commits are slow too, or it has nothing more to write."""
    node = OneNode()
    lead(node)
    seconds, began = slow_disk(node), node.clock.seconds
    node.request("", "gateway", OpenSession(60_000))
    assert not node.told(LeaderStepDown)
    while not node.told(LeaderStepDown):
        if writes:
            node.request("", "gateway", OpenSession(60_000))
        else:
            node.wait(0.05)
    assert "majority" in node.told(LeaderStepDown)[0].reason
    assert node.clock.seconds - began <= 3 * seconds, "the one before, one to ask in, and one to wait in"


def test_who_grants_a_pre_vote_gives_the_candidate_the_time_that_votes_take_on_slow_disks() -> None:
    """Otherwise it would stand itself, in the next term, while the candidate's vote is being written."""
    node = OneNode()
    node.wait(0.7)
    node.engine.commit_times.note(1.0, node.clock.now())
    node.request("n3", "election", RequestPreVote(2, 1, 9, 9))
    assert node.last(PreVoteReply).granted
    node.wait(1.0)
    assert not node.messages(RequestPreVote)


def test_a_candidate_on_a_slow_disk_does_not_stand_again_before_votes_can_have_arrived() -> None:
    node = OneNode()
    seconds = slow_disk(node)
    node.request("n2", "replication", AppendEntries(1, 1, 0, 1, 0, (encode(2, 1, Kind.NOOP, 0),)))
    stand(node)
    node.clock.lost(seconds)
    stand_in = node.ledger.term
    rounds = len(node.messages(RequestPreVote))
    node.wait(seconds)
    assert len(node.messages(RequestPreVote)) == rounds
    assert node.ledger.term == stand_in


@pytest.mark.parametrize(("slowest", "wait"), [(0.0, 0.0), (0.3, 0.0), (0.9, 0.9), (60.0, 1.2)])
def test_only_a_disk_that_is_slow_against_an_election_timeout_makes_votes_wait(slowest: float, wait: float) -> None:
    node, election = OneNode(), ElectionActor()
    election.bind(node.engine)
    node.engine.commit_times.note(slowest, node.clock.now())
    assert election.vote_seconds() == wait
