"""The bounds and times of a client, and its patience with nodes that refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds and times of a client."""

    outstanding_max: int = 4096
    """Commands sent and not answered; never above what a node allows one session."""
    frame_items_max: int = 2000
    frame_bytes_max: int = 512 * 1024
    session_ttl_ms: int = 60_000
    silence_s: float = 0.3
    """A leader that says nothing for so long while something is outstanding is doubted."""
    backoff_s_min: float = 0.01
    backoff_s_max: float = 0.5
    resend_s: float = 1.0
    """What is unanswered for so long goes again to the same leader, then after twice as long."""
    resend_passed_s: float = 0.1
    """The same, where something sent later was answered already."""


class Patience:
    """How long to leave the leader alone after it refused: longer each time, with jitter."""

    def __init__(self, limits: Limits, random: Callable[[], float], now: float) -> None:
        self.limits = limits
        self.random = random
        self.until = now
        self.refusals = 0
        """Refusals since the last answer."""

    def lost(self, now: float) -> None:
        """A refusal: send nothing to the leader for a while."""
        limits = self.limits
        delay = min(limits.backoff_s_min * (1 << min(self.refusals, 10)), limits.backoff_s_max)
        self.until = now + delay * (0.5 + 0.5 * self.random())
        self.refusals += 1

    def regained(self, now: float) -> None:
        """An answer: whoever refused before may be asked at once."""
        self.refusals = 0
        self.until = now
