"""Members that come back: on an empty folder, under an old configuration, past a node that lags behind."""

from __future__ import annotations

import pytest

from forge_consensus.actors.messages import MembersPlanned, Refused
from forge_consensus.config.raft import RaftSettings
from forge_consensus.storage.ledger.ledger import Ledger
from forge_consensus.storage.ledger.skips import Skip
from forge_consensus.testing.world.cluster import SimulatedCluster
from tests.scenarios.test_changes import PATIENCE_SECONDS, Operator, cluster_of


def ledger(cluster: SimulatedCluster, name: str) -> Ledger:
    base = cluster.nodes[name].running
    assert base is not None, f"{name} ended"
    return base.engine.ledger


def ask(operator: Operator, *changes: tuple[str, str, str]) -> MembersPlanned:
    while isinstance(answer := operator.ask(*changes, force=True), Refused):
        operator.cluster.run(0.1)
    return answer


def renew(cluster: SimulatedCluster, name: str) -> None:
    """Start a node on an empty folder with --join."""
    cluster.crash(name)
    cluster.wipe(name)
    cluster.suspect.pop(name)
    node = cluster.nodes[name]
    node.joins = True
    cluster.restart(name)


def leaders(cluster: SimulatedCluster) -> list[str]:
    """The nodes that lead, in whatever term."""
    return [base.name for base in cluster.running() if base.engine.ledger.leading_term]


@pytest.mark.parametrize("fault", ["restart", "partition"])
def test_scenario_48_a_member_that_was_added_again_does_not_lead_by_an_old_configuration(fault: str) -> None:
    with SimulatedCluster(1, 1, raft=RaftSettings(append_bytes_max=60)) as cluster:  # = a long log
        cluster.start()
        assert cluster.run(PATIENCE_SECONDS, cluster.settled)
        operator = Operator(cluster)
        operator.add("n2")
        operator.add("n3")
        operator.change(("remove", "n1", ""))
        assert cluster.run(PATIENCE_SECONDS, lambda: operator.leader().name != "n1")
        renew(cluster, "n1")
        ask(operator, ("add", "n1", "n1:7000"))
        assert cluster.run(PATIENCE_SECONDS, lambda: ledger(cluster, "n1").configuration.voters == {"n1"})
        if fault == "restart":
            cluster.crash("n1")
            cluster.restart("n1")
        else:
            cluster.network.part(["n1"], ["n2", "n3"])
        cluster.run(5.0)
        assert "n1" not in leaders(cluster)


def test_a_founder_on_an_empty_folder_gives_no_vote_before_it_is_added() -> None:
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
        renew(cluster, lost)
        cluster.run(20.0)
        for name in ("n4", "n5"):
            found = ledger(cluster, name)
            assert found.commit_index < index or found.log.term_at(index) == term, "a committed entry was lost"


def test_scenario_39_a_leader_that_is_not_in_its_newest_configuration_still_stands_for_it() -> None:
    """Dissertation 4.2.2, figure 4.6."""
    with cluster_of(2) as cluster:
        operator = Operator(cluster)
        leader = operator.leader().name
        (other,) = (name for name in cluster.names if name != leader)
        while True:
            cluster.network.part([leader], [other])
            if isinstance(operator.ask(("remove", leader, "")), MembersPlanned):
                break
            cluster.network.heal()
            cluster.run(0.2)
        cluster.run(3.0)
        cluster.network.heal()
        assert cluster.run(PATIENCE_SECONDS, lambda: cluster.leader() is not None)
        assert cluster.run(PATIENCE_SECONDS, lambda: operator.leader().name == other)


def test_a_member_that_lags_behind_does_not_end_one_that_was_added_again() -> None:
    with SimulatedCluster(5, 1) as cluster:
        cluster.start()
        assert cluster.run(PATIENCE_SECONDS, cluster.settled)
        operator = Operator(cluster)
        late, lost, *_ = [name for name in cluster.names if name != operator.leader().name]
        cluster.crash(late)
        cluster.crash(lost)
        cluster.run(3.0)
        operator.change(("remove", lost, ""))
        renew(cluster, lost)
        cluster.restart(late)
        cluster.network.part([late], [name for name in cluster.names if name not in (late, lost)])
        ask(operator, ("add", lost, f"{lost}:7000"))
        cluster.run(20.0)
        assert cluster.nodes[lost].running is not None


def test_scenario_48_a_node_that_is_added_again_while_it_is_parted_from_gets_in() -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        operator.add("n4")
        operator.change(("remove", "n4", ""))
        renew(cluster, "n4")
        operator.change(("add", "n4", "n4:7000"))
        assert operator.configuration().part_of("n4") == "voter"
        assert cluster.run(PATIENCE_SECONDS, cluster.settled)


def test_a_node_joins_a_cluster_that_skips_an_entry() -> None:
    with SimulatedCluster(3, 1) as cluster:
        for _ in range(2):
            cluster.start()
            assert cluster.run(PATIENCE_SECONDS, cluster.settled)
            for name in cluster.names:
                cluster.crash(name)
                cluster.skip(name, Skip(1_000_000, 1, 123))
        cluster.start()
        assert cluster.run(PATIENCE_SECONDS, cluster.settled)
        operator = Operator(cluster)
        ask(operator, ("add", "n4", cluster.join("n4")))
        assert cluster.run(PATIENCE_SECONDS, operator.settled)
