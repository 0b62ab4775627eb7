"""The cluster as one node sees it, in the types of the Go original, for clients and services."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from forge_consensus.actors.runtime.status import MemberStatus, NodeStatus
from forge_consensus.config.address import IPC
from forge_consensus.errors import NoQuorumError
from forge_consensus.storage.ledger.configuration import LEARNER, VOTER
from forge_consensus.storage.ledger.quorum import Quorum


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A member as one node sees it (NodeInfo of the Go original).

    `last_heartbeat` is in Unix seconds, None if the member was never heard. For an ``ipc://`` address, `address` holds
    all of it and `port` is 0.
    """

    id: str
    address: str
    port: int
    role: str
    status: str
    term: int
    last_heartbeat: float | None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClusterInfo:
    """The cluster as one node sees it (ClusterInfo of the Go original, but for `required_nodes`)."""

    id: str
    leader: str | None
    term: int
    nodes: tuple[NodeInfo, ...]
    total_nodes: int
    active_nodes: int
    has_quorum: bool
    commit_index: int
    last_applied: int
    required_nodes: int
    """How many voters decide at least; while the configuration is joint, that is a majority of each set of voters."""


def voters_of(status: NodeStatus) -> list[MemberStatus]:
    """Return the members that vote; learners count for nothing in a quorum."""
    return [row for row in status.nodes if row.part != LEARNER]


def quorum_of(status: NodeStatus) -> Quorum:
    """Return the quorum of the configuration in force."""
    incoming = frozenset(row.id for row in status.nodes if row.part == VOTER)
    outgoing = frozenset(row.id for row in status.nodes if row.outgoing)
    return Quorum(incoming, outgoing or None)


def active(status: NodeStatus) -> int:
    """Return how many voters are known to be alive."""
    return sum(row.status == "active" for row in voters_of(status))


def node_of(row: MemberStatus, term: int) -> NodeInfo:
    """Return a member in the type of the Go original."""
    whole = row.address
    host, _, port = (whole, "", "") if whole.startswith(IPC) else whole.rpartition(":")
    heard = row.last_contact
    return NodeInfo(
        id=row.id,
        address=host,
        port=int(port or 0),
        role=row.role,
        status=row.status,
        term=term,
        last_heartbeat=None if heard is None else time.time() - heard,
        metadata={"round_trip_ms": row.round_trip_ms, "match_index": row.match_index},
    )


def cluster_of(status: NodeStatus) -> ClusterInfo:
    """Return the cluster in the type of the Go original."""
    return ClusterInfo(
        id=status.cluster_id,
        leader=status.leader_id,
        term=status.term,
        nodes=tuple(node_of(row, status.term) for row in status.nodes),
        total_nodes=len(voters_of(status)),
        active_nodes=active(status),
        has_quorum=status.has_quorum,
        commit_index=status.commit_index,
        last_applied=status.last_applied,
        required_nodes=quorum_of(status).required,
    )


def check_quorum(info: ClusterInfo) -> None:
    """Raise `NoQuorumError` unless a majority of the voters is alive."""
    if not info.has_quorum:
        raise NoQuorumError(info.required_nodes, info.active_nodes)
