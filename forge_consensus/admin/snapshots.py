"""Snapshots over HTTP: what this node has, and taking one now."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from forge_consensus.admin.operation import Call, Operation, Schema, answer

TAKE_SECONDS: Final = 300.0
"""How long taking a snapshot may last, as in the Go original."""
LIST: Final[Schema] = {
    "type": "object",
    "required": ["node_id", "doing", "snapshots"],
    "properties": {
        "node_id": {"type": "string"},
        "doing": {"type": "string"},
        "snapshots": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["index", "term", "size_bytes"],
                "properties": {name: {"type": "integer"} for name in ("index", "term", "size_bytes")},
            },
        },
    },
}
TAKEN: Final[Schema] = {
    "type": "object",
    "required": ["node_id", "index", "term", "size_bytes", "message"],
    "properties": {"node_id": {"type": "string"}, "index": {"type": "integer"}},
}


async def list_snapshots(call: Call) -> Response:
    """Return the snapshot files of this node."""
    subject = call.subject
    found = await call.client.snapshots(subject.own_endpoint, call.seconds)
    status = await subject.status()
    rows = [{"index": each.index, "term": each.term, "size_bytes": each.size_bytes} for each in found]
    return answer({"node_id": subject.seat.node_id, "doing": status.snapshot_doing, "snapshots": rows})


async def take_snapshot(call: Call) -> Response:
    """Have this node take a snapshot, and wait until its file is durable."""
    made = await call.client.snapshot(call.subject.own_endpoint, call.seconds)
    message = "snapshot created successfully"
    found = {"node_id": made.node, "index": made.index, "term": made.term, "size_bytes": made.size_bytes}
    return answer({**found, "message": message})


OPERATIONS: Final = (
    Operation(
        "GET",
        "/v1/snapshots",
        "snapshots",
        "The snapshot files of this node, the newest first, and what it does with snapshots at present.",
        list_snapshots,
        answers={200: ("The files.", LIST)},
    ),
    Operation(
        "POST",
        "/v1/snapshots",
        "snapshots",
        "Have this node take a snapshot now; the answer comes when its file is durable.",
        take_snapshot,
        answers={200: ("It is taken.", TAKEN)},
        also_at=("~/snapshot",),
        seconds=TAKE_SECONDS,
        seconds_max=TAKE_SECONDS,
    ),
)
