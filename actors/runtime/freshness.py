"""The freshness: as of when the applied state is up to date, so that a stale read can say how stale it is at most."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

MARKS_MAX: Final = 64
APART_SECONDS: Final = 0.01
"""Marks that are closer together say little more than one of them."""
DRIFT_MAX: Final = 0.001
"""By how much the clocks of two hosts run apart: the kernel corrects each by at most 500 millionths (adjtimex(2))."""


@dataclass(frozen=True, slots=True)
class Offset:
    """How many seconds this node's clock is ahead of a peer's, at the least.

    A peer reads its clock after it was asked and before this node gets the answer. So what it read is no earlier than
    the second at which this node asked, however long anything was on its way or lay unread.
    """

    seconds: float
    at: float
    """When it was known, in seconds of this node's clock: the clocks drift apart since."""

    def ahead(self, now: float) -> float:
        """Return the offset at `now`, lessened by what the clocks may have drifted since."""
        return self.seconds - DRIFT_MAX * max(0.0, now - self.at)


class Freshness:
    """Marks (index, second): whatever was committed before that second has at most that index.

    Seconds are of this node's real time. A leader makes a mark when a majority has answered a request: nobody else can
    have committed anything before that request was sent. Its followers learn the mark from its requests, with the
    second by its clock, which they translate by their `Offset`. A state is up to date as of the newest mark whose index
    is applied. It outlives the actors, because marks stay true.
    """

    def __init__(self) -> None:
        self.marks: deque[tuple[int, float]] = deque()
        """Those whose index is not applied yet; both parts rise."""
        self.covered: float | None = None
        self.offsets: dict[str, Offset] = {}
        """By peer whose clock was read in its present process."""

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

    def read_clock(self, node: str, asked: float, read: float, now: float) -> None:
        """Note that a peer's clock read `read` after this node had asked for it at `asked`, and before `now`.

        So this node's clock is ahead by `asked - read` at the least and by `now - read` at the most. What was known
        before is replaced if it says less than the one, or more than the other: then a clock was set, or one is worse
        than `DRIFT_MAX`.
        """
        least, known = asked - read, self.offsets.get(node)
        if known is None or not least < known.ahead(now) <= now - read:
            self.offsets[node] = Offset(least, now)

    def forget_clock(self, node: str) -> None:
        """Forget what is known of the clock of a peer, because another process of it may run on another host."""
        self.offsets.pop(node, None)

    def heard(self, node: str, index: int, confirmed: float, sent: float, now: float) -> None:
        """Note the mark (index, confirmed) of a leader, from a request that it sent at `sent`.

        Both are seconds of the leader's clock; while that was never read, the mark says nothing. A request arrives
        after it was sent, so this node's clock is ahead by `now - sent` at the most. That corrects an offset that has
        become too large because a clock is worse than `DRIFT_MAX`.
        """
        known = self.offsets.get(node)
        if known is None:
            return
        if now - sent < known.ahead(now):
            known = self.offsets[node] = Offset(now - sent, now)
        self.note(index, confirmed + known.ahead(now))

    def as_of(self, applied: int) -> float | None:
        """Return the second as of which the state after entry `applied` is up to date; None if nothing is known."""
        marks = self.marks
        while marks and marks[0][0] <= applied:
            self.covered = marks.popleft()[1]
        return self.covered
