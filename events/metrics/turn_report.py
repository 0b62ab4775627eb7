"""The report of one turn of a node: what it did and what it cost, as the engine passes it to its observers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class TurnReport:
    """One committed turn. Times are those of `time.perf_counter`, in seconds.

    The engine fills it in while the turn runs and passes it on at the end. An observer may keep it, but not the
    sequence `operations`, which the next turn reuses.
    """

    began: float
    frames: int
    """Frames that the turn received."""
    seconds: float = 0.0
    """From the first message to the last frame that was sent, the commit included."""
    commit_seconds: float | None = None
    """How long the flush took; None if nothing had to be made durable."""
    messages: int = 0
    """Messages that actors handled, including frames and requests of clients in this process."""
    applied: int = 0
    """Entries that were applied, or that an installed snapshot covered."""
    operations: Sequence[tuple[float, int]] = ()
    """(time of arrival, number of commands) of each frame of commands that was answered."""
