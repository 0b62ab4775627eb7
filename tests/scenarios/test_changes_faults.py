"""Changes of members that are interrupted: by crashes, partitions, changes of the leader, and lost majorities."""

from __future__ import annotations

from pathlib import Path

import pytest

from forge_consensus.actors.codec import decode as decode_frame
from forge_consensus.actors.messages import (
    AppendEntries,
    AppendReply,
    CheckPeer,
    CheckPeerReply,
    MembersPlanned,
    Read,
    ReadResults,
    RequestPreVote,
    RequestVote,
    Submit,
    TimeoutNow,
    VoteReply,
)
from forge_consensus.actors.notices import TransferRequested
from forge_consensus.config.raft import RaftSettings
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.record import Kind, decode, encode
from forge_consensus.testing.rules.invariants import Invariants
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.cluster import SimulatedCluster
from tests.scenarios.test_changes import PATIENCE_SECONDS, Operator, cluster_of
from tests.scenarios.test_changes_again import ask, leaders, ledger
from tests.scenarios.test_changes_slips import a_follower
from tests.scenarios.test_transfer import transfer
from tests.unit.actors.test_election import lead
from tests.unit.actors.test_replication import QUERY, noop
from tests.worlds.one_node import OneNode
from tests.worlds.scenario_world import Caller, SilentWatcher, base_of, put

NEW = ("n4", "n5", "n6")


def replacing(operator: Operator) -> list[tuple[str, str, str]]:
    """Three learners are there; the changes that put them in the place of all voters."""
    for name in NEW:
        operator.add(name, "add-learner")
    operator.cluster.run(1.0)
    removed = [("remove", name, "") for name in ("n1", "n2", "n3")]
    return [*(("promote", name, "") for name in NEW), *removed]


def configurations(cluster: SimulatedCluster, name: str) -> list[Configuration]:
    """The configurations in a node's log, in order."""
    log = ledger(cluster, name).log
    first = log.base_index + 1
    records = [decode(index, data) for index, data in enumerate(log.read(first, log.last, 1 << 24), first)]
    return [Configuration.decode(record.data) for record in records if record.kind == Kind.CONFIGURATION]


@pytest.mark.parametrize("majority", ["new", "old"])
def test_scenario_41_a_joint_configuration_survives_the_crash_of_all_and_needs_both_majorities(majority: str) -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        changes = replacing(operator)
        absent = ["n5", "n6"] if majority == "new" else [a_follower(operator)]
        for name in absent:
            cluster.crash(name)
        if majority == "old":
            absent.append(a_follower(operator, *absent, *NEW))
            cluster.network.part([absent[1]], [name for name in cluster.names if name != absent[1]])
        asked = operator.ask(*changes, force=True)
        assert isinstance(asked, MembersPlanned)
        present = [name for name in cluster.names if name not in absent]
        assert cluster.run(1.0, lambda: all(ledger(cluster, name).configuration.is_joint for name in present))
        for name in cluster.names:
            cluster.crash(name)
        for name in present:
            cluster.restart(name)
            assert ledger(cluster, name).configuration.is_joint
        cluster.run(15.0)
        assert not leaders(cluster), f"a majority of the {majority} voters is missing"
        cluster.network.heal()
        for name in absent:
            cluster.restart(name)
        assert cluster.run(PATIENCE_SECONDS, operator.settled), "a new leader leaves the joint configuration by itself"
        assert operator.configuration().nodes == set(NEW)


def test_scenario_41_a_crash_of_all_as_soon_as_the_joint_configuration_is_committed() -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        changes = replacing(operator)
        before = operator.leader()
        index = ask(operator, *changes).index
        assert cluster.run(1.0, lambda: before.engine.ledger.commit_index >= index)
        for name in cluster.names:
            cluster.crash(name)
        for name in cluster.names:
            cluster.restart(name)
        assert cluster.run(PATIENCE_SECONDS, operator.settled)
        assert operator.configuration().nodes == set(NEW)


def test_scenario_42_a_removal_that_lowers_the_quorum_lets_pending_commands_commit_at_once() -> None:
    with cluster_of(4) as cluster:
        operator, caller = Operator(cluster), Caller(cluster)
        leader = operator.leader()
        session = caller.open_session(leader.name)
        gone = [name for name in cluster.names if name != leader.name][:2]
        for name in gone:
            cluster.crash(name)
        number = caller.send(leader.name, Submit(session, 1, ((1, put("key", 1)),)))
        cluster.run(0.2)
        assert not caller.heard(number), "two of four voters are no majority"
        began = cluster.timeline.now
        assert isinstance(operator.ask(("remove", gone[0], ""), force=True), MembersPlanned)
        assert cluster.run(0.2, lambda: bool(caller.heard(number))), "two of three are"
        assert cluster.timeline.now - began < leader.engine.settings.heartbeat_interval
        assert operator.leader() is leader


def test_scenario_43_a_node_campaigns_by_the_newest_configuration_in_its_log_applied_or_not(tmp_path: Path) -> None:
    """Where a configuration counts once it is applied, a committed one has to block campaigning. Here it does not.

    The node applies one entry a turn, so the configuration is committed and far from applied when its leader hands
    over to it.
    """
    four = Configuration.of({f"n{number}": f"127.0.0.1:{number}" for number in range(1, 5)})
    node = OneNode(3, options=RaftSettings(apply_entries_max=1))
    entries = (*(noop(index, 1) for index in range(2, 60)), encode(60, 1, Kind.CONFIGURATION, 0, data=four.encode()))
    frames = [
        node.frame("n2", "replication", AppendEntries(1, 1, 0, 60, 0, entries)),
        node.frame("n2", "election", TimeoutNow(1)),
    ]
    node.engine.turn([(frame, "->n2") for frame in frames], [])
    assert node.ledger.commit_index == 60
    assert node.ledger.applied < 60
    assert {to for to, _ in node.messages(RequestVote)} == {"n2", "n3"}, "n4 is not greeted yet"
    node.answer("n2", "election", VoteReply(node.ledger.term, True))
    assert node.engine.shared.role == "candidate", "two of four are no majority"
    node.answer("n3", "election", VoteReply(node.ledger.term, True))
    assert node.engine.shared.role == "leader"


def test_scenario_44_a_learner_that_does_not_know_that_it_votes_gives_the_vote_that_is_needed() -> None:
    with cluster_of(2) as cluster:
        operator = Operator(cluster)
        operator.add("n3", "add-learner")
        leader, other = operator.leader().name, a_follower(operator, "n3")
        cluster.run(1.0)
        cluster.network.part(["n3"], [leader, other])
        index = ask(operator, ("promote", "n3", "")).index
        assert cluster.run(5.0, lambda: ledger(cluster, other).commit_index >= index)
        cluster.crash(leader)
        cluster.run(5.0)
        assert ledger(cluster, "n3").configuration.part_of("n3") == "learner"
        assert not leaders(cluster)
        cluster.network.heal()
        assert cluster.run(PATIENCE_SECONDS, lambda: leaders(cluster) == [other]), "one vote besides its own was needed"
        assert cluster.run(5.0, lambda: ledger(cluster, "n3").configuration.part_of("n3") == "voter")


@pytest.mark.parametrize("change", ["crash", "transfer"])
def test_scenario_45_a_learner_is_promoted_exactly_once_also_by_the_next_leader(change: str) -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        address = cluster.join("n4")
        first = operator.leader()
        ask(operator, ("add", "n4", address))
        cluster.network.part(["n4"], ["n1", "n2", "n3"])
        cluster.run(3.0)
        assert operator.configuration().joining == ("n4",), "it cannot catch up, and holds up nobody"
        if change == "crash":
            cluster.crash(first.name)
        else:
            transfer(operator)
        assert cluster.run(PATIENCE_SECONDS, lambda: operator.leader().name != first.name)
        assert operator.configuration().joining == ("n4",)
        cluster.network.heal()
        assert cluster.run(PATIENCE_SECONDS, operator.settled)
        cluster.restart(first.name)
        transfer(operator)
        cluster.run(5.0)
        assert cluster.run(PATIENCE_SECONDS, cluster.settled)
        parts = [found.part_of("n4") for found in configurations(cluster, operator.leader().name)]
        changes = [pair for pair in zip(["", *parts], parts, strict=False) if pair[0] != pair[1]]
        assert changes == [("", "learner"), ("learner", "voter")]


@pytest.mark.parametrize("lasts", [1.0, 30.0])
def test_scenario_47_a_follower_that_was_removed_behind_a_partition_disrupts_nobody_after_it(lasts: float) -> None:
    with cluster_of(4) as cluster:
        operator = Operator(cluster)
        leader, away = operator.leader(), a_follower(operator)
        cluster.network.part([away], [name for name in cluster.names if name != away])
        operator.change(("remove", away, ""))
        cluster.run(lasts)
        term = leader.engine.ledger.term
        cluster.network.heal()
        cluster.run(15.0)
        assert operator.leader() is leader
        assert leader.engine.ledger.term == term
        assert ledger(cluster, away).term == term, "it was never elected anything by anybody, nor raised its own term"


def test_scenario_21_a_learner_and_a_removed_node_get_no_vote_and_no_term_is_taken_from_them() -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        operator.add("n4", "add-learner")
        operator.add("n5", "add-learner")
        operator.change(("remove", "n5", ""))
        voters = sorted(operator.configuration().voters)
        cluster.network.part(["n4", "n5"], voters)
        cluster.run(10.0)
        terms = {name: ledger(cluster, name).term for name in cluster.names}
        assert len(set(terms.values())) == 1, "neither has stood"
        node = OneNode(3)
        node.request("n2", "replication", AppendEntries(1, 1, 0, 1, 0, (noop(2, 1),)))
        node.wait(3.0)
        node.request("n9", "election", RequestVote(7, 99, 7, True))
        node.request("n9", "election", RequestPreVote(7, 1, 99, 7))
        assert node.ledger.term == 1
        assert not [message for _, message in node.messages(VoteReply) if message.granted]


class Stood(SilentWatcher):
    """Keeps who asked for a pre-vote or a vote."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def asks(self, node: SimulatedBase, to: str, data: bytes) -> None:
        if isinstance(decode_frame(data, len(data)).message, RequestPreVote | RequestVote):
            self.names.add(node.name)


def test_scenario_21_a_learner_that_starts_again_without_a_leader_does_not_stand() -> None:
    stood = Stood()
    with SimulatedCluster(3, 1, watchers=[Invariants(), stood]) as cluster:
        cluster.start()
        operator = Operator(cluster)
        operator.add("n4", "add-learner")
        cluster.run(1.0)
        leader = operator.leader().name
        first, second = (name for name in ("n1", "n2", "n3") if name != leader)
        cluster.network.part([first], [second])
        for name in (leader, "n4"):
            cluster.crash(name)
        stood.names.clear()
        cluster.restart("n4")
        cluster.run(15.0)
        assert stood.names == {first, second}, "they find no majority, and the learner, which reaches both, asks nobody"
        assert ledger(cluster, "n4").configuration.part_of("n4") == "learner"
        assert base_of(cluster, "n4").engine.shared.role == "follower"


def handing_over(node: OneNode) -> None:
    """The leader n1 hands over to n2, which has the whole log and is told to stand."""
    node.wait(0.3)
    for peer in ("n2", "n3"):
        node.answer(peer, "health", CheckPeerReply(node.last(CheckPeer).number))
        node.answer(peer, "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))
    node.engine.next_turn(node.engine.actor("election"), TransferRequested("n2", None))
    node.turn()
    assert node.messages(TimeoutNow) == [("n2", TimeoutNow(node.ledger.term))]


def test_scenario_54_a_transfer_ends_cleanly_when_a_vote_of_a_higher_term_comes_between() -> None:
    node = OneNode(3)
    lead(node)
    term, last = node.ledger.term, node.ledger.log.last
    handing_over(node)
    node.request("", "gateway", Read("linearizable", QUERY))
    node.request("n3", "election", RequestVote(term + 1, last, term, True))
    assert node.ledger.term == term + 1
    assert node.last(VoteReply) == VoteReply(term + 1, True)
    assert node.engine.shared.handover is None
    assert node.engine.shared.role == "follower"
    node.request("n3", "replication", AppendEntries(term + 1, last, term, last, 0, (noop(last + 1, term + 1),)))
    node.wait(0.3)
    assert node.engine.shared.leader == "n3"
    assert node.last(AppendReply).success
    assert not node.messages(ReadResults), "the read of the old leadership is not answered by it"


@pytest.mark.parametrize("told", [False, True])
def test_scenario_52_a_leader_that_told_another_node_to_stand_answers_no_read_by_its_lease(told: bool) -> None:
    node = OneNode(lease_reads=True)
    node.wait(1.0)
    lead(node)
    if told:
        handing_over(node)
    node.request("", "gateway", Read("lease", QUERY))
    assert bool(node.messages(ReadResults)) is not told
