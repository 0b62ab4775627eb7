"""Streams: events as something to iterate over, with `for` and with `async for`."""

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
    """The stream or its bus was closed, so no further event can come."""


class StreamListener(Listener[E]):
    """The end of a stream that the bus holds.

    The bus holds this object and not the stream, so a stream that is dropped without being closed can be collected.
    """

    def __init__(self, selection: Selection, backlog: Backlog[E]) -> None:
        super().__init__(selection, "stream")
        self.backlog = backlog

    @property
    def dropped(self) -> int:
        """How many events were dropped because the backlog was full."""
        return self.backlog.dropped

    def offer(self, event: E) -> None:
        """Queue the event for the iterating thread or task."""
        if not self.cancelled:
            self.backlog.put(event)

    def cancel(self) -> None:
        """End the stream at once; the events that it holds are not seen."""
        super().cancel()
        self.backlog.abandon()

    def finish(self) -> None:
        """End the stream after the events that it holds."""
        self.backlog.finish()


class Sleeper(NamedTuple):
    """A task that sleeps until the next event, and its event loop."""

    loop: asyncio.AbstractEventLoop
    ready: asyncio.Event


class LoopListener(StreamListener[E]):
    """The end of a stream that also wakes a task of an event loop, once for several events."""

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
        """End the stream at once and wake its task."""
        super().cancel()
        self.wake()

    def finish(self) -> None:
        """End the stream after the events that it holds, and wake its task."""
        super().finish()
        self.wake()


L = TypeVar("L", bound=StreamListener[Any])
E_co = TypeVar("E_co", bound=ConsensusEvent, covariant=True)


class Stream(Generic[L]):
    """What the two kinds of stream share: the listener at the bus, and how the stream is closed."""

    def __init__(self, listener: L, timeout: float | None) -> None:
        self.listener = listener
        self.timeout = timeout
        cleanup = weakref.finalize(self, listener.cancel)
        cleanup.atexit = False

    @property
    def dropped(self) -> int:
        """How many events were dropped because they were not taken in time."""
        return self.listener.dropped

    def close(self) -> None:
        """End the stream; a thread or task that waits on it is woken."""
        self.listener.cancel()


class EventStream(Stream[StreamListener[Any]], Generic[E_co]):
    """An iterator over the events that are published after it was made; also a context manager that closes it.

    The loop ends when the stream or the bus is closed, or after `timeout` seconds without an event.
    """

    def get(self, timeout: float | None = None) -> E_co:
        """Return the next event.

        Raises TimeoutError after `timeout` seconds (None: waits without limit), StreamEndedError at the end of the
        stream, and RuntimeError inside an inline handler, which would wait for events that its own thread publishes.
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
        """Return the stream itself."""
        return self

    def __next__(self) -> E_co:
        """Return the next event; ends the loop at the timeout or at the end of the stream."""
        try:
            return self.get(self.timeout)
        except (TimeoutError, StreamEndedError):
            raise StopIteration from None

    def __enter__(self) -> Self:
        """Return the stream itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the stream."""
        self.close()


class AsyncEventStream(Stream[LoopListener[Any]], Generic[E_co]):
    """An asynchronous iterator over the events that are published after it was made.

    The loop ends when the stream or the bus is closed, or after `timeout` seconds without an event. A cancelled task
    loses no event: the next `get` returns it. Only one task at a time may wait.
    """

    async def get(self, timeout: float | None = None) -> E_co:
        """Return the next event.

        Raises TimeoutError after `timeout` seconds (None: waits without limit), StreamEndedError at the end of the
        stream, and RuntimeError if another task already waits.
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
        """Sleep until an event is queued. Raises TimeoutError at the deadline."""
        listener = self.listener
        if listener.sleeper is not None:
            raise RuntimeError("another task already waits on this stream")
        sleeper = listener.sleeper = Sleeper(asyncio.get_running_loop(), asyncio.Event())
        try:
            # From here on the publisher wakes this task; an event that it queued just before is seen here.
            if not len(listener.backlog):
                left = None if deadline is None else max(deadline - monotonic(), 0.0)
                async with asyncio.timeout(left):
                    await sleeper.ready.wait()
        finally:
            if listener.sleeper is sleeper:
                listener.sleeper = None

    def __aiter__(self) -> Self:
        """Return the stream itself."""
        return self

    async def __anext__(self) -> E_co:
        """Return the next event; ends the loop at the timeout or at the end of the stream."""
        try:
            return await self.get(self.timeout)
        except (TimeoutError, StreamEndedError):
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        """Return the stream itself."""
        return self

    async def __aexit__(self, *failure: Any) -> None:
        """Close the stream."""
        self.close()
