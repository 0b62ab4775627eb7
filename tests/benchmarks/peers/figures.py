"""Figures of several rounds: the median of each with the lowest and the highest, and what one measurement found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Final, Self

from forge_consensus.checks.benchmark import WARM_SECONDS_MAX, WARM_SHARE, WRITES


@dataclass(frozen=True, slots=True)
class Work:
    """What every system is given to do."""

    outstanding: int
    """How many calls are under way at once; the next one begins when one has ended."""
    seconds: float
    value_bytes: int
    kind: str = WRITES
    """`WRITES`, or `READS` of `forge_consensus.checks.benchmark`, which are linearizable here."""

    @property
    def warm_seconds(self) -> float:
        """How long the same work is done before that which counts."""
        return min(self.seconds * WARM_SHARE, WARM_SECONDS_MAX)


@dataclass(frozen=True, slots=True)
class Run:
    """What one system did in one round with so many calls under way."""

    system: str
    round: int
    kind: str
    outstanding: int
    count: int
    """How many calls succeeded."""
    seconds: float
    per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    failed: int
    leader_us: float
    """Processor time of the leader for each call that succeeded, in microseconds, as the next two."""
    follower_us: float
    """The mean of the followers."""
    client_us: float | None
    """None where the load comes from inside the leader."""
    flushes_per_write: float | None
    """How often the leader flushed its disk for each call; None where it does not tell."""
    others_percent: float
    """How much of the machine went to what does not belong to the measurement."""
    note: str = ""
    """What makes the figures doubtful, such as another leader in the end; empty if nothing."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over several rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Self | None:
        """Return the spread of the values that are known; None if none is."""
        known = [each for each in values if each is not None]
        return cls(median(known), min(known), max(known)) if known else None


@dataclass(frozen=True, slots=True)
class Summary:
    """What one system did with so many calls of one kind under way, over all rounds."""

    system: str
    kind: str
    outstanding: int
    rounds: int
    per_second: Spread
    p50_ms: Spread
    p99_ms: Spread
    leader_us: Spread
    follower_us: Spread
    client_us: Spread | None
    flushes_per_write: Spread | None
    others_percent: Spread
    failed: int
    """Calls that failed, in all rounds."""
    notes: tuple[str, ...] = ()


REQUIRED: Final = ("per_second", "p50_ms", "p99_ms", "leader_us", "follower_us", "others_percent")


def summaries(runs: Iterable[Run]) -> list[Summary]:
    """Return a summary for each system, kind of calls and number of them under way, in the order of their first run."""
    groups: dict[tuple[str, str, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.system, run.kind, run.outstanding), []).append(run)
    return [summary(system, kind, outstanding, group) for (system, kind, outstanding), group in groups.items()]


def summary(system: str, kind: str, outstanding: int, group: list[Run]) -> Summary:
    """Return the summary of runs of the same work, of which there is at least one."""
    spreads = {name: known(Spread.of(getattr(run, name) for run in group)) for name in REQUIRED}
    return Summary(
        system=system,
        kind=kind,
        outstanding=outstanding,
        rounds=len(group),
        **spreads,
        client_us=Spread.of(run.client_us for run in group),
        flushes_per_write=Spread.of(run.flushes_per_write for run in group),
        failed=sum(run.failed for run in group),
        notes=tuple(dict.fromkeys(run.note for run in group if run.note)),
    )


def known(spread: Spread | None) -> Spread:
    """Return a spread that every run has."""
    assert spread is not None, "each run has this figure"
    return spread


@dataclass(frozen=True, slots=True)
class Idle:
    """What the nodes of one system used while nobody asked them for anything, in percent of one processor."""

    system: str
    leader_percent: float
    follower_percent: float
    """The mean of the followers."""
