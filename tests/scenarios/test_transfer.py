"""Handing the leadership over: the target catches up, stands at once and wins; what fails is given up in time."""

from __future__ import annotations

from typing import Any

import pytest

from forge_consensus.actors.messages import Refused, TransferStarted
from forge_consensus.actors.notices import TransferRequested
from forge_consensus.testing.rules.invariants import Invariants
from forge_consensus.testing.world.cluster import SimulatedCluster
from tests.scenarios.test_changes import PATIENCE_SECONDS, Asker, Operator, cluster_of


def transfer(operator: Operator, target: str = "") -> Any:
    """Ask the leader to hand over; returns its answer."""
    asker, leader = Asker(), operator.leader()
    leader.tell(leader.engine.actor("election"), TransferRequested(target, asker))
    assert operator.cluster.run(PATIENCE_SECONDS, lambda: bool(asker.answers))
    return asker.answers[0]


@pytest.mark.parametrize("lease_reads", [False, True])
def test_the_target_leads_the_next_term_within_a_few_round_trips(lease_reads: bool) -> None:
    with SimulatedCluster(3, 5, watchers=[Invariants()], lease_reads=lease_reads) as cluster:
        cluster.start()
        assert cluster.run(PATIENCE_SECONDS, cluster.settled)
        operator = Operator(cluster)
        for _ in range(5):
            before = operator.leader()
            term = before.engine.ledger.term
            target = next(name for name in cluster.names if name != before.name)
            began = cluster.timeline.now
            assert transfer(operator, target) == TransferStarted(target, term)
            assert cluster.run(1.0, lambda target=target: operator.leader().name == target)  # type: ignore[misc]
            assert cluster.timeline.now - began < 0.1
            assert operator.leader().engine.ledger.term == term + 1
            assert cluster.run(PATIENCE_SECONDS, cluster.settled)


def test_scenario_46_without_a_target_a_voter_with_the_whole_log_is_chosen_and_never_a_learner() -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        operator.add("n0", "add-learner")
        before = operator.leader().name
        assert transfer(operator).target not in ("n0", before)
        assert cluster.run(1.0, lambda: operator.leader().name != before)


@pytest.mark.parametrize(("target", "words"), [("n9", "is no voter besides the leader"), ("", "leads already")])
def test_a_node_that_cannot_lead_is_refused(target: str, words: str) -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        answer = transfer(operator, target or operator.leader().name)
        assert isinstance(answer, Refused)
        assert words in answer.text


def test_scenario_53_a_handover_to_a_node_that_does_not_win_is_given_up_and_the_leader_leads_on() -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        leader = operator.leader()
        target = next(name for name in cluster.names if name != leader.name)
        cluster.network.part([target], [name for name in cluster.names if name != target])
        assert transfer(operator, target) == TransferStarted(target, leader.engine.ledger.term)
        assert leader.engine.shared.handover is not None
        assert cluster.run(2.0, lambda: leader.engine.shared.handover is None)
        assert operator.leader() is leader
        cluster.network.heal()
        assert cluster.run(PATIENCE_SECONDS, cluster.settled)


def test_scenario_39_a_leader_that_is_removed_hands_over_at_once() -> None:
    with cluster_of(3) as cluster:
        operator = Operator(cluster)
        leader = operator.leader().name
        operator.change(("remove", leader, ""))
        began = cluster.timeline.now
        assert cluster.run(PATIENCE_SECONDS, lambda: operator.leader().name != leader)
        assert cluster.timeline.now - began < 0.5, "less than an election timeout"
