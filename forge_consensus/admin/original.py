"""The paths of the Go original (admin/api.go and its README): the same questions and answers under its own names."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from starlette.responses import Response

from forge_consensus.actors.runtime.status import NodeStatus
from forge_consensus.admin.cluster import DRY_RUN, FORCE, ID, ID_PATTERN, change_members, plan_row, refusable
from forge_consensus.admin.operation import OBJECT, Argument, Call, Operation, answer
from forge_consensus.client.cluster_info import cluster_of
from forge_consensus.service.reports import Meter, stats_of
from forge_consensus.storage.ledger.changes import Action, Change

TAG: Final = "as the Go original"
METER: Final = Meter()
"""Counts nothing: the operations of all clients are counted by the node."""


def statistics(status: NodeStatus) -> dict[str, Any]:
    """Return ConsensusStats, with the operations of all clients of this node."""
    row = asdict(stats_of(status, METER))
    row["operations_total"], row["operations_failed"] = status.operations_total, status.operations_failed
    row["error_rate"] = status.operations_failed / status.operations_total if status.operations_total else 0.0
    for name in ("operations_per_sec", "average_latency_ms", "last_snapshot_time", "elections_failed"):
        row.pop(name)  # the node does not know them: see /metrics for rates
    return row


async def show_status(call: Call) -> Response:
    """Return the numbers of this node, and the cluster as it sees it."""
    status = await call.subject.status()
    return answer({"stats": statistics(status), "cluster": asdict(cluster_of(status))})


async def list_nodes(call: Call) -> Response:
    """Return the members as this node sees them."""
    info = cluster_of(await call.subject.status())
    nodes = [asdict(node) for node in info.nodes]
    rest = {"total": info.total_nodes, "active": info.active_nodes, "has_quorum": info.has_quorum}
    return answer({"nodes": nodes, **rest})


async def add_node(call: Call) -> Response:
    """Add a node by its host and port; answers when the change is begun."""
    host = f"[{call['address'].strip('[]')}]" if ":" in call["address"] else call["address"]
    change = Change(Action.ADD, call["node_id"], f"{host}:{call['port']}")
    return await changed(call, change, "node added successfully")


async def remove_node(call: Call) -> Response:
    """Remove a node; answers when the change is begun."""
    return await changed(call, Change(Action.REMOVE, call["node_id"]), "node removed successfully")


async def changed(call: Call, change: Change, message: str) -> Response:
    """Make a change of members, and tell its plan."""
    dry_run = bool(call["dry_run"])
    plan = await change_members(call, change)
    text = "nothing was done: dry_run" if dry_run else message
    return answer({"message": text, "node_id": change.node, "plan": plan_row(plan, dry_run=dry_run)})


async def transfer(call: Call) -> Response:
    """Hand the leadership over, and wait until the target leads."""
    leader = await refusable(call.client.transfer_leadership(call["target_node_id"], timeout=call.seconds))
    return answer({"message": f"leadership transferred to {leader}", "target": leader})


HOST_PATTERN: Final = r"(\[?[0-9A-Fa-f]*:[0-9A-Fa-f:.]+\]?|[A-Za-z0-9_.-]+)"
NODE: Final = Argument(
    "node_id", ID, where="body", required=True, minimum=1, maximum=128, pattern=ID_PATTERN, example="n4"
)
CHANGING: Final = (
    Argument("dry_run", DRY_RUN, "boolean", "body", default=False),
    Argument("force", FORCE, "boolean", "body", default=False),
)
DONE: Final = {200: ("It is begun.", OBJECT)}


def reading(path: str, summary: str, handler: Any) -> Operation:
    """Return an operation that reads."""
    return Operation("GET", f"~{path}", TAG, summary, handler, answers={200: ("As it is now.", OBJECT)})


def acting(path: str, summary: str, handler: Any, arguments: tuple[Argument, ...], also_at: str) -> Operation:
    """Return an operation that changes something, under both of the original's spellings."""
    return Operation(
        "POST", f"~{path}", TAG, summary, handler, arguments, DONE, "object", also_at=(f"~{also_at}",), seconds=30.0
    )


OPERATIONS: Final = (
    reading("/status", "The numbers of this node, and the cluster as it sees it.", show_status),
    reading("/nodes", "The members, as this node sees them.", list_nodes),
    acting(
        "/add-node",
        "Add a node; see POST /v1/members.",
        add_node,
        (
            NODE,
            Argument(
                "address",
                "Its host, by name or address.",
                where="body",
                required=True,
                minimum=1,
                maximum=253,
                pattern=HOST_PATTERN,
                example="10.0.1.13",
            ),
            Argument("port", "Its port.", "integer", "body", required=True, minimum=1, maximum=65_535, example=7000),
            *CHANGING,
        ),
        "/nodes/add",
    ),
    acting(
        "/remove-node", "Remove a node; see DELETE /v1/members/{id}.", remove_node, (NODE, *CHANGING), "/nodes/remove"
    ),
    acting(
        "/transfer-leadership",
        "Hand the leadership over; see POST /v1/leader/transfer.",
        transfer,
        (Argument("target_node_id", "Which voter is to lead.", where="body", required=True, minimum=1, maximum=128),),
        "/leadership/transfer",
    ),
)
