"""Slow work: what took too long is told at most once a second, with the number of those that were not told."""

from __future__ import annotations

from math import inf
from typing import Final

SECONDS: Final = 1.0


class SlowWork:
    """Decides which occurrences are told."""

    def __init__(self) -> None:
        self.told_at = -inf
        self.untold = 0

    def tell(self, now: float, count: int = 1) -> int | None:
        """Note `count` occurrences at `now` (seconds).

        Returns how many were not told since the last one that was, or None if this one is not to be told either.
        """
        if now < self.told_at + SECONDS:
            self.untold += count
            return None
        untold, self.untold, self.told_at = self.untold, 0, now
        return untold
