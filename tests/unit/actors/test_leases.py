"""Leases go by the configuration: what leader and followers rely on is equal on all members."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest

from forge_consensus.actors.messages import (
    AppendEntries,
    AppendReply,
    OpenSession,
    PreVoteReply,
    Read,
    ReadResults,
    RequestPreVote,
    Submit,
)
from forge_consensus.actors.notices import ReadIndex
from forge_consensus.actors.replication import ReplicationActor
from forge_consensus.actors.runtime.address import SenderAddress
from forge_consensus.config.raft import RaftSettings
from forge_consensus.errors import InvalidConfigError
from forge_consensus.storage.ledger.configuration import Configuration, check_lease, drift_ppm_of, lease_ms_of
from forge_consensus.testing.world.cluster import SimulatedCluster
from tests.unit.actors.test_election import lead
from tests.worlds.one_node import OneNode
from tests.worlds.scenario_world import Caller, base_of, led_cluster, others_than, put, submit_all, value_at

SLOW = RaftSettings(election_timeout_min=5.0, election_timeout_max=6.0)
READ = Read("lease", ((1, msgpack.packb({"get": "x"})),))


def answers(node: OneNode) -> list[Any]:
    return node.messages(ReadResults)


def test_a_leader_with_a_longer_timeout_of_its_own_has_a_lease_of_the_configurations_length() -> None:
    node = OneNode(lease_reads=True, options=SLOW)
    node.wait(5.0)
    lead(node)
    node.wait(0.2)
    for peer in ("n2", "n3"):
        node.answer(peer, "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))
    node.wait(0.71)
    node.request("", "gateway", READ)
    assert len(answers(node)) == 1
    node.wait(0.02)  # the lease of 800 ms is over 80 ms earlier for the leader
    node.request("", "gateway", READ)
    assert len(answers(node)) == 1


def test_a_lease_does_not_outlast_a_slow_commit_by_answers_to_what_was_sent_before_it() -> None:
    """The leader leads on; a read waits for answers to what it sent afterwards."""
    node = OneNode(lease_reads=True)
    node.wait(0.8)
    lead(node)
    term, commit, before = node.ledger.term, node.tables.commit, node.clock.boottime_ns()

    def slow(batch: Any) -> None:
        node.clock.seconds += 0.85
        commit(batch)

    node.tables.commit = slow  # type: ignore[method-assign]
    node.request("", "gateway", OpenSession(60_000))
    node.tables.commit = commit  # type: ignore[method-assign]
    assert node.ledger.leading_term == term
    acknowledged = AppendReply(term, True, node.ledger.log.last, 0, 0)
    for peer in ("n2", "n3"):
        node.answer(peer, "replication", acknowledged, sent=before)
    node.request("", "gateway", READ)
    assert not answers(node)
    node.answer("n2", "replication", replace(acknowledged, round=1))
    assert len(answers(node)) == 1
    node.request("", "gateway", READ)
    assert len(answers(node)) == 2, "its newest answer is a lease again"


LEASE_MS = 720
"""800 ms, less the allowance for drifting clocks."""
HANDLING = 0.005


@pytest.mark.parametrize("order", ["reply, read", "read, reply", "embedded, reply"])
@pytest.mark.parametrize("age_ms", [*range(640, 800, 10), 1500])
def test_a_lease_read_beside_the_answer_that_renews_the_lease_goes_by_when_that_was_asked(
    age_ms: int, order: str
) -> None:
    """The order within one turn decides nothing: an answer counts from its request on, the clock is read after it."""
    node = OneNode(lease_reads=True)
    node.wait(1.0)
    lead(node)
    node.clock.seconds += 0.1  # the earlier answers are a lease until 620 ms after this request
    sent = node.clock.boottime_ns()
    node.clock.seconds += age_ms / 1000
    asked: list[int] = []
    reply = AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0)

    def slow(handler: Any) -> Any:
        def handle(actor: Any, message: Any, sender: Any) -> None:
            node.clock.seconds += HANDLING
            if isinstance(message, ReadIndex):
                asked.append(node.clock.boottime_ns())
            handler(actor, message, sender)

        return handle

    frames: list[tuple[Any, Any]] = [(node.frame("n2", "replication", reply, sent=sent), None)]
    if order == "embedded, reply":
        sender = SenderAddress("", "gateway", "->client", 1, 0, node.engine.outbox)
        node.engine.next_turn(node.engine.actor("gateway"), READ, sender)
    else:
        read = (node.frame("", "gateway", READ), "->client")
        frames = [*frames, read] if order == "reply, read" else [read, *frames]
    with pytest.MonkeyPatch.context() as patch:
        for kind in (AppendReply, ReadIndex):
            patch.setitem(ReplicationActor.handlers, kind, slow(ReplicationActor.handlers[kind]))
        node.engine.turn(frames, [])
    assert len(asked) == 1
    renewed = asked[0] < sent + LEASE_MS * 1_000_000
    assert bool(answers(node)) == renewed if order == "reply, read" else not answers(node) or renewed


@pytest.mark.parametrize("own", [RaftSettings(), SLOW])
def test_a_follower_keeps_its_vote_back_for_the_configurations_lease_whatever_its_own_timeout_is(
    own: RaftSettings,
) -> None:
    node = OneNode(lease_reads=True, options=own)
    node.wait(0.85)
    node.request("n2", "replication", AppendEntries(1, 1, 0, 1, 0, ()))
    node.wait(0.75)
    node.request("n3", "election", RequestPreVote(2, 1, 9, 9))
    assert not node.last(PreVoteReply).granted
    node.wait(0.06)
    node.request("n3", "election", RequestPreVote(2, 2, 9, 9))
    assert node.last(PreVoteReply).granted


def test_a_node_whose_timeout_is_shorter_than_the_lease_does_not_start_and_says_what_to_do() -> None:
    quick = RaftSettings(heartbeat_interval=0.05, election_timeout_min=0.3, election_timeout_max=0.5)
    with pytest.raises(InvalidConfigError, match=r"is 0.3 s, and the leases .* last 0.8 s .* to at least 0.8 s"):
        OneNode(lease_reads=True, options=quick)
    assert OneNode(options=quick).ledger.configuration.vote_kept(0.3) == 0.3, "without leases it may"


def test_a_candidate_keeps_its_vote_back_from_itself_while_a_lease_may_last() -> None:
    node = OneNode(lease_reads=True)
    node.wait(0.85)
    node.request("n2", "replication", AppendEntries(1, 1, 0, 1, 0, ()))
    longer = replace(node.ledger.configuration, lease_ms=4000)  # as a change of the configuration will be able to
    node.ledger.configurations.rows[-1] = (1, longer)
    node.wait(3.9)
    assert not node.messages(RequestPreVote)
    node.wait(2.0)
    assert node.messages(RequestPreVote)


@pytest.mark.parametrize(
    ("seconds", "ms"), [(0.8, 800), (0.29, 290), (0.57, 570), (1.1, 1100), (0.0015, 1), (4.35, 4350)]
)
def test_the_lease_is_what_the_founders_timeout_can_keep(seconds: float, ms: int) -> None:
    assert lease_ms_of(seconds) == ms
    founded = Configuration.of({"n1": "a:1"}, lease_reads=True, lease_ms=ms)
    check_lease(founded, seconds)
    assert founded.lease_ns == ms * 900_000


def test_the_drift_is_rounded_to_the_safe_side() -> None:
    assert [drift_ppm_of(part) for part in (0.1, 0.3, 0.00000123, 0.0)] == [100_000, 300_000, 2, 0]


@pytest.fixture(name="seed", params=range(1, 6))
def made_seed(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def give_settings(cluster: SimulatedCluster, name: str, raft: RaftSettings) -> None:
    """Restart a node with settings of its own."""
    usual, cluster.raft = cluster.raft, raft
    cluster.crash(name)
    cluster.restart(name)
    cluster.raft = usual


def test_no_lease_read_is_stale_when_the_leader_has_a_longer_timeout_than_the_others(seed: int) -> None:
    with led_cluster(3, seed, lease_reads=True) as (cluster, _):
        give_settings(cluster, "n1", SLOW)
        others = others_than(cluster, "n1")
        assert cluster.run(10.0, cluster.settled)
        for _ in range(40):  # until n1 leads: it stands last, so it needs one of the others to be away for long
            if base_of(cluster, "n1").engine.ledger.leading_term is not None:
                break
            cluster.crash(others[0])
            cluster.network.part([others[1]], ["n1"])
            cluster.run(1.0)
            cluster.network.heal()
            base_of(cluster, others[1]).pause(7.0)
            cluster.run(8.0, lambda: base_of(cluster, "n1").engine.ledger.leading_term is not None)
            cluster.restart(others[0])
            cluster.run(0.3)
        if base_of(cluster, "n1").engine.ledger.leading_term is None:
            pytest.skip("n1 did not come to lead under this seed")
        assert cluster.run(10.0, cluster.settled)
        assert base_of(cluster, "n1").engine.ledger.leading_term is not None
        caller, near = Caller(cluster), Caller(cluster, "near")
        session = caller.open_session("n1")
        submit_all(caller, "n1", session, [put("x", "old")])
        cluster.network.part(["n1"], others)
        assert cluster.run(5.0, lambda: cluster.leader() is not base_of(cluster, "n1"))
        new = cluster.leader()
        assert new is not None
        caller.ask(new.name, Submit(session, 2, ((2, put("x", "new")),)))
        assert value_at(cluster, new.name, "x") == "new"
        asked = near.send("n1", READ)
        cluster.run(0.3)
        said = [msgpack.unpackb(item[2]) for m in near.heard(asked) if isinstance(m, ReadResults) for item in m.items]
        assert "old" not in said
