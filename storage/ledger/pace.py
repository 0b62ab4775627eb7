"""The pace of some work: how long one piece of it takes at present, so how long those that wait will take."""

from __future__ import annotations

from typing import Final

WEIGHT: Final = 0.25
"""How much the newest slice counts: a change shows within a few slices, and a single outlier fades as fast."""


class Pace:
    """A moving average of the seconds that one piece takes."""

    __slots__ = ("each",)

    def __init__(self) -> None:
        self.each = 0.0

    def note(self, count: int, seconds: float) -> None:
        """Note that `count` pieces took so many seconds."""
        if count:
            self.each += WEIGHT * (seconds / count - self.each)

    def seconds(self, count: int) -> float:
        """How long so many pieces are expected to take."""
        return count * self.each
