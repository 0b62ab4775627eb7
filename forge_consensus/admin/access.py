"""The list of access over HTTP: users, keys and tokens, as ``forge-consensus auth`` shows and changes them."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any, Final, TypeVar

from starlette.responses import Response

from forge_consensus.admin.operation import Argument, Call, Operation, Schema, answer
from forge_consensus.admin.problems import ProblemError
from forge_consensus.client.access_commands import TTL_SECONDS_MAX
from forge_consensus.client.access_rows import key_rows, token_rows, user_rows
from forge_consensus.errors import InvalidConfigError
from forge_consensus.security.access import NAME_CHARS_MAX, RULES_MAX, TOKEN_ID_CHARS, TOKEN_MARK
from forge_consensus.security.permissions import ROLES

TAG: Final = "access"
KEY_CHARS: Final = 40
Result = TypeVar("Result")


def some(what: str, *items: str) -> Schema:
    """Return the schema of an object with an array of rows, of which each has these fields at least."""
    row: Schema = {"type": "object", "required": list(items)}
    return {"type": "object", "required": [what], "properties": {what: {"type": "array", "items": row}}}


CHANGED: Final[Schema] = {
    "type": "object",
    "required": ["new"],
    "properties": {"new": {"type": "boolean", "description": "Whether it was not so before."}},
}
MADE: Final[Schema] = {
    "type": "object",
    "required": ["id", "token"],
    "properties": {
        "id": {"type": "string", "description": "Its public part, by which it is revoked."},
        "token": {"type": "string", "description": "Its text. It is in this answer only: the cluster has a digest."},
        "name": {"type": "string"},
    },
}


async def changed(asked: Awaitable[Result]) -> Result:
    """Wait for a change of the list. Raises `ProblemError` with 422 for arguments that cannot be."""
    try:
        return await asked
    except InvalidConfigError as error:
        raise ProblemError(422, "invalid change", str(error), error.code) from error


def texts(call: Call, name: str) -> list[str]:
    """Return an argument that is a list of texts. Raises `ProblemError` for one that has anything else in it."""
    found: list[Any] = call[name]
    if not all(isinstance(each, str) for each in found):
        raise ProblemError(422, "invalid change", f"{name} has something else than texts in it: give a list of texts")
    return found


def missing(what: str) -> ProblemError:
    """Return the problem of somebody or something that is not in the log's list."""
    return ProblemError(404, "not in the list of access", f"there is no {what} in the log", "ACCESS_NOT_FOUND")


# --- users ------------------------------------------------------------------------------------------------------------


async def list_users(call: Call) -> Response:
    """Return who is in the log's list."""
    access = await call.client.access(timeout=call.seconds)
    return answer({"index": access.index, "users": user_rows(access)})


async def put_user(call: Call) -> Response:
    """Give somebody these roles and rules, and perhaps keys, and no others."""
    new = await changed(
        call.client.add_principal(
            call["name"],
            roles=texts(call, "roles"),
            rules=texts(call, "rules"),
            keys=None if call["keys"] is None else texts(call, "keys"),
            force=call["force"],
            timeout=call.seconds,
        )
    )
    return answer({"name": call["name"], "roles": call["roles"], "rules": call["rules"], "new": new})


async def remove_user(call: Call) -> Response:
    """Remove somebody, and revoke all keys and tokens."""
    if (await call.client.access(timeout=call.seconds)).named(call["name"]) is None:
        raise missing(f"user {call['name']!r}")
    await changed(call.client.remove_principal(call["name"], force=call["force"], timeout=call.seconds))
    return answer({"name": call["name"], "removed": True, "new": True})


# --- keys -------------------------------------------------------------------------------------------------------------


async def list_keys(call: Call) -> Response:
    """Return the public keys of the log and of the access file of the node that answered, which is the leader."""
    access = await call.client.access(timeout=call.seconds)
    revoked = {"revoked": list(access.revoked), "revoked_in_file": list(access.revoked_in_file)}
    return answer({"keys": key_rows(access), **revoked})


async def add_key(call: Call) -> Response:
    """Admit somebody by one more key."""
    new = await changed(call.client.add_key(call["name"], call["key"], timeout=call.seconds))
    return answer({"name": call["name"], "key": call["key"], "new": new}, 201 if new else 200)


async def revoke_key(call: Call) -> Response:
    """Have all nodes refuse a key."""
    new = await changed(call.client.revoke_key(call["key"], force=call["force"], timeout=call.seconds))
    return answer({"key": call["key"], "revoked": True, "new": new})


# --- tokens -----------------------------------------------------------------------------------------------------------


async def list_tokens(call: Call) -> Response:
    """Return the tokens of both lists, without what proves them."""
    access = await call.client.access(timeout=call.seconds)
    return answer({"tokens": token_rows(access, time.time())})


async def create_token(call: Call) -> Response:
    """Make a token."""
    text = await changed(
        call.client.create_token(
            call["name"],
            roles=texts(call, "roles"),
            rules=texts(call, "rules"),
            ttl=call["ttl"],
            timeout=call.seconds,
        )
    )
    return made(text, name=call["name"])


async def rotate_token(call: Call) -> Response:
    """Make a token in the place of another one."""
    access = await call.client.access(timeout=call.seconds)
    holder = access.holder(call["id"])
    if holder is None:
        raise missing(f"token {call['id']}")
    text = await changed(
        call.client.rotate_token(call["id"], ttl=call["ttl"], overlap=call["overlap"], timeout=call.seconds)
    )
    return made(text, name=holder.name)


def made(text: str, **more: Any) -> Response:
    """Return the answer that has the text of a new token; like every answer of the API no cache may keep it."""
    token_id = text.removeprefix(TOKEN_MARK)[:TOKEN_ID_CHARS]
    return answer({"id": token_id, "token": text, **more}, 201)


async def revoke_token(call: Call) -> Response:
    """Have all nodes refuse a token."""
    new = await changed(call.client.revoke_token(call["id"], force=call["force"], timeout=call.seconds))
    return answer({"id": call["id"], "revoked": True, "new": new})


FORCE: Final = Argument("force", "Whether to do it although no admin is left then.", "boolean", default=False)
NAME: Final = Argument(
    "name",
    "The name of a client, or the id of a node.",
    where="path",
    minimum=1,
    maximum=NAME_CHARS_MAX,
    example="shop",
)
WHOSE: Final = replace(NAME, what="Whose it is: a client, or the id of a node.", where="body", required=True)
TOKEN_ID: Final = Argument(
    "id",
    "The token's public part: 12 letters, digits, dashes and underscores.",
    where="path",
    pattern=f"[A-Za-z0-9_-]{{{TOKEN_ID_CHARS}}}",
    example="Qm9vZm9yZ2Uw",
)
KEY: Final = Argument(
    "key",
    "The public key, of 40 characters; percent-encoded.",
    where="path",
    minimum=KEY_CHARS,
    maximum=KEY_CHARS,
    example="Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID",
)
GRANTS: Final = (
    Argument(
        "roles",
        f"What it may do: some of {', '.join(ROLES)}.",
        "list",
        "body",
        default=[],
        maximum=len(ROLES),
        example=["read"],
    ),
    Argument(
        "rules",
        "What it may do with the keys of a prefix, each such as 'write app/*'.",
        "list",
        "body",
        default=[],
        maximum=RULES_MAX,
        example=["write app/*"],
    ),
)
TTL: Final = Argument(
    "ttl", "After how many seconds it ends; never without.", "seconds", "body", minimum=0.001, maximum=TTL_SECONDS_MAX
)
FAILS: Final = {422: ("The cluster refused it, or it cannot be.", None)}
NONE: Final = {404: ("The list in the log does not have it.", None)}
KEYS: Final = some("keys", "key", "name", "roles", "rules", "from", "in_force", "state")
TOKENS: Final = some("tokens", "id", "name", "roles", "rules", "ends", "from", "in_force", "state")
USERS: Final = some("users", "name", "member", "roles", "rules", "keys", "tokens")

OPERATIONS: Final = (
    Operation(
        "GET", "/v1/access/users", TAG, "Who is in the list of access of the log, with their keys and tokens.",
        list_users, answers={200: ("The users and members.", USERS), **FAILS},
    ),
    Operation(
        "PUT",
        "/v1/access/users/{name:rest}",
        TAG,
        "Give somebody these roles and rules and no others; tokens stay. A user that is not there is added.",
        put_user,
        (
            NAME,
            FORCE,
            *GRANTS,
            Argument("keys", "Its public keys, at most two; those that it loses are revoked.", "list", "body",
                     maximum=2),
        ),
        {200: ("It is so.", CHANGED), **FAILS},
        "object",
    ),
    Operation(
        "DELETE", "/v1/access/users/{name:rest}", TAG, "Remove somebody, and revoke all keys and tokens.", remove_user,
        (NAME, FORCE), {200: ("It is gone.", CHANGED), **NONE, **FAILS},
    ),
    Operation(
        "GET", "/v1/access/keys", TAG,
        "The public keys, whose they are, which list says so, and whether they let their holders in.",
        list_keys, answers={200: ("The keys.", KEYS), **FAILS},
    ),
    Operation(
        "POST",
        "/v1/access/keys",
        TAG,
        "Admit somebody who is in the list by one more key; two count at a time, so that they can be exchanged.",
        add_key,
        (WHOSE, replace(KEY, what="The public key, of 40 characters.", where="body", required=True)),
        {200: ("It was there before.", CHANGED), 201: ("It is added.", CHANGED), **FAILS},
        "object",
    ),
    Operation(
        "DELETE", "/v1/access/keys/{key:rest}", TAG,
        "Have all nodes refuse a public key, also where a node's access file lists it.",
        revoke_key,
        (KEY, FORCE),
        {200: ("It is revoked.", CHANGED), **FAILS},
    ),
    Operation(
        "GET", "/v1/access/tokens", TAG,
        "The tokens, without their secret parts: whose they are, when they end, and whether they let their holders in.",
        list_tokens, answers={200: ("The tokens.", TOKENS), **FAILS},
    ),
    Operation(
        "POST", "/v1/access/tokens", TAG,
        "Make a token for somebody, who is added with these roles and rules if need be. Only this answer has its text.",
        create_token, (WHOSE, *GRANTS, TTL), {201: ("It is made.", MADE), **FAILS}, "object",
    ),
    Operation(
        "POST",
        "/v1/access/tokens/{id}/rotate",
        TAG,
        "Make a token in the place of another one. Only this answer has its text.",
        rotate_token,
        (
            TOKEN_ID,
            TTL,
            Argument("overlap", "For how many seconds the old one counts still.", "seconds", "body", default=0.0,
                     minimum=0.0, maximum=TTL_SECONDS_MAX),
        ),
        {201: ("It is made.", MADE), **NONE, **FAILS},
        "object",
    ),
    Operation(
        "DELETE", "/v1/access/tokens/{id}", TAG, "Have all nodes refuse a token.", revoke_token, (TOKEN_ID, FORCE),
        {200: ("It is revoked.", CHANGED), **FAILS},
    ),
)  # fmt: skip
