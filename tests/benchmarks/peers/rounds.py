"""Rounds in which the systems take turns, so that a slow phase of the machine meets all alike."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from forge_consensus.checks.latencies import Latencies
from forge_consensus.errors import ConsensusError
from tests.benchmarks.machine import busy_seconds, cpu_seconds, others_percent
from tests.benchmarks.peers.figures import Run, Work
from tests.benchmarks.peers.floors import measure_floors
from tests.benchmarks.peers.load import Loaded, LoadFailedError
from tests.benchmarks.peers.system import System

FLOOR_SECONDS: Final = 0.5
SEEN_SHARE: Final = 0.9
"""What was used is looked at for this share of a load at least; else too little of it is known."""
LATE: Final = "too busy a machine: processor time and flushes are of a part of the work only"
WARM_WORK: Final = Work(outstanding=64, seconds=1.0, value_bytes=128)
"""What a system does before its first measurement: fresh processes are slow."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A turn of a system that ended without all its figures."""

    system: str
    round: int
    text: str


@dataclass(slots=True)
class Results:
    """All that was measured."""

    runs: list[Run] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    floors: list[dict[str, Latencies]] = field(default_factory=list)
    """One of each round, measured while no system ran."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was used up to one moment."""

    at: float
    nodes: dict[str, float]
    """Processor seconds of each node."""
    client: float | None
    this: float
    """Processor seconds of this process."""
    machine: float
    flushes: int | None
    asked_at: float
    """When the system had told its flushes; a busy one takes its time for that."""


def sample(system: System, client: int | None) -> Sample:
    """Look at what a system and its client have used; the kernel is asked first, because it answers at once."""
    at = time.perf_counter()
    used = {name: cpu_seconds(pid) for name, pid in system.pids().items()}
    of_client = None if client is None else cpu_seconds(client)
    this, machine = sum(os.times()[:2]), busy_seconds()
    flushes = system.flushes()
    return Sample(at, used, of_client, this, machine, flushes, time.perf_counter())


def measure(system: System, work: Work, number: int) -> Run:
    """Load a system that runs, and return what it did; `number` is that of the round.

    Raises `LoadFailedError`, `OSError`, `ConsensusError`.
    """
    leader = system.wait_for_leader()
    with system.load(work) as load:
        load.wait_until_begun()
        before = sample(system, load.pid)
        loaded = load.result()
        after = sample(system, load.pid)
    note = "" if system.wait_for_leader() == leader else "the leader changed"
    return run_of(system.name, number, work.outstanding, leader, loaded, (before, after), note)


def run_of(
    system: str, number: int, outstanding: int, leader: str, loaded: Loaded, samples: tuple[Sample, Sample], note: str
) -> Run:
    """Return what a load found, with what was used between two samples for each write of that time."""
    before, after = samples
    used = {name: after.nodes[name] - before.nodes[name] for name in after.nodes}
    client = None if after.client is None or before.client is None else after.client - before.client
    followers = [seconds for name, seconds in used.items() if name != leader]
    seen, asked = after.at - before.at, after.at - before.asked_at
    late = min(seen, asked) < SEEN_SHARE * loaded.seconds
    flushed = None if before.flushes is None or after.flushes is None else after.flushes - before.flushes

    def writes_in(seconds: float) -> float:
        return max(1.0, loaded.count * min(1.0, seconds / loaded.seconds))

    def each_us(seconds: float) -> float:
        return round(seconds / writes_in(seen) * 1e6, 1)

    return Run(
        system=system,
        round=number,
        outstanding=outstanding,
        count=loaded.count,
        seconds=round(loaded.seconds, 3),
        per_second=round(loaded.count / loaded.seconds, 1),
        p50_ms=loaded.p50_ms,
        p99_ms=loaded.p99_ms,
        max_ms=loaded.max_ms,
        failed=loaded.failed,
        leader_us=each_us(used[leader]),
        follower_us=each_us(sum(followers) / max(len(followers), 1)),
        client_us=None if client is None else each_us(client),
        flushes_per_write=None if flushed is None or flushed < 0 else round(flushed / writes_in(asked), 4),
        others_percent=others_percent(
            after.machine - before.machine,
            [*used.values(), client or 0.0, after.this - before.this],
            seen,
        ),
        note="; ".join(filter(None, [note, LATE if late else ""])),
    )


class Rounds:
    """All rounds of a benchmark.

    Args:
        systems: what takes turns, in this order.
        works: what each does in its turn, one after the other on the same nodes.
        rounds: how many turns each has; nodes and folders are new in each.
        folder: where the nodes keep their data; what they leave is removed.
        tell: takes a line of progress.

    """

    def __init__(
        self,
        systems: Sequence[type[System]],
        works: Sequence[Work],
        rounds: int,
        folder: Path,
        tell: Callable[[str], object],
    ) -> None:
        self.systems, self.works, self.rounds, self.folder, self.tell = systems, works, rounds, folder, tell
        self.results = Results()

    def run(self) -> Results:
        """Carry out all rounds; after an interruption `results` has what was measured until then."""
        for number in range(1, self.rounds + 1):
            self.results.floors.append(measure_floors(self.folder, FLOOR_SECONDS))
            for kind in self.systems:
                self.take_turn(kind, number)
        return self.results

    def take_turn(self, kind: type[System], number: int) -> None:
        """Start a system, let it do all its work and stop it; what fails is noted."""
        where = f"round {number} of {self.rounds}, {kind.title}"
        with TemporaryDirectory(prefix=f"{kind.name}-", dir=self.folder, ignore_cleanup_errors=True) as own:
            system = kind(Path(own))
            self.tell(f"{where}: starting")
            try:
                system.start()
                with system.load(WARM_WORK) as load:
                    load.wait_until_begun()
                    load.result()
                for work in self.works:
                    run = measure(system, work, number)
                    self.results.runs.append(run)
                    self.tell(f"{where}: {run.outstanding:,} at once, {run.per_second:,.0f}/s, p50 {run.p50_ms:g} ms")
            except (LoadFailedError, OSError, subprocess.SubprocessError, ConsensusError) as error:
                self.results.failures.append(Failure(kind.name, number, str(error)))
                self.tell(f"{where}: failed: {error}")
            finally:
                system.stop()
