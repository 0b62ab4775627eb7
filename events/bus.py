"""The event bus of a node: it delivers events to handlers and streams, typed, in order, at no risk to the node.

It uses blinker, with one signal per event class. This module adds what blinker leaves open: the bus keeps handlers
alive, a handler that raises does not stop the others, and each queued handler has a backlog and a thread of its own.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from inspect import iscoroutinefunction
from typing import Any, Final, TypeVar, Unpack, overload

from blinker import ANY, Signal

from forge_consensus.events.backlog import Backlog, TurnBudget, WhenFull
from forge_consensus.events.envelope import ConsensusEvent, E, UnknownEvent
from forge_consensus.events.selection import Selection
from forge_consensus.events.stream import (
    AsyncEventStream,
    EventStream,
    LoopListener,
    StreamEndedError,
    StreamListener,
)
from forge_consensus.events.subscription import (
    InlineSubscription,
    Listener,
    QueuedSubscription,
    SubscribeOptions,
    Subscription,
)
from forge_consensus.events.types import EVENT_TYPES
from forge_consensus.process.fork import tell_of_forks

QUEUE_MAX: Final = 1024
BLOCK_MS_MAX: Final = 5.0

H = TypeVar("H", bound=Callable[[Any], object])


class ArrivalSet(dict[Any, None]):
    """The part of the set interface that blinker uses, in order of insertion."""

    def add(self, item: object) -> None:
        """Append the item, unless it is already present."""
        self.setdefault(item)

    def discard(self, item: object) -> None:
        """Remove the item, if it is present."""
        self.pop(item, None)


class OrderedSignal(Signal):
    """A blinker signal that calls its receivers in the order in which they were connected.

    blinker keeps receivers in sets of object ids. The order of such a set differs from run to run, so a simulation
    with inline handlers would not replay.
    """

    set_class = ArrivalSet  # type: ignore[assignment]  # blinker's own hook for this

    def publish(self, event: object) -> None:
        """Call every receiver with the event.

        Unlike `send`, it does not ask each time whether a receiver is a coroutine function, because the bus accepts
        none.
        """
        for receiver in self.receivers_for(ANY):
            receiver(event)


class EventBus:
    """The event bus of one node.

    `publish`, `begin_turn` and `has_listeners` must be called on the node's thread; everything else may be called on
    any thread and inside handlers. Each listener sees the events that it selected in the order in which they were
    published. Inline listeners see one event in the order in which they subscribed.
    """

    def __init__(self, *, slow_ms_max: float = 5.0) -> None:
        """Make a bus that warns in the log when an inline handler takes longer than `slow_ms_max` milliseconds."""
        self.slow_ms_max = slow_ms_max
        self.budget = TurnBudget()
        self.closed = False
        self.listeners: tuple[Listener[Any], ...] = ()
        self.signals: dict[type[ConsensusEvent], OrderedSignal] = {}
        # Re-entrant because the garbage collector may cancel a dropped stream at any point.
        self.lock = threading.RLock()
        self.leaving: deque[Listener[Any]] = deque()
        """Listeners that were cancelled, and are to be disconnected by whoever has the lock next."""
        self.publishing: int | None = None
        self.deferred: deque[ConsensusEvent] = deque()
        for event_type in (*EVENT_TYPES.values(), UnknownEvent):
            self.signal_of(event_type)
        tell_of_forks(self)

    # ---- for the node

    def begin_turn(self, budget_seconds: float) -> None:
        """Start a turn of the node in which all listeners together may cost `budget_seconds`.

        The budget limits the policy `block`. The time of inline handlers is counted too, but nothing can stop one.
        """
        self.budget.begin(budget_seconds)

    def has_listeners(self, event_type: type[ConsensusEvent]) -> bool:
        """Return whether any listener could see an event of exactly this class."""
        signal = self.signals.get(event_type)
        return bool((signal or self.signal_of(event_type)).receivers)

    def publish(self, event: ConsensusEvent) -> None:
        """Deliver the event to every listener that selected it. The node calls this after the commit.

        It raises nothing. An event that an inline handler publishes is delivered after the present one, so that all
        listeners see the two in the same order.
        """
        signal = self.signals.get(type(event)) or self.signal_of(type(event))
        if not signal.receivers:
            return
        me = threading.get_ident()
        if self.publishing == me:
            self.deferred.append(event)
            return
        self.publishing = me
        try:
            signal.publish(event)
            while self.deferred:
                event = self.deferred.popleft()
                self.signal_of(type(event)).publish(event)
        finally:
            self.publishing = None

    # ---- for listeners

    @overload
    def subscribe(
        self,
        kind: type[E],
        handler: Callable[[E], object],
        **options: Unpack[SubscribeOptions],
    ) -> Subscription[E]: ...

    @overload
    def subscribe(
        self,
        kind: str,
        handler: Callable[[ConsensusEvent], object],
        **options: Unpack[SubscribeOptions],
    ) -> Subscription[ConsensusEvent]: ...

    def subscribe(
        self,
        kind: type[ConsensusEvent] | str,
        handler: Callable[[Any], object],
        **options: Unpack[SubscribeOptions],
    ) -> Subscription[Any]:
        """Call a handler with every event of a class (`ConsensusEvent`: every event) or of a pattern.

        Args:
            kind: an event class, or a pattern of kinds such as `"consensus.leader.*"`.
            handler: is called with each event; what it returns is ignored, what it raises is counted and logged.
            options: see `SubscribeOptions`.

        Raises ValueError for a pattern that matches no kind and for an option out of range, TypeError for a coroutine
        function (use `astream`), and StreamEndedError if the bus is closed.

        """
        return self.add_handler(kind, handler, options)

    @overload
    def on(
        self, kind: type[E], **options: Unpack[SubscribeOptions]
    ) -> Callable[[Callable[[E], object]], Callable[[E], object]]: ...

    @overload
    def on(self, kind: str, **options: Unpack[SubscribeOptions]) -> Callable[[H], H]: ...

    def on(self, kind: type[ConsensusEvent] | str, **options: Unpack[SubscribeOptions]) -> Callable[[Any], Any]:
        """Return a decorator that subscribes a function for as long as the bus exists; arguments as for `subscribe`."""

        def decorate(handler: Callable[[Any], object]) -> Callable[[Any], object]:
            self.add_handler(kind, handler, options)
            return handler

        return decorate

    @overload
    def stream(self, *, timeout: float | None = None, queue_max: int = QUEUE_MAX) -> EventStream[ConsensusEvent]: ...

    @overload
    def stream(
        self, kind: type[E], /, *kinds: type[E], timeout: float | None = None,
        queue_max: int = QUEUE_MAX,
    ) -> EventStream[E]: ...  # fmt: skip

    @overload
    def stream(
        self, kind: type[ConsensusEvent] | str, /, *kinds: type[ConsensusEvent] | str,
        timeout: float | None = None, queue_max: int = QUEUE_MAX,
    ) -> EventStream[ConsensusEvent]: ...  # fmt: skip

    def stream(
        self,
        *kinds: type[ConsensusEvent] | str,
        timeout: float | None = None,
        queue_max: int = QUEUE_MAX,
    ) -> EventStream[Any]:
        """Iterate over the events of these kinds (none given: all) that are published from now on.

        The loop ends after `timeout` seconds without an event (None: it goes on). A stream that falls more than
        `queue_max` events behind loses the oldest; its `dropped` counts them.
        """
        listener: StreamListener[Any] = StreamListener(
            Selection.of(*kinds), self.backlog_of(queue_max, "drop_oldest", BLOCK_MS_MAX)
        )
        self.attach(listener)
        return EventStream(listener, timeout)

    @overload
    def astream(
        self, *, timeout: float | None = None, queue_max: int = QUEUE_MAX
    ) -> AsyncEventStream[ConsensusEvent]: ...

    @overload
    def astream(
        self, kind: type[E], /, *kinds: type[E], timeout: float | None = None,
        queue_max: int = QUEUE_MAX,
    ) -> AsyncEventStream[E]: ...  # fmt: skip

    @overload
    def astream(
        self, kind: type[ConsensusEvent] | str, /, *kinds: type[ConsensusEvent] | str,
        timeout: float | None = None, queue_max: int = QUEUE_MAX,
    ) -> AsyncEventStream[ConsensusEvent]: ...  # fmt: skip

    def astream(
        self,
        *kinds: type[ConsensusEvent] | str,
        timeout: float | None = None,
        queue_max: int = QUEUE_MAX,
    ) -> AsyncEventStream[Any]:
        """Iterate like `stream`, but with `async for`, on the event loop that waits first."""
        listener: LoopListener[Any] = LoopListener(
            Selection.of(*kinds), self.backlog_of(queue_max, "drop_oldest", BLOCK_MS_MAX)
        )
        self.attach(listener)
        return AsyncEventStream(listener, timeout)

    @overload
    def wait_for(
        self,
        kind: type[E],
        timeout: float | None = None,
        predicate: Callable[[E], bool] | None = None,
    ) -> E: ...

    @overload
    def wait_for(
        self,
        kind: str,
        timeout: float | None = None,
        predicate: Callable[[ConsensusEvent], bool] | None = None,
    ) -> ConsensusEvent: ...

    def wait_for(
        self,
        kind: type[ConsensusEvent] | str,
        timeout: float | None = None,
        predicate: Callable[[Any], bool] | None = None,
    ) -> ConsensusEvent:
        """Return the next event of the kind, published after the call, that the predicate accepts (None: any).

        Raises TimeoutError after `timeout` seconds (None: waits without limit) and StreamEndedError if the bus is
        closed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.stream(kind) as events:
            while True:
                left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                try:
                    event = events.get(left)
                except TimeoutError:
                    raise TimeoutError(f"no {events.listener.selection} in {timeout} s") from None
                if predicate is None or predicate(event):
                    return event

    def close(self, timeout: float = 1.0) -> bool:
        """End all listeners after the events that wait for them, or after `timeout` seconds.

        Returns whether every thread has ended in time. Further calls do nothing.
        """
        deadline = time.monotonic() + timeout
        self.closed = True
        listeners = self.listeners
        for listener in listeners:
            self.detach(listener)
            listener.finish()
        ended = [listener.join(max(deadline - time.monotonic(), 0.0)) for listener in listeners]
        for listener, has_ended in zip(listeners, ended, strict=True):
            if not has_ended:
                listener.cancel()
        return all(ended)

    # ---- connecting listeners

    def add_handler(
        self,
        kind: type[ConsensusEvent] | str,
        handler: Callable[[Any], object],
        options: SubscribeOptions,
    ) -> Subscription[Any]:
        """Subscribe a handler: what `subscribe` and `on` share."""
        if iscoroutinefunction(handler):
            raise TypeError("a handler is called, not awaited: use `async for` over `astream`")
        selection = Selection.of(kind)
        subscription: Subscription[Any]
        # Made for inline handlers too, so that wrong options are refused in both cases.
        backlog = self.backlog_of(
            options.get("queue_max", QUEUE_MAX),
            options.get("when_full", "drop_oldest"),
            options.get("block_ms_max", BLOCK_MS_MAX),
        )
        if options.get("inline", False):
            subscription = InlineSubscription(selection, handler, self.slow_ms_max, self.budget)
        else:
            subscription = QueuedSubscription(selection, handler, backlog)
        self.attach(subscription)
        return subscription

    def backlog_of(self, queue_max: int, when_full: WhenFull, block_ms_max: float) -> Backlog[ConsensusEvent]:
        """Make a backlog that shares this bus's turn budget."""
        return Backlog(queue_max, when_full, block_ms_max, self.budget)

    def attach(self, listener: Listener[Any]) -> None:
        """Connect a listener to every signal it may select. Raises StreamEndedError if the bus is closed."""
        with self.lock:
            if self.closed:
                raise StreamEndedError("the event bus is closed")
            listener.detach = self.detach
            self.listeners = (*self.listeners, listener)
            for event_type, signal in list(self.signals.items()):
                connect(signal, event_type, listener)
        self.disconnect_leaving()
        if self.closed:  # meanwhile
            listener.cancel()
            raise StreamEndedError("the event bus is closed")

    def detach(self, listener: Listener[Any]) -> None:
        """Disconnect a listener from every signal.

        It never waits: a signal handler may have interrupted the thread that has the lock. Then that thread disconnects
        the listener when it goes on; a cancelled listener accepts no event meanwhile.
        """
        self.leaving.append(listener)
        self.disconnect_leaving()

    def disconnect_leaving(self) -> None:
        """Disconnect the listeners that are leaving, unless another thread has the lock and does it."""
        while self.leaving and self.lock.acquire(blocking=False):
            try:
                with suppress(IndexError):
                    self.disconnect(self.leaving.popleft())
            finally:
                self.lock.release()

    def disconnect(self, listener: Listener[Any]) -> None:
        """Disconnect a listener from every signal; the caller has the lock."""
        self.listeners = tuple(other for other in self.listeners if other is not listener)
        for signal in list(self.signals.values()):
            signal.disconnect(listener.offer)
            signal.disconnect(listener.offer_if_wanted)

    def forked(self) -> None:
        """In a child process: a thread that had the lock does not exist there."""
        self.lock, self.publishing = threading.RLock(), None

    def signal_of(self, event_type: type[ConsensusEvent]) -> OrderedSignal:
        """Return the signal of exactly this class; a user's own event class gets one at its first use."""
        with self.lock:
            signal = self.signals.get(event_type)
            if signal is None:
                signal = OrderedSignal(event_type.kind)
                for listener in self.listeners:
                    connect(signal, event_type, listener)
                self.signals[event_type] = signal
            return signal


def connect(signal: OrderedSignal, event_type: type[ConsensusEvent], listener: Listener[Any]) -> None:
    """Connect the listener to the signal of a class, if it may select events of that class.

    The connection is strong: with blinker's weak default a lambda or a bound method would silently disappear.
    """
    if not listener.selection.may_want(event_type):
        return
    by_class = event_type is not UnknownEvent
    signal.connect(listener.offer if by_class else listener.offer_if_wanted, weak=False)
