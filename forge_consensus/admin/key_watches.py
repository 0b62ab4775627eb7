"""Waiting for changes of keys over HTTP: a request that is kept until one comes, and a stream of all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from math import inf
from typing import Any, Final

from starlette.responses import Response, StreamingResponse

from forge_consensus.admin.key_values import described
from forge_consensus.admin.operation import SINCE, WAIT, Argument, Call, Operation
from forge_consensus.admin.problems import invalid
from forge_consensus.admin.shared import Shared
from forge_consensus.client.aio_watch import AsyncWatch
from forge_consensus.client.key_records import KeyChange
from forge_consensus.errors import CompactedError, ConsensusError
from forge_consensus.output import INT_EXACT_MAX, json_text
from forge_consensus.storage.machines.kv_commands import KEY_BYTES_MAX

TAG: Final = "keys"
WAIT_SECONDS: Final = 60.0
WAIT_SECONDS_MAX: Final = 600.0
ALIVE_SECONDS: Final = 10.0
"""A stream without a change tells so often how far it is, so that both ends notice a broken connection, and whoever
comes back need not begin where it was long ago."""
STREAM_TYPE: Final = "text/event-stream"
RETRY_MS: Final = 1000
ID_CHARS_MAX: Final = len(str(INT_EXACT_MAX))
"""A longer id is not read, because Python raises ValueError for integers of many thousand digits."""
PART_CHANGES: Final = 200
"""So many changes leave as one piece at most."""
INDEX_ARGUMENT: Final = Argument(
    SINCE,
    "Answer when there is a change after this log entry: X-Raft-Index of an earlier answer. At once without it, or if "
    "changes so old are not kept any more.",
    "integer",
    minimum=0,
    maximum=INT_EXACT_MAX,
)
WAIT_ARGUMENT: Final = Argument(
    WAIT,
    "For how long to wait for that change at most; the answer then comes without one.",
    "seconds",
    default=WAIT_SECONDS,
    minimum=0,
    maximum=WAIT_SECONDS_MAX,
)


async def until_changed(call: Call, *, key: str | None = None, prefix: str | None = None) -> None:
    """Wait until a key, or one with that prefix, has changed since the `index` of a request, if it gives one.

    The request then asks for a state that has the change.
    """
    if call[SINCE] is None:
        return
    slot = call.api.watches.take()
    try:
        async with call.client.watch(key, prefix=prefix, since=call[SINCE] + 1) as watch:
            with suppress(TimeoutError, CompactedError):
                seconds = min(call[WAIT], inf if call.api.stream_seconds is None else call.api.stream_seconds)
                change = await next_change(watch, seconds, call.api.closing)
                if change is not None:
                    call.arguments["min_index"] = max(call["min_index"], change.index)
    finally:
        slot.free()


async def next_change(watch: AsyncWatch, seconds: float, closing: asyncio.Event) -> KeyChange | None:
    """Return the next change; None if the server closes meanwhile. Raises TimeoutError and `ConsensusError`."""
    getting, ending = asyncio.ensure_future(watch.get(seconds)), asyncio.ensure_future(closing.wait())
    try:
        await asyncio.wait({getting, ending}, return_when=asyncio.FIRST_COMPLETED)
        return getting.result() if getting.done() else None
    finally:
        ending.cancel()
        getting.cancel()
        await asyncio.gather(getting, return_exceptions=True)


# --- the stream ------------------------------------------------------------------------------------------------------


async def stream_changes(call: Call) -> Response:
    """Return the changes of a key or a prefix as Server-Sent Events."""
    key, prefix = call["key"], call["prefix"]
    if (key is None) == (prefix is None):
        raise invalid("say what to watch: key=KEY or prefix=PREFIX, and not both")
    watch = call.client.watch(key, prefix=prefix, since=first_wanted(call))
    stream = Stream(watch, call.api)
    try:
        await watch.verify()
    except BaseException:
        stream.slot.free()
        raise
    return StreamingResponse(
        stream.parts(),
        media_type=STREAM_TYPE,
        headers={"X-Accel-Buffering": "no", "Cache-Control": "no-store", "X-Raft-Index": str(watch.next_index - 1)},
    )


def watched_keys(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the key or the prefix that a request wants to watch; all keys if it says neither."""
    return tuple(text for name in ("key", "prefix") if (text := arguments[name]) is not None) or ("",)


def first_wanted(call: Call) -> int | None:
    """Return the first log entry whose changes a reader wants; None for now. Raises `ProblemError`."""
    last: str | None = call.headers.get("last-event-id")
    if not last:
        since: int | None = call["since"]
        return since
    if not (last.isascii() and last.isdigit() and len(last) <= ID_CHARS_MAX and int(last) <= INT_EXACT_MAX):
        raise invalid("Last-Event-ID is the id of an event of this stream, which is the index of a log entry")
    return int(last) + 1


class Stream:
    """One reader's stream of changes."""

    def __init__(self, watch: AsyncWatch, api: Shared) -> None:
        self.watch = watch
        self.slot = api.watches.take()
        self.closing = api.closing
        self.ends_at = inf if api.stream_seconds is None else time.monotonic() + api.stream_seconds

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the parts of the stream until the server closes, or changes are not kept any more."""
        watch, closing = self.watch, self.closing
        try:
            yield f"retry: {RETRY_MS}\n{self.place()}\n".encode()
            while not closing.is_set() and (left := self.ends_at - time.monotonic()) > 0:
                try:
                    change = await next_change(watch, min(ALIVE_SECONDS, left), closing)
                except TimeoutError:
                    yield f": alive\n{self.place()}\n".encode()
                    continue
                if change is not None:
                    yield self.part(change)
        except CompactedError as error:
            yield ended("compacted", {"code": error.code, "detail": str(error), "oldest": error.oldest})
        except ConsensusError as error:
            yield ended("failed", {"code": error.code, "detail": str(error)})
        finally:
            self.slot.free()
            await watch.close()

    def place(self) -> str:
        """Return the line by which a reader goes on here; it has seen every change before the next index."""
        return f"id: {self.watch.next_index - 1}\n"

    def part(self, change: KeyChange) -> bytes:
        """Return a change and those that are there already.

        Changes that were made as one have an id only at the last of them, so that a reader who comes back after some of
        them gets all of them again.
        """
        waiting, found = self.watch.cursor.changes, [change]
        while waiting and len(found) < PART_CHANGES:
            found.append(waiting.popleft())
        lines = []
        for number, each in enumerate(found, 1):
            behind = found[number].index if number < len(found) else self.watch.next_index
            place = f"id: {each.index}\n" if behind > each.index else ""
            lines.append(f"{place}event: {each.kind}\ndata: {json_text(change_row(each))}\n\n")
        return "".join(lines).encode()


def change_row(change: KeyChange) -> dict[str, Any]:
    """Return a change as JSON has it."""
    facts = {"index": change.index, "change": change.kind, "key": change.key, **described(change.value)}
    return {**facts, "created": change.created, "lease": change.lease}


def ended(kind: str, facts: dict[str, Any]) -> bytes:
    """Return the event that ends a stream."""
    return f"event: {kind}\ndata: {json_text(facts)}\n\n".encode()


CHANGE: Final = (
    "Server-Sent Events: `id` is the log entry, `event` put, delete or expire, `data` the change as JSON. The event "
    "compacted ends a stream whose reader was too slow."
)
OPERATIONS: Final = (
    Operation(
        "GET",
        "/v1/watch",
        TAG,
        "The changes of a key, or of all keys with a prefix, as they happen, each once and in order.",
        stream_changes,
        (
            Argument("key", "The key to watch.", minimum=1, maximum=KEY_BYTES_MAX),
            Argument("prefix", "What the keys to watch begin with, instead of a key.", maximum=KEY_BYTES_MAX),
            Argument(
                "since",
                "The first log entry whose changes come; now without it. Last-Event-ID says the entry before it.",
                "integer",
                minimum=0,
                maximum=INT_EXACT_MAX,
            ),
        ),
        {200: (CHANGE, None), 410: ("The changes from there on are not kept any more.", None)},
        media_type=STREAM_TYPE,
        endless=True,
        keys=watched_keys,
    ),
)
