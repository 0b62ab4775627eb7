"""A window of queries: those of one route that wait or are under way, and whom not to ask about them at present."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from forge_consensus.client.patience import Patience
from forge_consensus.client.pending import PendingRead
from forge_consensus.client.request_window import RequestWindow
from forge_consensus.client.routes import Route
from forge_consensus.config.client import ClientSettings

SHUN_SECONDS_MIN: Final = 1.0
SHUN_SECONDS_MAX: Final = 16.0


class ReadWindow(RequestWindow[PendingRead[Any]]):
    """The queries of one route that are not answered."""

    def __init__(self, route: Route, numbers: Iterator[int], settings: ClientSettings, patience: Patience) -> None:
        super().__init__(
            numbers,
            items_max=settings.frame_items_max,
            bytes_max=settings.frame_bytes_max,
            open_max=settings.outstanding_max,
        )
        self.route = route
        self.patience = patience
        """The pauses after refusals of nodes that need not lead."""
        self.shunned = ""
        self.shun_until = 0.0
        self.shun_seconds = SHUN_SECONDS_MIN

    def shun(self, endpoint: str, now: float) -> None:
        """Ask another endpoint for a while, because this one left a query without an answer or refused it.

        It is asked again later, because it may be the preferred one; each time it fails again the while is longer.
        """
        again = endpoint == self.shunned and now - self.shun_until < self.shun_seconds
        self.shun_seconds = min(2 * self.shun_seconds, SHUN_SECONDS_MAX) if again else SHUN_SECONDS_MIN
        self.shunned, self.shun_until = endpoint, now + self.shun_seconds

    def avoided(self, now: float) -> str:
        """The endpoint that is not asked at present, "" for none."""
        return self.shunned if now < self.shun_until else ""

    def asked(self) -> str:
        """The endpoint to which the oldest unanswered query was sent last."""
        first = next(iter(self.open), 0)
        return next((one.endpoint for one in reversed(self.flights.values()) if first in one.numbers), "")
