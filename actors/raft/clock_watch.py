"""The clock watch: what a leader knows of the members' wall clocks, and which of them differ from most others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from forge_consensus.storage.ledger.log_time import ClockSample, LogTime, agreed
from forge_consensus.storage.ledger.quorum import Quorum

SAMPLE_SECONDS_MAX = 10.0
"""A reading older than this says nothing more: the clock may have been set since."""


class Skew(NamedTuple):
    """One member's wall clock differs from most others."""

    node: str
    ahead_ms: float
    """How far it is ahead, negative if it is behind; at least that much, whatever the round trip took."""


class ClockWatch:
    """Lets the log's wall time follow the members' clocks, and notes whose clock is wrong.

    `skewed` holds the members that were last found to differ by more than the bound.
    """

    def __init__(self) -> None:
        self.skewed: set[str] = set()

    def look(
        self, time: LogTime, quorum: Quorum, samples: Mapping[str, ClockSample], now: float, skew_max_ms: float
    ) -> tuple[int, list[Skew]]:
        """Compare the clocks of a leader's cluster; `samples` has its own too, `now` is its second of real time.

        Without recent readings of a majority nothing is followed, because one clock may be wrong. Returns by how many
        milliseconds the log's wall time was set back, and the members that are found to differ now and were not before,
        in order.
        """
        recent = {
            node: sample
            for node, sample in samples.items()
            if node in quorum.voters and now - sample.at < SAMPLE_SECONDS_MAX
        }
        if not quorum.has(recent):
            return 0, []
        low, high = agreed(list(recent.values()), now)
        stepped = time.follow(now, low, high)
        skews = [
            Skew(node, ahead)
            for node, sample in sorted(recent.items())
            if abs(ahead := ahead_of(sample, now, low, high)) > skew_max_ms
        ]
        new = [skew for skew in skews if skew.node not in self.skewed]
        self.skewed = {skew.node for skew in skews}
        return stepped, new


def ahead_of(sample: ClockSample, now: float, low: float, high: float) -> float:
    """Return by how much a clock is ahead of these bounds at least, negative if it is behind, 0 if it may be right."""
    least, most = sample.read_at(now)
    if least > high:
        return least - high
    return min(0.0, most - low)
