"""A distribution: how many values fell into each bucket, cheap enough to be updated in every turn of a node."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

SECONDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Bucket bounds for durations: a turn takes about 0.3 ms, a flush 0.5 ms, an election 10 ms, each up to a second at
worst."""
LONG_SECONDS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
"""Bucket bounds for the duration of snapshots."""
COUNTS: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0)
"""Bucket bounds for batch sizes; no turn takes in more than the last."""


class Distribution:
    """Counts of values by bucket. One thread writes, any thread may read.

    prometheus-client's histogram takes a lock and cannot count one value several times at once; this class counts any
    number of equal values in 0.3 us.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count a value, `times` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper bound, number of values at or below it) for each bucket.

        The last bound is "+Inf". The bound is what Prometheus calls `le`.
        """
        # One copy, so that the buckets agree with each other while the writer goes on.
        counts = self.counts.copy()
        return list(zip([*map(str, self.bounds), "+Inf"], accumulate(map(float, counts)), strict=True))
