"""Keys over HTTP: the built-in machine's keys and values, and commands and queries of any machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from forge_consensus.admin.key_values import entry_row, jsonable
from forge_consensus.admin.key_watches import INDEX_ARGUMENT, WAIT_ARGUMENT, until_changed
from forge_consensus.admin.operation import (
    OBJECT,
    Argument,
    Call,
    Operation,
    Schema,
    answer,
    json_of,
)
from forge_consensus.admin.problems import JSON_TYPE, ProblemError, invalid
from forge_consensus.client.calls import ReadDetail
from forge_consensus.client.compare import Compare
from forge_consensus.client.key_commands import (
    SCAN_LIMIT,
    TTL_SECONDS_MAX,
    TTL_SECONDS_MIN,
    entries_query,
    set_command,
)
from forge_consensus.client.key_records import KeyEntry
from forge_consensus.middleware.request import (
    AGE_HEADERS,
    INDEX_HEADERS,
    LEVEL_HEADERS,
    SPELLINGS,
    STALE_HEADERS,
    Consistency,
)
from forge_consensus.middleware.rules import QUERY_WORDS
from forge_consensus.middleware.verdict import freshness_headers
from forge_consensus.output import INT_EXACT_MAX, json_text
from forge_consensus.security.permissions import RESERVED
from forge_consensus.storage.machines.kv_commands import KEY_BYTES_MAX
from forge_consensus.storage.machines.kv_reach import Reaches, reach_of_command, reach_of_query
from forge_consensus.storage.machines.machine import NAME_CHARS_MAX, Command

TAG: Final = "keys"
BYTES_TYPE: Final = "application/octet-stream"
TEXT_TYPE: Final = "text/plain"
REVISION: Final = re.compile(r'"?(\d{1,19})"?')
KEY: Final = Argument(
    "key", "The key; it may hold slashes.", where="path", minimum=1, maximum=KEY_BYTES_MAX, example="greeting"
)
READING: Final = (
    Argument(
        "consistency",
        "How new the answer must be: everything that was acknowledged before (linearizable, lease), what was committed "
        "before a given time (bounded), or whatever this node has (eventual). Without it, linearizable.",
        choices=tuple(str(word) for word in SPELLINGS),
        headers=LEVEL_HEADERS,
        meanings=tuple((str(word), str(level)) for word, level in SPELLINGS.items()),
    ),
    Argument(
        "allow_stale",
        "Whether whatever this node has will do, where no consistency is asked for.",
        "boolean",
        default=False,
        headers=STALE_HEADERS,
    ),
    Argument(
        "max_staleness",
        "How old a bounded answer may be.",
        "seconds",
        default=5.0,
        minimum=0.001,
        maximum=86_400,
        headers=AGE_HEADERS,
    ),
    Argument(
        "min_index",
        "The log entry that the answer must reflect: X-Raft-Index of an earlier answer, to read one's own writes.",
        "integer",
        default=0,
        minimum=0,
        maximum=INT_EXACT_MAX,
        headers=INDEX_HEADERS,
    ),
)
ENTRY: Final[Schema] = {
    "type": "object",
    "required": ["key", "value", "kind", "created", "modified", "lease"],
    "properties": {
        "key": {"type": "string"},
        "kind": {"type": "string", "enum": ["text", "bytes", "json"]},
        "created": {"type": "integer", "description": "The log entry that made the key."},
        "modified": {"type": "integer", "description": "The log entry that wrote it last."},
        "lease": {"type": ["integer", "string"], "description": "With which lease it goes; 0 for none."},
    },
}
PAIR: Final[Schema] = {
    **ENTRY,
    "required": [*ENTRY["required"], "applied"],
    "properties": {**ENTRY["properties"], "applied": {"type": "integer"}},
}
SET: Final[Schema] = {
    "type": "object",
    "required": ["key", "set", "applied"],
    "properties": {"key": {"type": "string"}, "set": {"type": "boolean"}, "applied": {"type": "integer"}},
}
RESULT: Final[Schema] = {"type": "object", "required": ["result", "applied"]}
PAGE: Final[Schema] = {
    "type": "object",
    "required": ["pairs", "more", "applied"],
    "properties": {"pairs": {"type": "array", "items": ENTRY}, "more": {"type": "boolean"}},
}


def index_header(applied: int) -> dict[str, str]:
    """Return the header by which a reader asks for its own writes later."""
    return {"X-Raft-Index": str(applied)}


def level_of(call: Call) -> Consistency:
    """Return how new the answer to a request must be."""
    if call["consistency"] is not None:
        return Consistency.of(call["consistency"])
    return Consistency.EVENTUAL if call["allow_stale"] else Consistency.STRONG


async def read(call: Call, query: Any) -> tuple[ReadDetail, dict[str, str]]:
    """Answer a query of the consistency that the request asks for; returns the headers that tell of it too."""
    level = level_of(call)
    bound = call["max_staleness"] if level is Consistency.BOUNDED else None
    detail = await call.client.read_detail(
        query, QUERY_WORDS[level], call.seconds, max_staleness=bound, after_index=call["min_index"]
    )
    standing = await call.api.standing() if level is Consistency.EVENTUAL else None
    told = freshness_headers(level, detail.applied, detail.stale_ms, standing)
    return detail, {**index_header(detail.applied), **dict(told)}


async def get_key(call: Call) -> Response:
    """Return a key, or wait until it changes and return it then."""
    await until_changed(call, key=call["key"])
    detail, headers = await read(call, {"entry": call["key"]})
    if detail.value is None:
        text = f"{call['key']!r} has no value (as of log entry {detail.applied})"
        raise ProblemError(404, "no such key", text, "KEY_NOT_FOUND", headers=headers)
    entry = KeyEntry.of_row(detail.value)
    headers["ETag"] = f'"{entry.modified}"'
    if call["raw"]:
        return raw(entry.value, headers)
    return answer({**entry_row(entry), "applied": detail.applied}, headers=headers)


def raw(value: Any, headers: dict[str, str]) -> Response:
    """Return a value as the whole body."""
    if isinstance(value, bytes):
        return Response(value, headers=headers, media_type=BYTES_TYPE)
    if isinstance(value, str):
        return Response(value, headers=headers, media_type=TEXT_TYPE)
    return Response(json_text(jsonable(value)), headers=headers, media_type=JSON_TYPE)


def sent_value(call: Call) -> Any:
    """Return the value that a body stands for by its media type. Raises `ProblemError`."""
    if call.media_type == JSON_TYPE:
        value = json_of(call.body)
        if value is None:
            raise invalid("a key never holds null: delete it instead")
        return value
    if call.media_type == TEXT_TYPE:
        try:
            return call.body.decode()
        except UnicodeDecodeError:
            raise invalid(f"the value is not UTF-8 text: send it with Content-Type: {BYTES_TYPE}") from None
    if call.media_type in {"", BYTES_TYPE}:
        return bytes(call.body)
    text = f"a value is {TEXT_TYPE}, {JSON_TYPE} or {BYTES_TYPE}, and this one is {call.media_type[:80]}"
    raise ProblemError(415, "unsupported media type", text, "UNSUPPORTED_MEDIA_TYPE")


def condition_of(call: Call) -> Compare | None:
    """Return what must hold of a key before it is changed, by the headers of the request. Raises `ProblemError`."""
    absent, match = call.headers.get("if-none-match"), call.headers.get("if-match")
    if absent not in {None, "*"} or (absent and match):
        raise invalid("If-None-Match can only be *, and not beside If-Match: set the key if it has no value")
    if absent:
        return Compare.missing(call["key"])
    if match is None:
        return None
    if match.strip() == "*":
        return Compare.exists(call["key"])
    found = REVISION.fullmatch(match.strip())
    if found is None:
        raise invalid("If-Match is the ETag of the key, which is the log entry that wrote it last, or *")
    return Compare.modified(call["key"]) == int(found[1])


async def change_key(call: Call, condition: Compare | None, command: Command) -> Any:
    """Have a command on the key carried out, and return its result. Raises `ProblemError` if that must not be."""
    if condition is None:
        return await call.client.apply(command, call.seconds)
    outcome = await call.client.transaction(condition, [command], timeout=call.seconds)
    if outcome:
        return outcome.results[0]
    if condition == Compare.missing(call["key"]):
        text = f"{call['key']!r} has a value: leave out If-None-Match to replace it"
        raise ProblemError(412, "precondition failed", text, "KEY_EXISTS")
    text = f"{call['key']!r} is not what If-Match says: it was written or deleted since; read it and decide anew"
    raise ProblemError(412, "precondition failed", text, "KEY_CHANGED")


async def put_key(call: Call) -> Response:
    """Set a key, if what the headers ask for holds."""
    condition, value = condition_of(call), sent_value(call)
    if call["ttl"] is not None and call["lease"] is not None:
        raise invalid("ttl and lease are both given: a key has a time of its own, or goes with a lease", status=422)
    try:
        await change_key(call, condition, set_command(call["key"], value, None, call["ttl"], call["lease"]))
    except ValueError as error:
        raise invalid(f"the value cannot be stored: {error}") from error
    index = call.client.last_index
    return answer({"key": call["key"], "set": True, "applied": index}, headers=index_header(index))


async def delete_key(call: Call) -> Response:
    """Remove a key, if what the headers ask for holds."""
    if "if-none-match" in call.headers:
        raise invalid("If-None-Match is for PUT: leave it out")
    deleted = bool(await change_key(call, condition_of(call), Command("delete", {"key": call["key"]})))
    index = call.client.last_index
    return answer({"key": call["key"], "deleted": deleted, "applied": index}, headers=index_header(index))


async def list_keys(call: Call) -> Response:
    """Return one page of keys with their values, or wait until one of them changes and return it then."""
    await until_changed(call, prefix=call["prefix"])
    after, start, end = (call[name] or None for name in ("after", "start", "end"))
    detail, headers = await read(call, entries_query(call["prefix"], call["limit"], after, start, end, call["reverse"]))
    pairs = [entry_row(KeyEntry.of_row(row)) for row in detail.value]
    more = len(pairs) == call["limit"]
    return answer({"pairs": pairs, "more": more, "applied": detail.applied}, headers=headers)


# --- any machine -----------------------------------------------------------------------------------------------------


async def apply(call: Call) -> Response:
    """Have a command applied by the state machine."""
    correlation = call["correlation_id"]
    try:
        command = Command(call["type"], call["payload"], correlation)
        result = await call.client.apply(command, call.seconds)
    except ValueError as error:
        raise invalid(f"the command cannot be carried out: {error}") from error
    index = call.client.last_index
    message = "command applied successfully"
    return answer({"message": message, "result": jsonable(result), "applied": index}, headers=index_header(index))


async def query_machine(call: Call) -> Response:
    """Answer a query of the state machine."""
    try:
        detail, headers = await read(call, call.body)
    except ValueError as error:
        raise invalid(f"the query cannot be sent: {error}") from error
    return answer({"result": jsonable(detail.value), "applied": detail.applied}, headers=headers)


def reach_of_apply(call: Call) -> Reaches | None:
    """Return which keys a command reads and writes; None if it is about the cluster itself."""
    return None if call["type"].startswith(RESERVED) else reach_of_command(call["type"], call["payload"])


def reach_of_read(call: Call) -> Reaches | None:
    """Return which keys a query reads; None if it is about the cluster itself."""
    reserved = isinstance(call.body, dict) and any(name.startswith(RESERVED) for name in call.body)
    return None if reserved else reach_of_query(call.body)


def named_key(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the key that the path of a request names."""
    return (arguments["key"],)


def named_prefix(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what the keys of a page begin with."""
    return (arguments["prefix"],)


FAILS: Final = {422: ("The state machine refused it.", None)}
OPERATIONS: Final = (
    Operation(
        "GET",
        "/v1/kv",
        TAG,
        "A page of keys with their values, in the order of the keys; with index, when one of them has changed since.",
        list_keys,
        (
            Argument("prefix", "What the keys begin with.", default="", maximum=KEY_BYTES_MAX),
            Argument("after", "The last key of the page before.", default="", maximum=KEY_BYTES_MAX),
            Argument("start", "The first key that may come.", default="", maximum=KEY_BYTES_MAX),
            Argument("end", "The first key that may come no more.", default="", maximum=KEY_BYTES_MAX),
            Argument("reverse", "Whether the order is descending.", "boolean", default=False),
            Argument("limit", "How many keys.", "integer", default=100, minimum=1, maximum=SCAN_LIMIT),
            INDEX_ARGUMENT,
            WAIT_ARGUMENT,
            *READING,
        ),
        {200: ("The page.", PAGE), **FAILS},
        keys=named_prefix,
    ),
    Operation(
        "GET",
        "/v1/kv/{key:rest}",
        TAG,
        "The value of a key, and the log entries that made and wrote it; with index, when it has changed since.",
        get_key,
        (
            KEY,
            Argument("raw", "Whether the body is the value alone.", "boolean", default=False),
            INDEX_ARGUMENT,
            WAIT_ARGUMENT,
            *READING,
        ),
        {
            200: ("The value, or with raw=true any JSON.", {"anyOf": [PAIR, {}]}),
            404: ("The key has none.", None),
            **FAILS,
        },
        other_types=(TEXT_TYPE, BYTES_TYPE),
        keys=named_key,
    ),
    Operation(
        "PUT",
        "/v1/kv/{key:rest}",
        TAG,
        "Set a key to the body: text/plain, application/json, or application/octet-stream. With If-None-Match: * only "
        "if it has no value, with If-Match only if it was written last by the log entry that the ETag tells.",
        put_key,
        (
            KEY,
            Argument(
                "ttl",
                "After how long the key goes by itself.",
                "seconds",
                minimum=TTL_SECONDS_MIN,
                maximum=TTL_SECONDS_MAX,
            ),
            Argument("lease", "With which lease the key goes.", "integer", minimum=1, maximum=INT_EXACT_MAX),
        ),
        {200: ("It is on the disks of a majority.", SET), 412: ("The condition does not hold.", None), **FAILS},
        "value",
        keys=named_key,
    ),
    Operation(
        "DELETE",
        "/v1/kv/{key:rest}",
        TAG,
        "Remove a key; with If-Match only if it was written last by the log entry that the ETag tells.",
        delete_key,
        (KEY,),
        {200: ("Whether it had a value.", OBJECT), 412: ("The condition does not hold.", None), **FAILS},
        keys=named_key,
    ),
    Operation(
        "POST",
        "/v1/apply",
        "machine",
        "Have a command applied by the state machine.",
        apply,
        (
            Argument(
                "type",
                "The command's name.",
                where="body",
                required=True,
                minimum=1,
                maximum=NAME_CHARS_MAX,
                example="set",
            ),
            Argument("payload", "What the command is given.", "object", "body", default={}, example={"key": "k"}),
            Argument(
                "correlation_id", "Travels with the command and its events.", where="body", minimum=1, maximum=128
            ),
        ),
        {200: ("The machine's result.", RESULT), **FAILS},
        "object",
        also_at=("~/apply",),
        reach=reach_of_apply,
    ),
    Operation(
        "POST",
        "/v1/read",
        "machine",
        "Answer a query of the state machine; the body is the query.",
        query_machine,
        READING,
        {200: ("The machine's answer.", RESULT), **FAILS},
        "any",
        also_at=("~/read",),
        reach=reach_of_read,
    ),
)
