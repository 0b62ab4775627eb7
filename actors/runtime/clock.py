"""The clocks: one that counts only while the node runs, one that always counts, one of wall time."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Three clocks for three uses. Readings of different hosts are never compared."""

    def now(self) -> float:
        """Return the seconds in which the node itself ran: for election, check-quorum and every other deadline.

        A slow flush, a stopped process or a busy host does not advance it, so no peer is blamed for a silence that this
        node caused by not reading.
        """

    def boottime_ns(self) -> int:
        """Return nanoseconds that also count during suspend (CLOCK_BOOTTIME): for send times and leases."""

    def wall_ms(self) -> int:
        """Return milliseconds since 1970: for people, and for the expiry of sessions."""

    def lost(self, seconds: float) -> None:
        """Exclude this many seconds from `now`, because the node did not run."""


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
        """Exclude this many seconds from `now`, because the node did not run."""
        self.stalled += seconds
