"""The paths of a proxy: the faults of the messages from one node to another, drawn from a random seed, and counted."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from forge_consensus.errors import InvalidConfigError
from forge_consensus.testing.local.arguments import check_chance, check_flag, check_seconds

REORDER_SECONDS: float = 0.02
"""A reordered message arrives at most this much later, in seconds."""


@dataclass(frozen=True, slots=True)
class PathFaults:
    """The faults of the messages from one node to another, requests and answers alike.

    `drop`, `duplicate` and `reorder` are probabilities for each message; delays are seconds. With `cut` no message
    arrives, and the connection stays open, as with a broken cable.
    """

    delay_s_min: float = 0.0
    delay_s_max: float = 0.0
    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    cut: bool = False

    def __post_init__(self) -> None:
        """Raise `InvalidConfigError` for a value that is no probability or no time."""
        for name in ("drop", "duplicate", "reorder"):
            check_chance(name, getattr(self, name))
        for name in ("delay_s_min", "delay_s_max"):
            check_seconds(name, getattr(self, name))
        if self.delay_s_min > self.delay_s_max:
            raise InvalidConfigError(
                f"the delay is {self.delay_s_min!r} to {self.delay_s_max!r} s: the minimum is above the maximum"
            )
        check_flag("cut", self.cut)


WHOLE = PathFaults()
"""No faults."""
CUT = PathFaults(cut=True)


@dataclass(slots=True)
class PathCounts:
    """The numbers of a path since the proxy was started."""

    messages: int = 0
    bytes: int = 0
    dropped: int = 0
    """Dropped by chance or because the path was cut."""
    delayed: int = 0
    duplicated: int = 0
    reordered: int = 0
    connections: int = 0
    """How many times the source connected to the target."""


@dataclass(slots=True)
class Copy:
    """One delivery of a message: after `seconds`, in the order of sending or out of it."""

    seconds: float
    in_order: bool


@dataclass(slots=True)
class Path:
    """The direction from one node to another, with its present faults."""

    dice: random.Random
    faults: PathFaults = WHOLE
    counts: PathCounts = field(default_factory=PathCounts)

    def fate(self, size: int) -> list[Copy]:
        """Draw the deliveries of the next message, which has `size` bytes; empty if it is lost."""
        faults, counts, dice = self.faults, self.counts, self.dice
        counts.messages += 1
        counts.bytes += size
        if faults.cut or dice.random() < faults.drop:
            counts.dropped += 1
            return []
        seconds = dice.uniform(faults.delay_s_min, faults.delay_s_max)
        counts.delayed += seconds > 0
        overtaken = dice.random() < faults.reorder
        if overtaken:
            counts.reordered += 1
            seconds += dice.uniform(0.0, REORDER_SECONDS)
        copies = [Copy(seconds, not overtaken)]
        if dice.random() < faults.duplicate:
            counts.duplicated += 1
            copies.append(Copy(seconds + dice.uniform(0.0, REORDER_SECONDS), in_order=False))
        return copies
