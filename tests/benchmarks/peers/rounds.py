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

from forge_consensus.checks.benchmark import WRITES
from forge_consensus.checks.latencies import Latencies
from forge_consensus.errors import ConsensusError
from tests.benchmarks.machine import busy_seconds, cpu_seconds, others_percent
from tests.benchmarks.peers.figures import Idle, Run, Work
from tests.benchmarks.peers.floors import measure_floors
from tests.benchmarks.peers.load import Loaded, LoadFailedError
from tests.benchmarks.peers.system import System

FLOOR_SECONDS: Final = 0.5
SEEN_SHARE: Final = 0.9
"""What was used is looked at for this share of a load at least; else too little of it is known."""
LATE: Final = "too busy a machine: processor time and flushes are of a part of the work only"
IDLE_SECONDS: Final = 5.0
"""For so long at most the nodes of a system are watched that have been loaded and have nothing to do."""
SETTLE_SECONDS: Final = 1.0
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
    idles: list[Idle] = field(default_factory=list)
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
    return run_of(system.name, number, work, leader, loaded, (before, after), note)


def watch_idle(system: System, watched_seconds: float) -> Idle:
    """Watch the nodes of a system that nobody asks for anything."""
    time.sleep(SETTLE_SECONDS)
    leader, pids = system.wait_for_leader(), system.pids()
    began, before = time.perf_counter(), {name: cpu_seconds(pid) for name, pid in pids.items()}
    time.sleep(watched_seconds)
    seconds = time.perf_counter() - began
    percent = {name: 100 * (cpu_seconds(pid) - before[name]) / seconds for name, pid in pids.items()}
    of_leader = percent.pop(leader)
    return Idle(system.name, round(of_leader, 2), round(sum(percent.values()) / max(len(percent), 1), 2))


def run_of(
    system: str, number: int, work: Work, leader: str, loaded: Loaded, samples: tuple[Sample, Sample], note: str
) -> Run:
    """Return what a load found, with what was used between two samples for each call of that time."""
    before, after = samples
    used = {name: after.nodes[name] - before.nodes[name] for name in after.nodes}
    client = None if after.client is None or before.client is None else after.client - before.client
    followers = [seconds for name, seconds in used.items() if name != leader]
    seen, asked = after.at - before.at, after.at - before.asked_at
    late = min(seen, asked) < SEEN_SHARE * loaded.seconds
    flushed = None if before.flushes is None or after.flushes is None else after.flushes - before.flushes

    def calls_in(seconds: float) -> float:
        return max(1.0, loaded.count * min(1.0, seconds / loaded.seconds))

    def each_us(seconds: float) -> float:
        return round(seconds / calls_in(seen) * 1e6, 1)

    return Run(
        system=system,
        round=number,
        kind=work.kind,
        outstanding=work.outstanding,
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
        flushes_per_write=None if flushed is None or flushed < 0 else round(flushed / calls_in(asked), 4),
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
                self.results.idles.append(watch_idle(system, min(IDLE_SECONDS, self.works[0].seconds)))
                for work in self.works:
                    if work.kind == WRITES or kind.reads:
                        self.note(where, measure(system, work, number))
            except (LoadFailedError, OSError, subprocess.SubprocessError, ConsensusError) as error:
                self.results.failures.append(Failure(kind.name, number, str(error)))
                self.tell(f"{where}: failed: {error}")
            finally:
                system.stop()

    def note(self, where: str, run: Run) -> None:
        """Keep what was measured, and tell of it."""
        self.results.runs.append(run)
        done = f"{run.kind}s, {run.outstanding:,} at once, {run.per_second:,.0f}/s, p50 {run.p50_ms:g} ms"
        self.tell(f"{where}: {done}")
