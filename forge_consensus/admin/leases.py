"""Leases and transactions over HTTP."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from forge_consensus.admin.key_values import jsonable
from forge_consensus.admin.keys import FAILS, TAG, index_header
from forge_consensus.admin.operation import OBJECT, Argument, Call, Operation, Schema, answer
from forge_consensus.admin.problems import ProblemError, invalid
from forge_consensus.client.key_commands import TTL_SECONDS_MAX, TTL_SECONDS_MIN
from forge_consensus.client.key_records import LeaseInfo
from forge_consensus.errors import CommandError
from forge_consensus.output import INT_EXACT_MAX
from forge_consensus.security.permissions import RESERVED
from forge_consensus.storage.machines.kv_reach import NO_KEY, Reaches, reach_of_command
from forge_consensus.storage.machines.machine import Command

LEASES_MAX: Final = 1000
PARTS_MAX: Final = 10_000
"""The machine takes no more conditions or commands either."""
ID: Final = Argument("id", "The lease's id.", "integer", "path", minimum=1, maximum=INT_EXACT_MAX, example=7)
LEASE: Final[Schema] = {
    "type": "object",
    "required": ["lease", "ttl", "left", "count"],
    "properties": {
        "lease": {"type": ["integer", "string"]},
        "ttl": {"type": "number", "description": "For how many seconds it lives after each keep-alive."},
        "left": {"type": "number", "description": "For how many seconds it lives if nobody keeps it alive."},
        "count": {"type": "integer", "description": "How many keys go with it."},
        "keys": {"type": "array", "items": {"type": "string"}},
    },
}
GRANTED: Final[Schema] = {
    "type": "object",
    "required": ["lease", "ttl"],
    "properties": {"lease": {"type": "integer"}, "ttl": {"type": "number"}},
}
LEASES: Final[Schema] = {
    "type": "object",
    "required": ["leases", "more"],
    "properties": {"leases": {"type": "array", "items": LEASE}, "more": {"type": "boolean"}},
}
OUTCOME: Final[Schema] = {
    "type": "object",
    "required": ["succeeded", "results", "applied"],
    "properties": {"succeeded": {"type": "boolean"}, "results": {"type": "array"}, "applied": {"type": "integer"}},
}


def row_of(lease: LeaseInfo) -> dict[str, Any]:
    """Return a lease as JSON has it."""
    return {"lease": lease.id, "ttl": lease.ttl, "left": lease.left, "count": lease.count}


def missing(number: int) -> ProblemError:
    """Return the problem of a lease that is not there."""
    text = f"there is no lease {number}: it expired or was revoked, or was never granted"
    return ProblemError(404, "no such lease", text, "LEASE_NOT_FOUND")


async def grant(call: Call) -> Response:
    """Grant a lease."""
    lease = await call.client.lease(call["ttl"], call.seconds)
    headers = index_header(call.client.last_index)
    return answer({"lease": lease.id, "ttl": lease.ttl}, 201, {**headers, "Location": f"/v1/leases/{lease.id}"})


async def list_leases(call: Call) -> Response:
    """Return one page of leases."""
    found = await call.client.leases(call["after"], call["limit"], timeout=call.seconds)
    more = len(found) == call["limit"]
    return answer({"leases": [row_of(each) for each in found], "more": more})


async def get_lease(call: Call) -> Response:
    """Return a lease and its keys."""
    found = await call.client.lease_info(call["id"], timeout=call.seconds)
    if found is None:
        raise missing(call["id"])
    return answer({**row_of(found), "keys": found.keys})


async def keep_alive(call: Call) -> Response:
    """Have a lease live for its time from now on."""
    try:
        ttl_ms = await call.client.apply(Command("lease_keep_alive", {"lease": call["id"]}), call.seconds)
    except CommandError as error:
        if error.kind != ValueError.__name__:
            raise
        raise missing(call["id"]) from error
    return answer({"lease": call["id"], "ttl": ttl_ms / 1000}, headers=index_header(call.client.last_index))


async def revoke(call: Call) -> Response:
    """End a lease, and delete its keys."""
    gone = await call.client.apply(Command("lease_revoke", {"lease": call["id"]}), call.seconds)
    return answer({"lease": call["id"], "deleted": gone}, headers=index_header(call.client.last_index))


async def transaction(call: Call) -> Response:
    """Compare keys, and carry out one of two lists of commands."""
    fields = {name: call[name] for name in ("if", "then", "else") if call[name] or name != "else"}
    try:
        outcome = await call.client.apply(Command("transaction", fields), call.seconds)
    except ValueError as error:
        raise invalid(f"the transaction cannot be carried out: {error}") from error
    index = call.client.last_index
    told = {"succeeded": outcome["succeeded"], "results": jsonable(outcome["results"]), "applied": index}
    return answer(told, headers=index_header(index))


def reach_of_transaction(call: Call) -> Reaches | None:
    """Return which keys a transaction reads and writes; None if it is about the cluster itself."""
    commands = [*call["then"], *call["else"]]
    if any(str(each.get("type")).startswith(RESERVED) for each in commands if isinstance(each, dict)):
        return None
    return reach_of_command("transaction", {name: call[name] for name in ("if", "then", "else")})


def reach_of_lease(call: Call) -> Reaches:
    """Return which keys a lease reaches that is granted or kept alive: none of them."""
    return [NO_KEY]


NONE: Final = {404: ("There is no such lease.", None)}
OPERATIONS: Final = (
    Operation(
        "GET",
        "/v1/leases",
        TAG,
        "A page of leases, in the order in which they were granted.",
        list_leases,
        (
            Argument("after", "Only leases with higher ids.", "integer", default=0, minimum=0, maximum=INT_EXACT_MAX),
            Argument("limit", "How many leases.", "integer", default=100, minimum=1, maximum=LEASES_MAX),
        ),
        {200: ("The page.", LEASES), **FAILS},
    ),
    Operation(
        "POST",
        "/v1/leases",
        TAG,
        "Grant a lease: keys that are attached to it go when nobody has kept it alive for its time to live.",
        grant,
        (
            Argument(
                "ttl",
                "For how many seconds it lives after each keep-alive.",
                "seconds",
                "body",
                required=True,
                minimum=TTL_SECONDS_MIN,
                maximum=TTL_SECONDS_MAX,
                example=10,
            ),
        ),
        {201: ("It is granted.", GRANTED), **FAILS},
        "object",
        reach=reach_of_lease,
    ),
    Operation(
        "GET", "/v1/leases/{id}", TAG, "A lease and its keys.", get_lease, (ID,),
        {200: ("The lease.", LEASE), **NONE, **FAILS},
    ),
    Operation(
        "DELETE", "/v1/leases/{id}", TAG, "End a lease now, and delete its keys.", revoke, (ID,),
        {200: ("How many keys went with it; 0 also if there was no such lease.", OBJECT), **FAILS},
    ),
    Operation(
        "POST", "/v1/leases/{id}/keep-alive", TAG, "Have a lease live for its time from now on.", keep_alive, (ID,),
        {200: ("It does.", GRANTED), **NONE, **FAILS},
        reach=reach_of_lease,
    ),
    Operation(
        "POST",
        "/v1/transaction",
        TAG,
        "Compare keys, and carry out one of two lists of commands, as one and all or none.",
        transaction,
        (
            Argument(
                "if",
                "What must hold, each [target, key, comparison, wanted]: value, exists or lease with == or !=, created "
                "or modified with ==, !=, < or >.",
                "list",
                "body",
                default=[],
                maximum=PARTS_MAX,
                example=[["value", "k", "==", "1"]],
            ),
            Argument(
                "then",
                "The commands if all of it holds, each an object with a type.",
                "list",
                "body",
                required=True,
                maximum=PARTS_MAX,
                example=[{"type": "set", "key": "k", "value": "2"}],
            ),
            Argument("else", "The commands if not.", "list", "body", default=[], maximum=PARTS_MAX),
        ),
        {200: ("Whether it held, and the result of each command that was carried out.", OUTCOME), **FAILS},
        "object",
        reach=reach_of_transaction,
    ),
)  # fmt: skip
