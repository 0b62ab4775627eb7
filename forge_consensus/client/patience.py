"""The pauses of a client: how long it sends nothing to the leader after a refusal."""

from __future__ import annotations

from collections.abc import Callable

from forge_consensus.config.client import ClientSettings


class Patience:
    """How long to send nothing to the leader after refusals: longer after each one, with jitter."""

    def __init__(self, settings: ClientSettings, random: Callable[[], float], now: float) -> None:
        self.settings = settings
        self.random = random
        self.until = now
        self.refusals = 0
        """How many refusals came since the last answer."""

    def lost(self, now: float) -> None:
        """Begin a pause after a refusal."""
        settings = self.settings
        delay = min(settings.backoff_seconds_min * (1 << min(self.refusals, 10)), settings.backoff_seconds_max)
        self.until = now + delay * (0.5 + 0.5 * self.random())
        self.refusals += 1

    def regained(self, now: float) -> None:
        """End the pause after an answer."""
        self.refusals = 0
        self.until = now
