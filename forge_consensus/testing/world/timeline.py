"""Virtual time: what happens when, in one order that a seed decides, and the hash that proves it did so again."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from heapq import heappop, heappush
from typing import Any

WALL_MS = 1_800_000_000_000
"""Where simulated wall clocks begin, in milliseconds since 1970."""
NOTED = 2000
"""So many of the newest notes are kept."""


class Timeline:
    """The one clock and the one source of chance of a simulation.

    Acts at one moment happen in the order in which they were planned. `note` feeds the trace: two runs with equal
    digests did the same, byte for byte.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = 0.0
        self.planned: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self.number = 0
        self.trace = blake2b(digest_size=16)
        self.steps = 0
        self.noted: deque[tuple[float, str, str, bytes]] = deque(maxlen=NOTED)
        """What was noted last: moment, kind, who, data."""

    def chance(self, name: str) -> random.Random:
        """A source of chance of one's own, so that one user's draws do not shift another's."""
        return random.Random(f"{self.seed}/{name}")

    def after(self, seconds: float, act: Callable[..., object], *args: Any) -> None:
        """Plan an act, and with what it is to be called."""
        self.number += 1
        heappush(self.planned, (self.now + seconds if seconds > 0.0 else self.now, self.number, act, args))

    def run_until(self, moment: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Let everything happen up to a moment, or until `done` says so after an act; returns what it says."""
        planned = self.planned
        while planned and planned[0][0] <= moment:
            self.now, _, act, args = heappop(planned)
            self.steps += 1
            act(*args)
            if done():
                return True
        self.now = max(self.now, moment)
        return done()

    def note(self, kind: str, who: str, data: bytes = b"") -> None:
        """Put what happens now into the trace."""
        self.trace.update(f"{self.now!r} {kind} {who} {len(data)}\n".encode() + data)
        self.noted.append((self.now, kind, who, data))

    @property
    def digest(self) -> str:
        """The hash of everything that happened so far."""
        return self.trace.hexdigest()


class SimulatedClock:
    """The clocks of one host: they run at a rate of their own and agree with nobody's.

    `ahead` is what the present turn has taken so far. As the production base does it, the host of a process that was
    stopped or flushed slowly calls `lost`.
    """

    def __init__(self, timeline: Timeline, chance: random.Random, drift_max: float) -> None:
        self.timeline = timeline
        self.ahead = 0.0
        self.stalled = 0.0
        self.origin = chance.uniform(1.0, 1e6)
        self.rate = 1.0 + chance.uniform(-drift_max, drift_max)
        self.skew_ms = chance.randint(-2000, 2000)

    def running(self) -> float:
        """Seconds since the host started."""
        return self.origin + (self.timeline.now + self.ahead) * self.rate

    def drift(self, rate: float) -> None:
        """The clock runs at another rate from now on; it neither jumps nor goes back."""
        self.origin += (self.timeline.now + self.ahead) * (self.rate - rate)
        self.rate = rate

    def now(self) -> float:
        """Seconds in which the node ran."""  # `running` is written out: this is asked for all the time
        return self.origin + (self.timeline.now + self.ahead) * self.rate - self.stalled

    def boottime_ns(self) -> int:
        """Nanoseconds since the host started."""
        return int((self.origin + (self.timeline.now + self.ahead) * self.rate) * 1e9)

    def wall_ms(self) -> int:
        """Milliseconds since 1970, wrong by the host's own error."""
        return WALL_MS + self.skew_ms + int((self.timeline.now + self.ahead) * 1000)

    def lost(self, seconds: float) -> None:
        """The node did not run for so long."""
        self.stalled += seconds
