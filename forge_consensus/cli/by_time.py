"""The events of several nodes in the order of time, as far as their clocks and their arrival allow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from heapq import heappop, heappush

from forge_consensus.errors import ConsensusError
from forge_consensus.events.envelope import ConsensusEvent
from forge_consensus.events.stream import StreamEndedError

HOLD_SECONDS = 0.3
"""How long an event waits for earlier ones of other nodes, where events go on for ever."""

Get = Callable[[float | None], ConsensusEvent]
"""Returns the next event as `EventFeed.get` does."""


def by_time(get: Get, hold_seconds: float | None) -> Iterator[ConsensusEvent]:
    """Yield the events that `get` returns, ordered by time, until it says that there are no more.

    The events of one node stay in their own order, also where its clock was set back. An event is held back for
    `hold_seconds` after its arrival, None for as long as there are more, because the journals of different nodes are
    read at different speeds. Raises the error that ends the feed, after the events before it.
    """
    held: list[tuple[float, int, float, ConsensusEvent]] = []
    """(time by which it is ordered, number of its arrival, monotonic time of its arrival, event), as a heap."""
    latest: dict[str, float] = {}
    arrived = 0
    try:
        while True:
            try:
                event = get(hold_seconds if held else None)
            except TimeoutError:
                while held:
                    yield heappop(held)[-1]
                continue
            arrived += 1
            latest[event.node_id] = at = max(event.time, latest.get(event.node_id, 0.0))
            now = time.monotonic()
            heappush(held, (at, arrived, now, event))
            while hold_seconds is not None and held and now - held[0][2] > hold_seconds:
                yield heappop(held)[-1]
    except (ConsensusError, StreamEndedError) as end:
        while held:
            yield heappop(held)[-1]
        if not isinstance(end, StreamEndedError):
            raise
