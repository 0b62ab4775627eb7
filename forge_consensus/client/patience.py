"""The patience of a client: how long it leaves a node alone that refused."""

from __future__ import annotations

from collections.abc import Callable

from forge_consensus.config.client import ClientSettings


class Patience:
    """How long to leave the leader alone after it refused: longer each time, with jitter."""

    def __init__(self, limits: ClientSettings, random: Callable[[], float], now: float) -> None:
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
