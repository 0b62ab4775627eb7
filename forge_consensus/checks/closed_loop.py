"""Calls of a client in a closed loop: so many are under way at once, and the next one begins when one has ended."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from forge_consensus.client.pending import Pending
from forge_consensus.client.pending_many import PendingMany
from forge_consensus.errors import ConsensusError


class ClosedLoop:
    """Keeps so many calls under way for a while, and notes how long each took as the calling program sees it.

    Calls are awaited in the order in which they began. Those that have ended meanwhile are noted before others begin,
    so that nothing but waiting counts.

    Args:
        begin: begins the call of that number, counted from 0, and returns its future, or that of a list of commands,
            which counts as one call and has failed if one of them has. What it raises as a
            `ConsensusError` is a call that failed.
        outstanding: how many calls are under way at once, at least 1.

    """

    def __init__(self, begin: Callable[[int], Pending[Any] | PendingMany], outstanding: int) -> None:
        self.begin, self.outstanding = begin, outstanding
        self.begun = 0
        self.open: deque[tuple[float, Pending[Any] | PendingMany]] = deque()
        """When each call began that has not ended, and its future."""
        self.took: list[float] = []
        """How many seconds each call took that succeeded."""
        self.failures: Counter[str] = Counter()
        """Code of an error -> how many calls ended with it; each may have been carried out all the same."""

    def run(self, seconds: float) -> float:
        """Begin calls for so many seconds and wait for the last answers; return how many seconds all of it took."""
        began = time.perf_counter()
        end = began + seconds
        try:
            while time.perf_counter() < end:
                while len(self.open) < self.outstanding:
                    self.begin_one()
                self.end_one()
                while self.open and self.open[0][1].done():
                    self.end_one()
        finally:
            while self.open:
                self.end_one()
        return time.perf_counter() - began

    def begin_one(self) -> None:
        """Begin the next call; one that cannot begin has failed, and counts as under way until the loop looks at it."""
        number, self.begun = self.begun, self.begun + 1
        now = time.perf_counter()
        try:
            pending = self.begin(number)
        except ConsensusError as error:
            failed = Pending[Any](b"", 0.0)
            failed.error, failed.finished = error, True
            pending = failed
        self.open.append((now, pending))

    def end_one(self) -> None:
        """Wait for the oldest call, and note what became of it; an interruption leaves it under way."""
        began, pending = self.open[0]
        try:
            error = pending.exception()
        except ConsensusError as late:  # nobody tells any more what became of it
            error = late
        now = time.perf_counter()
        self.open.popleft()
        if error is None:
            self.took.append(now - began)
        else:
            self.failures[error.code] += 1
