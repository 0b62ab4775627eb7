"""The timers: messages that actors receive after some time, unless they cancel them."""

from __future__ import annotations

import heapq
from typing import Any

from forge_consensus.actors.runtime.address import Address
from forge_consensus.actors.runtime.clock import Clock


class Timer:
    """One message to be delivered at `at`, in seconds of real time; `number` keeps equal times in order."""

    __slots__ = ("at", "message", "number", "to")

    def __init__(self, at: float, number: int, to: Address | None, message: Any) -> None:
        self.at = at
        self.number = number
        self.to = to
        self.message = message

    def __lt__(self, other: Timer) -> bool:
        return (self.at, self.number) < (other.at, other.number)

    def cancel(self) -> None:
        """Let the message not be delivered; the timer stays in the queue until its time."""
        self.to = None


class Timers:
    """All timers of a node, in a heap. A cancelled timer stays in it until its time, because removing it costs more.

    They go by real time: a leader whose turns are slow must still send its heartbeats when they are due.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.heap: list[Timer] = []
        self.number = 0

    def after(self, seconds: float, to: Address, message: Any) -> Timer:
        """Deliver a message this many seconds after this turn began, as if its receiver had sent it."""
        self.number += 1
        timer = Timer(self.clock.now() + seconds, self.number, to, message)
        heapq.heappush(self.heap, timer)
        return timer

    def deliver_due(self) -> None:
        """Deliver the messages whose time had come when this turn began."""
        heap, now = self.heap, self.clock.now()
        while heap and heap[0].at <= now:
            timer = heapq.heappop(heap)
            if timer.to is not None:
                timer.to.deliver(timer.message, timer.to)

    def patience(self, seconds_max: float) -> float:
        """For how many seconds nothing is due, at most `seconds_max`."""
        heap = self.heap
        while heap and heap[0].to is None:
            heapq.heappop(heap)
        if not heap:
            return seconds_max
        return min(seconds_max, max(0.0, heap[0].at - self.clock.reading()))

    def clear(self) -> None:
        """Drop every timer, because the actors that set them are gone."""
        self.heap.clear()
