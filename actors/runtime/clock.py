"""The clocks: one that stands still while the node does not run, one that never does, one on the wall."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Three clocks for three uses; none is ever compared with that of another host."""

    def now(self) -> float:
        """Seconds in which the node itself ran: for election, check-quorum and every other deadline.

        A slow flush, a stopped process or a busy host does not move it, so nobody is blamed for silence that
        was one's own deafness.
        """

    def boottime_ns(self) -> int:
        """Nanoseconds that go on through suspend (CLOCK_BOOTTIME): for send times and leases."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970: for people, and for the expiry of sessions."""

    def lost(self, seconds: float) -> None:
        """Note that the node did not run for so long."""


class SystemClock:
    """The machine's clocks."""

    def __init__(self) -> None:
        self.stalled = 0.0

    def now(self) -> float:
        """Seconds in which the node ran."""
        return time.monotonic() - self.stalled

    def boottime_ns(self) -> int:
        """Nanoseconds since the machine started, suspend included."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def lost(self, seconds: float) -> None:
        """The node did not run for so long."""
        self.stalled += seconds
