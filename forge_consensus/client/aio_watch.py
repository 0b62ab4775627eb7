"""Watching keys with asyncio: every change of a key or of a prefix, once and in order, over failovers."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from math import inf
from typing import Any, Protocol, Self

from forge_consensus.client.change_cursor import KEPT_SECONDS, ChangeCursor
from forge_consensus.client.key_records import KeyChange
from forge_consensus.client.machine_calls import AsyncMachineCalls
from forge_consensus.client.pending import Pending
from forge_consensus.client.routes import NEAREST, Route
from forge_consensus.client.surface import PublicSurface
from forge_consensus.client.watch import CLOSED_TEXT, WatchClient
from forge_consensus.errors import ConsensusError, NotStartedError


class AsyncWatchClient(WatchClient, Protocol):
    """What a watch needs of a client for asyncio."""

    def start(self, pending: Pending[Any]) -> asyncio.Future[Any]:
        """Hand a call over and return the future of its answer."""


class AsyncWatchCalls(AsyncMachineCalls):
    """The changes of the built-in key-value machine, for asyncio."""

    def watch_client(self) -> AsyncWatchClient:
        """The client by which a watch asks."""
        raise NotImplementedError

    def watch(
        self,
        key: str | None = None,
        *,
        prefix: str | None = None,
        since: int | None = None,
        timeout: float | None = None,
    ) -> AsyncWatch:
        """Return the changes of a key or of all keys with a prefix, for ``async for``; arguments as `Client.watch`.

        Without `since` it begins with its ``async with`` statement, or else with the first change that is asked for.
        """
        return AsyncWatch(self.watch_client(), ChangeCursor(key, prefix, since), timeout)


def note(future: asyncio.Future[Any]) -> None:
    """Look at an outcome, so that asyncio does not complain of an error that nobody has looked at."""
    if not future.cancelled():
        future.exception()


class AsyncWatch(PublicSurface):
    """A `Watch` for asyncio; `AsyncClient.watch` makes it. Tasks can share it: each change goes to one of them."""

    internal = frozenset({"internal", "client", "cursor", "closed", "closing", "asked", "asked_at", "pause_until"})

    def __init__(self, client: AsyncWatchClient, cursor: ChangeCursor, timeout: float | None) -> None:
        self.client = client
        self.cursor = cursor
        self.timeout = timeout
        """After how many seconds without a change an iteration ends; None for never."""
        self.closed = False
        self.closing = asyncio.Event()
        self.asked: tuple[Pending[Any], asyncio.Future[Any]] | None = None
        """The question that is under way."""
        self.asked_at = self.pause_until = -inf

    def __repr__(self) -> str:
        """What is watched, from where on, and whether it is open."""
        what = "key" if self.cursor.exact else "prefix"
        state = "closed" if self.closed else "open"
        return f"<AsyncWatch {what}={self.cursor.text!r} next_index={self.cursor.position} {state}>"

    async def start(self) -> None:
        """Find out where to begin, if that is not given; raises what `AsyncClient.read` raises."""
        if self.cursor.next is None:
            pending = self.client.barrier_query(Route.of(read_from=NEAREST), self.client.timeout)
            await self.client.start(pending)
            if self.cursor.next is None:  # no other task was faster
                self.cursor.start(pending.applied)

    async def verify(self) -> None:
        """Find out where to begin, and that the changes from there on are kept; begin with those that there are.

        Raises `CompactedError` if they are not, and what `AsyncClient.read` raises.
        """
        await self.start()
        for _ in range(2):  # the second time the leader is asked
            question, route = self.cursor.question()
            del question["wait_ms"]
            answer = await self.client.start(self.client.query(question, route, self.client.timeout))
            self.cursor.take(answer, KEPT_SECONDS)
            if not self.cursor.forgotten:
                return

    @property
    def next_index(self) -> int:
        """The log entry from which another watch goes on where this one is, 0 before it has begun; as for `Watch`."""
        return self.cursor.position or 0

    async def get(self, timeout: float | None = None) -> KeyChange:
        """Return the next change, as `Watch.get` does; a task that is cancelled loses none."""
        await self.start()
        clock = asyncio.get_running_loop().time
        end = inf if timeout is None else clock() + timeout
        looked = False
        while True:
            if self.closed:
                raise NotStartedError(CLOSED_TEXT)
            with suppress(IndexError):
                return self.cursor.changes.popleft()
            left = end - clock()
            if left <= 0 and looked:
                raise TimeoutError(f"no change within {timeout} s")
            await self.look(None if left == inf else max(left, 0.0), clock)
            looked = True

    async def look(self, seconds: float | None, clock: Any) -> None:
        """Wait up to `seconds` (None: without limit) for the answer to a question, and take it."""
        pause = self.pause_until - clock()
        if pause > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.closing.wait(), pause if seconds is None else min(pause, seconds))
            return
        if self.asked is None:
            question, route = self.cursor.question()
            pending = self.client.query(question, route, KEPT_SECONDS + self.client.timeout)
            future = self.client.start(pending)
            future.add_done_callback(note)  # nobody may take it, if the watch is closed or dropped
            self.asked, self.asked_at = (pending, future), clock()
        asked = self.asked
        closing = asyncio.ensure_future(self.closing.wait())
        try:
            await asyncio.wait({asked[1], closing}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
        if asked[1].done() and self.asked is asked:  # no other task was faster
            self.asked = None
            self.take(*asked, clock())

    def take(self, pending: Pending[Any], future: asyncio.Future[Any], now: float) -> None:
        """Take an answer, or plan the next question. Raises the error if asking again would not help."""
        try:
            answer = future.result()
        except ConsensusError as error:
            self.pause_until = now + self.cursor.failed(error)
        else:
            self.pause_until = now + self.cursor.take(answer, now - self.asked_at)

    async def close(self) -> None:
        """End it, and every task that waits. May be called twice."""
        self.closed = True
        self.closing.set()

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> KeyChange:
        """The next change."""
        try:
            return await self.get(self.timeout)
        except ConsensusError:
            if self.closed:
                raise StopAsyncIteration from None
            raise
        except TimeoutError:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        """Begin."""
        await self.start()
        return self

    async def __aexit__(self, *failure: object) -> None:
        """Close."""
        await self.close()
