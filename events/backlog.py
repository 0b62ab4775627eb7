"""What one listener has yet to see: a bounded queue, and what happens when it is full."""

import math
import threading
import time
from queue import Empty, SimpleQueue
from typing import Generic, Literal, get_args

from forge_consensus.events.envelope import E

WhenFull = Literal["drop_oldest", "drop_newest", "block"]


class TurnBudget:
    """The time that all listeners of a bus together may still cost the present turn.

    Unbounded until the first turn is begun, as when a bus is used without a node.
    """

    def __init__(self) -> None:
        self.remaining_seconds = math.inf

    def begin(self, budget_seconds: float) -> None:
        """Start a turn with this many seconds to spend."""
        self.remaining_seconds = budget_seconds

    def spend(self, elapsed_seconds: float) -> None:
        """Take off what a listener has cost."""
        self.remaining_seconds -= elapsed_seconds


class Backlog(Generic[E]):
    """A bounded queue from the publisher's thread to one listener's thread or loop.

    It rests on `SimpleQueue`, whose `put` takes no lock that a listener could hold while the
    scheduler has taken the interpreter from it: the publisher never waits for a listener, but for
    the policy `block`, and then within two bounds.
    """

    def __init__(self, queue_max: int, when_full: WhenFull, block_ms_max: float, budget: TurnBudget) -> None:
        """Make an empty backlog.

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
        """Events that the listener never sees because the backlog was full."""
        self.finished = False
        self.abandoned = False
        self.events: SimpleQueue[E | None] = SimpleQueue()
        self.space = threading.Event() if when_full == "block" else None

    def __len__(self) -> int:
        """Return the number of events that wait."""
        return self.events.qsize()

    def put(self, event: E) -> None:
        """Queue the event, or do as the policy says. Publisher's thread."""
        if self.events.qsize() >= self.queue_max and not self.make_space():
            self.dropped += 1
            return
        self.events.put(event)

    def get(self, timeout: float | None = None) -> E | None:
        """Return the oldest event, or None at the end. Listener's thread.

        Waits at most `timeout` seconds (None: without end), then raises queue.Empty.
        """
        if self.abandoned:
            return None
        event = self.events.get(timeout=None if timeout is None else max(timeout, 0.0))
        if event is None or self.abandoned:
            self.events.put(None)  # whoever else waits here learns of the end too
            return None
        if self.space is not None:
            self.space.set()
        return event

    def finish(self) -> None:
        """Let the backlog end behind what it holds; what still comes is not seen."""
        self.finished = True
        self.events.put(None)

    def abandon(self) -> None:
        """End the backlog at once; what it holds is not seen."""
        self.abandoned = True
        self.events.put(None)
        if self.space is not None:
            self.space.set()

    def make_space(self) -> bool:
        """Say whether there is now room for one more event."""
        if self.finished or self.when_full == "drop_newest":
            return False
        return self.wait_for_space() if self.when_full == "block" else self.drop_oldest()

    def drop_oldest(self) -> bool:
        """Drop from the front until one more fits."""
        try:
            while self.events.qsize() >= self.queue_max:
                if self.events.get_nowait() is None:
                    self.events.put(None)
                    return False
                self.dropped += 1
        except Empty:
            pass  # the listener was faster
        return True

    def wait_for_space(self) -> bool:
        """Wait for the listener, within the bound of one event and of the turn."""
        assert self.space is not None
        started = time.monotonic()
        deadline = started + min(self.block_seconds_max, self.budget.remaining_seconds)
        while not self.abandoned:
            self.space.clear()
            if self.events.qsize() < self.queue_max:
                break
            left = deadline - time.monotonic()
            if left <= 0 or not self.space.wait(left):
                break
        self.budget.spend(time.monotonic() - started)
        return not self.abandoned and self.events.qsize() < self.queue_max
