"""The status: a node's own account of itself, in words that the seed, the CLI and JSON share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from forge_consensus.actors.runtime.actor import ConsensusActor
    from forge_consensus.actors.runtime.clock import Clock
    from forge_consensus.actors.runtime.shared import Board
    from forge_consensus.storage.ledger.ledger import Ledger


def status_of(actor: ConsensusActor) -> dict[str, Any]:
    """The fields of the seed's ConsensusStats, ClusterInfo and HealthStatus that a node knows; all always present.

    Times are seconds, `last_contact` is None where nothing was ever heard; `match_index` is known to a leader only.
    """
    ledger, newest = actor.ledger, actor.snapshots.newest
    space = ledger.tables.space()
    return {
        **facts_of(actor),
        "snapshot_index": newest.index if newest else 0,
        "log_size_bytes": ledger.tables.size_bytes("log"),
        "storage_used_bytes": space.used_bytes,
        "storage_quota_bytes": space.quota_bytes,
        "disk_free_bytes": space.disk_free_bytes,
    }


class Source(Protocol):
    """Whatever knows a node's board, ledger and clock: an actor, or the engine."""

    @property
    def board(self) -> Board:
        """What the node says of itself."""

    @property
    def ledger(self) -> Ledger:
        """What it must not forget."""

    @property
    def clock(self) -> Clock:
        """What time it is."""


def facts_of(source: Source) -> dict[str, Any]:
    """The part of the status that is in memory; another thread may ask for it, and sees a turn half done at worst."""
    board, ledger, now = source.board, source.ledger, source.clock.now()
    heard_at = board.leader_heard_at
    contact = None if heard_at is None else source.clock.boottime_ns() / 1e9 - heard_at
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
        "snapshots_total": board.snapshots,
        "last_contact": 0.0 if ledger.leading_term is not None else contact,
        "elections_total": board.elections,
        "operations_total": board.commands,
        "operations_failed": board.commands_failed,
        "reads_total": board.reads,
        "turns_total": board.turns,
        "flushes_total": ledger.commits,
        "refused": dict(board.refused),
        "uptime": now - board.started_at,
        "boot": ledger.identity.boot,
        "address": ledger.configuration.addresses.get(ledger.identity.node_id),
        "events_address": board.events_address,
        "nodes": nodes_of(source),
    }


def nodes_of(source: Source) -> list[dict[str, Any]]:
    """The members as this node sees them (the seed's NodeInfo)."""
    board, ledger, now = source.board, source.ledger, source.clock.now()
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
