"""What one turn of a node cost, as the engine tells it to whoever observes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class TurnReport:
    """One committed turn. Seconds are those of `time.perf_counter`.

    Filled in while the turn runs; the observer gets it at the end and may keep it, but not what `operations` refers
    to, which the next turn uses again.
    """

    began: float
    frames: int
    """Frames that were taken from the wire."""
    seconds: float = 0.0
    """From the first message to the last frame that left, the commit included."""
    commit_seconds: float | None = None
    """What the flush took; None if nothing had to be durable."""
    messages: int = 0
    """Messages that actors handled, frames and requests of clients in this process among them."""
    applied: int = 0
    """Entries that were applied, or jumped over by installing a snapshot."""
    operations: Sequence[tuple[float, int]] = ()
    """(when it came in, number of commands) of each frame of commands that was answered."""
