"""Scenarios 49 to 52: neither a former leader nor a new one before its first commit answers a linearizable read."""

from __future__ import annotations

import msgpack
import pytest

from forge_consensus.actors.messages import (
    NEVER_MS,
    AppendEntries,
    AppendReply,
    PreVoteReply,
    Read,
    ReadResults,
    Refused,
    RequestPreVote,
    RequestVote,
    Submit,
    VoteReply,
)
from forge_consensus.actors.notices import PeerDown
from tests.unit.actors.test_election import lead, stand
from tests.unit.actors.test_replication import follow
from tests.unit.actors.test_replication import put as entry
from tests.worlds.one_node import OneNode
from tests.worlds.scenario_world import Caller, acknowledge, base_of, leader_of, led_cluster, others_than, put

GET_K = Read("linearizable", ((1, msgpack.packb({"get": "k"})),))


def read_values(messages: list[tuple[str, ReadResults]]) -> list[object]:
    """What the answers to reads say."""
    return [msgpack.unpackb(payload) for _, message in messages for _, _, payload in message.items]


def confirm(node: OneNode, peer: str, index: int, *, success: bool = True) -> None:
    """A follower answers the newest round."""
    round_asked = node.last(AppendEntries).round
    node.answer(peer, "replication", AppendReply(node.ledger.term, success, index, 0, round_asked))


# --- 49 ---------------------------------------------------------------------------------------------------------------


def test_scenario_49_a_read_at_a_fresh_leader_waits_for_its_no_op() -> None:
    """The predecessor's acknowledged write is in the new leader's log, which does not know yet that it is committed."""
    node = OneNode()
    follow(node, 1, entry(2, 1, "k", "acknowledged"))
    node.wait(3.0)
    stand(node)
    node.answer("n2", "election", VoteReply(node.ledger.term, True))
    node.request("", "gateway", GET_K)
    for peer in ("n2", "n3"):  # all confirm the leader, nobody has its no-op
        confirm(node, peer, 2)
    assert node.ledger.commit_index == 1
    assert not node.messages(ReadResults)
    confirm(node, "n2", 3)
    assert node.ledger.commit_index == 3
    assert read_values(node.messages(ReadResults)) == ["acknowledged"]


# --- 50 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lease_reads", [False, True])
def test_scenario_50_an_old_leader_in_a_minority_answers_no_read(lease_reads: bool) -> None:
    """It was stopped while the others elected, so that it still believes that it leads when it reads on."""
    with led_cluster(5, lease_reads=lease_reads) as (cluster, _):
        caller, old = Caller(cluster), leader_of(cluster)
        session = caller.open_session(old.name)
        caller.ask(old.name, Submit(session, 1, ((1, put("k", "old")),)))
        beside = others_than(cluster, old.name)[0]
        majority = others_than(cluster, old.name, beside)
        cluster.network.part([old.name, beside], majority)
        old.pause(4.0)
        assert cluster.run(3.5, lambda: leader_of(cluster) is not old)
        new = leader_of(cluster)
        caller.ask(new.name, Submit(session, 2, ((2, put("k", "new")),)))
        consistencies = ("linearizable", "lease")
        reads = [caller.send(old.name, Read(kind, GET_K.queries)) for kind in consistencies for _ in range(3)]
        assert old.engine.ledger.leading_term is not None
        cluster.run(10.0)
        answers = [answer for number in reads for answer in caller.heard(number)]
        assert [type(answer) for answer in answers] == [Refused] * len(reads)
        cluster.network.heal()
        assert cluster.run(10.0, cluster.settled)
        assert read_values([("", caller.ask(leader_of(cluster).name, GET_K))]) == ["new"]


def test_scenario_50_rounds_of_an_earlier_leadership_confirm_no_read_of_a_later_one() -> None:
    node = OneNode()
    lead(node)
    for _ in range(5):
        node.request("", "gateway", GET_K)
        confirm(node, "n2", 2)
    assert len(node.messages(ReadResults)) == 5
    high = node.last(AppendEntries).round
    node.request("", "gateway", GET_K)  # it is open when the leadership ends
    node.request("n3", "replication", AppendEntries(2, 2, 1, 2, 0, ()))
    assert node.last(Refused).code == "CONSENSUS_NOT_LEADER"
    stand(node)
    node.answer("n2", "election", VoteReply(3, True))
    acknowledge(node)
    node.sent.clear()
    node.request("", "gateway", GET_K)
    low = node.last(AppendEntries).round
    assert low < high, "rounds begin anew, so an old answer has a higher number"
    late = AppendReply(1, True, node.ledger.log.last, 0, high)
    for peer in ("n2", "n3"):
        node.answer(peer, "replication", late)
        node.answer(peer, "replication", AppendReply(3, True, node.ledger.log.last, 0, low), boot=0)
    assert not node.messages(ReadResults)
    confirm(node, "n2", node.ledger.log.last)
    assert len(node.messages(ReadResults)) == 1, "the read of the first leadership is over"


def test_scenario_50_a_restarted_follower_that_lags_answers_no_read_with_old_data() -> None:
    with led_cluster(3) as (cluster, _):
        caller, leader = Caller(cluster), leader_of(cluster)
        session = caller.open_session(leader.name)
        caller.ask(leader.name, Submit(session, 1, ((1, put("k", "old")),)))
        behind = others_than(cluster, leader.name)[0]
        assert cluster.run(5.0, cluster.settled)
        cluster.crash(behind)
        caller.ask(leader.name, Submit(session, 2, ((2, put("k", "new")),)))
        cluster.network.part([behind], others_than(cluster, behind))
        cluster.restart(behind)
        for consistency in ("linearizable", "lease"):
            refused = caller.ask(behind, Read(consistency, GET_K.queries))
            assert type(refused) is Refused
        stale = caller.ask(behind, Read("stale", GET_K.queries))
        assert stale.stale_ms == NEVER_MS, "who reads what may be old is told how old"
        assert base_of(cluster, behind).engine.ledger.applied < leader.engine.ledger.applied


# --- 51 ---------------------------------------------------------------------------------------------------------------


def test_scenario_51_repeated_reads_are_each_answered_once_and_forgotten() -> None:
    node = OneNode()
    lead(node)
    gateway = node.engine.cells.actor("gateway")
    replication = node.engine.cells.actor("replication")
    frame = node.frame("", "gateway", GET_K, request=7)
    node.turn((frame, "->client"), (frame, "->client"))
    node.turn((frame, "->other"))
    asked = node.last(AppendEntries).round
    assert (len(gateway.waiting.unconfirmed), len(replication.leadership.reads.queue)) == (2, 2), (
        "a repetition on one connection waits once"
    )
    answer = AppendReply(node.ledger.term, True, 2, 0, asked)
    for _ in range(3):
        node.answer("n2", "replication", answer)
        node.answer("n3", "replication", answer)
    assert [to for to, _ in node.messages(ReadResults)] == ["->client", "->other"]
    assert not (gateway.waiting.unconfirmed or gateway.waiting.confirmed)
    assert not (replication.leadership.reads.queue or node.engine.unanswered)


def test_scenario_51_unconfirmed_reads_are_forgotten_with_the_leadership() -> None:
    node = OneNode()
    lead(node)
    gateway = node.engine.cells.actor("gateway")
    for number in range(100):
        node.request("", "gateway", Read("linearizable", ((number, GET_K.queries[0][1]),)))
    assert len(gateway.waiting.unconfirmed) == len(node.engine.unanswered) == 100
    node.sent.clear()
    node.request("n2", "replication", AppendEntries(9, 1, 0, 1, 0, ()))
    assert len(node.messages(Refused)) == 100
    assert not (gateway.waiting.unconfirmed or gateway.waiting.confirmed or node.engine.unanswered)


# --- 52 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lease_reads", [False, True])
def test_scenario_52_with_leases_a_node_forgets_its_leader_only_after_a_timeout(lease_reads: bool) -> None:
    """Ours forgets a leader when the connection to it breaks; with leases it must not: the lease may still hold."""
    node = OneNode(lease_reads=lease_reads)
    node.wait(0.9)  # with leases nobody votes soon after a start
    node.request("n2", "replication", AppendEntries(1, 1, 0, 1, 0, ()))
    node.turn(notices=[PeerDown("n2")])
    node.request("n3", "election", RequestPreVote(2, 1, 9, 9))
    node.request("n3", "election", RequestVote(2, 9, 9))
    assert node.last(PreVoteReply).granted is not lease_reads
    assert node.last(VoteReply) == (VoteReply(1, False) if lease_reads else VoteReply(2, True))
    node.wait(node.settings.election_timeout_min + 0.01)
    node.request("n3", "election", RequestVote(3, 9, 9))
    assert node.last(VoteReply) == VoteReply(3, True), "time does"
