"""Changes of members in whole clusters: they grow, shrink and replace their voters under faults, by the rules."""

from __future__ import annotations

from typing import Any

import pytest

from forge_consensus.actors.messages import ChangeMembers, MembersPlanned, Refused
from forge_consensus.actors.notices import MembersRequested
from forge_consensus.actors.runtime.address import Address
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.testing.rules.invariants import Invariants
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.cluster import SimulatedCluster

PATIENCE_SECONDS = 60.0


class Asker(Address):
    """Whoever asked for a change; it keeps the answers."""

    def __init__(self) -> None:
        super().__init__(None)
        self.answers: list[Any] = []

    def deliver(self, message: Any, sender: Address) -> None:
        self.answers.append(message)


class Operator:
    """Changes the members of a simulated cluster as an operator does: again until it is done."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self.cluster = cluster

    def leader(self) -> SimulatedBase:
        assert self.cluster.run(PATIENCE_SECONDS, lambda: self.cluster.leader() is not None)
        leader = self.cluster.leader()
        assert leader is not None
        return leader

    def ask(self, *changes: tuple[str, str, str], **flags: bool) -> MembersPlanned | Refused:
        """Ask the leader once; returns its answer."""
        asker, leader = Asker(), self.leader()
        request = MembersRequested(
            ChangeMembers(changes, flags.get("force", False), flags.get("dry_run", False)), asker
        )
        leader.tell(leader.engine.actor("membership"), request)
        assert self.cluster.run(PATIENCE_SECONDS, lambda: bool(asker.answers))
        answer: MembersPlanned | Refused = asker.answers[0]
        return answer

    def change(self, *changes: tuple[str, str, str]) -> None:
        """Make the changes, and wait until they are in force and committed."""
        end = self.cluster.timeline.now + PATIENCE_SECONDS
        while isinstance(refused := self.ask(*changes), Refused):
            assert self.cluster.timeline.now < end, refused.text
            self.cluster.run(0.1)
        assert self.cluster.run(PATIENCE_SECONDS, self.settled), self.configuration().text

    def configuration(self) -> Configuration:
        return self.leader().engine.ledger.configuration

    def settled(self) -> bool:
        """Whether nothing is under way: no configuration is uncommitted, joint or has a learner that is to vote."""
        leader = self.cluster.leader()
        if leader is None:
            return False
        ledger = leader.engine.ledger
        done = ledger.configurations.last <= ledger.commit_index
        return done and not ledger.configuration.is_joint and not ledger.configuration.joining

    def add(self, name: str, action: str = "add") -> None:
        self.change((action, name, self.cluster.join(name)))


def cluster_of(nodes: int, seed: int = 1) -> SimulatedCluster:
    cluster = SimulatedCluster(nodes, seed, watchers=[Invariants()])
    cluster.start()
    assert cluster.run(PATIENCE_SECONDS, cluster.settled)
    return cluster


def test_a_learner_is_added_catches_up_and_votes() -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        operator.add("n4")
        configuration = operator.configuration()
        assert configuration.voters == {"n1", "n2", "n3", "n4"}
        assert cluster.run(PATIENCE_SECONDS, cluster.settled)
        joiner = cluster.nodes["n4"].running
        assert joiner is not None
        folders = {base.name: base.engine.ledger.identity.incarnation for base in cluster.running()}
        assert dict(configuration.folders) == folders, "the others are bound to theirs with the same change"
        for name in cluster.names:
            base = cluster.nodes[name].running
            assert base is not None
            assert base.engine.ledger.configuration == configuration


def test_a_cluster_of_one_grows_to_five_and_shrinks_to_one_again() -> None:
    with cluster_of(1) as cluster:
        operator = Operator(cluster)
        for name in ("n2", "n3", "n4", "n5"):
            operator.add(name)
        assert operator.configuration().voters == {"n1", "n2", "n3", "n4", "n5"}
        for name in ("n1", "n2", "n3", "n4"):
            operator.change(("remove", name, ""))
        assert operator.configuration().voters == {"n5"}
        assert cluster.run(PATIENCE_SECONDS, lambda: operator.leader().name == "n5")


def test_scenario_40_all_members_are_replaced_at_once_by_way_of_a_joint_configuration() -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        for name in ("n4", "n5", "n6"):
            operator.add(name, "add-learner")
        changes = [("promote", name, "") for name in ("n4", "n5", "n6")]
        operator.change(*changes, *[("remove", name, "") for name in ("n1", "n2", "n3")])
        assert cluster.run(PATIENCE_SECONDS, lambda: operator.leader().name in ("n4", "n5", "n6"))
        assert operator.configuration().nodes == {"n4", "n5", "n6"}


def test_a_member_that_moved_is_found_at_its_new_address() -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        operator.change(("update", "n2", "elsewhere:7000"))
        assert operator.configuration().addresses["n2"] == "elsewhere:7000"
        assert cluster.run(PATIENCE_SECONDS, cluster.settled)


def test_a_change_that_would_lose_the_quorum_of_those_alive_is_refused_unless_it_is_forced() -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        leader = operator.leader().name
        away, other = [name for name in cluster.names if name != leader]
        cluster.crash(away)
        cluster.run(5.0)
        refused = operator.ask(("remove", other, ""))
        assert isinstance(refused, Refused)
        assert f"a quorum is 2 of 2, and only 1 would answer: {away} would not" in refused.text
        plan = operator.ask(("remove", other, ""), force=True, dry_run=True)
        assert isinstance(plan, MembersPlanned)
        assert plan.index == 0
        before, after = map(Configuration.decode, plan.configurations)
        assert before.voters == {"n1", "n2", "n3"}
        assert after.voters == {leader, away}


@pytest.mark.parametrize("seed", range(1, 6))
def test_members_change_while_nodes_crash_and_networks_part(seed: int) -> None:
    with cluster_of(3, seed) as cluster:
        operator, chance = Operator(cluster), cluster.timeline.chance("test")
        for name in ("n4", "n5"):
            cluster.join(name)
        wishes = [("add", "n4"), ("add", "n5"), ("remove", "n1"), ("remove", "n2"), ("demote", "n3"), ("promote", "n3")]
        for action, name in wishes:
            operator.ask((action, name, f"{name}:7000" if action == "add" else ""), force=True)
            victim = chance.choice(cluster.names)
            if chance.random() < 0.5:
                cluster.crash(victim)
            else:
                cluster.network.part([victim], [name for name in cluster.names if name != victim])
            cluster.run(chance.uniform(0.1, 3.0))
            cluster.network.heal()
            cluster.restart(victim)
            cluster.run(chance.uniform(0.0, 2.0))
        for name in cluster.names:
            cluster.restart(name)
        assert cluster.run(PATIENCE_SECONDS, operator.settled)
