"""The unanswered requests: which clients wait for an answer, so that each gets one even if the actors fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class Unanswered:
    """The senders of requests that were accepted and not yet answered.

    It outlives the actors: after a fault the rebuilt gateway answers all of them with "outcome unknown".
    """

    def __init__(self) -> None:
        self.senders: dict[Any, None] = {}
        """In the order in which their requests arrived."""
        self.settled: list[Any] = []
        """The senders that this turn answers."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self.senders)

    def __len__(self) -> int:
        return len(self.senders)

    def add(self, sender: Any) -> None:
        """Note that a request is in progress."""
        self.senders[sender] = None

    def settle(self, sender: Any) -> None:
        """Note that this turn answers a request."""
        self.settled.append(sender)

    def commit(self) -> None:
        """Forget the requests that the turn answered.

        This happens only after the commit: had the turn failed, their clients must still get "outcome unknown".
        """
        while self.settled:
            self.senders.pop(self.settled.pop(), None)

    def take_back(self) -> None:
        """Keep the requests that the turn would have answered, because the turn was rolled back."""
        self.settled.clear()
