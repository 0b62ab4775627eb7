"""Nodes that were removed: each learns it, and no node that belongs to the cluster is told so."""

from __future__ import annotations

import pytest

from forge_consensus.actors.runtime.shared import Role
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.cluster import SimulatedCluster
from tests.scenarios.test_changes import PATIENCE_SECONDS, Operator, cluster_of
from tests.scenarios.test_changes_again import renew
from tests.scenarios.test_transfer import transfer


def base_of(cluster: SimulatedCluster, name: str) -> SimulatedBase:
    base = cluster.nodes[name].running
    assert base is not None, f"{name} ended"
    return base


def removed(cluster: SimulatedCluster, name: str) -> str:
    return base_of(cluster, name).engine.reported.removed


def follower(operator: Operator) -> str:
    leader = operator.leader().name
    return next(name for name in operator.cluster.names if name != leader)


def stays_out(cluster: SimulatedCluster, name: str) -> None:
    """A node does not stand for ten seconds, and the others keep their leader and their term."""
    operator = Operator(cluster)
    leader = operator.leader()
    term = leader.engine.ledger.term
    for _ in range(20):
        cluster.run(0.5)
        assert base_of(cluster, name).engine.shared.role is Role.FOLLOWER
    assert operator.leader() is leader
    assert leader.engine.ledger.term == term


def test_a_follower_that_is_removed_learns_it_by_its_log() -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        name = follower(operator)
        operator.change(("remove", name, ""))
        assert cluster.run(2.0, lambda: bool(removed(cluster, name)))
        assert "its log says" in removed(cluster, name)
        stays_out(cluster, name)


def test_scenario_39_a_leader_that_is_removed_learns_it_and_stands_no_more() -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        name = operator.leader().name
        operator.change(("remove", name, ""))
        assert cluster.run(2.0, lambda: bool(removed(cluster, name)))
        assert cluster.run(2.0, lambda: operator.leader().name != name)
        stays_out(cluster, name)


@pytest.mark.parametrize("part", ["voter", "learner"])
@pytest.mark.parametrize("absence", ["down", "cut off"])
def test_scenario_47_a_node_that_was_removed_in_its_absence_is_told_by_a_leader_that_never_knew_it(
    part: str, absence: str
) -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        name = follower(operator)
        others = [other for other in cluster.names if other != name]
        if part == "learner":
            operator.change(("demote", name, ""))
        if absence == "down":
            cluster.crash(name)
        else:
            cluster.network.part([name], others)
        operator.change(("remove", name, ""))
        cluster.run(20.0)
        before = operator.leader().name
        transfer(operator)
        assert cluster.run(2.0, lambda: operator.leader().name != before)
        if absence == "down":
            cluster.restart(name)
        else:
            cluster.network.heal()
        assert cluster.run(20.0, lambda: bool(removed(cluster, name)))
        assert "says that this node is no member" in removed(cluster, name)
        stays_out(cluster, name)


def test_a_removed_node_that_is_added_again_on_its_folder_belongs_again() -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        name = follower(operator)
        operator.change(("remove", name, ""))
        assert cluster.run(2.0, lambda: bool(removed(cluster, name)))
        operator.change(("add", name, f"{name}:7000"))
        assert cluster.run(5.0, lambda: not removed(cluster, name))
        assert name in operator.configuration().voters
        operator.change(*(("remove", other, "") for other in cluster.names if other != name))
        assert cluster.run(PATIENCE_SECONDS, lambda: operator.leader().name == name)


def test_scenario_48_a_node_that_catches_up_past_the_removal_of_its_id_does_not_take_it_for_its_own() -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        name = follower(operator)
        operator.change(("remove", name, ""))
        renew(cluster, name)
        operator.change(("add", name, f"{name}:7000"))
        told = base_of(cluster, name).engine.reported

        def caught_up() -> bool:
            assert not told.removed
            return name in base_of(cluster, name).engine.ledger.configuration.voters

        assert cluster.run(PATIENCE_SECONDS, caught_up)
        cluster.run(10.0)
        assert not told.removed


def test_a_node_that_waits_to_be_added_is_not_taken_for_removed() -> None:
    with cluster_of(3) as cluster:
        cluster.join("n4")
        cluster.run(15.0)
        assert not removed(cluster, "n4")


def test_the_former_folder_of_an_id_that_was_added_again_is_told_so() -> None:
    with SimulatedCluster(3, 1) as cluster:
        cluster.start()
        assert cluster.run(PATIENCE_SECONDS, cluster.settled)
        operator = Operator(cluster)
        name = follower(operator)
        cluster.crash(name)
        old = {table: rows.copy() for table, rows in cluster.nodes[name].disk.items()}
        operator.change(("remove", name, ""))
        renew(cluster, name)
        operator.change(("add", name, f"{name}:7000"))
        cluster.crash(name)
        cluster.nodes[name].disk, cluster.nodes[name].joins = old, False
        cluster.suspect[name] = "an old folder"
        cluster.restart(name)
        assert cluster.run(20.0, lambda: bool(removed(cluster, name)))
