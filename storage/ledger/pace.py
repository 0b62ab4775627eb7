"""The pace of some work: how long one piece of it takes at present, so how long those that wait will take."""

from __future__ import annotations

from typing import Final

HALF_LIFE_SECONDS: Final = 1.0
"""After so much work, what was done before it counts half."""

PIECES_MAX: Final = 4096
"""Of about so many pieces the average is taken at most, so that it follows a machine that is quick again."""


class Pace:
    """The average of the seconds that the newest pieces took.

    It is an average over pieces, not over slices, because one slow command among thousands of quick ones makes a long
    slice but no long backlog: those that wait are like all that were done.
    """

    __slots__ = ("each", "pieces", "worked")

    def __init__(self) -> None:
        self.each = 0.0
        self.pieces = 0.0
        self.worked = 0.0

    def note(self, count: int, seconds: float) -> None:
        """Note that `count` pieces took so many seconds."""
        if count:
            kept = min(0.5 ** (seconds / HALF_LIFE_SECONDS), max(0.0, 1 - count / PIECES_MAX))
            self.pieces = self.pieces * kept + count
            self.worked = self.worked * kept + seconds
            self.each = self.worked / self.pieces

    def seconds(self, count: int) -> float:
        """How long so many pieces are expected to take."""
        return count * self.each
