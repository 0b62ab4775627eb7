"""Keeping leases alive: when each is due, and when it must be regarded as lost; the client's driver does the sending.

A lease lives for its time to live after the cluster applied its last keep-alive. That is later than when the keep-alive
was sent, so what counts here is the time since the last one that succeeded was sent: this client then never believes in
a lease that the cluster has ended. Its clock runs through suspension, because the cluster's does too.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Any, Final

from forge_consensus.client.pending import Pending
from forge_consensus.errors import CommandError, ConsensusError
from forge_consensus.process.threads import ForgeThread
from forge_consensus.process.waiters import Latch
from forge_consensus.storage.machines.machine import Command

KEEP_ALIVES: Final = 3
"""So often a lease is kept alive while it lives; each attempt may take as long as it is until the next."""
PAUSE_PART: Final = 0.1
"""After a failed attempt the next one waits for this part of the time between two."""


def running_clock() -> float:
    """Seconds of a clock that runs through suspension (CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LostLatch(Latch):
    """A flag that is set when a lease is lost. It is set also if its time is over and nobody has looked yet."""

    __slots__ = ("until",)

    def __init__(self, until: float) -> None:
        super().__init__()
        self.until = until
        """Until when the lease lives for certain, in seconds of `running_clock`."""

    def is_set(self) -> bool:
        """Whether the lease must be regarded as lost."""
        return self.flag or running_clock() >= self.until

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is lost, at most `timeout` seconds (None: without limit); return whether it is."""
        end = inf if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            left = min(self.until - running_clock(), end - time.monotonic())
            if left <= 0:
                break
            self.waiters.wait_for(self.is_set, left)
        return self.is_set()


class LeaseLife:
    """What a client knows of how long a lease lives, and who is told when it is lost.

    It does not know the lease's handle or the client, so that both can be dropped while it is kept.

    Args:
        number: the lease's id.
        ttl: its time to live, in seconds.
        sent_at: when the command that granted it was sent, in seconds of `running_clock`.

    """

    def __init__(self, number: int, ttl: float, sent_at: float) -> None:
        self.number = number
        self.ttl = ttl
        self.lost = LostLatch(sent_at + ttl)
        self.due_at = sent_at + ttl / KEEP_ALIVES
        self.payload = Command("lease_keep_alive", {"lease": number}).encode()
        self.listeners: list[Callable[[], object]] = []
        """Called once when the lease is lost while it is kept. They must be short."""
        self.sleepers: list[Callable[[], object]] = []
        """Called when the lease is lost or revoked: they wake tasks that wait for that."""

    @property
    def seconds(self) -> float:
        """For how many seconds it lives for certain, 0 if it is lost."""
        return 0.0 if self.lost.flag else max(0.0, self.lost.until - running_clock())

    def kept(self, sent_at: float) -> None:
        """Note that a keep-alive that was sent then has succeeded."""
        self.lost.until = max(self.lost.until, sent_at + self.ttl)
        self.due_at = max(self.due_at, sent_at + self.ttl / KEEP_ALIVES)

    def end(self) -> None:
        """Note that it is gone, and wake who waits for that."""
        self.lost.set()
        for wake in self.sleepers.copy():
            wake()

    def lose(self) -> None:
        """Note that it is lost, once, and tell of it."""
        if not self.lost.flag:
            self.end()
            for tell in self.listeners.copy():
                tell()


def told_on_a_thread(callback: Callable[[], object]) -> Callable[[], object]:
    """Return a function that has the callback called on a thread of its own, because it may wait for the client."""

    def tell() -> None:
        with suppress(ConsensusError):  # the process has no more threads; the flag is set all the same
            ForgeThread(target=callback, name="forge-lease-lost").start()

    return tell


class LeaseKeeper:
    """The leases that one client keeps alive. Only the client's driver calls it, but for `keep` and `leave`."""

    def __init__(self, clock: Callable[[], float] = running_clock) -> None:
        self.clock = clock
        self.wishes: deque[tuple[bool, LeaseLife]] = deque()
        """Lives to keep (True) or to leave (False), from any thread."""
        self.lives: dict[LeaseLife, Pending[Any] | None] = {}
        """With the attempt that is under way for each."""
        self.attempts: dict[Pending[Any], tuple[LeaseLife, float]] = {}
        """Every attempt that is under way, and when it was sent; also those of leases that were left since."""

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.lives or self.wishes)

    # --- for any thread ---

    def keep(self, life: LeaseLife) -> None:
        """From now on keep a lease alive."""
        self.wishes.append((True, life))

    def leave(self, life: LeaseLife) -> None:
        """Keep a lease alive no longer; it ends by itself."""
        self.wishes.append((False, life))

    # --- for the driver ---

    def take_wishes(self) -> None:
        """Begin to keep what is to be kept, and leave what is to be left."""
        while self.wishes:
            wanted, life = self.wishes.popleft()
            if wanted:
                self.lives.setdefault(life, None)
            else:
                self.lives.pop(life, None)

    def seconds(self) -> float:
        """For how many seconds nothing is to be done."""
        if not self:
            return inf
        if self.wishes:
            return 0.0
        at = min((self.wake_at(life, attempt) for life, attempt in self.lives.items()), default=inf)
        return max(0.0, at - self.clock())

    def wake_at(self, life: LeaseLife, attempt: Pending[Any] | None) -> float:
        """When something is to be done for a lease."""
        return life.lost.until if attempt is not None else min(life.due_at, life.lost.until)

    def due(self) -> list[Pending[Any]]:
        """The keep-alives to send now; leases whose time is over are lost."""
        self.take_wishes()
        now, made = self.clock(), []
        for life, attempt in list(self.lives.items()):
            if now >= life.lost.until:
                self.lose(life)
            elif attempt is None and now >= life.due_at:
                seconds = min(life.ttl / KEEP_ALIVES, life.lost.until - now)
                pending: Pending[Any] = Pending(life.payload, time.monotonic() + seconds)
                self.lives[life] = pending
                self.attempts[pending] = (life, now)
                made.append(pending)
        return made

    def take(self, batch: list[Pending[Any]]) -> list[Pending[Any]]:
        """Take the outcomes of keep-alives out of a batch of calls that ended; returns the others."""
        others = []
        for pending in batch:
            found = self.attempts.pop(pending, None)
            if found is None:
                others.append(pending)
            else:
                self.note(*found, pending.error)
        return others

    def note(self, life: LeaseLife, sent_at: float, error: ConsensusError | None) -> None:
        """Note the outcome of a keep-alive; one that failed is tried again, unless the cluster knows no such lease."""
        kept = life in self.lives
        if kept:
            self.lives[life] = None
        if error is None:
            life.kept(sent_at)
        elif isinstance(error, CommandError):
            if kept:
                self.lose(life)
        else:
            life.due_at = self.clock() + PAUSE_PART * life.ttl / KEEP_ALIVES

    def lose(self, life: LeaseLife) -> None:
        """Note that a lease is lost, and keep it no longer."""
        self.lives.pop(life, None)
        life.lose()

    def end(self) -> None:
        """Note that nothing is kept alive any more, because the client has ended."""
        self.take_wishes()
        for life in list(self.lives):
            self.lose(life)

    def forked(self) -> None:
        """In a child process: the parent keeps its leases, and here nobody can know of them; nobody is told."""
        self.take_wishes()
        for life in self.lives:
            life.lost.set()
