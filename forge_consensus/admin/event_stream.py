"""Events over HTTP: the cluster's events as Server-Sent Events, or the last of them as JSON."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from math import inf
from typing import Final

from starlette.responses import Response, StreamingResponse

from forge_consensus.admin.audience import BATCH, Audience, Fits
from forge_consensus.admin.event_history import (
    EVENTS_MAX,
    GAP_KIND,
    PLACE_CHARS_MAX,
    EventHistory,
    Seen,
    place_text,
    positions_of,
)
from forge_consensus.admin.operation import Argument, Call, Operation, Schema, answer
from forge_consensus.admin.problems import ProblemError, invalid
from forge_consensus.admin.shared import Shared
from forge_consensus.events.selection import Selection
from forge_consensus.events.types import EVENT_TYPES, ConsensusEvent, LogAppended, LogCommitted
from forge_consensus.feed.cursor import Gap, Position, full

TAG: Final = "events"
READERS_MAX: Final = 500
"""So many streams are open at once; one more is answered with 503."""
ALIVE_SECONDS: Final = 10.0
"""A stream without an event gets a comment so often, so that both ends notice a broken connection."""
FIRST_SECONDS: Final = 2.0
"""How long a request for past events waits until they are read from the journals of all nodes."""
STREAM_TYPE: Final = "text/event-stream"
RETRY_MS: Final = 1000
KINDS: Final[Schema] = {
    "type": "object",
    "required": ["kinds"],
    "properties": {"kinds": {"type": "array", "items": {"type": "string"}}},
}
LAST: Final[Schema] = {
    "type": "object",
    "required": ["events", "place"],
    "properties": {"events": {"type": "array", "items": {"type": "object"}}, "place": {"type": "string"}},
}
BUSY: Final = frozenset({LogAppended.kind, LogCommitted.kind})
"""The kinds that come with every commit; a reader who does not want them costs the nodes nothing for them."""
QUIET: Final = tuple(kind for kind in EVENT_TYPES if kind not in BUSY)


async def list_kinds(call: Call) -> Response:
    """Return all kinds of event."""
    return answer({"kinds": [*EVENT_TYPES, GAP_KIND]})


def selection_of(kinds: str) -> tuple[Fits, bool]:
    """Return which events are wanted, and whether any of those that come with every commit are; gaps always are.

    A pattern with a minus sign before it leaves its kinds out. Raises `ProblemError` for one that matches no kind.
    """
    parts = [part for text in kinds.split(",") if (part := text.strip()) and not is_of_gaps(part)]
    if kinds.strip() and not parts:
        return (lambda event: isinstance(event, Gap)), False
    try:
        wanted = Selection.of(*(full(part) for part in parts if part[0] != "-"))
        unwanted = [Selection.of(full(part[1:])) for part in parts if part[0] == "-"]
    except ValueError as error:
        raise invalid(f"kinds is {kinds[:80]!r}: {error}; GET /v1/events/kinds lists them") from None

    def takes(event: type[ConsensusEvent]) -> bool:
        return wanted.may_want(event) and not any(each.may_want(event) for each in unwanted)

    def fits(event: ConsensusEvent) -> bool:
        return isinstance(event, Gap) or (wanted.wants(event) and not any(each.wants(event) for each in unwanted))

    return fits, any(takes(EVENT_TYPES[kind]) for kind in BUSY)


def is_of_gaps(pattern: str) -> bool:
    """Whether a pattern stands for gaps and no kind of event; they come whatever is wanted."""
    whole = str(full(pattern.removeprefix("-")))
    return fnmatchcase(GAP_KIND, whole) and not any(fnmatchcase(kind, whole) for kind in EVENT_TYPES)


async def events(call: Call) -> Response:
    """Stream the events, or return the last ones as JSON where that is asked for."""
    fits, busy = selection_of(call["kinds"])
    history = call.api.history(() if busy else QUIET)
    if "application/json" in call.headers.get("accept", ""):
        return await last_events(history, fits, call["recent"])
    if call.api.readers >= READERS_MAX:
        text = f"{READERS_MAX} streams of events are open: close some, or ask another node"
        raise ProblemError(503, "too busy", text, "TOO_MANY_READERS", retryable=True, headers={"Retry-After": "5"})
    place = call.headers.get("last-event-id") or call["after"] or ""
    positions = positions_of(place) if place else None
    stream = Stream(history, call.api.audience(history, call["kinds"], fits), positions, call["recent"], call.api)
    headers = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}
    return StreamingResponse(stream.parts(), media_type=STREAM_TYPE, headers=headers)


async def last_events(history: EventHistory, fits: Fits, recent: int) -> Response:
    """Return the last events as JSON."""
    history.enter()
    try:
        await caught_up(history)
        held = [entry for _, entry in history.after(0, EVENTS_MAX) if fits(entry.event)]
        rows = [json.loads(entry.text) for entry in held[len(held) - min(recent or 100, len(held)) :]]
        return answer({"events": rows, "place": place_text(history.seen_before(history.end))})
    finally:
        history.leave()


async def caught_up(history: EventHistory) -> None:
    """Wait a moment until the history has what the journals of the nodes hold."""
    with suppress(TimeoutError):
        await asyncio.wait_for(history.ready.wait(), FIRST_SECONDS)


class Stream:
    """One reader's stream.

    Args:
        history: the events of the cluster.
        audience: the readers who want the same kinds, of whom this is one.
        positions: what it has seen before, None for a reader that begins anew.
        recent: how many past events a reader that begins anew gets first.
        api: whose end is the end of the stream.

    """

    def __init__(
        self,
        history: EventHistory,
        audience: Audience,
        positions: Mapping[str, Position] | None,
        recent: int,
        api: Shared,
    ) -> None:
        self.history = history
        self.audience = audience
        self.positions = positions
        self.recent = recent
        self.closing = api.closing
        self.ends_at = inf if api.stream_seconds is None else time.monotonic() + api.stream_seconds
        self.seen: Seen = {}
        """What it has seen; others may have the same one, so it is replaced and never changed."""
        self.number = 0
        """The history's number of the next event."""

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the parts of the stream until the server closes."""
        history = self.history
        history.enter()
        try:
            yield f"retry: {RETRY_MS}\n: the events of the cluster\n\n".encode()
            await caught_up(history)
            self.begin()
            while not self.closing.is_set() and time.monotonic() < self.ends_at:
                full = history.end - self.number > BATCH
                part = self.next_part()
                if part:
                    yield part
                if not full and not await self.wait():
                    yield b": alive\n\n"
        finally:
            history.leave()

    def begin(self) -> None:
        """Find where to begin."""
        if self.positions is None:
            self.number = self.history.number_of(self.recent)
            self.seen = self.history.seen_before(self.number)
        else:
            self.number = self.history.first
            self.seen = self.history.seen_by(self.positions)

    def next_part(self) -> bytes:
        """Return what the reader has not got yet, as far as one part goes; nothing if there is nothing."""
        portion = self.audience.portion(self.number, self.seen)
        self.number, self.seen = portion.end, portion.after
        return portion.data

    async def wait(self) -> bool:
        """Wait for the next event, or the end of the server, a while; return whether either came."""
        seconds = min(ALIVE_SECONDS, max(0.0, self.ends_at - time.monotonic()))
        return await self.history.wait(self.number, seconds)


EVENT: Final = "Server-Sent Events: `id` is a place to go on from, `event` the kind, `data` the event as JSON."
OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        "GET",
        "/v1/events",
        TAG,
        "The events of the whole cluster as they happen; with Accept: application/json the last ones.",
        events,
        (
            Argument(
                "kinds",
                "Patterns of kinds with commas, such as leader.*,node.*; with a minus sign before it what is left out, "
                "such as -log.*; all without it.",
                default="",
                maximum=1000,
            ),
            Argument("recent", "How many past events come first.", "integer", default=0, minimum=0, maximum=EVENTS_MAX),
            Argument("after", "The id of an event after which to go on, as Last-Event-ID.", maximum=PLACE_CHARS_MAX),
        ),
        {200: (EVENT, None)},
        media_type=STREAM_TYPE,
        endless=True,
    ),
    Operation("GET", "/v1/events/kinds", TAG, "All kinds of event.", list_kinds, answers={200: ("The kinds.", KINDS)}),
)
