"""How long many operations took: the median, the slow ones and the slowest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Latencies:
    """How long operations of one kind took, in seconds; 0 where there was none."""

    count: int
    p50_seconds: float
    p99_seconds: float
    max_seconds: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """Return the summary of single times."""
        ordered = sorted(seconds)
        return cls(len(ordered), share(ordered, 0.5), share(ordered, 0.99), ordered[-1] if ordered else 0.0)


def share(ordered: Sequence[float], part: float) -> float:
    """Return the smallest of the ascending times that is not exceeded by that part of them; 0 without any."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else 0.0
