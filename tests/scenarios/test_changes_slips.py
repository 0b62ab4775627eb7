"""Changes of members among lost disks, nodes that lag behind and slips of operators; a review found each of these."""

from __future__ import annotations

import pytest

from forge_consensus.actors.messages import ChangeMembers, MembersPlanned, Refused
from forge_consensus.actors.notices import MembersRequested
from forge_consensus.config.raft import RaftSettings
from forge_consensus.testing.world.cluster import SimulatedCluster
from tests.scenarios.test_changes import PATIENCE_SECONDS, Asker, Operator, cluster_of
from tests.scenarios.test_changes_again import ask, ledger, renew
from tests.scenarios.test_transfer import transfer


def a_follower(operator: Operator, *but: str) -> str:
    """A node that does not lead."""
    leader = operator.leader().name
    return next(name for name in operator.cluster.names if name != leader and name not in but)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_disk_is_replaced_and_the_new_one_runs_already(when: str) -> None:
    """It answers the heartbeats that are meant for its predecessor, which a leader tells of its removal."""
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        lost = a_follower(operator)
        cluster.run(1.0)
        if when == "before":
            renew(cluster, lost)
        else:
            cluster.crash(lost)
        cluster.run(0.5)
        operator.change(("remove", lost, ""))
        if when == "after":
            renew(cluster, lost)
        cluster.run(10.0)
        operator.change(("add", lost, f"{lost}:7000"))
        assert cluster.nodes[lost].running
        assert cluster.run(PATIENCE_SECONDS, cluster.settled)


def test_a_learner_is_not_promoted_before_it_has_the_entry_that_names_its_folder() -> None:
    """It could not vote, and a cluster of one that needs its vote would be without a leader for ever."""
    with SimulatedCluster(1, 1, raft=RaftSettings(append_bytes_max=60, inflight_frames_max=1)) as cluster:
        cluster.start()
        assert cluster.run(PATIENCE_SECONDS, cluster.settled)
        operator = Operator(cluster)
        for port in range(1, 100):
            ask(operator, ("update", "n1", f"n1:{port}"))
        weather = cluster.network.weather
        weather.delay_seconds_min, weather.delay_seconds_max = 0.02, 0.03
        ask(operator, ("add-learner", "n2", cluster.join("n2")))
        assert isinstance(operator.ask(("promote", "n2", ""), force=True), Refused)
        ask(operator, ("promote", "n2", ""))
        cluster.crash("n1")
        cluster.run(0.1)
        cluster.restart("n1")
        assert cluster.run(PATIENCE_SECONDS, lambda: cluster.leader() is not None)


def test_a_member_that_lags_behind_follows_a_leader_that_was_added_again() -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        late = a_follower(operator)
        lost = a_follower(operator, late)
        operator.add("n4")
        cluster.run(2.0)
        cluster.crash(late)
        cluster.run(3.0)
        operator.change(("remove", lost, ""))
        renew(cluster, lost)
        operator.change(("add", lost, f"{lost}:7000"))
        cluster.run(2.0)
        transfer(operator, lost)
        assert cluster.run(20.0, lambda: operator.leader().name == lost)
        cluster.restart(late)
        assert cluster.run(
            PATIENCE_SECONDS, lambda: ledger(cluster, late).commit_index == ledger(cluster, lost).commit_index
        )


def test_a_node_with_the_leaders_id_at_the_address_of_a_new_one_does_not_end_the_leader() -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        leader = operator.leader()
        address = cluster.join("n4")
        ledger(cluster, "n4").identity.node_id = leader.name
        assert isinstance(operator.ask(("add", "n4", address)), Refused)
        cluster.run(5.0)
        assert leader.alive


def test_a_follower_with_an_uncommitted_removal_does_not_end_the_node_that_was_added_again() -> None:
    with cluster_of(5) as cluster:
        operator = Operator(cluster)
        late = a_follower(operator)
        lost = a_follower(operator, late)
        cluster.crash(lost)
        cluster.run(5.0)
        planned = ask(operator, ("remove", lost, ""))
        assert cluster.run(5.0, lambda: ledger(cluster, late).configurations.last == planned.index)
        cluster.network.part([late], [name for name in cluster.names if name not in (late, lost)])
        cluster.run(5.0)
        renew(cluster, lost)
        ask(operator, ("add", lost, f"{lost}:7000"))
        cluster.run(20.0)
        assert cluster.nodes[lost].running is not None


def test_a_first_member_on_an_empty_folder_gives_no_vote_to_members_that_never_met_it() -> None:
    """It was started as usual, without --join, so it takes itself for the member that it was."""
    with SimulatedCluster(3, 1) as cluster:
        cluster.start()
        assert cluster.run(PATIENCE_SECONDS, cluster.settled)
        operator = Operator(cluster)
        one = operator.leader().name
        two, lost = [name for name in cluster.names if name != one]
        cluster.crash(lost)
        cluster.run(3.0)
        operator.add("n4")
        operator.add("n5")
        cluster.run(2.0)
        cluster.network.part(["n4", "n5"], [one, two, lost])
        cluster.restart(lost)
        cluster.run(5.0)
        index = ask(operator, ("update", "n4", "moved:7000")).index
        assert cluster.run(5.0, lambda: ledger(cluster, one).commit_index >= index)
        term = ledger(cluster, one).log.term_at(index)
        cluster.network.part([lost], [one, two])
        cluster.network.join_again([lost], ["n4", "n5"])
        cluster.crash(lost)
        cluster.wipe(lost)
        cluster.suspect.pop(lost)
        cluster.restart(lost)
        cluster.run(20.0)
        for name in ("n4", "n5"):
            found = ledger(cluster, name)
            assert found.commit_index < index or found.log.term_at(index) == term, "a committed entry was lost"


def test_nobody_is_met_any_more_when_the_leadership_ends_and_who_asked_is_told() -> None:
    with cluster_of(3) as cluster:
        operator, asker = Operator(cluster), Asker()
        leader = operator.leader()
        request = MembersRequested(ChangeMembers((("add", "n9", "n9:7000"),)), asker)
        leader.tell(leader.engine.actor("membership"), request)
        cluster.run(0.1)
        transfer(operator)
        cluster.run(1.0)
        assert not leader.engine.shared.meeting
        assert [answer.code for answer in asker.answers] == ["CONSENSUS_NOT_LEADER"]


def test_an_addition_that_is_repeated_takes_no_longer_than_the_first() -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        address = cluster.join("n4")
        operator.ask(("add", "n4", address), ("remove", "n9", ""))  # refused: n9 is no member
        began = cluster.timeline.now
        assert isinstance(operator.ask(("add", "n4", address)), MembersPlanned)
        assert cluster.timeline.now - began < 1.0


def test_one_request_does_not_make_a_node_connect_to_thousands() -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        answer = operator.ask(*(("add", f"x{number}", f"x{number}:1") for number in range(5000)))
        assert isinstance(answer, Refused)
        assert "5000 changes are named at once: at most 64 may be" in answer.text
        assert len(operator.leader().engine.peers.wanted) == 2
