"""The slowest of the last seconds: of commits, because a slow disk harms a cluster in silence, and of turns."""

from __future__ import annotations

from typing import Final

WINDOW_SECONDS: Final = 10.0


class Slowest:
    """Keeps the slowest of the present window and of the one before. Times are seconds of real time."""

    def __init__(self) -> None:
        self.began = 0.0
        self.present = self.before = 0.0

    def note(self, seconds: float, now: float) -> None:
        """Note how long something took that ended at `now`."""
        if now - self.began > WINDOW_SECONDS:
            self.move_on(now)
        self.present = max(self.present, seconds)

    def slowest(self, now: float) -> float:
        """The longest duration of the last 10 to 20 seconds; 0 if there was none."""
        if now - self.began > WINDOW_SECONDS:
            self.move_on(now)
        return max(self.present, self.before)

    def move_on(self, now: float) -> None:
        """Begin another window; the one before it counts until that ends, unless it ended long ago."""
        self.before = self.present if now - self.began <= 2 * WINDOW_SECONDS else 0.0
        self.present, self.began = 0.0, now
