"""The time of the log: what a leader stamps on entries. It continues from leader to leader, whatever their clocks say.

Two times are on each entry. The *elapsed time* is how long the cluster has been running: each leader measures it by
its real-time clock and continues where the log ended. It never falls and never jumps, so whatever expires goes by it.
The *wall time* is for people. It follows the median of the members' wall clocks, forward at once and back slowly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from forge_consensus.storage.ledger.applying import READ_BYTES, Applier
from forge_consensus.storage.ledger.log import Log
from forge_consensus.storage.ledger.record import UNTIMED, parse

PACE_MIN: Final = 0.5
"""How fast the wall time goes on, at least, while it is ahead of the members' clocks."""
SOFT_MS: Final = 1000.0
"""A wall time that is ahead by less than this goes on faster than `PACE_MIN`, so that it does not overshoot."""
STEP_BACK_MS: Final = 5 * 60 * 1000
"""A wall time that is ahead by more than this is set back at once, because it would take too long to be right again.

So it is right again after twice this time at the latest. It is the only reason for which the wall time ever falls.
"""


class ClockSample(NamedTuple):
    """What a member's wall clock read: between `low_ms` and `high_ms` at the second `at` of this node's real time.

    The two differ by the round trip of the question, because the clock was read somewhere within it.
    """

    low_ms: int
    high_ms: int
    at: float

    def read_at(self, now: float) -> tuple[float, float]:
        """Return the bounds of what the clock reads at `now`, if it was not set since."""
        passed_ms = (now - self.at) * 1000
        return self.low_ms + passed_ms, self.high_ms + passed_ms


def agreed(samples: Sequence[ClockSample], now: float) -> tuple[float, float]:
    """Return the bounds within which the right time lies at `now`, if most of these clocks are right; at least one.

    With an odd number of clocks both come from the middle one, so that a wrong clock counts for nothing however wrong
    it is. With an even number the two in the middle may differ: then nothing between them is known to be wrong.
    """
    bounds = [sample.read_at(now) for sample in samples]
    count = len(bounds)
    lows, highs = sorted(low for low, _ in bounds), sorted(high for _, high in bounds)
    return lows[(count - 1) // 2], highs[count // 2]


class LogTime:
    """The two times, as a node knows them; they count only while it leads.

    Arguments named `now` are seconds of the node's real-time clock, which never goes back. A follower keeps the elapsed
    time that it heard from its leader, so that the time since the last entry is not lost when it leads itself.
    """

    def __init__(self) -> None:
        self.is_known = False
        """Whether this node led, or heard a leader, since it was started."""
        self.elapsed_from_ms = 0
        self.elapsed_since = 0.0
        self.wall_from_ms = 0.0
        self.wall_since = 0.0
        self.pace = 1.0

    def elapsed_ms(self, now: float) -> int:
        """Return for how many milliseconds the cluster has been running."""
        return self.elapsed_from_ms + int((now - self.elapsed_since) * 1000)

    def wall_ms(self, now: float) -> int:
        """Return the wall time of an entry that is written now, in milliseconds since 1970."""
        return int(self.wall_at(now))

    def wall_at(self, now: float) -> float:
        """Return the wall time with its fraction."""
        return self.wall_from_ms + (now - self.wall_since) * 1000 * self.pace

    def heard(self, elapsed_ms: int, now: float) -> None:
        """Take over the elapsed time of the leader that this node follows."""
        self.elapsed_from_ms, self.elapsed_since, self.is_known = elapsed_ms, now, True

    def begin(self, now: float, elapsed_ms: int, wall_ms: int) -> None:
        """Begin to lead: both times go on from those of the last entry of the log, or from what was heard since."""
        self.heard(max(elapsed_ms, self.elapsed_ms(now) if self.is_known else 0), now)
        self.wall_from_ms, self.wall_since, self.pace = float(wall_ms), now, 1.0

    def follow(self, now: float, low_ms: float, high_ms: float) -> int:
        """Let the wall time follow the members' clocks, which are between these bounds.

        A wall time that is behind them is set forward at once. One that is ahead goes on more slowly until it is right,
        or is set back if it is ahead by more than `STEP_BACK_MS`. Returns by how many milliseconds it was set back.
        """
        wall, stepped = self.wall_at(now), 0
        self.pace = 1.0
        if wall < low_ms:
            wall = low_ms
        elif wall - high_ms > STEP_BACK_MS:
            stepped = int(wall - high_ms)
            wall = high_ms
        elif wall > high_ms:
            self.pace = max(PACE_MIN, 1.0 - (wall - high_ms) / SOFT_MS)
        self.wall_from_ms, self.wall_since = wall, now
        return stepped


def last_times(log: Log, applier: Applier) -> tuple[int, int]:
    """Return the elapsed time and the wall time of the last entry in the log, applied or not, in milliseconds.

    Entries of format 2 carry one time only, which may fall from entry to entry: there both are the greatest so far.
    """
    if log.last <= max(applier.index, log.base_index):
        return applier.elapsed_ms, applier.time_ms
    last = parse(log.last, log.get(log.last))
    if last.elapsed_ms != UNTIMED:
        return last.elapsed_ms, last.time_ms
    greatest, index = max(applier.elapsed_ms, applier.time_ms), applier.index + 1
    while index <= log.last:
        records = log.read(index, log.last, READ_BYTES)
        greatest = max(greatest, *(parse(index, record).time_ms for record in records))
        index += len(records)
    return greatest, greatest
