"""Health over HTTP: what a supervisor, a load balancer and a monitor ask; each answer says what it was judged by."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from starlette.responses import Response

from forge_consensus.actors.runtime.status import NodeStatus
from forge_consensus.admin.operation import OBJECT, Argument, Call, Operation, answer
from forge_consensus.client.cluster_info import voters_of
from forge_consensus.errors import ConsensusError
from forge_consensus.output import INT_EXACT_MAX
from forge_consensus.service.reports import health_of
from forge_consensus.storage.ledger.configuration import LEARNER

TAG: Final = "health"
STUCK_SECONDS: Final = 30.0
"""A node that takes no turn for so long is not alive; a healthy one takes several a second."""
READY_BACKLOG_SECONDS: Final = 1.0
"""A node whose state machine needs longer for what it has not seen yet is not ready."""
READY_LAG_ENTRIES: Final = 10_000
"""A node that lacks more of the committed log is not ready; so many come within a second or so under load."""
CHECKS: Final = ("applied", "configuration", "leader", "log", "node", "room")
STARTING: Final = "the node is starting"
SOON: Final = {"Retry-After": "1"}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a health answer was judged by."""

    name: str
    ok: bool
    text: str
    """What was found, for people."""


def live_checks(status: NodeStatus | None, problem: str) -> list[Check]:
    """Return what shows that the node runs; nothing in it depends on other nodes."""
    return [Check("node", status is not None, problem or "the node answers")]


def ready_checks(status: NodeStatus | None, problem: str) -> list[Check]:
    """Return what shows that the node can be sent requests."""
    found = live_checks(status, problem)
    if status is None:
        return found
    leader = f"{status.leader_id} leads term {status.term}" if status.leader_id else "no leader is known"
    behind = f"the state machine is {status.backlog_entries} entries behind"
    lacks = max(0, status.leader_commit - status.last_log_index)
    known = status.leader_commit > 0
    log = f"its log lacks {lacks} committed entries" if known else "no leader has said yet what is committed"
    return [
        *found,
        Check("leader", status.leader_id is not None, leader),
        Check("log", known and lacks <= READY_LAG_ENTRIES, log),
        Check("applied", status.backlog_seconds <= READY_BACKLOG_SECONDS, behind),
        Check("room", not status.full, status.full or "it takes entries"),
        Check("configuration", True, configuration_text(status)),
    ]


def configuration_text(status: NodeStatus) -> str:
    """Return what of the configuration is not in force yet, which keeps nobody from serving."""
    if not status.pending_restart:
        return "all of it is in force"
    return f"these wait for a restart: {', '.join(status.pending_restart)}"


async def looked(call: Call) -> tuple[NodeStatus | None, str]:
    """Return the status of the node, or why there is none."""
    if call.api.subject is None:
        return None, STARTING
    try:
        status = await call.subject.status()
        if (seconds := call.subject.stuck_seconds(status.turns_total)) > STUCK_SECONDS:
            return None, f"the node has done nothing for {seconds:.0f} s: its disk or its state machine keeps it"
        return status, ""
    except ConsensusError as error:
        return None, str(error)


def told(call: Call, checks: list[Check]) -> Response:
    """Return 200 if all checks hold, else 503; as text, with one line a check where it is asked for or one fails."""
    left_out = {name for text in (call["exclude"] or "").split(",") if (name := text.strip())}
    counted = [check for check in checks if check.name not in left_out]
    fine = all(check.ok for check in counted)
    lines = [f"[{'+' if check.ok else '-'}] {check.name}: {check.text}" for check in counted]
    lines += [f"[ ] {name}: left out" for name in sorted(left_out)]
    last = "ok" if fine else "failed"
    text = "\n".join([*lines, last]) if call["verbose"] or not fine else last
    return Response(f"{text}\n", 200 if fine else 503, {} if fine else SOON, "text/plain")


async def live(call: Call) -> Response:
    """Say whether the node runs."""
    if call.api.subject is None:
        return told(call, [Check("node", True, STARTING)])  # a supervisor must not end it for a long log
    return told(call, live_checks(*await looked(call)))


async def ready(call: Call) -> Response:
    """Say whether the node can be sent requests."""
    return told(call, ready_checks(*await looked(call)))


async def started(call: Call) -> Response:
    """Say whether the node is open."""
    return told(call, live_checks(*await looked(call)))


async def health(call: Call) -> Response:
    """Return how the node fares, in the form of the Go original."""
    status, problem = await looked(call)
    if status is None:
        return answer({"healthy": False, "status": "unhealthy", "error": problem}, 503, SOON)
    fine = status.health == "healthy"
    serves = status.has_quorum and status.leader_id is not None
    found: dict[str, Any] = {"healthy": fine, "status": "ok" if fine else status.health, "details": status.details}
    if not serves:
        found["error"] = "; ".join(status.details) or "no leader is known"
    return answer(found, 200 if serves else 503, {} if serves else SOON)


async def health_in_detail(call: Call) -> Response:
    """Return every check, as HealthStatus of the Go original."""
    status, problem = await looked(call)
    if status is None:
        return answer({"healthy": False, "status": "unhealthy", "error": problem, "details": []}, 503, SOON)
    found = health_of(status)
    serves = status.has_quorum and status.leader_id is not None
    row = {**asdict(found), "details": [asdict(each) for each in found.details]}
    return answer(row, 200 if serves else 503, {} if serves else SOON)


# --- for load balancers ----------------------------------------------------------------------------------------------


def role_answer(fits: bool, status: NodeStatus, why: str) -> Response:
    """Return 200 if the node has the role that is asked for, else 503."""
    found = {"node_id": status.node_id, "role": status.role, "leader_id": status.leader_id, "term": status.term}
    return answer({**found, "reason": why}, 200 if fits else 503)


async def is_leader(call: Call) -> Response:
    """Say whether this node leads."""
    status = await call.subject.status()
    leads = status.role == "leader"
    return role_answer(leads, status, "it leads" if leads else "it does not lead")


async def is_follower(call: Call) -> Response:
    """Say whether this node follows a leader, and lacks no more committed entries than are allowed."""
    status, lag = await call.subject.status(), call["lag"]
    if status.role != "follower" or status.leader_id is None:
        return role_answer(False, status, "it follows no leader")
    if status.leader_commit == 0:
        return role_answer(lag is None, status, "its leader has not said yet what is committed")
    behind = status.leader_commit - status.last_applied
    if lag is not None and behind > lag:
        return role_answer(False, status, f"its state is {behind} committed entries behind")
    return role_answer(True, status, f"it follows {status.leader_id}, {behind} entries behind")


async def is_voter(call: Call) -> Response:
    """Say whether this node votes."""
    status = await call.subject.status()
    parts = [row.part for row in status.nodes if row.id == status.node_id]
    votes = bool(parts) and parts[0] != LEARNER
    return role_answer(votes, status, "it votes" if votes else "it does not vote")


async def quorum_critical(call: Call) -> Response:
    """Say whether the cluster keeps its majority if this node ends; ask before a planned stop."""
    report = await call.subject.report()
    own = next((node for node in report.nodes if node.node_id == call.subject.seat.node_id), None)
    helps = own is not None and own.takes_entries and own.part != LEARNER
    left = sum(node.takes_entries for node in report.nodes if node.part not in (None, LEARNER)) - (1 if helps else 0)
    critical = report.health == "unhealthy" or (helps and report.can_lose < 1)
    text = (
        f"{left} of {report.members} voters are left without it, and {report.required} are needed"
        if report.health != "unhealthy"
        else "the cluster has no majority even with it"
    )
    found = {"node_id": call.subject.seat.node_id, "quorum_critical": critical, "reason": text}
    return answer({**found, "required": report.required, "can_lose": report.can_lose}, 503 if critical else 200)


async def quorum(call: Call) -> Response:
    """Return the arithmetic of the quorum, as this node sees it."""
    status = await call.subject.status()
    quorum, total = status.quorum, status.quorum.total
    alive = {row.id for row in voters_of(status) if row.status == "active"}
    has, spare = quorum.has(alive), quorum.can_lose(alive)
    state = "no_quorum" if not status.has_quorum else "at_risk" if has and not spare and total > 1 else "healthy"
    found = {"status": state, "has_quorum": status.has_quorum, "total_nodes": total, "healthy_nodes": len(alive)}
    tolerance = quorum.can_lose(quorum.voters)
    rest = {"quorum_size": quorum.required, "fault_tolerance": tolerance, "nodes_until_loss": spare + 1 if has else 0}
    return answer({**found, **rest})


NAME: Final = f"({'|'.join(CHECKS)}|)"
ASKED: Final = (
    Argument("verbose", "Whether to list every check.", "boolean", default=False),
    Argument(
        "exclude",
        f"Names of checks to leave out, with commas: there are {', '.join(CHECKS)}.",
        pattern=f"{NAME}(, ?{NAME})*",
        repeats=True,
        example="leader",
    ),
)
LAG: Final = Argument(
    "lag", "How many committed entries its state may lack.", "integer", minimum=0, maximum=INT_EXACT_MAX
)
TEXT: Final = "text/plain"


def plain(path: str, summary: str, handler: Any, *more: str) -> Operation:
    """Return an operation that answers ``ok`` or what is wrong, as text."""
    answers = {200: ("ok", None), 503: ("What is wrong, one line a check.", None)}
    return Operation(
        "GET", path, TAG, summary, handler, ASKED, answers, media_type=TEXT, also_at=more, while_starting=True
    )


def role(path: str, summary: str, handler: Any, *arguments: Argument) -> Operation:
    """Return an operation for a load balancer."""
    answers = {200: ("It is.", OBJECT), 503: ("It is not.", OBJECT)}
    return Operation("GET", path, TAG, summary, handler, arguments, answers, by_options=True)


OPERATIONS: Final = (
    plain(
        "/livez",
        "Whether the node runs. It does not depend on other nodes, because a supervisor that ends a node for want of a "
        "majority ends them all.",
        live,
        "/healthz",
    ),
    plain("/readyz", "Whether requests can be sent here: a leader is known, and the state is not far behind.", ready),
    plain("/startupz", "Whether the node is open.", started),
    Operation(
        "GET",
        "/health",
        TAG,
        "How the node fares: 200 while the cluster serves, also if something is wrong.",
        health,
        answers={200: ("It serves.", OBJECT), 503: ("It does not.", OBJECT)},
        while_starting=True,
    ),
    Operation(
        "GET",
        "/health/detailed",
        TAG,
        "Every check.",
        health_in_detail,
        answers={200: ("It serves.", OBJECT), 503: ("It does not.", OBJECT)},
        while_starting=True,
    ),
    role("=/leader", "Whether this node leads: for a load balancer that sends writes.", is_leader),
    role("/follower", "Whether this node follows a leader: for a load balancer that sends reads.", is_follower, LAG),
    role("/voter", "Whether this node votes.", is_voter),
    role("/v1/checks/quorum-critical", "503 if the cluster has no majority without this node.", quorum_critical),
    Operation(
        "GET",
        "/v1/checks/quorum",
        TAG,
        "How many voters there are, are alive, and are needed.",
        quorum,
        answers={200: ("The arithmetic.", OBJECT)},
    ),
)
