"""The habits of a simulated client: how it works, waits, asks again and gives up."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(slots=True)
class Habits:
    """What a client does, in shares of all cases and in virtual seconds."""

    pipeline_max: int = 4
    """So many calls are under way at once."""
    burst_max: int = 4
    """So many commands travel in one frame."""
    read_share: float = 0.35
    lease_share: float = 0.0
    """Of the reads: those that trust the leader's lease."""
    stale_share: float = 0.0
    """Of the reads: those that any node answers as it is."""
    rest_s_max: float = 0.1
    patience_s: float = 0.4
    """How long it waits for an answer, about; now and then ten times as long."""
    double_share: float = 0.0
    """Of the frames with commands: those that leave a second time at once, to any node."""
    stay_share: float = 0.0
    """How often it asks the same node again when no answer came, instead of any."""
    seek_share: float = 0.0
    """How often it waits, after a refusal that names no new leader, to be told of one; then it is the first to ask."""
    abandon_share: float = 0.02
    """How often it leaves the outcome unknown when no answer came."""
    leave_share: float = 1.0
    """How often it then leaves the whole session."""
    content_share: float = 0.0
    """How often it takes a refusal for an answer, where that proves that nothing was done."""
    away_share: float = 0.0
    """How often it does nothing for a while."""
    away_s_max: float = 0.0
    ttl_ms: int = 60_000

    @classmethod
    def drawn(cls, chance: random.Random, clients: int, lease_share: float, pace: float) -> Habits:
        """The habits of one of so many clients, at a plan's pace."""
        pipeline_max = chance.choice((1, 2, 4, 4, 12))
        ttl_s = chance.choice((1.0, 3.0, 60.0))
        return cls(
            pipeline_max=pipeline_max,
            burst_max=chance.choice((1, 2, pipeline_max)),
            read_share=chance.choice((0.2, 0.35, 0.5)),
            lease_share=lease_share,
            stale_share=chance.choice((0.0, 0.2)),
            rest_s_max=0.035 * max(2, clients) * pace,
            patience_s=chance.choice((0.1, 0.4, 0.4)) * pace,
            double_share=chance.choice((0.0, 0.05, 0.3)),
            stay_share=chance.choice((0.0, 0.5, 0.8)),
            seek_share=chance.choice((0.0, 0.5)),
            abandon_share=chance.choice((0.0, 0.02, 0.1)),
            leave_share=chance.choice((0.0, 0.5, 1.0)),
            content_share=chance.choice((0.0, 0.3)),
            away_share=chance.choice((0.0, 0.02)),
            away_s_max=2 * min(ttl_s, 3.0) * pace,
            ttl_ms=int(1000 * ttl_s * pace),
        )

    @classmethod
    def of_reader(cls, lease_share: float, pace: float) -> Habits:
        """The habits of one who reads often and impatiently, and writes little."""
        return cls(
            pipeline_max=3,
            read_share=0.95,
            lease_share=lease_share,
            rest_s_max=0.15 * pace,
            patience_s=0.15 * pace,
            seek_share=0.7,
        )
