"""The listeners of a bus: how each handler is called, what it has cost, and how it is cancelled."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Self, TypedDict

from forge_consensus.events.backlog import Backlog, TurnBudget, WhenFull
from forge_consensus.events.envelope import ConsensusEvent, E
from forge_consensus.events.selection import Selection
from forge_consensus.process.fork import tell_of_forks

REPORT_SECONDS_MIN = 1.0
"""The least time between two log lines about one handler; reports in between are only counted."""


class SubscribeOptions(TypedDict, total=False):
    """How a handler is called; every option may be left out."""

    inline: bool
    """True: on the publisher's thread, inside `publish`. False (the default): on a thread of its own."""
    queue_max: int
    """How many events may wait for the handler; 1,024 if not given."""
    when_full: WhenFull
    """What happens to one more event; `drop_oldest` if not given."""
    block_ms_max: float
    """How many milliseconds one event may make the publisher wait under `block`; 5 if not given."""


class Listener(Generic[E]):
    """Anything that is connected to the bus: it selects events and is offered them."""

    def __init__(self, selection: Selection, name: str) -> None:
        self.selection = selection
        self.name = name
        self.cancelled = False
        self.detach: Callable[[Listener[Any]], None] | None = None
        """Disconnects this listener; the bus sets it."""

    @property
    def dropped(self) -> int:
        """How many events were dropped because the backlog was full."""
        return 0

    def offer(self, event: E) -> None:
        """Accept an event; must never raise. Runs on the publisher's thread."""
        raise NotImplementedError

    def offer_if_wanted(self, event: E) -> None:
        """Accept an event if it is selected; used where the class alone does not decide that."""
        if self.selection.wants(event):
            self.offer(event)

    def cancel(self) -> None:
        """Stop at once: no further event is delivered. May be called on any thread and repeatedly."""
        self.cancelled = True
        if self.detach is not None:
            self.detach(self)

    def finish(self) -> None:
        """Stop after the events that were offered so far."""
        self.cancel()

    def join(self, timeout: float | None) -> bool:
        """Wait at most `timeout` seconds until nothing of the listener runs any more; return whether that is so."""
        return True


class Inline(threading.local):
    """How many inline handlers the present thread is inside of."""

    depth = 0


INLINE = Inline()


def inside_inline_handler() -> bool:
    """Return whether the caller runs inside an inline handler, where nothing may wait for events."""
    return INLINE.depth > 0


class Subscription(Listener[E]):
    """A handler on the bus; also a context manager that cancels it at the end."""

    def __init__(self, selection: Selection, handler: Callable[[E], object]) -> None:
        super().__init__(selection, getattr(handler, "__qualname__", repr(handler)))
        self.handler = handler
        self.delivered = 0
        """How many events the handler has handled without an error."""
        self.failed = 0
        """How many events the handler raised an error for."""
        self.slow = 0
        """How many events an inline handler spent more than the allowed time on."""
        self.unreported = 0
        self.report_due = 0.0

    def __enter__(self) -> Self:
        """Return the subscription itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Cancel the subscription."""
        self.cancel()

    def call(self, event: E) -> BaseException | None:
        """Call the handler with the event; return the error that it raised, None if it raised none."""
        try:
            self.handler(event)
        except KeyboardInterrupt:
            raise  # it is meant for the process, not for the handler
        except BaseException as error:  # also SystemExit, because a handler must not end a node
            self.failed += 1
            return error
        self.delivered += 1
        return None

    def report(self, what: str, event: ConsensusEvent, error: BaseException | None) -> None:
        """Log what the handler did, at most one line per `REPORT_SECONDS_MIN`; never raises."""
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
        """Write one log line, which waits for nothing."""
        # imported here, because loguru takes longer to import than all of this package
        from forge_consensus.process.log import LogLines

        LogLines(__name__).warning("{}", line, error=error)


class InlineSubscription(Subscription[E]):
    """A handler that runs on the publisher's thread, so its running time is added to the node's turn."""

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

    def offer(self, event: E) -> None:
        """Call the handler now and measure its time."""
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


class QueuedSubscription(Subscription[E]):
    """A handler with a backlog and a thread of its own, which the first event starts."""

    def __init__(self, selection: Selection, handler: Callable[[E], object], backlog: Backlog[E]) -> None:
        super().__init__(selection, handler)
        self.backlog = backlog
        self.thread: threading.Thread | None = None
        self.starting = threading.Lock()
        tell_of_forks(self)

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
        """Start the handler's thread; if the system refuses one, the next event tries again."""
        if not self.starting.acquire(blocking=False):
            return  # it is being started
        try:
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
        finally:
            self.starting.release()

    def forked(self) -> None:
        """In a child process: the thread is not there; an event that is published there starts another."""
        self.thread, self.starting = None, threading.Lock()

    def run(self) -> None:
        """Call the handler with every event of the backlog, until the backlog ends."""
        while (event := self.backlog.get()) is not None:
            error = self.call(event)
            if error is not None:
                self.report("raised", event, error)

    def cancel(self) -> None:
        """Stop at once: a running call finishes, waiting events are not seen."""
        super().cancel()
        self.backlog.abandon()

    def finish(self) -> None:
        """Stop after the events that wait for the handler."""
        self.backlog.finish()

    def join(self, timeout: float | None) -> bool:
        """Wait at most `timeout` seconds until the handler's thread has ended; return whether it has."""
        thread = self.thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout)
        return not thread.is_alive()
