"""The cluster over HTTP: the report, the members and their changes, the leader and its handover."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import asdict
from typing import Any, Final, TypeVar

from starlette.responses import Response

from forge_consensus.admin.operation import OBJECT, Argument, Call, Operation, Schema, answer
from forge_consensus.admin.problems import JSON_TYPE, ProblemError, problem_of
from forge_consensus.client.members import MembersPlan, Step
from forge_consensus.errors import (
    BusyError,
    ConnectionFailedError,
    ConsensusError,
    InvalidConfigError,
    PeerNotFoundError,
)
from forge_consensus.storage.ledger.changes import Action, Change, changes_of
from forge_consensus.storage.ledger.configuration import PRIORITY_MAX

Result = TypeVar("Result")

TAG: Final = "cluster"
LOOK_SECONDS: Final = 0.5
"""How long it may take to find out, twice, what a change that was refused would do."""
MEMBER: Final[Schema] = {
    "type": "object",
    "required": ["id", "address", "part", "joining", "priority", "may_lead"],
    "properties": {
        "id": {"type": "string"},
        "address": {"type": "string"},
        "part": {"type": "string", "enum": ["voter", "learner", "leaving"]},
        "joining": {"type": "boolean"},
        "priority": {"type": "integer"},
        "may_lead": {"type": "boolean"},
        "http_url": {"type": "string"},
    },
}
STEP: Final[Schema] = {
    "type": "object",
    "required": ["members", "joint", "voters", "required", "can_lose"],
    "properties": {
        "members": {"type": "array", "items": MEMBER},
        "joint": {"type": "boolean"},
        "voters": {"type": "integer"},
        "required": {"type": "integer"},
        "can_lose": {"type": "integer"},
    },
}
PLAN: Final[Schema] = {
    "type": "object",
    "required": ["index", "dry_run", "before", "steps", "after", "warnings"],
    "properties": {
        "index": {"type": "integer"},
        "dry_run": {"type": "boolean"},
        "before": STEP,
        "steps": {"type": "array", "items": STEP},
        "after": STEP,
        "warnings": {"type": "array", "items": {"type": "string"}},
    },
}
MEMBERS: Final[Schema] = {
    "type": "object",
    "required": ["members", "leader", "index", "committed", "settled"],
    "properties": {"members": {"type": "array", "items": MEMBER}},
}
ID_PATTERN: Final = r"[^\u0000-\u0020\u007f-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000/,='" + '"]+'
"""No control characters and no spaces, each of which is named because ``\\s`` is more in Python than in ECMA 262."""
ID: Final = "The node's id: a printable text without spaces, quotation marks, commas, slashes and equals signs."
ADDRESS_PATTERN: Final = r"(ipc:///[!-~]+|(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):[0-9]{1,5})"
NODE_ID: Final = Argument("id", ID, where="path", minimum=1, maximum=128, pattern=ID_PATTERN, example="n2")
DRY_RUN: Final = "Whether to tell what would be done, and do nothing."
FORCE: Final = (
    "Whether to do it although those that answer would be no majority, or a learner lacks much of the log; a refusal "
    "says by `forceable` whether that would help."
)
PLAN_ANSWERS: Final = {
    200: ("The plan of what would be done.", PLAN),
    202: ("The change is begun; the members tell when it is complete.", PLAN),
}


async def show_cluster(call: Call) -> Response:
    """Return the report of the whole cluster."""
    return Response(await call.subject.report_text(), media_type=JSON_TYPE)


async def show_node(call: Call) -> Response:
    """Return the status of this node."""
    status = await call.subject.full_status(call.seconds)
    return answer({**status, "storage": {name: status.get(name) for name in STORAGE}})


async def show_log(call: Call) -> Response:
    """Return how far the log of this node goes."""
    status = await call.subject.full_status(call.seconds)
    return answer({name: status.get(name) for name in LOG})


# --- members ---------------------------------------------------------------------------------------------------------


async def list_members(call: Call) -> Response:
    """Return the members of the cluster."""
    told = await call.client.members(timeout=call.seconds)
    rows = [asdict(member) for member in told.members]
    rest = {"index": told.index, "committed": told.committed, "settled": told.settled}
    return answer({"members": rows, "leader": told.leader, "cluster": told.cluster, "node": told.node, **rest})


async def show_member(call: Call) -> Response:
    """Return one member. Raises `ProblemError` for a node that is none."""
    told = await call.client.members(timeout=call.seconds)
    for member in told.members:
        if member.id == call["id"]:
            return answer(asdict(member))
    known = ", ".join(member.id for member in told.members)
    raise PeerNotFoundError(f"{call['id']!r} is no member: there are {known}")


async def add_member(call: Call) -> Response:
    """Add a node."""
    action = Action.ADD_LEARNER if call["part"] == "learner" else Action.ADD
    return await changed(call, Change(action, call["id"], call["address"]))


async def remove_member(call: Call) -> Response:
    """Remove a member."""
    return await changed(call, Change(Action.REMOVE, call["id"]))


async def change_member(call: Call) -> Response:
    """Change what a member is."""
    node, changes = call["id"], []
    if call["part"] is not None:
        changes.append(Change(Action.PROMOTE if call["part"] == "voter" else Action.DEMOTE, node))
    if call["address"] is not None:
        changes.append(Change(Action.UPDATE, node, call["address"]))
    if call["priority"] is not None:
        changes.append(Change(Action.PRIORITY, node, str(call["priority"])))
    if call["may_lead"] is not None:
        changes.append(Change(Action.MAY_LEAD if call["may_lead"] else Action.NO_LEADER, node))
    return await changed(call, *changes)


async def changed(call: Call, *changes: Change) -> Response:
    """Change the members, or say what would be done. It does not wait until the change is complete."""
    dry_run = bool(call["dry_run"])
    plan = await change_members(call, *changes)
    return answer(plan_row(plan, dry_run=dry_run), 200 if dry_run else 202)


async def change_members(call: Call, *changes: Change) -> MembersPlan:
    """Change the members, or plan it, as the request says. Raises `ProblemError` and `ConsensusError`."""
    try:
        changes_of([(str(change.action), change.node, change.address) for change in changes])
    except InvalidConfigError as error:
        raise ProblemError(422, "invalid change", str(error), error.code) from error
    dry_run, force = bool(call["dry_run"]), bool(call["force"])
    try:
        return await refusable(
            call.client.change_members(*changes, force=force, dry_run=dry_run, wait=False, timeout=call.seconds)
        )
    except (ProblemError, BusyError, ConnectionFailedError) as error:
        problem = error if isinstance(error, ProblemError) else problem_of(error)
        problem.more["forceable"] = not force and await would_be_forced(call, changes)
        raise problem from error


async def would_be_forced(call: Call, changes: tuple[Change, ...]) -> bool:
    """Whether a change that was refused would be made with force: it is planned with it, and not without it."""
    for force in (False, True):
        try:
            await call.client.change_members(*changes, force=force, dry_run=True, timeout=LOOK_SECONDS)
        except ConsensusError:
            if force:
                return False
        else:
            return force
    return False


async def refusable(asked: Awaitable[Result]) -> Result:
    """Wait for what the leader may refuse as things are now. Raises `ProblemError` with 409 if it does."""
    try:
        return await asked
    except InvalidConfigError as error:
        raise ProblemError(409, "refused", str(error), error.code) from error


def plan_row(plan: MembersPlan, *, dry_run: bool) -> dict[str, Any]:
    """Return a plan as JSON has it."""
    return {
        "index": plan.index,
        "dry_run": dry_run,
        "before": step_row(plan.before),
        "steps": [step_row(step) for step in plan.steps],
        "after": step_row(plan.after),
        "warnings": warnings_of(plan),
    }


def step_row(step: Step) -> dict[str, Any]:
    """Return a step of a plan as JSON has it."""
    members = [asdict(member) for member in step.members]
    return {
        "members": members,
        "joint": step.joint,
        "voters": step.voters,
        "required": step.required,
        "can_lose": step.can_lose,
    }


def warnings_of(plan: MembersPlan) -> list[str]:
    """Return what a person should know before such a change."""
    before, after = plan.before, plan.after
    spare, left = before.voters - before.required, after.voters - after.required
    found = []
    if left < spare:
        found.append(f"the cluster then survives the loss of {left} voters, and of {spare} today")
    if after.voters % 2 == 0:
        found.append(f"{after.voters} voters survive no more losses than {after.voters - 1}: an odd number is better")
    return found


# --- the leader ------------------------------------------------------------------------------------------------------


async def show_leader(call: Call) -> Response:
    """Return who leads, as this node sees it."""
    standing = await call.subject.standing()
    status = await call.subject.status()
    return answer(
        {
            "leader_id": standing.leader,
            "leader_address": status.leader_address,
            "leader_url": standing.leader_url,
            "is_leader": standing.leading,
            "current_role": standing.role,
            "term": standing.term,
        }
    )


async def transfer(call: Call) -> Response:
    """Hand the leadership over, and wait until another node leads."""
    leader = await refusable(call.client.transfer_leadership(call["target"] or "", timeout=call.seconds))
    return answer({"leader_id": leader, "message": f"{leader} leads"})


async def step_down(call: Call) -> Response:
    """Have the leader hand over to any other voter."""
    leader = await refusable(call.client.step_down(timeout=call.seconds))
    return answer({"leader_id": leader, "message": f"{leader} leads"})


LEADER: Final[Schema] = {
    "type": "object",
    "required": ["leader_id", "leader_address", "leader_url", "is_leader", "current_role", "term"],
    "properties": {
        "leader_id": {"type": ["string", "null"]},
        "is_leader": {"type": "boolean"},
        "term": {"type": "integer"},
    },
}
HANDED: Final[Schema] = {
    "type": "object",
    "required": ["leader_id", "message"],
    "properties": {"leader_id": {"type": "string"}, "message": {"type": "string"}},
}
STORAGE: Final = (
    "snapshot_index", "log_size_bytes", "storage_used_bytes", "storage_quota_bytes", "disk_free_bytes",
)  # fmt: skip
LOG: Final = (
    "node_id", "term", "first_log_index", "last_log_index", "last_log_term", "log_entries", "commit_index",
    "last_applied", "snapshot_index", "log_size_bytes",
)  # fmt: skip
CHANGING: Final = (
    Argument("dry_run", DRY_RUN, "boolean", "body", default=False),
    Argument("force", FORCE, "boolean", "body", default=False),
)
ADDRESS: Final = "Where the members reach it, HOST:PORT or ipc://PATH."
TARGET: Final = Argument(
    "target", 'Which voter is to lead; "" for any other one.', where="body", default="", maximum=128, example="n2"
)

OPERATIONS: Final = (
    Operation(
        "GET",
        "/v1/cluster",
        TAG,
        "The whole cluster: health, leader, quorum, and every member as it says itself and as the leader knows it.",
        show_cluster,
        answers={200: ("The report.", OBJECT)},
    ),
    Operation("GET", "/v1/node", TAG, "The status of this node.", show_node, answers={200: ("The status.", OBJECT)}),
    Operation(
        "GET", "/v1/log", TAG, "How far the log of this node goes.", show_log, answers={200: ("The log.", OBJECT)}
    ),
    Operation(
        "GET",
        "/v1/members",
        "members",
        "The members, as the leader knows them, or this node where none is known.",
        list_members,
        answers={200: ("The members.", MEMBERS)},
    ),
    Operation(
        "POST",
        "/v1/members",
        "members",
        "Add a node, which was started with --join. It catches up as a learner before it votes.",
        add_member,
        (
            Argument("id", ID, where="body", required=True, minimum=1, maximum=128, pattern=ID_PATTERN, example="n4"),
            Argument(
                "address",
                ADDRESS,
                where="body",
                required=True,
                minimum=1,
                maximum=512,
                pattern=ADDRESS_PATTERN,
                example="10.0.1.13:7000",
            ),
            Argument("part", "What it is to be.", where="body", default="voter", choices=("voter", "learner")),
            *CHANGING,
        ),
        PLAN_ANSWERS,
        "object",
    ),
    Operation(
        "GET",
        "/v1/members/{id}",
        "members",
        "One member.",
        show_member,
        (NODE_ID,),
        {200: ("The member.", MEMBER), 404: ("No member has that id.", None)},
    ),
    Operation(
        "PATCH",
        "/v1/members/{id}",
        "members",
        "Promote or demote a member, give it another address, or say whether and how much it is preferred as leader.",
        change_member,
        (
            NODE_ID,
            Argument("part", "What it is to be.", where="body", choices=("voter", "learner")),
            Argument("address", ADDRESS, where="body", minimum=1, maximum=512, pattern=ADDRESS_PATTERN),
            Argument(
                "priority",
                "How much it is preferred as leader; 0 is usual.",
                "integer",
                "body",
                minimum=-PRIORITY_MAX,
                maximum=PRIORITY_MAX,
            ),
            Argument("may_lead", "Whether it may lead.", "boolean", "body"),
            *CHANGING,
        ),
        PLAN_ANSWERS,
        "object",
        any_of=("part", "address", "priority", "may_lead"),
    ),
    Operation(
        "DELETE",
        "/v1/members/{id}",
        "members",
        "Remove a member.",
        remove_member,
        (
            NODE_ID,
            Argument("dry_run", DRY_RUN, "boolean", default=False),
            Argument("force", FORCE, "boolean", default=False),
        ),
        PLAN_ANSWERS,
    ),
    Operation(
        "GET",
        "/v1/leader",
        "leader",
        "Who leads, as this node sees it.",
        show_leader,
        also_at=("~/leader",),
        answers={200: ("The leader.", LEADER)},
    ),
    Operation(
        "POST",
        "/v1/leader/transfer",
        "leader",
        "Hand the leadership over, and wait until another node leads.",
        transfer,
        (TARGET,),
        {200: ("Another node leads.", HANDED)},
        "object",
        seconds=10.0,
    ),
    Operation(
        "POST",
        "/v1/leader/stepdown",
        "leader",
        "Have the leader hand over to any other voter.",
        step_down,
        also_at=("~/leadership/stepdown", "~/stepdown"),
        answers={200: ("Another node leads.", HANDED)},
        seconds=10.0,
    ),
)
