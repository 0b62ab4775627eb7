"""The remote feed: the events of a node or a whole cluster, from another process, each once and in order per node."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

from forge_consensus.client.endpoints import parse_endpoints
from forge_consensus.client.surface import PublicSurface
from forge_consensus.errors import ConsensusError, InvalidConfigError
from forge_consensus.events.stream import Sleeper, StreamEndedError
from forge_consensus.events.subscription import inside_inline_handler
from forge_consensus.events.types import ConsensusEvent
from forge_consensus.feed.cursor import ANY_INCARNATION, PAGE_ROWS, Delivery, Gap, Position, Since, Wanted
from forge_consensus.feed.driver import FeedDriver

__all__ = ["EventFeed", "Gap", "Position", "Since"]

QUEUE_MAX = 10_000
CLOSE_SECONDS = 5.0


class EventFeed(PublicSurface):
    """The events of a node or of a whole cluster, from another process; each once, and in order per node.

    Iterate over it with ``for`` or ``async for``, or call `get` or `aget`; close it, or use it in a ``with`` or
    ``async with`` statement. Threads and tasks can share one feed: each event goes to one of them. Numbers that are
    missing come as a `Gap` in their place, whichever kinds are wanted. The feed runs one thread. A slow reader costs no
    memory: what does not fit into the queue is read from the node's journal later.

    Args:
        endpoints: where nodes answer: addresses ``host:port`` or ``ipc:///path``, as a list or a text with commas.
        kinds: event classes and patterns of kinds, such as ``leader.*`` (short for ``consensus.leader.*``); none for
            all kinds.
        since: where to begin. None: with what is published from now on. A number: with the event of that sequence
            number on each node, 0 for everything that is kept. A mapping of node ids, such as the `positions` of an
            earlier feed: there, and nodes that it does not name from their first event on.
        timeout: after how many seconds without an event an iteration ends; None for never.
        scope: "cluster" follows every member, also those that join later; "node" only the nodes at `endpoints`.
        follow: whether to go on for ever. If not, the feed ends when everything was read that the nodes had published
            when they were first asked.
        cluster_id: the cluster that the nodes must belong to; "" for any.
        queue_max: how many events can wait for the reader; at least 1.
        connect_seconds: with ``follow=False``, how long to wait for nodes that do not answer; they are then in
            `silent`.

    Raises `InvalidConfigError` for an endpoint or a `queue_max` that is none, ValueError for a kind that matches no
    event.

    """

    internal = frozenset(
        {
            "internal",
            "queue",
            "places",
            "change",
            "sleepers",
            "ended",
            "error",
            "driver",
            "pop",
            "capacity",
            "tell",
            "stand",
            "end",
            "wake",
        }
    )

    def __init__(
        self,
        endpoints: Sequence[str] | str,
        kinds: Sequence[type[ConsensusEvent] | str] = (),
        since: Since = None,
        timeout: float | None = None,
        *,
        scope: Literal["cluster", "node"] = "cluster",
        follow: bool = True,
        cluster_id: str = "",
        queue_max: int = QUEUE_MAX,
        connect_seconds: float = 5.0,
    ) -> None:
        if queue_max < 1:
            raise InvalidConfigError(f"queue_max is {queue_max}: it must be at least 1")
        self.timeout = timeout
        self.queue_max = queue_max
        self.queue: deque[Delivery] = deque()
        self.places = places_of(since)
        self.change = threading.Condition()
        self.sleepers: list[Sleeper] = []
        self.ended = False
        self.error: ConsensusError | None = None
        self.driver = FeedDriver(
            self,
            parse_endpoints(endpoints),
            Wanted([kinds] if isinstance(kinds, str) else kinds),
            since,
            cluster_id=cluster_id,
            whole_cluster=scope == "cluster",
            capacity_min=max(1, min(PAGE_ROWS, queue_max // 2)),
            silent_at=None if follow else time.monotonic() + connect_seconds,
        )
        self.driver.thread.start()

    def __repr__(self) -> str:
        """The nodes that are followed, the events that wait, and whether the feed is open."""
        followed = ",".join(list(self.driver.sources)) or ",".join(self.driver.endpoints)
        state = "closed" if self.ended or self.driver.closing else "open"
        return f"<EventFeed nodes={followed} waiting={len(self.queue)} {state}>"

    # --- for readers -------------------------------------------------------------------------------------------------

    def get(self, timeout: float | None = None) -> ConsensusEvent:
        """Return the next event, or a `Gap`; wait for it up to `timeout` seconds, None for as long as it takes.

        Raises TimeoutError after that time, `StreamEndedError` when the feed has ended, RuntimeError inside an inline
        event handler, and the error that ended the feed: `ClusterNotFoundError`, or `ConnectionFailedError` if no node
        answered.
        """
        if inside_inline_handler():
            raise RuntimeError("an inline handler must not wait for events: use a queued one")
        with self.change:
            if not self.change.wait_for(lambda: self.queue or self.ended, timeout):
                raise TimeoutError(f"no event within {timeout} s")
            return self.pop()

    async def aget(self, timeout: float | None = None) -> ConsensusEvent:
        """Return the next event, as `get` does; a task that is cancelled loses none."""
        async with asyncio.timeout(timeout):
            while True:
                with self.change:
                    if self.queue or self.ended:
                        return self.pop()
                    sleeper = Sleeper(asyncio.get_running_loop(), asyncio.Event())
                    self.sleepers.append(sleeper)
                await sleeper.ready.wait()

    def pop(self) -> ConsensusEvent:
        """Take the oldest event; the caller holds the lock."""
        if not self.queue:
            raise self.error or StreamEndedError("the event feed has ended")
        event, node, self.places[node] = self.queue.popleft()
        if self.driver.starved and len(self.queue) <= self.queue_max // 2:
            self.driver.rouse()
        return event

    @property
    def positions(self) -> dict[str, Position]:
        """The position on each node behind the last event that was taken; give it to another feed as `since`."""
        with self.change:
            return dict(self.places)

    @property
    def silent(self) -> list[str]:
        """The addresses of nodes that are not connected."""
        return self.driver.silent

    def close(self) -> None:
        """End it: the thread, the sockets, and whoever waits. May be called twice."""
        self.driver.close()
        if threading.current_thread() is not self.driver.thread:
            self.driver.thread.join(CLOSE_SECONDS)

    # --- for the driver's thread -------------------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """How many more events the queue can hold."""
        return self.queue_max - len(self.queue)

    def tell(self, told: list[Delivery]) -> None:
        """Queue events and wake the readers that wait."""
        with self.change:
            self.queue.extend(told)
            self.wake()

    def stand(self, node: str, position: Position, fresh: bool) -> None:
        """Note the reader's position on a node, unless events wait before it; none does of a node that is `fresh`."""
        with self.change:
            if fresh or not self.queue:
                self.places[node] = position

    def end(self, error: ConsensusError | None) -> None:
        """Note that the feed has ended, with an error or None."""
        with self.change:
            self.ended, self.error = True, error
            self.wake()

    def wake(self) -> None:
        """Wake the threads and tasks that wait; the caller holds the lock."""
        self.change.notify_all()
        sleepers, self.sleepers = self.sleepers, []
        for sleeper in sleepers:
            with suppress(RuntimeError):  # its loop was closed, and its tasks with it
                sleeper.loop.call_soon_threadsafe(sleeper.ready.set)

    # --- iterating ---------------------------------------------------------------------------------------------------

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> ConsensusEvent:
        """The next event."""
        try:
            return self.get(self.timeout)
        except (TimeoutError, StreamEndedError):
            raise StopIteration from None

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> ConsensusEvent:
        """The next event."""
        try:
            return await self.aget(self.timeout)
        except (TimeoutError, StreamEndedError):
            raise StopAsyncIteration from None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *failure: object) -> None:
        """Close."""
        await asyncio.to_thread(self.close)


def places_of(since: Since) -> dict[str, Position]:
    """Where a reader stands that has not heard of any node yet."""
    if not isinstance(since, Mapping):
        return {}
    return {
        node: Position(ANY_INCARNATION, place) if isinstance(place, int) else place for node, place in since.items()
    }
