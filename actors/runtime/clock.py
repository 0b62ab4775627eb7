"""The clocks of a node: real time, the time in which the node itself ran, and wall time.

| Clock | Who goes by it | Why |
|---|---|---|
| `now` | heartbeats, check-quorum, every alarm and duration | a leader that nobody answers must stop in real time |
| `running` | "I hear no leader": election timeouts and stickiness | a node that did not read must blame nobody |
| `boottime_ns` | send times and leases | read when it is asked for, so after a request was taken |
| `wall_ms` | people, the time of an entry, the ends of certificates | may be wrong and may jump |
"""

from __future__ import annotations

import time


class Clock:
    """The clocks of one host. Readings of different hosts are never compared.

    `now` and `running` are taken once a turn, when it begins: within a turn they stand still, and they never go back.
    The engine calls `begin_turn`.
    """

    def __init__(self) -> None:
        self.stalled = 0.0
        """For how many seconds the node did not run, all told."""
        self.turn_before = self.turn_began = self.turn_acted = self.turn_running = 0.0

    def reading(self) -> float:
        """Return the present second of real time: monotonic, and counting suspension and slow turns.

        For how long something takes within a turn, and for waits between turns; everything else goes by `now`.
        """
        raise NotImplementedError

    def boottime_ns(self) -> int:
        """Return the same clock at this moment in nanoseconds (CLOCK_BOOTTIME): for send times and leases."""
        raise NotImplementedError

    def wall_ms(self) -> int:
        """Return milliseconds since 1970 at this moment."""
        raise NotImplementedError

    def begin_turn(self) -> None:
        """Take the readings that hold for this turn."""
        self.turn_before = self.turn_began
        self.turn_began = now = self.reading()
        self.turn_running = max(self.turn_running, now - self.stalled)

    def end_acting(self) -> float:
        """Note that the actors of this turn are done, so that entries and heartbeats leave now; returns the second."""
        self.turn_acted = now = self.reading()
        return now

    def now(self) -> float:
        """Return the second of real time at which this turn began."""
        return self.turn_began

    def before(self) -> float:
        """Return the second at which the turn before this one began: what this turn has read arrived after it."""
        return self.turn_before

    def acted(self) -> float:
        """Return the second at which the actors of the last turn were done: its heartbeats had left then."""
        return self.turn_acted

    def running(self) -> float:
        """Return how many seconds the node had run when this turn began: for "I hear no leader" only.

        A slow flush, a stopped process or a busy host does not advance it, so no leader is blamed for a silence that
        this node caused by not reading.
        """
        return self.turn_running

    def lost(self, seconds: float) -> None:
        """Exclude this many seconds from `running`, because the node did not run."""
        self.stalled += seconds


class SystemClock(Clock):
    """The clocks of the host."""

    def reading(self) -> float:
        """Return seconds since the host started, suspension included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def boottime_ns(self) -> int:
        """Return nanoseconds since the host started, suspension included."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def wall_ms(self) -> int:
        """Return the host's wall clock in milliseconds since 1970; it may be wrong, and may jump."""
        return time.time_ns() // 1_000_000
