"""The log over HTTP: entries of this node's log while it runs, as ``log inspect`` shows those of a stopped one."""

from __future__ import annotations

from typing import Any, Final

import msgpack
from starlette.responses import Response

from forge_consensus.actors.messages import LogPage
from forge_consensus.admin.key_values import jsonable
from forge_consensus.admin.operation import Argument, Call, Operation, Schema, answer
from forge_consensus.errors import ProtocolError
from forge_consensus.output import INT_EXACT_MAX
from forge_consensus.storage.backends.sealed import CRC_BYTES
from forge_consensus.storage.inspecting import kind_text, members_text
from forge_consensus.storage.ledger.record import Kind, Record, parse
from forge_consensus.storage.machines.machine import Command

ENTRIES_MAX: Final = 500
PAYLOAD_BYTES_MAX: Final = 64 << 10
"""A command with more bytes is told without its payload."""
ENTRY: Final[Schema] = {
    "type": "object",
    "required": ["index", "term", "kind", "size_bytes", "time_ms", "elapsed_ms", "committed", "type"],
    "properties": {
        "index": {"type": "integer"},
        "term": {"type": "integer"},
        "kind": {"type": "string"},
        "size_bytes": {"type": "integer"},
        "time_ms": {"type": "integer"},
        "elapsed_ms": {"type": "integer"},
        "committed": {"type": "boolean"},
        "type": {"type": ["string", "null"]},
        "members": {"type": "string"},
        "cut": {"type": "boolean"},
    },
}
PAGE: Final[Schema] = {
    "type": "object",
    "required": [
        "node_id", "first_log_index", "last_log_index", "commit_index", "last_applied", "entries", "next",
    ],
    "properties": {"entries": {"type": "array", "items": ENTRY}, "next": {"type": ["integer", "null"]}},
}  # fmt: skip


async def list_entries(call: Call) -> Response:
    """Return entries of the log."""
    data_bytes = PAYLOAD_BYTES_MAX if call["payload"] else 0
    page = await call.subject.log_page(call["from"], call["limit"], data_bytes, call.seconds)
    entries = [entry_row(page, *row, payload=call["payload"]) for row in page.rows]
    following = page.rows[-1][0] + 1 if page.rows else max(call["from"], page.first)
    return answer(
        {
            "node_id": page.node,
            "first_log_index": page.first,
            "last_log_index": page.last,
            "commit_index": page.commit,
            "last_applied": page.applied,
            "entries": entries,
            "next": following if following <= page.last and call["limit"] else None,
        }
    )


def entry_row(page: LogPage, index: int, size: int, data: bytes, *, payload: bool) -> dict[str, Any]:
    """Return one entry as JSON has it; a command's payload only if that is asked for and all of it is there."""
    record, whole = parse(index, data + bytes(CRC_BYTES)), len(data) + CRC_BYTES == size
    found: dict[str, Any] = {
        "index": index,
        "term": record.term,
        "kind": kind_text(record.kind),
        "size_bytes": size,
        "time_ms": record.time_ms,
        "elapsed_ms": record.elapsed_ms,
        "session": record.session,
        "seq": record.seq,
        "committed": index <= page.commit,
        "type": type_of(record),
    }
    if record.kind == Kind.CONFIGURATION:
        found["members"] = members_text(record)
    if record.kind == Kind.COMMAND and payload:
        found |= {"payload": None, "correlation_id": None, "cut": not whole}
        if whole:
            found |= command_row(record.data)
    return found


def type_of(record: Record) -> str | None:
    """Return the type of a command, of which perhaps only the beginning is there; None if it tells none."""
    if record.kind != Kind.COMMAND:
        return None
    unpacker = msgpack.Unpacker()
    unpacker.feed(record.data)
    try:
        unpacker.read_array_header()
        name = unpacker.unpack()
    except Exception:  # msgpack raises a family of its own, and ValueError
        return None
    return name if isinstance(name, str) else None


def command_row(data: bytes) -> dict[str, Any]:
    """Return what a whole command carries."""
    try:
        command = Command.decode(data)
        return {"payload": jsonable(command.payload), "correlation_id": command.correlation_id}
    except (ProtocolError, RecursionError):
        return {}


OPERATIONS: Final = (
    Operation(
        "GET",
        "/v1/log/entries",
        "cluster",
        "Entries of this node's log, in the order of their indexes; what is not committed yet may still be replaced.",
        list_entries,
        (
            Argument(
                "from",
                "The index of the first one; 0 for the last ones. What was compacted away is passed over.",
                "integer",
                default=0,
                minimum=0,
                maximum=INT_EXACT_MAX,
            ),
            Argument(
                "limit",
                "How many; large entries may make it fewer.",
                "integer",
                default=20,
                minimum=1,
                maximum=ENTRIES_MAX,
            ),
            Argument(
                "payload",
                "Whether to tell what commands carry: the keys and values of all clients.",
                "boolean",
                default=False,
            ),
        ),
        {200: ("The entries; `next` is where the next page begins, null at the end.", PAGE)},
    ),
)
