"""The verdicts on keys: the changes tell a story that fits what users were answered, and all nodes tell the same."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
from typing import Any, Final

from forge_consensus.client.key_records import KeyChange, KeyEntry
from forge_consensus.testing.histories.history import Outcome
from tests.cluster.siege.key_notes import KeyNotes, WriteNote
from tests.cluster.siege.key_users import ACCOUNTS, FUNDS, accounts
from tests.cluster.siege.key_watchers import KeyWatcher, Segment, State

CLOCK_SECONDS: Final = 0.01
"""By so much the clocks of client and node may differ in what a second is, over the longest time to live."""
TOLD_MAX: Final = 5


def demand_nothing(wrong: Sequence[str]) -> None:
    """Raises `AssertionError` with the first things that are wrong."""
    more = f"; and {len(wrong) - TOLD_MAX} more" if len(wrong) > TOLD_MAX else ""
    assert not wrong, "; ".join(wrong[:TOLD_MAX]) + more


class Story:
    """The state as the changes tell it, entry by entry, with what cannot be in `wrong`."""

    def __init__(self, prefix: str, segment: Segment) -> None:
        self.prefix = prefix
        self.segment = segment
        self.state: State = dict(segment.base)
        self.wrong: list[str] = []

    def tell(self) -> State:
        """Go through all changes; returns the state behind them."""
        place = self.segment.begin - 1
        for index, group in groupby(self.segment.changes, key=lambda change: change.index):
            changes = list(group)
            if index <= place:
                self.wrong.append(f"entry {index} is told behind entry {place}")
            place = index
            for key, count in Counter(change.key for change in changes).items():
                if count > 1:
                    self.wrong.append(f"entry {index} is told {count} times to change {key}")
            self.guarded(changes)
            for change in changes:
                self.change(change)
            self.leases(changes)
            self.funds(changes)
        if place >= self.segment.end:
            self.wrong.append(f"entry {place} is told before the watch was there: {self.segment.end}")
        return self.state

    def change(self, change: KeyChange) -> None:
        """Compare a change with the state before it, and take it into the state."""
        old = self.state.get(change.key)
        if change.kind == "put":
            created = old.created if old is not None else change.index
            if change.created != created:
                self.wrong.append(f"{change}: the key exists since entry {created}")
            self.state[change.key] = KeyEntry(change.key, change.value, change.created, change.index, change.lease)
            appended = change.key.startswith(f"{self.prefix}queue/")
            if appended and not change.key.endswith(f"/{change.index:016}"):
                self.wrong.append(f"{change}: an appended key has the number of its entry")
            return
        if old is None:
            self.wrong.append(f"{change}: the key does not exist")
        elif old.lease != change.lease or (change.kind == "expire") > (old.lease != 0):
            self.wrong.append(f"{change}: the key hangs on lease {old.lease}")
        self.state.pop(change.key, None)

    def leases(self, changes: Iterable[KeyChange]) -> None:
        """Demand that all keys of a lease go with it at once."""
        for lease in {change.lease for change in changes if change.kind == "expire"}:
            if left := [key for key, entry in self.state.items() if entry.lease == lease]:
                self.wrong.append(f"lease {lease} has expired without {left}")

    def guarded(self, changes: Iterable[KeyChange]) -> None:
        """Demand that who writes under the guard of a lock was the first one in its line."""
        for change in changes:
            if change.key.startswith(f"{self.prefix}guarded/") and change.kind == "put":
                lock, token, _ = change.value
                line = sorted(key for key in self.state if key.startswith(f"locks/{lock}#"))
                holder = self.state[line[0]].created if line else None
                if holder != token:
                    self.wrong.append(f"{change}: the lock was held with token {holder}")

    def funds(self, changes: Iterable[KeyChange]) -> None:
        """Demand that a transaction leaves the sum of all accounts as it was."""
        if any(change.key.startswith(f"{self.prefix}account/") for change in changes):
            held = [self.state[name].value[0] for name in accounts(self.prefix) if name in self.state]
            if sum(held) != FUNDS * ACCOUNTS:
                self.wrong.append(f"the accounts hold {held} after {changes}")


def judge_story(prefix: str, watcher: KeyWatcher, final: State) -> None:
    """Demand that each segment of a watcher of everything makes sense, and the last one leads to the final state."""
    wrong: list[str] = []
    state: State = {}
    for segment in watcher.segments:
        story = Story(prefix, segment)
        state = story.tell()
        wrong += story.wrong
    if state != final:
        keys = sorted(key for key in state.keys() | final.keys() if state.get(key) != final.get(key))
        wrong.append(
            f"by the changes {[state.get(key) for key in keys[:3]]}, really {[final.get(k) for k in keys[:3]]}"
        )
    demand_nothing(wrong)


def judge_told(watcher: KeyWatcher, who: str, begin: int, end: int, changes: Sequence[KeyChange]) -> int:
    """Demand that a watcher was told exactly these changes of the entries from `begin` on and below `end`.

    Entries whose changes it could not have are left out. Returns how many changes were compared. Raises
    `AssertionError`.
    """
    compared = 0
    for segment in watcher.segments:
        low, high = max(begin, segment.begin), min(end, segment.end)
        told = [change for change in segment.changes if low <= change.index < high]
        real = [change for change in changes if low <= change.index < high and watcher.wants(change.key)]
        if told != real:
            place = next((n for n, pair in enumerate(zip(told, real, strict=False)) if pair[0] != pair[1]), None)
            place = min(len(told), len(real)) if place is None else place
            raise AssertionError(
                f"{watcher.name} was told {told[place : place + 1]} after {told[:place][-1:]}, and by {who} there are "
                f"{real[place : place + 1]}; {len(told)} and {len(real)} changes of entries {low} to {high - 1}"
            )
        compared += len(real)
    return compared


def judge_writes(notes: KeyNotes, watcher: KeyWatcher) -> None:
    """Demand that each write happened once and entirely, or not at all, as its user was answered.

    Where the watcher had to begin anew, what lies between is not known. Raises `AssertionError`.
    """
    found: defaultdict[str, list[KeyChange]] = defaultdict(list)
    for segment in watcher.segments:
        for change in segment.changes:
            if change.kind == "put" and change.key.startswith(notes.prefix):
                found[mark_of(change.value)].append(change)
    whole = len(watcher.segments) == 1
    wrong = [f"nobody made {changes}" for mark, changes in found.items() if mark not in notes.writes]
    for note in notes.writes.values():
        wrong += faults_of(note, found.get(note.mark, []), notes, whole=whole)
    demand_nothing(wrong)


def faults_of(note: WriteNote, changes: Sequence[KeyChange], notes: KeyNotes, *, whole: bool) -> list[str]:
    """What is wrong with the changes of one write."""
    wrong = []
    if len(changes) not in {0, note.keys} or len({change.index for change in changes}) > 1:
        wrong.append(f"{note} made {changes}")
    if note.outcome is Outcome.REFUSED and changes:
        wrong.append(f"{note} was refused, and there is {changes}")
    if note.outcome is Outcome.OK and whole and not changes:
        wrong.append(f"{note} was acknowledged, and there is nothing of it")
    for change in changes:
        seen = notes.seen.get(change.lease)
        if note.ttl and seen is not None and seen < note.sent_at + note.ttl - CLOCK_SECONDS:
            wrong.append(f"{note} was gone {seen - note.sent_at:.3f} s after it was sent")
    return wrong


def mark_of(value: Any) -> str:
    """The mark in a value of a user."""
    return str(value[-1] if isinstance(value, list) else value)


def judge_leases(notes: KeyNotes) -> None:
    """Demand that no lease ended before it could be regarded as lost. Raises `AssertionError`."""
    wrong = []
    for note in notes.leases:
        seen, until = notes.seen.get(note.life.number), note.life.lost.until
        if seen is not None and seen < until - CLOCK_SECONDS:
            wrong.append(f"lease {note.life.number} of {note.user} ended {until - seen:.3f} s before its time")
    demand_nothing(wrong)


def judge_holds(notes: KeyNotes) -> None:
    """Demand that no two holders had a lock at once, and that tokens grow. Raises `AssertionError`."""
    wrong = []
    for lock in {hold.lock for hold in notes.holds}:
        holds = sorted((hold for hold in notes.holds if hold.lock == lock), key=lambda hold: hold.token)
        for one, other in pairwise(holds):
            if one.token == other.token or one.end >= other.begin:
                wrong.append(f"{one} and {other} at once")
    demand_nothing(wrong)
