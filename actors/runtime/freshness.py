"""The freshness: as of when the applied state is up to date, so that a stale read can say how stale it is at most."""

from __future__ import annotations

from collections import deque
from typing import Final

MARKS_MAX: Final = 64
APART_SECONDS: Final = 0.01
"""Marks that are closer together say little more than one of them."""
DRIFT_MAX: Final = 0.001
"""By how much the clocks of two hosts run apart: the kernel corrects each by at most 500 millionths (adjtimex(2))."""


class Freshness:
    """Marks (index, second): whatever was committed before that second has at most that index.

    Seconds are of this node's real time. A leader makes a mark when a majority has answered a request: nobody else can
    have committed anything before that request was sent. Its followers learn the mark from its requests. A state
    is up to date as of the newest mark whose index is applied. It outlives the actors, because marks stay true.
    """

    def __init__(self) -> None:
        self.marks: deque[tuple[int, float]] = deque()
        """Those whose index is not applied yet; both parts rise."""
        self.covered: float | None = None
        self.term = 0
        self.quickest = self.heard_at = 0.0

    def note(self, index: int, at: float) -> None:
        """Note a mark. One that says nothing new is ignored; any may be left out, because that only looks staler."""
        marks = self.marks
        if at <= (marks[-1][1] if marks else self.covered or 0.0):
            return
        while marks and marks[-1][0] >= index:
            marks.pop()
        if marks and at - marks[-1][1] < APART_SECONDS:
            return
        if len(marks) >= MARKS_MAX:
            self.marks = marks = deque(list(marks)[::2])
        marks.append((index, at))

    def heard(self, term: int, index: int, confirmed: float, sent: float, now: float) -> None:
        """Note the mark (index, confirmed) of the leader of `term`, from a request that it sent at `sent`.

        Both are seconds of the leader's clock. They are translated by its quickest request, so that one that was long
        on its way, or lay unread while this node was busy, does not look fresh. The quickest one may be long ago,
        because a connection can deliver late for minutes; clocks that drift apart meanwhile are allowed for. What
        remains unknown is the time that the quickest one was on its way. If the first requests of a leader were long on
        their way, the next ones show it, and the marks of the first are corrected.
        """
        took = now - sent
        if term != self.term:
            self.term, self.quickest = term, took
        elif took < self.quickest:
            self.set_back(self.quickest - took)
            self.quickest = took
        else:
            self.quickest = min(took, self.quickest + DRIFT_MAX * max(0.0, now - self.heard_at))
        self.heard_at = now
        self.note(index, confirmed + self.quickest)

    def set_back(self, seconds: float) -> None:
        """Correct what is known by so much; marks of earlier terms only look staler by that."""
        self.marks = deque((index, at - seconds) for index, at in self.marks)
        if self.covered is not None:
            self.covered -= seconds

    def as_of(self, applied: int) -> float | None:
        """Return the second as of which the state after entry `applied` is up to date; None if nothing is known."""
        marks = self.marks
        while marks and marks[0][0] <= applied:
            self.covered = marks.popleft()[1]
        return self.covered
