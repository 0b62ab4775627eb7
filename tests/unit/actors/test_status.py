"""The node status: typed and frozen inside, the same keys as ever outside."""

from __future__ import annotations

import dataclasses

import pytest

from forge_consensus.actors.messages import GetStatus, Status
from forge_consensus.actors.runtime.status import MemberStatus, NodeStatus, StorageStatus
from forge_consensus.errors import ProtocolError
from forge_consensus.storage.ledger.levels import FIRST_LEVEL
from tests.unit.actors.test_election import lead
from tests.worlds.one_node import OneNode

# fmt: off
MEMORY = [
    "node_id", "cluster_id", "role", "status", "term", "leader_id", "leader_address", "has_quorum", "health", "details",
    "commit_index", "last_applied", "applied_on_disk", "last_log_index", "last_log_term", "first_log_index",
    "log_entries", "snapshots_total", "snapshots_by", "snapshots_why", "snapshot_doing",
    "last_contact", "elections_total", "operations_total", "operations_failed",
    "reads_total", "busy_total", "backlog_entries", "backlog_seconds", "slow_applies_total", "slow_queries_total",
    "turns_total", "flushes_total", "refused", "uptime",
    "boot", "address", "events_address", "nodes",
    "commit_seconds", "full", "level", "leader_commit", "pending_restart", "audited",
    "audit_missing",
]
STORAGE = ["snapshot_index", "log_size_bytes", "storage_used_bytes", "storage_quota_bytes", "disk_free_bytes"]
MEMBER = [
    "id", "address", "role", "status", "round_trip_ms", "last_contact", "clock_ahead_ms", "match_index", "program",
    "refusal", "refused_appends", "greeting_refused", "greeting_refused_ago", "differs", "problem", "part",
    "joining", "priority", "may_lead", "http_url", "outgoing",
]
ESSENTIAL = [
    "node_id", "cluster_id", "role", "status", "term", "leader_id", "leader_address", "has_quorum", "health", "details",
    "commit_index", "last_applied", "last_log_index", "last_contact", "uptime", "address", "nodes",
]
"""What every version tells; none of these may ever be left out."""
ESSENTIAL_OF_MEMBER = ["id", "address", "role", "status"]
# fmt: on


def leading() -> OneNode:
    node = OneNode()
    lead(node)
    return node


def test_the_keys_on_the_wire_and_their_order_never_change() -> None:
    node = leading()
    node.request("", "gateway", GetStatus())
    fields = node.last(Status).fields
    assert list(fields) == MEMORY + STORAGE
    assert [list(row) for row in fields["nodes"]] == [MEMBER] * 3
    assert list(NodeStatus.of(node.engine).to_dict()) == MEMORY, "what is in memory only"


def test_a_status_holds_the_knowledge_of_the_node() -> None:
    node = leading()
    status = NodeStatus.whole(node.engine, node.engine.opened.snapshots)
    assert (status.node_id, status.role, status.leader_id, status.leader_address) == (
        "n1",
        "leader",
        "n1",
        "127.0.0.1:1",
    )
    assert (status.term, status.elections_total, status.last_contact) == (node.ledger.term, 1, 0.0)
    assert status.last_log_index == node.ledger.log.last
    assert [(member.id, member.role) for member in status.nodes] == [
        ("n1", "leader"),
        ("n2", "follower"),
        ("n3", "follower"),
    ]
    assert status.storage is not None
    assert status.storage.snapshot_index == 0


def test_a_status_survives_the_wire() -> None:
    node = leading()
    for status in (NodeStatus.of(node.engine), NodeStatus.whole(node.engine, node.engine.opened.snapshots)):
        assert NodeStatus.from_dict(status.to_dict()) == status


def test_fields_of_a_later_program_are_ignored() -> None:
    found = NodeStatus.of(leading().engine).to_dict()
    later = {**found, "new": 1, "nodes": [{**row, "new": 2} for row in found["nodes"]]}
    assert NodeStatus.from_dict(later).to_dict() == found


def test_fields_that_an_older_program_lacks_have_their_defaults() -> None:
    node = leading()
    found = NodeStatus.whole(node.engine, node.engine.opened.snapshots).to_dict()
    older = {name: value for name, value in found.items() if name in ESSENTIAL or name == "snapshot_index"}
    older["nodes"] = [{name: row[name] for name in ESSENTIAL_OF_MEMBER} for row in found["nodes"]]
    status = NodeStatus.from_dict(older)
    assert {name: getattr(status, name) for name in ESSENTIAL if name != "nodes"} == {
        name: found[name] for name in ESSENTIAL if name != "nodes"
    }
    assert (status.boot, status.flushes_total, status.commit_seconds, status.refused) == (0, 0, 0.0, {})
    assert (status.full, status.events_address, status.snapshots_by, status.level) == ("", "", "", FIRST_LEVEL)
    assert status.storage == StorageStatus(snapshot_index=found["snapshot_index"])
    assert status.nodes[0] == MemberStatus(id="n1", address="127.0.0.1:1", role="leader", status="active")
    assert list(status.to_dict()) == MEMORY + STORAGE


@pytest.mark.parametrize("name", ["term", "nodes", "last_contact"])
def test_a_status_without_what_every_version_tells_is_a_typed_error(name: str) -> None:
    found = NodeStatus.of(leading().engine).to_dict()
    with pytest.raises(ProtocolError, match=f"the status lacks '{name}'"):
        NodeStatus.from_dict({key: value for key, value in found.items() if key != name})


def test_a_row_of_a_member_without_what_every_version_tells_is_a_typed_error() -> None:
    found = NodeStatus.of(leading().engine).to_dict()
    with pytest.raises(ProtocolError, match="the status lacks 'address'"):
        NodeStatus.from_dict({**found, "nodes": [{"id": "n1", "role": "leader", "status": "active"}]})


def test_a_status_cannot_be_changed() -> None:
    node = leading()
    status = NodeStatus.whole(node.engine, node.engine.opened.snapshots)
    for part, name in ((status, "term"), (status.storage, "snapshot_index"), (status.nodes[0], "role")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, 9)
