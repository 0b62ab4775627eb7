"""The clocks: one that stands still while the node does not run, one that always runs, one of wall time."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Three clocks for three uses. No reading is ever compared with one of another host."""

    def now(self) -> float:
        """Return the seconds in which the node itself ran: for election, check-quorum and every other deadline.

        A slow flush, a stopped process or a busy host does not move it, so no peer is blamed for a silence that this
        node caused by not listening.
        """

    def boottime_ns(self) -> int:
        """Return nanoseconds that go on through suspend (CLOCK_BOOTTIME): for send times and leases."""

    def wall_ms(self) -> int:
        """Return milliseconds since 1970: for people, and for the expiry of sessions."""

    def lost(self, seconds: float) -> None:
        """Note that the node did not run for so many seconds."""


class SystemClock:
    """The clocks of the host."""

    def __init__(self) -> None:
        self.stalled = 0.0

    def now(self) -> float:
        """Return the seconds in which the node ran."""
        return time.monotonic() - self.stalled

    def boottime_ns(self) -> int:
        """Return nanoseconds since the host started, suspend included."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def wall_ms(self) -> int:
        """Return milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def lost(self, seconds: float) -> None:
        """Note that the node did not run for so many seconds."""
        self.stalled += seconds
