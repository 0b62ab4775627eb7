"""The cluster in the types of the original, made from the status of one node."""

from __future__ import annotations

from typing import Any

import pytest

from forge_consensus.actors.runtime.status import MemberStatus, NodeStatus
from forge_consensus.client.cluster_info import ClusterInfo, check_quorum, cluster_of
from forge_consensus.errors import NoQuorumError

FACTS: dict[str, Any] = {
    "node_id": "n1", "cluster_id": "c", "role": "follower", "status": "active", "term": 3, "leader_id": None,
    "leader_address": None, "health": "healthy", "details": [], "commit_index": 9, "last_applied": 9,
    "last_log_index": 9, "last_contact": None, "uptime": 1.0, "address": "h:1",
}  # fmt: skip


def member(name: str, **facts: Any) -> MemberStatus:
    return MemberStatus(id=name, address=f"h:{name[1:]}", role="follower", **{"status": "active", **facts})


def info(*rows: MemberStatus, has_quorum: bool = True) -> ClusterInfo:
    """The cluster of these members."""
    return cluster_of(NodeStatus(**FACTS, has_quorum=has_quorum, nodes=list(rows)))


def test_a_learner_is_no_voter_and_none_of_those_that_a_majority_takes() -> None:
    found = info(member("n1"), member("n2"), member("n3"), member("n4", part="learner"))
    assert (found.total_nodes, found.active_nodes, found.required_nodes) == (3, 3, 2)


def test_a_joint_configuration_takes_a_majority_of_each_set_of_voters() -> None:
    leaving = [member(f"n{number}", part="leaving", outgoing=True) for number in (1, 2, 3, 4)]
    lost = [member("n5", status="failed"), member("n6", status="failed")]
    found = info(*leaving, *lost, has_quorum=False)
    assert (found.total_nodes, found.active_nodes, found.required_nodes) == (6, 4, 5)
    with pytest.raises(NoQuorumError) as raised:
        check_quorum(found)
    assert (raised.value.required, raised.value.available) == (5, 4)


def test_a_voter_of_both_sets_counts_for_both() -> None:
    both = [member(f"n{number}", outgoing=True) for number in (1, 2)]
    assert info(*both, member("n3", part="leaving", outgoing=True), member("n4")).required_nodes == 2
