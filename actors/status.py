"""The status: a node's own account of itself, in words that the seed, the CLI and JSON share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forge_consensus.actors.actor import ConsensusActor


def status_of(actor: ConsensusActor) -> dict[str, Any]:
    """The fields of the seed's ConsensusStats, ClusterInfo and HealthStatus that a node knows; all always present.

    Times are seconds, `last_contact` is None where nothing was ever heard; `match_index` is known to a leader only.
    """
    board, ledger, now = actor.board, actor.ledger, actor.clock.now()
    space = ledger.tables.space()
    newest = actor.snapshots.newest
    contact = None if board.leader_heard_at is None else now - board.leader_heard_at
    return {
        "node_id": ledger.identity.node_id,
        "cluster_id": ledger.identity.cluster_id,
        "role": str(board.role),
        "status": "active",
        "term": ledger.term,
        "leader_id": board.leader,
        "leader_address": ledger.configuration.addresses.get(board.leader or ""),
        "has_quorum": board.has_quorum,
        "health": str(board.health),
        "details": list(board.details),
        "commit_index": ledger.commit_index,
        "last_applied": ledger.applied,
        "applied_on_disk": ledger.applier.on_disk,
        "last_log_index": ledger.log.last,
        "last_log_term": ledger.log.last_term,
        "first_log_index": ledger.log.base_index + 1,
        "log_entries": ledger.log.last - ledger.log.base_index,
        "snapshot_index": newest.index if newest else 0,
        "snapshots_total": board.snapshots,
        "last_contact": 0.0 if ledger.leading is not None else contact,
        "elections_total": board.elections,
        "operations_total": board.commands,
        "operations_failed": board.commands_failed,
        "reads_total": board.reads,
        "turns_total": board.turns,
        "flushes_total": ledger.commits,
        "refused": dict(board.refused),
        "storage_used_bytes": space.used_bytes,
        "storage_quota_bytes": space.quota_bytes,
        "disk_free_bytes": space.disk_free_bytes,
        "uptime": now - board.started_at,
        "boot": ledger.identity.boot,
        "address": ledger.configuration.addresses.get(ledger.identity.node_id),
        "events_address": board.events_address,
        "nodes": nodes_of(actor),
    }


def nodes_of(actor: ConsensusActor) -> list[dict[str, Any]]:
    """The members as this node sees them (the seed's NodeInfo)."""
    board, ledger, now = actor.board, actor.ledger, actor.clock.now()
    rows = []
    for node, address in ledger.configuration.members:
        view = board.peers.get(node)
        me = node == ledger.identity.node_id
        rows.append(
            {
                "id": node,
                "address": address,
                "role": str(board.role) if me else ("leader" if node == board.leader else "follower"),
                "status": "active" if me else str(view.status) if view else "inactive",
                "round_trip_ms": view.round_trip_ms if view else None,
                "last_contact": now - view.heard_at if view and view.heard_at is not None else None,
                "match_index": board.match.get(node),
            }
        )
    return rows
