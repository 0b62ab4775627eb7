"""One handler's place on the bus: how it is called, what it has cost, how it is cancelled."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Self, TypedDict

from forge_consensus.events.backlog import Backlog, TurnBudget, WhenFull
from forge_consensus.events.envelope import ConsensusEvent, E
from forge_consensus.events.selection import Selection

REPORT_SECONDS_MIN = 1.0
"""Seconds between two log lines about one handler; what lies between is counted."""


class SubscribeOptions(TypedDict, total=False):
    """How a handler wants to be called."""

    inline: bool
    """On the publisher's thread, inside `publish`; default False: on a thread of its own."""
    queue_max: int
    """How many events may wait for the handler; default 1,024."""
    when_full: WhenFull
    """What to do with one more; default `drop_oldest`."""
    block_ms_max: float
    """With `block`: how long one event may hold the publisher up; default 5 ms."""


class Listener(Generic[E]):
    """Whoever is connected to the bus: a selection of events, and a place to offer them."""

    def __init__(self, selection: Selection, name: str) -> None:
        self.selection = selection
        self.name = name
        self.cancelled = False
        self.detach: Callable[[Listener[Any]], None] | None = None
        """Set by the bus: takes this listener off it."""

    @property
    def dropped(self) -> int:
        """How many events were dropped because the backlog was full."""
        return 0

    def offer(self, event: E) -> None:
        """Take an event; never raises. Publisher's thread."""
        raise NotImplementedError

    def offer_if_wanted(self, event: E) -> None:
        """Take an event whose class alone does not say whether it is wanted."""
        if self.selection.wants(event):
            self.offer(event)

    def cancel(self) -> None:
        """End it: no further event is handed on. May be called anywhere, and again."""
        self.cancelled = True
        if self.detach is not None:
            self.detach(self)

    def finish(self) -> None:
        """End it behind what it was offered so far."""
        self.cancel()

    def join(self, timeout: float | None) -> bool:
        """Wait until nothing of it runs any more; say whether that is so."""
        return True


class Inline(threading.local):
    """What each thread knows of the inline handlers that it is in the middle of."""

    depth = 0


INLINE = Inline()


def inside_inline_handler() -> bool:
    """Say whether the caller runs inside an inline handler, where nothing may wait."""
    return INLINE.depth > 0


class Subscription(Listener[E]):
    """A handler on the bus; also a context manager that cancels it at the end."""

    def __init__(self, selection: Selection, handler: Callable[[E], object]) -> None:
        super().__init__(selection, getattr(handler, "__qualname__", repr(handler)))
        self.handler = handler
        self.delivered = 0
        """Events that the handler has seen through."""
        self.failed = 0
        """Events at which the handler raised."""
        self.slow = 0
        """Events that an inline handler held the publisher up for too long with."""
        self.unreported = 0
        self.report_due = 0.0

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Cancel."""
        self.cancel()

    def call(self, event: E) -> BaseException | None:
        """Let the handler see the event; return what it raised, which is its own affair."""
        try:
            self.handler(event)
        except KeyboardInterrupt:
            raise  # is meant for the process, not for the handler
        except BaseException as error:  # also SystemExit: a handler does not end a node
            self.failed += 1
            return error
        self.delivered += 1
        return None

    def report(self, what: str, event: ConsensusEvent, error: BaseException | None) -> None:
        """Log what the handler did, at most one line in `REPORT_SECONDS_MIN`; never raises."""
        now = time.monotonic()
        if now < self.report_due:
            self.unreported += 1
            return
        self.report_due = now + REPORT_SECONDS_MIN
        unreported, self.unreported = self.unreported, 0
        self.log(
            f"event handler {self.name} {what} at {event.topic} number {event.sequence} "
            f"(and {unreported} times unreported)",
            error,
        )

    def log(self, line: str, error: BaseException | None) -> None:
        """Write one line; a broken sink of the user's is not felt."""
        from loguru import logger  # late: it costs more to import than all of this package

        with suppress(Exception):
            logger.opt(exception=error).warning("{}", line)


class InlineSubscription(Subscription[E]):
    """A handler that runs on the publisher's thread: it costs the node's turn what it takes."""

    def __init__(
        self,
        selection: Selection,
        handler: Callable[[E], object],
        slow_ms_max: float,
        budget: TurnBudget,
    ) -> None:
        super().__init__(selection, handler)
        self.slow_seconds_max = slow_ms_max / 1000
        self.budget = budget
        self.logging: threading.Thread | None = None

    def offer(self, event: E) -> None:
        """Call the handler now, timed."""
        if self.cancelled:
            return
        started = time.perf_counter()
        INLINE.depth += 1
        try:
            error = self.call(event)
        finally:
            INLINE.depth -= 1
        elapsed = time.perf_counter() - started
        self.budget.spend(elapsed)
        if elapsed > self.slow_seconds_max:
            self.slow += 1
            self.report(f"held the node up for {elapsed * 1000:.1f} ms", event, error)
        elif error is not None:
            self.report("raised", event, error)

    def report(self, what: str, event: ConsensusEvent, error: BaseException | None) -> None:
        """Log what the handler did, unless the line before is still being written."""
        if self.logging is not None and self.logging.is_alive():
            self.unreported += 1
        else:
            super().report(what, event, error)

    def log(self, line: str, error: BaseException | None) -> None:
        """Write one line on another thread: a traceback takes milliseconds, a sink any time."""
        logging = threading.Thread(target=super().log, args=(line, error), name=f"events:{self.name}:log", daemon=True)
        with suppress(RuntimeError):  # no thread to be had: the handler's counters tell
            logging.start()
            self.logging = logging

    def join(self, timeout: float | None) -> bool:
        """Wait until the last line about the handler is written; say whether that is so."""
        if self.logging is None or self.logging is threading.current_thread():
            return True
        self.logging.join(timeout)
        return not self.logging.is_alive()


class QueuedSubscription(Subscription[E]):
    """A handler with a backlog and a thread of its own, started by the first event."""

    def __init__(self, selection: Selection, handler: Callable[[E], object], backlog: Backlog[E]) -> None:
        super().__init__(selection, handler)
        self.backlog = backlog
        self.thread: threading.Thread | None = None
        self.starting = threading.Lock()

    @property
    def dropped(self) -> int:
        """How many events were dropped because the backlog was full."""
        return self.backlog.dropped

    def offer(self, event: E) -> None:
        """Queue the event for the handler's thread."""
        if self.cancelled:
            return
        self.backlog.put(event)
        if self.thread is None:
            self.start(event)

    def start(self, event: E) -> None:
        """Start the handler's thread; if there can be none, the next event tries again."""
        with self.starting:
            if self.thread is not None:
                return
            thread = threading.Thread(target=self.run, name=f"events:{self.name}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self.failed += 1
                self.report("has no thread", event, error)
            else:
                self.thread = thread

    def run(self) -> None:
        """Hand the backlog to the handler, event by event, until it ends."""
        while (event := self.backlog.get()) is not None:
            error = self.call(event)
            if error is not None:
                self.report("raised", event, error)

    def cancel(self) -> None:
        """End it: a call under way finishes, what waits is not seen."""
        super().cancel()
        self.backlog.abandon()

    def finish(self) -> None:
        """End it when the handler has seen what waits for it."""
        self.backlog.finish()

    def join(self, timeout: float | None) -> bool:
        """Wait until the handler's thread has ended; say whether that is so."""
        thread = self.thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout)
        return not thread.is_alive()
