"""The catch-up: whether a learner is near enough to the end of the log to vote (dissertation 4.2.1). Pure logic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ROUNDS_MAX: Final = 10
"""A learner that was near in none of so many rounds gets entries more slowly than they come (dissertation 4.2.1)."""


@dataclass(slots=True)
class CatchUp:
    """The rounds of one learner. A round brings it all entries that the leader's log held when the round began.

    A learner that needs longer than an election timeout for a round would hold up the commits of a cluster that counts
    it. `until` is the last index of the present round, `began` the second of real time at which it began.
    """

    until: int
    began: float
    rounds: int = 0
    """How many rounds are complete."""
    seconds: float | None = None
    """How long the last complete round took; None before the first."""

    def note(self, match: int, last: int, now: float) -> None:
        """Note that the learner has the log up to `match`; if that ends a round, the next one goes to `last`."""
        if match >= self.until:
            self.rounds += 1
            self.seconds = now - self.began
            self.until, self.began = last, now

    @property
    def is_late(self) -> bool:
        """Whether it is to be told that the learner does not catch up; it is given time all the same."""
        return self.rounds >= ROUNDS_MAX

    def is_near(self, now: float, seconds_max: float) -> bool:
        """Whether the last round took no longer than so many seconds, nor has the present one."""
        return self.seconds is not None and max(self.seconds, now - self.began) <= seconds_max
