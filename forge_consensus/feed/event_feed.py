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
from forge_consensus.errors import ConsensusError, InvalidConfigError
from forge_consensus.events.stream import Sleeper, StreamEndedError
from forge_consensus.events.subscription import inside_inline_handler
from forge_consensus.events.types import ConsensusEvent
from forge_consensus.feed.cursor import ANY_INCARNATION, PAGE_ROWS, Delivery, Gap, Position, Since, Wanted
from forge_consensus.feed.driver import FeedDriver

__all__ = ["EventFeed", "Gap", "Position", "Since"]

QUEUE_MAX = 10_000
CLOSE_SECONDS = 5.0


class EventFeed:
    """Iterate over it, with `for` or `async for`; also a context manager of both kinds. Threads may share it.

    `kinds` are event classes and patterns (`leader.*` for `consensus.leader.*`), none means all. `since` says where to
    begin: None with what is told from now on, a number with that one on each node (0: all that is kept), `positions`
    of an earlier feed where that one ended. Missing numbers come as a `Gap` in their place, whatever the kinds.

    `scope` "cluster" follows every member, "node" only those at `endpoints`. A loop ends after `timeout` seconds
    without an event, or never; with `follow=False` when all that had been told at the start was read, and nodes that
    did not answer within `connect_seconds` are then in `silent`.

    It runs a thread. A reader that is slow costs no memory: what does not fit into `queue_max` is read from the
    node's journal later. Raises `InvalidConfigError` for an endpoint that is none, ValueError for a kind that is none.
    """

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
            room_min=max(1, min(PAGE_ROWS, queue_max // 2)),
            silent_at=None if follow else time.monotonic() + connect_seconds,
        )
        self.driver.thread.start()

    # --- for readers -------------------------------------------------------------------------------------------------

    def get(self, timeout: float | None = None) -> ConsensusEvent:
        """The next event, or `Gap`.

        Raises TimeoutError after `timeout` seconds, StreamEndedError at the end, RuntimeError inside an inline event
        handler, and whatever ended the feed (`ClusterNotFoundError`).
        """
        if inside_inline_handler():
            raise RuntimeError("an inline handler must not wait for events: use a queued one")
        with self.change:
            if not self.change.wait_for(lambda: self.queue or self.ended, timeout):
                raise TimeoutError(f"no event within {timeout} s")
            return self.pop()

    async def aget(self, timeout: float | None = None) -> ConsensusEvent:
        """The next event, like `get`; a cancelled task loses none."""
        async with asyncio.timeout(timeout):
            while True:
                with self.change:
                    if self.queue or self.ended:
                        return self.pop()
                    sleeper = Sleeper(asyncio.get_running_loop(), asyncio.Event())
                    self.sleepers.append(sleeper)
                await sleeper.ready.wait()

    def pop(self) -> ConsensusEvent:
        """Take the oldest, under the lock."""
        if not self.queue:
            raise self.error or StreamEndedError("the event feed has ended")
        event, node, self.places[node] = self.queue.popleft()
        if self.driver.starved and len(self.queue) <= self.queue_max // 2:
            self.driver.rouse()
        return event

    @property
    def positions(self) -> dict[str, Position]:
        """Where the reader stands on each node, behind what it has taken; give it to another feed as `since`."""
        with self.change:
            return dict(self.places)

    @property
    def silent(self) -> list[str]:
        """The addresses of nodes that have not answered, or not lately."""
        return self.driver.silent

    def close(self) -> None:
        """End it: the thread, the sockets, and whoever waits. May be called twice."""
        self.driver.close()
        if threading.current_thread() is not self.driver.thread:
            self.driver.thread.join(CLOSE_SECONDS)

    # --- for the link's thread ---------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many more events the queue takes."""
        return self.queue_max - len(self.queue)

    def tell(self, told: list[Delivery]) -> None:
        """Queue events and wake whoever waits."""
        with self.change:
            self.queue.extend(told)
            self.wake()

    def stand(self, node: str, position: Position, fresh: bool) -> None:
        """The reader stands there, if nothing of the node waits before it, as when the node is `fresh`."""
        with self.change:
            if fresh or not self.queue:
                self.places[node] = position

    def end(self, error: ConsensusError | None) -> None:
        """Nothing comes any more."""
        with self.change:
            self.ended, self.error = True, error
            self.wake()

    def wake(self) -> None:
        """Wake whoever waits, under the lock."""
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
