"""The users of keys in a siege: leases, locks, transactions and appended keys, and notes of what they saw.

Each user has a client and a thread of its own. What an answer proves wrong by itself is noted at once; all else is
compared with the changes at the end of the round.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Final

from forge_consensus.client.compare import Compare
from forge_consensus.client.key_records import KeyEntry
from forge_consensus.client.lease_keeper import LeaseLife, running_clock
from forge_consensus.client.leases import KeptLease, Lease
from forge_consensus.client.sync import Client
from forge_consensus.errors import CommandError, ConsensusError
from forge_consensus.recipes.lock import Lock
from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.histories.history import Outcome
from tests.cluster.siege.callers import JOIN_SECONDS_MAX, TIMEOUTS, outcome_of
from tests.cluster.siege.key_notes import HoldNote, KeyNotes, LeaseNote, WriteNote

LEASE_TTLS: Final = (1.5, 3.0, 5.0)
LEASES_AT_ONCE: Final = 4
KEYS_PER_LEASE: Final = 3
LOCK_TTL: Final = 2.0
LOCKS: Final = ("a", "b")
ACQUIRE_SECONDS: Final = 5.0
KEY_TTLS: Final = (0.3, 1.0, 2.0)
ACCOUNTS: Final = 4
FUNDS: Final = 100
REST_SECONDS_MAX: Final = 0.02
GAP_PART: Final = 0.4
"""A lease that is kept may be lost only if for this part of its time to live no write of its client succeeded: its
keep-alives are sent three times in it, and each may take a third of it."""
QUICK_PART: Final = 0.2


class KeyUser:
    """One user, who works until stopped. Errors of the cluster are counted, all others end the siege."""

    def __init__(self, name: str, client: Client, dice: random.Random, notes: KeyNotes) -> None:
        self.name = name
        self.client = client
        self.dice = dice
        self.notes = notes
        self.stop = threading.Event()
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self.run, name=name, daemon=True)

    def run(self) -> None:
        """Work until stopped; the body of the thread."""
        try:
            while not self.stop.is_set():
                try:
                    self.work()
                except ConsensusError as error:
                    self.notes.errors[type(error).__name__] += 1
                self.stop.wait(self.dice.uniform(0.0, REST_SECONDS_MAX))
        except BaseException as failure:
            self.failure = failure

    def work(self) -> None:
        """Do one thing. Raises the error of a call."""
        raise NotImplementedError

    def join(self) -> None:
        """Wait for the thread. Raises its error, `AssertionError` if it hangs."""
        self.stop.set()
        self.thread.join(JOIN_SECONDS_MAX)
        assert not self.thread.is_alive(), f"user {self.name} hangs: a call took over {JOIN_SECONDS_MAX:g} s"
        if self.failure is not None:
            raise self.failure

    @property
    def seconds(self) -> float:
        """How long the next call may take."""
        return self.dice.choice(TIMEOUTS)

    def marked(self, write: Callable[[str], object], *, keys: int = 1, ttl: float = 0.0) -> bool:
        """Make a write with a mark of its own, and note what became of it; returns whether it was carried out.

        `write` returns False for a transaction whose comparisons did not hold. Raises the error of the call.
        """
        note = WriteNote(self.notes.mark(self.name), keys, running_clock(), ttl)
        self.notes.writes[note.mark] = note
        try:
            done = write(note.mark) is not False
        except ConsensusError as error:
            note.outcome = outcome_of(error)
            raise
        note.outcome = Outcome.OK if done else Outcome.REFUSED
        return done

    def wrong(self, text: str) -> None:
        """Note what must not be."""
        self.notes.wrong.append(f"{self.name}: {text}")


@dataclass(slots=True)
class Held:
    """A lease that a user keeps alive, with the keys that it has put on it."""

    lease: Lease
    note: LeaseNote
    keeping: KeptLease
    keys: set[str] = field(default_factory=set)
    """Those whose write was acknowledged."""


class LeaseUser(KeyUser):
    """Keeps leases alive, puts keys on them, looks whether they are there, revokes leases or lets them end."""

    def __init__(self, name: str, client: Client, dice: random.Random, notes: KeyNotes) -> None:
        super().__init__(name, client, dice, notes)
        self.held: list[Held] = []
        self.fresh = 0

    def work(self) -> None:
        """Do one thing with one lease."""
        self.held = [held for held in self.held if not held.lease.lost.is_set()]
        if not self.held or (len(self.held) < LEASES_AT_ONCE and self.dice.random() < 0.1):
            self.grant()
            return
        held, chance = self.dice.choice(self.held), self.dice.random()
        if chance < 0.7:
            self.write(held)
        elif chance < 0.95:
            self.look(held)
        else:
            self.end(held)

    def grant(self) -> None:
        """Have a lease granted, and keep it alive. It may be over before that, if the answer was late."""
        lease = self.client.lease(self.dice.choice(LEASE_TTLS), self.seconds)
        note = LeaseNote(self.name, lease.life)
        keeping = lease.kept(on_lost=partial(self.lost, note))
        self.notes.leases.append(note)
        late = lease.lost.is_set()
        try:
            keeping.begin()
        except CommandError:
            if not late and lease.valid_for:
                self.wrong(f"{lease} is not known when it begins to be kept")
            raise
        self.held.append(Held(lease, note, keeping))

    def lost(self, note: LeaseNote, lease: Lease) -> None:
        """Judge the loss of a lease that was kept: it must be over, and the cluster out of reach before."""
        life, now = note.life, running_clock()
        self.notes.lost += 1
        if now < life.lost.until:
            self.wrong(f"{lease} is lost {life.lost.until - now:.3f} s before its time")
        gap = longest_gap(note.reached, life)
        if gap < GAP_PART * life.ttl:
            self.wrong(f"{lease} of {life.ttl} s is lost, and writes were never in vain for more than {gap:.3f} s")

    def write(self, held: Held) -> None:
        """Put a key on a lease."""
        lease, began = held.lease, running_clock()
        key = f"{self.notes.prefix}lease/{lease.id}/{self.dice.randrange(KEYS_PER_LEASE)}"
        try:
            self.marked(lambda mark: self.client.put(key, mark, self.seconds, lease=lease))
        except CommandError as error:
            if lease.valid_for:
                self.wrong(f"a key could not be put on {lease}: {error}")
            raise
        held.keys.add(key)
        now = running_clock()
        for each in self.held:
            if now - began < QUICK_PART * each.note.life.ttl:
                each.note.reached.append(now)

    def look(self, held: Held, seconds: float | None = None) -> None:
        """Demand that a lease lives with all its keys, as long as its holder may believe in it."""
        lease, keys = held.lease, set(held.keys)
        prefix = f"{self.notes.prefix}lease/{lease.id}/"
        found = {entry.key for entry in self.client.entries(prefix, timeout=seconds or self.seconds)}
        if lease.valid_for and not keys <= found:
            self.wrong(f"{lease} has lost {sorted(keys - found)}")
        left = lease.left(seconds or self.seconds)
        if lease.valid_for and left is None:
            self.wrong(f"{lease} is not known")

    def end(self, held: Held) -> None:
        """Revoke a lease, or keep it alive no longer."""
        self.held.remove(held)
        if self.dice.random() < 0.5:
            held.keeping.end()
            return
        held.lease.revoke(self.seconds)
        prefix = f"{self.notes.prefix}lease/{held.lease.id}/"
        if found := self.client.entries(prefix, timeout=self.seconds):
            self.wrong(f"{held.lease} was revoked, and there is still {found}")

    def leave(self) -> None:
        """Keep nothing alive any more."""
        for held in self.held:
            held.keeping.end()


def longest_gap(reached: list[float], life: LeaseLife) -> float:
    """The longest time without a write that succeeded, from the last keep-alive that did to the lease's end."""
    end = life.lost.until
    times = [end - life.ttl, *(at for at in reached if end - life.ttl < at < end), end]
    return max(after - before for before, after in pairwise(times))


class LockUser(KeyUser):
    """Acquires a lock, writes under its guard, and releases it; or lets its lease end and tries to write later."""

    def work(self) -> None:
        """Hold a lock once."""
        name = f"{self.notes.prefix.rstrip('/')}-{self.dice.choice(LOCKS)}"
        lock = Lock(self.client, name, LOCK_TTL, owner=self.name)
        token = lock.acquire(ACQUIRE_SECONDS)
        hold = HoldNote(name, token, running_clock(), running_clock())
        self.notes.holds.append(hold)
        lease = lock.held().held().lease
        self.notes.leases.append(LeaseNote(self.name, lease.life))
        if self.dice.random() < 0.15:
            lease.stop_keeping()
            self.stop.wait(self.dice.uniform(0.5, 2.0) * LOCK_TTL)
        try:
            for _ in range(self.dice.randint(1, 5)):
                self.write(lock, hold)
        finally:
            lock.release()

    def write(self, lock: Lock, hold: HoldNote) -> None:
        """Write what only the holder may write."""
        key = f"{self.notes.prefix}guarded/{hold.lock}"

        def guarded(mark: str) -> bool:
            command = Command("set", {"key": key, "value": [hold.lock, hold.token, mark]})
            return bool(self.client.transaction(lock.guard(), [command], timeout=self.seconds))

        done, now = self.marked(guarded), running_clock()
        if lock.is_held:
            hold.end = now
            if not done:
                self.wrong(f"a write under {lock} was refused while it was held")


class Payer(KeyUser):
    """Moves money from account to account; what is in all of them together never changes."""

    def work(self) -> None:
        """Move some money, if nobody else writes to one of the two accounts meanwhile."""
        names = self.dice.sample(accounts(self.notes.prefix), 2)
        payer, payee = (self.balance(name) for name in names)
        amount = self.dice.randint(1, 5)

        def move(mark: str) -> bool:
            done = self.client.transaction(
                [Compare.modified(each.key) == each.modified for each in (payer, payee)],
                [
                    Command("set", {"key": each.key, "value": [each.value[0] + more, mark]})
                    for each, more in ((payer, -amount), (payee, amount))
                ],
                timeout=self.seconds,
            )
            return bool(done)

        self.marked(move, keys=2)

    def balance(self, name: str) -> KeyEntry:
        """An account."""
        found = self.client.entry(name, timeout=self.seconds)
        assert found is not None, f"{name} was made at the beginning, and nobody deletes it"
        return found


def accounts(prefix: str) -> list[str]:
    """The keys of all accounts."""
    return [f"{prefix}account/{number}" for number in range(ACCOUNTS)]


class Appender(KeyUser):
    """Appends keys, with and without a time to live, and deletes some."""

    def __init__(self, name: str, client: Client, dice: random.Random, notes: KeyNotes) -> None:
        super().__init__(name, client, dice, notes)
        self.kept: list[str] = []

    def work(self) -> None:
        """Append a key, or delete one that was appended."""
        if self.kept and self.dice.random() < 0.4:
            if not self.client.delete(self.kept.pop(0), self.seconds):
                self.wrong("a key that was appended is not there")
            return
        ttl = self.dice.choice(KEY_TTLS) if self.dice.random() < 0.5 else None
        made: list[str] = []
        seconds = self.seconds

        def append(mark: str) -> None:
            made.append(self.client.append(f"{self.notes.prefix}queue/", mark, seconds, ttl=ttl))

        self.marked(append, ttl=ttl or 0.0)
        if ttl is None:
            self.kept += made
