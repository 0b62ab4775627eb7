"""Events as something to iterate over, with `for` and with `async for`."""

import asyncio
import weakref
from contextlib import suppress
from queue import Empty
from time import monotonic
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

from forge_consensus.events.backlog import Backlog
from forge_consensus.events.envelope import ConsensusEvent, E
from forge_consensus.events.selection import Selection
from forge_consensus.events.subscription import Listener, inside_inline_handler


class StreamEndedError(RuntimeError):
    """The stream or its bus was closed while an event was waited for."""


class StreamListener(Listener[E]):
    """A stream's end at the bus.

    The bus holds this and not the stream: a stream that is dropped without being closed goes away.
    """

    def __init__(self, selection: Selection, backlog: Backlog[E]) -> None:
        super().__init__(selection, "stream")
        self.backlog = backlog

    @property
    def dropped(self) -> int:
        """How many events were dropped because the backlog was full."""
        return self.backlog.dropped

    def offer(self, event: E) -> None:
        """Queue the event for whoever iterates."""
        if not self.cancelled:
            self.backlog.put(event)

    def cancel(self) -> None:
        """End the stream at once."""
        super().cancel()
        self.backlog.abandon()

    def finish(self) -> None:
        """End the stream behind what it holds."""
        self.backlog.finish()


class Sleeper(NamedTuple):
    """A task that sleeps until the next event."""

    loop: asyncio.AbstractEventLoop
    ready: asyncio.Event


class LoopListener(StreamListener[E]):
    """A stream's end at the bus that also wakes an event loop, once per run of events."""

    sleeper: Sleeper | None = None

    def offer(self, event: E) -> None:
        """Queue the event and wake the task, if it sleeps."""
        super().offer(event)
        self.wake()

    def wake(self) -> None:
        """Wake the task, if it sleeps."""
        sleeper, self.sleeper = self.sleeper, None
        if sleeper is not None:
            with suppress(RuntimeError):  # the loop was closed, and its tasks with it
                sleeper.loop.call_soon_threadsafe(sleeper.ready.set)

    def cancel(self) -> None:
        """End the stream at once."""
        super().cancel()
        self.wake()

    def finish(self) -> None:
        """End the stream behind what it holds."""
        super().finish()
        self.wake()


L = TypeVar("L", bound=StreamListener[Any])
E_co = TypeVar("E_co", bound=ConsensusEvent, covariant=True)


class Stream(Generic[L]):
    """What the two kinds of stream share: their end at the bus, and how they are closed."""

    def __init__(self, listener: L, timeout: float | None) -> None:
        self.listener = listener
        self.timeout = timeout
        cleanup = weakref.finalize(self, listener.cancel)
        cleanup.atexit = False

    @property
    def dropped(self) -> int:
        """How many events were dropped because nobody took them in time."""
        return self.listener.dropped

    def close(self) -> None:
        """End the stream; who waits on it, on whatever thread, is woken."""
        self.listener.cancel()


class EventStream(Stream[StreamListener[Any]], Generic[E_co]):
    """An iterator over the events published since it was made; also a context manager.

    The loop ends when the stream or the bus is closed, or after `timeout` seconds without an event.
    """

    def get(self, timeout: float | None = None) -> E_co:
        """Return the next event.

        Raises TimeoutError after `timeout` seconds, StreamEndedError at the end of the stream, and
        RuntimeError inside an inline handler, which would wait for its own thread.
        """
        if inside_inline_handler():
            raise RuntimeError("an inline handler must not wait for events: use a queued one")
        try:
            event: E_co | None = self.listener.backlog.get(timeout)
        except Empty:
            raise TimeoutError(f"no event within {timeout} s") from None
        if event is None:
            raise StreamEndedError("the event stream was closed")
        return event

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> E_co:
        """Return the next event."""
        try:
            return self.get(self.timeout)
        except (TimeoutError, StreamEndedError):
            raise StopIteration from None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()


class AsyncEventStream(Stream[LoopListener[Any]], Generic[E_co]):
    """An asynchronous iterator over the events published since it was made.

    The loop ends when the stream or the bus is closed, or after `timeout` seconds without an event.
    A cancelled task loses no event: the next `get` returns it. One task at a time may wait.
    """

    async def get(self, timeout: float | None = None) -> E_co:
        """Return the next event.

        Raises TimeoutError after `timeout` seconds, StreamEndedError at the end of the stream.
        """
        deadline = None if timeout is None else monotonic() + timeout
        listener = self.listener
        while True:
            try:
                event: E_co | None = listener.backlog.get(0)
            except Empty:
                await self.sleep(deadline)
            else:
                if event is None:
                    raise StreamEndedError("the event stream was closed")
                return event

    async def sleep(self, deadline: float | None) -> None:
        """Sleep until something was queued, or raise TimeoutError at the deadline."""
        listener = self.listener
        if listener.sleeper is not None:
            raise RuntimeError("another task already waits on this stream")
        sleeper = listener.sleeper = Sleeper(asyncio.get_running_loop(), asyncio.Event())
        try:
            # From here on the publisher wakes us; what it queued just before, we see ourselves.
            if not len(listener.backlog):
                left = None if deadline is None else max(deadline - monotonic(), 0.0)
                async with asyncio.timeout(left):
                    await sleeper.ready.wait()
        finally:
            if listener.sleeper is sleeper:
                listener.sleeper = None

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> E_co:
        """Return the next event."""
        try:
            return await self.get(self.timeout)
        except (TimeoutError, StreamEndedError):
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *failure: Any) -> None:
        """Close."""
        self.close()
