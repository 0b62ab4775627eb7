"""Who is preferred as the leader leads in the end, and whoever is marked never to lead does not; nothing flaps."""

from __future__ import annotations

import pytest

from forge_consensus.actors.messages import Refused
from forge_consensus.testing.rules.invariants import Invariants
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.cluster import SimulatedCluster
from tests.scenarios.test_changes import PATIENCE_SECONDS, Operator, cluster_of
from tests.scenarios.test_leaving import base_of, follower
from tests.scenarios.test_transfer import transfer


def leaders_of(cluster: SimulatedCluster, seconds: float) -> list[str]:
    """The nodes that came to lead, one after the other."""
    found: list[str] = []
    for _ in range(int(seconds / 0.2)):
        cluster.run(0.2)
        leader = cluster.leader()
        if leader is not None and (not found or found[-1] != leader.name):
            found.append(leader.name)
    return found


def leads(operator: Operator, name: str) -> bool:
    leader = operator.cluster.leader()
    return leader is not None and leader.name == name


def test_the_voter_with_the_highest_priority_leads_after_a_calm_time_and_goes_on_to() -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        before = operator.leader()
        name = follower(operator)
        operator.change(("priority", name, "10"))
        calm = 5 * before.engine.settings.election_timeout_max
        assert leaders_of(cluster, calm - 1) == [before.name]
        assert cluster.run(PATIENCE_SECONDS, lambda: leads(operator, name))
        assert leaders_of(cluster, 60) == [name]
        cluster.crash(name)
        assert cluster.run(PATIENCE_SECONDS, lambda: cluster.leader() is not None and not leads(operator, name))
        cluster.restart(name)
        assert cluster.run(PATIENCE_SECONDS, lambda: leads(operator, name))
        assert operator.configuration().text.count("(priority 10)") == 1


def test_scenario_46_a_voter_that_never_leads_votes_and_neither_stands_nor_is_a_target() -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        leader = operator.leader().name
        name = follower(operator)
        operator.change(("no-leader", name, ""))
        refused = transfer(operator, name)
        assert isinstance(refused, Refused)
        assert "marked never to lead" in refused.text
        other = next(each for each in cluster.names if each not in (leader, name))
        cluster.crash(leader)
        assert cluster.run(PATIENCE_SECONDS, lambda: leads(operator, other)), "it is elected by the vote of the other"
        cluster.restart(leader)
        cluster.crash(name)
        cluster.restart(name)
        cluster.crash(other)
        assert cluster.run(PATIENCE_SECONDS, lambda: leads(operator, leader))


def test_a_leader_that_is_marked_never_to_lead_hands_over() -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        leader = operator.leader().name
        operator.change(("no-leader", leader, ""))
        assert cluster.run(10.0, lambda: cluster.leader() is not None and not leads(operator, leader))
        assert leader not in leaders_of(cluster, 30)
        operator.change(("may-lead", leader, ""), ("priority", leader, "1"))
        assert cluster.run(PATIENCE_SECONDS, lambda: leads(operator, leader))


def test_somebody_has_to_be_allowed_to_lead() -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        refused = operator.ask(*(("no-leader", name, "") for name in cluster.names))
        assert isinstance(refused, Refused)
        assert "no voter would be left that may lead" in refused.text
        first, second, third = cluster.names
        operator.change(("no-leader", first, ""), ("no-leader", second, ""))
        refused = operator.ask(("remove", third, ""))
        assert isinstance(refused, Refused)
        assert "may lead" in refused.text


@pytest.mark.parametrize("text", ["high", "1000001", ""])
def test_what_is_no_priority_is_refused(text: str) -> None:
    with cluster_of(3) as cluster:
        refused = Operator(cluster).ask(("priority", "n1", text))
        assert isinstance(refused, Refused)
        assert "is no priority" in refused.text


def slow(cluster: SimulatedCluster, name: str, seconds: tuple[float, float]) -> SimulatedBase:
    """Give a node a disk of which each commit takes so long."""
    base = base_of(cluster, name)
    cluster.nodes[name].slow_commits = base.slow_commits = seconds
    return base


def busy_cluster(seed: int) -> SimulatedCluster:
    """A cluster whose leader commits something ten times a second."""
    cluster = SimulatedCluster(3, seed, watchers=[Invariants()])
    cluster.start()
    assert cluster.run(PATIENCE_SECONDS, cluster.settled)
    return cluster


def work(cluster: SimulatedCluster, seconds: float) -> list[str]:
    """Change a priority of 0 to 0 again and again, which is an entry each time; returns who led meanwhile."""
    operator, found = Operator(cluster), list[str]()
    end = cluster.timeline.now + seconds
    while cluster.timeline.now < end:
        leader = cluster.leader()
        if leader is not None:
            operator.ask(("priority", "n1", "0"))
            if not found or found[-1] != leader.name:
                found.append(leader.name)
        cluster.run(0.3)
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_a_leader_whose_disk_alone_is_slow_hands_over_and_does_not_get_it_back_by_its_priority(seed: int) -> None:
    with busy_cluster(seed) as cluster:
        operator = Operator(cluster)
        name = operator.leader().name
        operator.change(("priority", name, "5"))
        slow(cluster, name, (0.4, 0.45))
        assert work(cluster, 90)[0] == name
        assert operator.leader().name != name
        led = work(cluster, 90)
        assert name not in led
        assert len(led) == 1, "nobody hands over to and fro"


def test_where_all_disks_are_slow_nobody_hands_over() -> None:
    with busy_cluster(3) as cluster:
        for name in cluster.names:
            slow(cluster, name, (0.3, 0.45))
        term = Operator(cluster).leader().engine.ledger.term
        work(cluster, 60)
        assert Operator(cluster).leader().engine.ledger.term == term
