"""The folding of the audit: denials and failures that are alike are told together, as strangers cause them at will.

The first of its kind is told at once, as long as there are few; the others are counted and told later, so the counts of
all that is told add up to what happened. Strangers have a folding of their own, so that no flood of theirs holds back
what is told of those who are known, or pushes out their names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Final

from forge_consensus.events.types import AuditRecorded
from forge_consensus.security.networks import network_of

A_MINUTE: Final = 10
"""So many are told in a minute of strangers, and as many of those who are known; also at once, after a quiet minute."""
PAUSE_SECONDS: Final = 60.0
"""One kind is told again after so long at the earliest."""
KINDS_MAX: Final = 100
"""So many kinds of strangers, and as many of others, are counted apart; those beyond together, as `OTHERS`."""
KINDS_OF_ONE_MAX: Final = 20
"""So many kinds of denials of one name are counted apart, so that one who is known pushes out nobody else's name."""
OTHERS: Final = "others"
STRANGERS: Final = frozenset({"anonymous", "unknown"})
"""How those are identified whom nobody knows."""

Kind = tuple[str, ...]


@dataclass(slots=True)
class Held:
    """One kind: the newest of it, how many were not told, and from when on they may be."""

    newest: AuditRecorded
    due: float
    count: int = 0


class Budget:
    """What may be told: some at once, and as many in each minute. `now` is in seconds and never goes back."""

    def __init__(self) -> None:
        self.left = float(A_MINUTE)
        self.at = 0.0

    def next_at(self, now: float) -> float:
        """When the next one may be told."""
        self.left = min(A_MINUTE, self.left + (now - self.at) * A_MINUTE / 60.0)
        self.at = now
        return now if self.left >= 1.0 else now + (1.0 - self.left) * 60.0 / A_MINUTE + 1e-6

    def takes(self, now: float) -> bool:
        """Whether one may be told now, which is then counted."""
        if self.next_at(now) > now:
            return False
        self.left -= 1.0
        return True


class Fold:
    """Counts the records of strangers, or of those who are known, and hands them out as often as is allowed."""

    def __init__(self) -> None:
        self.kinds: dict[Kind, Held] = {}
        self.budget = Budget()
        self.wake_at = inf
        """When `due` has something; infinity while all was told."""

    def add(self, record: AuditRecorded, now: float) -> None:
        """Count a record; `now` is in seconds of real time."""
        kind = kind_of(record)
        held = self.kinds.get(kind)
        if held is None and (len(self.kinds) >= KINDS_MAX or self.has_many(record)):
            self.forget_idle(now)
            if self.has_many(record):
                record = replace(record, origin="", via="", subject="", action=OTHERS, code="")
                kind = kind_of(record)
                held = self.kinds.get(kind)
        if held is None and len(self.kinds) >= KINDS_MAX:
            record = replace(record, who="", role="", origin="", via="", subject="", action=OTHERS, code="")
            kind = kind_of(record)
            held = self.kinds.get(kind)
        if held is None:
            held = self.kinds[kind] = Held(record, now)
        held.newest = record
        held.count += record.count
        self.wake_at = min(self.wake_at, max(held.due, self.budget.next_at(now)))

    def has_many(self, record: AuditRecorded) -> bool:
        """Whether somebody who is known, and was denied something, was denied so many other things before."""
        if record.outcome != "denied" or record.identity in STRANGERS:
            return False
        of_one = sum(kind[:2] == (record.who, record.identity) and kind[-2] == "denied" for kind in self.kinds)
        return of_one >= KINDS_OF_ONE_MAX

    def due(self, now: float) -> list[AuditRecorded]:
        """Take out what may be told now, that first which has waited longest."""
        found = []
        for held in sorted((each for each in self.kinds.values() if each.count), key=lambda each: each.due):
            if held.due <= now and self.budget.takes(now):
                found.append(replace(held.newest, count=held.count))
                held.count, held.due = 0, now + PAUSE_SECONDS
        first = min((held.due for held in self.kinds.values() if held.count), default=inf)
        self.wake_at = max(first, self.budget.next_at(now))
        return found

    def rest(self) -> list[AuditRecorded]:
        """Take out all that was not told."""
        found = [replace(held.newest, count=held.count) for held in self.kinds.values() if held.count]
        self.kinds.clear()
        self.wake_at = inf
        return found

    def forget_idle(self, now: float) -> None:
        """Forget the kinds of which nothing happened since they were told, and that could be told again."""
        self.kinds = {kind: held for kind, held in self.kinds.items() if held.count or held.due > now}


class Folding:
    """Both folds. Nothing in them is ever taken back."""

    def __init__(self) -> None:
        self.of_strangers, self.of_known = Fold(), Fold()

    @property
    def wake_at(self) -> float:
        """When `due` has something; infinity while all was told."""
        return min(self.of_strangers.wake_at, self.of_known.wake_at)

    def add(self, record: AuditRecorded, now: float) -> None:
        """Count a record.

        Args:
            record: what happened.
            now: seconds of real time.

        """
        fold = self.of_strangers if record.identity in STRANGERS else self.of_known
        fold.add(record, now)

    def due(self, now: float) -> list[AuditRecorded]:
        """Take out what may be told at `now`."""
        return [record for fold in (self.of_known, self.of_strangers) for record in fold.due(now)]

    def rest(self) -> list[AuditRecorded]:
        """Take out all that was not told, because the node ends."""
        return [*self.of_known.rest(), *self.of_strangers.rest()]


def kind_of(record: AuditRecorded) -> Kind:
    """Return by what records are alike: who, from which host, what, and what came of it. A stranger has no name."""
    who = "" if record.identity == "unknown" else record.who
    where = network_of(record.origin)
    subject = record.subject if record.outcome != "denied" else ""  # strangers choose that of denials
    return who, record.identity, where, record.via, record.action, subject, record.outcome, record.code
