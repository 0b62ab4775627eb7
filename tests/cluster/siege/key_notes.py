"""What the users of keys note in a round: leases, holds of locks, writes with marks; the verdicts compare them."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from forge_consensus.client.lease_keeper import LeaseLife, running_clock
from forge_consensus.testing.histories.history import Outcome


@dataclass(slots=True)
class LeaseNote:
    """One lease, as its holder knows it."""

    user: str
    life: LeaseLife
    """Its `until` is the time until when it certainly lives, in seconds of `running_clock`."""
    reached: list[float] = field(default_factory=list)
    """When writes of its client were acknowledged that had taken a small part of its time to live."""


@dataclass(slots=True)
class HoldNote:
    """One lock that was held once, and the times between which its holder knew that it held it."""

    lock: str
    token: int
    begin: float
    end: float


@dataclass(slots=True)
class WriteNote:
    """One write with a mark of its own, by which its changes are found."""

    mark: str
    keys: int
    """How many keys it writes."""
    sent_at: float
    """In seconds of `running_clock`."""
    ttl: float = 0.0
    """The time to live of its key, 0 for one without."""
    outcome: Outcome = Outcome.OPEN
    """Refused stands also for a transaction whose comparisons did not hold."""


@dataclass(slots=True)
class KeyNotes:
    """All that the users and watchers of one round have noted."""

    prefix: str
    """What all keys of the round begin with, but those of locks."""
    leases: list[LeaseNote] = field(default_factory=list)
    holds: list[HoldNote] = field(default_factory=list)
    writes: dict[str, WriteNote] = field(default_factory=dict)
    """By mark."""
    wrong: list[str] = field(default_factory=list)
    """What a user saw that must not be."""
    errors: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    """How many leases were lost while they were kept alive."""
    seen: dict[int, float] = field(default_factory=dict)
    """By lease: when a watcher was told first that keys have expired with it, in seconds of `running_clock`."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    marks: int = 0

    def mark(self, user: str) -> str:
        """A text that no other write has."""
        with self.lock:
            self.marks += 1
            return f"{user}-{self.marks}"

    def expired(self, lease: int) -> None:
        """Note that a watcher is told now that keys have expired with a lease."""
        with self.lock:
            self.seen.setdefault(lease, running_clock())

    def lines(self) -> list[str]:
        """All notes as text, for whoever explains a failure."""
        leases = [
            f"lease {n.life.number} of {n.user}: ttl {n.life.ttl}, until {n.life.lost.until}" for n in self.leases
        ]
        seen = [f"lease {lease} expired, seen at {at}" for lease, at in self.seen.items()]
        return [*leases, *seen, *map(str, self.holds), *map(str, self.writes.values()), *self.wrong]
