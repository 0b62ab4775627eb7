"""A time slice: how long one turn may work at something that can be continued in the next turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

NS: Final = 1_000_000_000


class TimeSlice:
    """The time of one slice of work, which is done in steps on the node's thread.

    After each step `over` reads the clock. A step cannot be interrupted, so a slice takes at most its own time and that
    of one step. A step that takes `slow_seconds` or more is worth telling; it always ends its slice.

    Args:
        clock_ns: returns nanoseconds of a clock that runs while the work is done. In a simulation it is virtual, so
            the same seed cuts the same slices.
        seconds: the slice ends with the first step that ends after this time.
        slow_seconds: see above; at least `seconds`.

    """

    __slots__ = ("before_ns", "clock_ns", "now_ns", "seconds", "slow_seconds", "until_ns")

    def __init__(self, clock_ns: Callable[[], int], seconds: float, slow_seconds: float) -> None:
        self.clock_ns = clock_ns
        self.seconds = seconds
        self.slow_seconds = max(seconds, slow_seconds)
        self.before_ns = self.now_ns = clock_ns()
        self.until_ns = self.now_ns + int(seconds * NS)

    def over(self) -> bool:
        """Note that a step has ended; returns whether the time of the slice is used up."""
        self.before_ns, self.now_ns = self.now_ns, self.clock_ns()
        return self.now_ns >= self.until_ns

    @property
    def is_over(self) -> bool:
        """Whether its time was used up when the last step ended."""
        return self.now_ns >= self.until_ns

    @property
    def step_seconds(self) -> float:
        """How long the last step took."""
        return (self.now_ns - self.before_ns) / NS

    @property
    def step_was_slow(self) -> bool:
        """Whether the last step took so long that it is worth telling."""
        return self.step_seconds >= self.slow_seconds


def endless() -> TimeSlice:
    """A slice that never ends, for work outside a turn."""
    return TimeSlice(lambda: 0, 1.0, 1.0)
