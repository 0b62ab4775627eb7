"""The tally of a siege: counts of faults, calls and events, added up round by round, and printed at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from forge_consensus.events.types import BecameLeader, SnapshotCompleted, SnapshotRestored
from forge_consensus.testing.histories.history import History
from tests.cluster.siege.feeds import Numbers


@dataclass(slots=True)
class Tally:
    """Holds numbers only, so that an hour needs no more memory than a minute."""

    clusters: int = 0
    rounds: int = 0
    keys: int = 0
    failovers: int = 0
    slowest_check: float = 0.0
    blows: Counter[str] = field(default_factory=Counter)
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    gaps: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    """What there was in rounds of leases, watches and locks."""

    def note_calls(self, history: History) -> None:
        """Count the calls of a round."""
        for call in history:
            self.calls[call.kind, call.outcome.value] += 1

    def note_events(self, numbers: Numbers) -> None:
        """Count the events of a cluster; the election of its first leader is no failover."""
        self.failovers += max(numbers.kinds[BecameLeader.kind] - 1, 0)
        self.events.update(numbers.kinds)
        self.gaps.update(numbers.gaps)

    def lines(self, seconds: float) -> Iterator[str]:
        """Yield the lines of the table."""
        yield f"{self.rounds} rounds on {self.clusters} clusters in {seconds / 60:.1f} minutes"
        yield "faults     " + ", ".join(f"{name} {count}" for name, count in sorted(self.blows.items()))
        yield f"{'calls':10} {'ok':>9} {'refused':>9} {'open':>9}"
        for kind in sorted({kind for kind, _ in self.calls}):
            counts = " ".join(f"{self.calls[kind, outcome]:>9}" for outcome in ("ok", "refused", "open"))
            yield f"{kind:10} {counts}"
        yield "errors     " + (", ".join(f"{name} {count}" for name, count in self.errors.most_common()) or "none")
        yield f"keys       {self.keys} checked, the slowest in {self.slowest_check:.2f} s"
        yield "leases     " + (", ".join(f"{name} {count}" for name, count in self.told.items()) or "none")
        yield f"failovers  {self.failovers}"
        yield f"snapshots  {self.events[SnapshotCompleted.kind]} taken, {self.events[SnapshotRestored.kind]} restored"
        yield f"events     {self.events.total()} in order; gaps: " + (
            ", ".join(f"{reason} {count}" for reason, count in self.gaps.items()) or "none"
        )
