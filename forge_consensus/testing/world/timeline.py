"""Virtual time: planned calls in one order that the random seed decides, and the hash that proves a replay."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from heapq import heappop, heappush
from typing import Any

from forge_consensus.actors.runtime.clock import Clock

WALL_MS = 1_800_000_000_000
"""The first reading of simulated wall clocks, in milliseconds since 1970."""
NOTED = 2000
"""The number of the newest notes that are kept."""


class Timeline:
    """The only clock and the only source of randomness of a simulation.

    Calls that are planned for the same moment happen in the order in which they were planned. `note` adds to a trace:
    two runs with equal digests did the same, byte for byte.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = 0.0
        self.planned: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self.number = 0
        self.trace = blake2b(digest_size=16)
        self.steps = 0
        self.noted: deque[tuple[float, str, str, bytes]] = deque(maxlen=NOTED)
        """The newest notes: moment, kind, subject, data."""

    def chance(self, name: str) -> random.Random:
        """Return a random source with this name, so that the draws of one user do not shift those of another."""
        return random.Random(f"{self.seed}/{name}")

    def after(self, seconds: float, act: Callable[..., object], *args: Any) -> None:
        """Plan a call after this many virtual seconds, with these arguments."""
        self.number += 1
        heappush(self.planned, (self.now + seconds if seconds > 0.0 else self.now, self.number, act, args))

    def run_until(self, moment: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Make all calls up to a moment, or until `done` is true after one of them; return the result of `done`."""
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
        """Add an event of the simulation, at the present moment, to the trace."""
        self.trace.update(f"{self.now!r} {kind} {who} {len(data)}\n".encode() + data)
        self.noted.append((self.now, kind, who, data))

    @property
    def digest(self) -> str:
        """The hash of all notes so far."""
        return self.trace.hexdigest()


class SimulatedClock(Clock):
    """The clocks of one host: they run at a rate of their own and differ from those of every other host.

    `ahead` is the time that the present turn has taken so far, in seconds. As in the production base, the base calls
    `lost` after its process was stopped or a flush was slow.
    """

    def __init__(self, timeline: Timeline, chance: random.Random, drift_max: float) -> None:
        super().__init__()
        self.timeline = timeline
        self.ahead = 0.0
        self.origin = chance.uniform(1.0, 1e6)
        self.rate = 1.0 + chance.uniform(-drift_max, drift_max)
        self.slowest = self.fastest = self.rate
        """The rates that it has had."""
        self.skew_ms = chance.randint(-2000, 2000)
        self.creep = 0.0
        """The milliseconds by which the wall clock gets wronger in each millisecond."""

    def reading(self) -> float:
        """Return seconds since the host started."""
        return self.origin + (self.timeline.now + self.ahead) * self.rate

    def drift(self, rate: float) -> None:
        """Change the rate of the clock from this moment on; its reading neither jumps nor goes back."""
        self.origin += (self.timeline.now + self.ahead) * (self.rate - rate)
        self.rate = rate
        self.slowest, self.fastest = min(self.slowest, rate), max(self.fastest, rate)

    def reading_at(self, moment: float) -> float:
        """Return what `reading` is at a moment of the timeline, outside a turn, if the rate stays as it is."""
        return self.origin + moment * self.rate

    def apart(self, other: SimulatedClock) -> float:
        """Return by what part this clock and another may have run apart, at most, by the rates that they have had."""
        return max(self.fastest / other.slowest, other.fastest / self.slowest) - 1.0

    def boottime_ns(self) -> int:
        """Return nanoseconds since the host started."""
        return int((self.origin + (self.timeline.now + self.ahead) * self.rate) * 1e9)

    def wall_ms(self) -> int:
        """Return milliseconds since 1970, with the error of this host's wall clock."""
        return WALL_MS + self.skew_ms + int((self.timeline.now + self.ahead) * 1000 * (1.0 + self.creep))

    def creeps(self, rate: float) -> None:
        """Let the wall clock run wrong by this rate from now on; its reading does not jump."""
        self.skew_ms += int((self.timeline.now + self.ahead) * 1000 * (self.creep - rate))
        self.creep = rate
