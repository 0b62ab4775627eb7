"""The bounded queue of one listener: the events that it has not seen yet, and what happens when the queue is full."""

import math
import time
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Generic, Literal, get_args

from forge_consensus.events.envelope import E

WhenFull = Literal["drop_oldest", "drop_newest", "block"]


class TurnBudget:
    """The seconds that all listeners of a bus together may still cost the present turn of the node.

    The budget is unlimited until `begin` is called, as when a bus is used without a node.
    """

    def __init__(self) -> None:
        self.remaining_seconds = math.inf

    def begin(self, budget_seconds: float) -> None:
        """Start a turn with a budget of `budget_seconds`."""
        self.remaining_seconds = budget_seconds

    def spend(self, elapsed_seconds: float) -> None:
        """Subtract the seconds that a listener has cost."""
        self.remaining_seconds -= elapsed_seconds


class Backlog(Generic[E]):
    """A bounded queue from the publisher's thread to one listener's thread or event loop.

    It uses `SimpleQueue`, because its `put` takes no lock that a listener could hold while the scheduler has suspended
    the listener's thread. So the publisher never waits for a listener, except under the policy `block`, where
    `block_ms_max` and the turn's budget limit the wait.
    """

    def __init__(self, queue_max: int, when_full: WhenFull, block_ms_max: float, budget: TurnBudget) -> None:
        """Make an empty backlog.

        Args:
            queue_max: how many events may wait, at least 1.
            when_full: what happens to one more event: `drop_oldest` and `drop_newest` drop and count an event, `block`
                makes the publisher wait.
            block_ms_max: how many milliseconds one event may make the publisher wait under `block`.
            budget: what all listeners of the bus together may cost a turn.

        Raises ValueError if a bound is not positive or the policy is unknown.

        """
        if queue_max < 1:
            raise ValueError(f"queue_max must be at least 1, not {queue_max}")
        if when_full not in get_args(WhenFull):
            raise ValueError(f"when_full must be one of {get_args(WhenFull)}, not {when_full!r}")
        if not block_ms_max > 0:
            raise ValueError(f"block_ms_max must be positive, not {block_ms_max}")
        self.queue_max = queue_max
        self.when_full = when_full
        self.block_seconds_max = block_ms_max / 1000
        self.budget = budget
        self.dropped = 0
        """How many events the listener never sees, because the backlog was full."""
        self.finished = False
        self.abandoned = False
        self.events: SimpleQueue[E | None] = SimpleQueue()
        self.space: SimpleQueue[None] = SimpleQueue()
        """Holds something when the listener took an event while the publisher waited for space."""
        self.wanted = False

    def __len__(self) -> int:
        """Return the number of events that wait."""
        return self.events.qsize()

    def put(self, event: E) -> None:
        """Queue the event, or apply the policy if the backlog is full. Runs on the publisher's thread."""
        if self.events.qsize() >= self.queue_max and not self.make_space():
            self.dropped += 1
            return
        self.events.put(event)

    def get(self, timeout: float | None = None) -> E | None:
        """Return the oldest event, or None at the end. Runs on the listener's thread.

        Waits at most `timeout` seconds (None: without limit), then raises queue.Empty.
        """
        if self.abandoned:
            return None
        event = self.events.get(timeout=None if timeout is None else max(timeout, 0.0))
        if event is None or self.abandoned:
            self.events.put(None)  # so that another thread that waits here learns of the end too
            return None
        if self.wanted:
            self.space.put(None)
        return event

    def finish(self) -> None:
        """End the backlog after the events that it holds; an event that is put later is not seen."""
        self.finished = True
        self.events.put(None)

    def abandon(self) -> None:
        """End the backlog at once; the events that it holds are not seen."""
        self.abandoned = True
        self.events.put(None)
        self.space.put(None)

    def make_space(self) -> bool:
        """Make space for one more event as the policy says; return whether there is any."""
        if self.finished or self.when_full == "drop_newest":
            return False
        return self.wait_for_space() if self.when_full == "block" else self.drop_oldest()

    def drop_oldest(self) -> bool:
        """Drop events from the front until one more fits; False if the backlog has ended."""
        try:
            while self.events.qsize() >= self.queue_max:
                if self.events.get_nowait() is None:
                    self.events.put(None)
                    return False
                self.dropped += 1
        except Empty:
            pass  # the listener has emptied the queue meanwhile
        return True

    def wait_for_space(self) -> bool:
        """Wait until the listener takes an event, at most `block_ms_max` and what is left of the turn's budget."""
        started = time.monotonic()
        deadline = started + min(self.block_seconds_max, self.budget.remaining_seconds)
        self.wanted = True
        with suppress(Empty):
            while not self.space.empty():
                self.space.get_nowait()
        with suppress(Empty):
            while not self.abandoned and self.events.qsize() >= self.queue_max:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self.space.get(timeout=left)
        self.wanted = False
        self.budget.spend(time.monotonic() - started)
        return not self.abandoned and self.events.qsize() < self.queue_max
