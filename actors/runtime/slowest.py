"""The extremes of the last seconds: of commits, because a slow disk harms a cluster in silence, and of turns."""

from __future__ import annotations

from math import inf
from typing import Final

WINDOW_SECONDS: Final = 10.0


COUNT_MIN: Final = 10
"""Fewer occurrences in a window say nothing of the fastest."""


class Slowest:
    """Keeps the extremes of the present window and of the one before. Times are seconds of real time."""

    def __init__(self) -> None:
        self.began = 0.0
        self.present = self.before = 0.0
        self.count, self.fastest_present, self.fastest_before = 0, inf, 0.0

    def note(self, seconds: float, now: float) -> None:
        """Note how long something took that ended at `now`."""
        if now - self.began > WINDOW_SECONDS:
            self.move_on(now)
        self.present = max(self.present, seconds)
        self.fastest_present = min(self.fastest_present, seconds)
        self.count += 1

    def slowest(self, now: float) -> float:
        """The longest duration of the last 10 to 20 seconds; 0 if there was none."""
        if now - self.began > WINDOW_SECONDS:
            self.move_on(now)
        return max(self.present, self.before)

    def fastest(self, now: float) -> float:
        """The shortest duration of the last whole window and the present one; 0 if the former has too few."""
        self.slowest(now)
        return min(self.fastest_present, self.fastest_before)

    def move_on(self, now: float) -> None:
        """Begin another window; the one before it counts until that ends, unless it ended long ago."""
        recent = now - self.began <= 2 * WINDOW_SECONDS
        self.before = self.present if recent else 0.0
        self.fastest_before = self.fastest_present if recent and self.count >= COUNT_MIN else 0.0
        self.count, self.fastest_present = 0, inf
        self.present, self.began = 0.0, now
