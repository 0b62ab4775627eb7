"""The rests of a helper that writes a snapshot, because the commits of the node need the same disk and processors."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

WORK_BYTES: Final = 256 << 10
"""A writer beside a node flushes and rests when it has written so many bytes: a commit of the node waits no longer than
the flush of these."""
REST_FOR_WORK: Final = 3.0
"""How much longer than a piece of work the rest after it is."""
REST_SECONDS_MAX: Final = 1.0
"""No rest is longer, so that a writer on a disk that stalled for once goes on soon."""


class Rests:
    """Lets a writer rest after each piece of its work. One thread uses it.

    Args:
        seconds_max: after so many seconds the writer is ended. Half of them at most are rested, so that a large state
            on a slow disk is written in time.
        now: tells the time, in seconds.
        sleep: waits so many seconds.

    """

    def __init__(
        self,
        seconds_max: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.now = now
        self.sleep = sleep
        self.left = seconds_max / 2
        """So many seconds may still be rested."""
        self.since = now()
        """When the present piece of work began."""

    def rest(self) -> None:
        """Rest in proportion to the work since the last rest."""
        seconds = min((self.now() - self.since) * REST_FOR_WORK, REST_SECONDS_MAX, self.left)
        if seconds > 0:
            self.left -= seconds
            self.sleep(seconds)
        self.since = self.now()
