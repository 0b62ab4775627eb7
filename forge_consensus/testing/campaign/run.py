"""The campaign: many seeds in parallel, each result recorded at once; a worker that hangs or dies is a finding."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from forge_consensus.testing.campaign.shrink import Run
from forge_consensus.testing.campaign.state import ALL, NO_DIGEST, SeedLine, StateFile, StateFileError, found_text
from forge_consensus.testing.campaign.worker import Job, Ran, Shrunken, Worker
from forge_consensus.testing.simulator.conditions import HARD, SHARES
from forge_consensus.testing.simulator.plan import SECONDS, Plan
from forge_consensus.testing.simulator.trial import Trial, attempt

LOOK_SECONDS = 0.2
AGAIN_EVERY = 100
"""One seed in this many is run twice, if possible in another process: the digests must be equal."""
JOBS_PER_WORKER = 1000
"""The number of jobs after which a worker is replaced, so that nothing accumulates in it."""
STARTS_FAILED_MAX = 3
"""The campaign ends if this many workers in a row die or are not ready in time."""
START_SECONDS_MAX = 120.0
"""The time until a worker must be ready; many workers that start at once on few cores take long."""


def plan_of(seed: int, changes: dict[str, Any], *, hard: bool) -> Plan:
    """The plan of a seed with these fields changed. If its members change, it has twice the `seconds`."""
    plan = Plan.of(seed, seconds=changes.get("seconds", SECONDS), shares=HARD if hard else SHARES)
    return replace(plan, **{name: value for name, value in changes.items() if name != "seconds"})


@dataclass(frozen=True, slots=True)
class Settings:
    """The seeds of a campaign, and its limits."""

    first: int
    seeds: int
    jobs: int
    changes: dict[str, Any] = field(default_factory=dict)
    """The fields that replace those of the seeds' own plans."""
    hard: bool = False
    """Whether several unusual conditions meet in nearly every plan."""
    minutes: float | None = None
    """How long new seeds are started, in minutes from the first one, so that starting the workers does not count."""
    seed_seconds_max: float = 300.0
    """The limit for one seed, in seconds of processor time; a worker that takes longer, or waits that long, hangs."""
    shrink_seconds_max: float = 60.0
    violations_max: int = 10
    """The number of violations after which no new seed is started."""
    progress_seconds: float = 5.0
    options: str = ""
    """The options that the command needs to run one of these seeds again."""


@dataclass(slots=True)
class Campaign:
    """Runs the seeds that are not done yet; `run` returns whether all of them were run."""

    settings: Settings
    state: StateFile
    say: Callable[[str], None]
    progress: Callable[[str], None]
    attempt: Run = attempt
    workers: list[Worker] = field(default_factory=list)
    again: list[tuple[int, Worker]] = field(default_factory=list)
    """The seeds to run a second time, and the worker that ran each first."""
    found: int = 0
    began: float = field(default_factory=time.monotonic)
    stop_at: float = float("inf")
    """The time at which no new seed is started any more; known once the first worker is ready."""
    done_before: int = 0
    starts_failed: int = 0
    reported_at: float = 0.0

    def run(self) -> bool:
        """Run the seeds. Raises `StateFileError` if the code changes meanwhile, and `KeyboardInterrupt`."""
        settings = self.settings
        self.done_before = self.state.totals[ALL].seeds
        waiting = self.waiting()
        try:
            self.workers = [Worker(self.attempt, self.state.version) for _ in range(min(settings.jobs, self.left))]
            while self.workers:
                if time.monotonic() >= self.stop_at or self.found >= settings.violations_max:
                    waiting = iter(())
                    self.again.clear()
                    self.leave_unready()
                self.hand_out(waiting)
                self.look()
                self.report_progress()
            self.report_progress(at_once=True)
            return self.left == 0
        finally:
            for worker in self.workers:
                worker.end()

    @property
    def left(self) -> int:
        """The number of seeds that are not done."""
        settings = self.settings
        return sum(seed not in self.state.done for seed in range(settings.first, settings.first + settings.seeds))

    def waiting(self) -> Iterator[int]:
        """Yield the seeds that are still to be run, each once."""
        for seed in range(self.settings.first, self.settings.first + self.settings.seeds):
            if seed not in self.state.done:
                yield seed

    # --- handing out -------------------------------------------------------------------------------------------------

    def hand_out(self, waiting: Iterator[int]) -> None:
        """Give every free worker a seed; end workers without work, and replace those that had many jobs."""
        for worker in list(self.workers):
            if worker.job is not None or not worker.ready:
                continue
            if worker.jobs >= JOBS_PER_WORKER:
                self.leave(worker, successor=True)
                continue
            job = self.job_for(worker, waiting)
            if job is None:
                self.leave(worker)
                continue
            if self.stop_at == float("inf") and self.settings.minutes is not None:
                self.stop_at = time.monotonic() + self.settings.minutes * 60
            try:
                worker.give(job)
            except OSError:
                self.lost(worker, "died")

    def leave_unready(self) -> None:
        """End workers that are still starting, because there is no work left for them."""
        for worker in [worker for worker in self.workers if not worker.ready]:
            self.leave(worker)

    def job_for(self, worker: Worker, waiting: Iterator[int]) -> Job | None:
        """Return a seed to repeat that another worker ran, or a new one; None if there is none."""
        for position, (seed, first) in enumerate(self.again):
            if first is not worker or len(self.workers) == 1:
                del self.again[position]
                return Job(self.plan(seed), again=True)
        for seed in waiting:
            return Job(self.plan(seed), shrink_seconds=self.settings.shrink_seconds_max, options=self.settings.options)
        return None

    def plan(self, seed: int) -> Plan:
        """Return the plan of a seed with the changes."""
        return plan_of(seed, self.settings.changes, hard=self.settings.hard)

    def leave(self, worker: Worker, *, successor: bool = False) -> None:
        """End a worker; start another in its place if `successor`."""
        worker.end()
        self.workers.remove(worker)
        if successor:
            self.workers.append(Worker(self.attempt, self.state.version))

    # --- receiving ---------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Receive results of the workers for a moment; detect workers that hang."""
        ready = wait([worker.pipe for worker in self.workers], LOOK_SECONDS)
        for worker in list(self.workers):
            if worker.pipe in ready:
                try:
                    self.receive(worker, worker.pipe.recv())
                except (EOFError, OSError):
                    self.lost(worker, "died")
            elif worker.hangs(self.seconds_max(worker)):
                self.lost(worker, "hangs")

    def seconds_max(self, worker: Worker) -> float:
        """Return the limit in seconds for a worker's present work."""
        if not worker.ready:
            return START_SECONDS_MAX
        return self.settings.seed_seconds_max + worker.shrinking * self.settings.shrink_seconds_max

    def receive(self, worker: Worker, said: Any) -> None:
        """Handle a message of a worker."""
        if isinstance(said, Ran):
            self.ran(worker, said.trial)
        elif isinstance(said, Shrunken):
            worker.job, worker.shrinking = None, False
            self.keep_story(said.seed, said.text)
        elif said:
            raise StateFileError(
                f"the code changed while the campaign ran (from {self.state.version} to {said}): start it again"
            )
        else:
            worker.ready = True
            self.starts_failed = 0

    def ran(self, worker: Worker, trial: Trial) -> None:
        """Record a run that ended."""
        job, failure, seed = worker.job, trial.failure, trial.plan.seed
        assert job is not None
        worker.shrinking = failure is not None and job.shrink_seconds > 0
        worker.begin()
        if not worker.shrinking:
            worker.job = None
        if job.again:
            first = self.state.digests[seed]
            if trial.digest != first:
                self.violation(seed, "replay", f"the run was {first} the first time, {trial.digest} the second", "")
            return
        if failure is not None:
            self.violation(seed, failure.kind, failure.text, failure.story)
        self.state.add(SeedLine.of(trial))
        if seed % AGAIN_EVERY == 0:
            self.again.append((seed, worker))

    def lost(self, worker: Worker, how: str) -> None:
        """Handle a worker that died or hangs: its seed is a finding, unless the worker was only shrinking it."""
        where = worker.where() if how == "hangs" else worker.dump_text()
        after_seconds = self.settings.seed_seconds_max if worker.ready else START_SECONDS_MAX
        job, shrinking = worker.job, worker.shrinking
        self.leave(worker, successor=True)
        ended = f"after {after_seconds:g} s" if how == "hangs" else f"with exit code {worker.process.exitcode}"
        if job is None:
            self.starts_failed += 1
            if self.starts_failed >= STARTS_FAILED_MAX:
                raise StateFileError(f"no worker starts: the last one ended {ended}\n{where}")
        elif shrinking:
            again = f"--replay {job.plan.seed}{job.options}"
            self.say(f"seed {job.plan.seed}: the process that shrank it {how} {ended}; run {again}")
        else:
            seed, plan = job.plan.seed, job.plan
            text = f"the process that ran it {how} {ended}"
            self.violation(seed, how, text, f"seed {seed}: {text}\n{where}")
            self.state.add(SeedLine(seed, NO_DIGEST, plan.nodes, 0, 0.0, 0, 0, 0, 0, 0.0))

    # --- reporting ---------------------------------------------------------------------------------------------------

    def violation(self, seed: int, kind: str, text: str, story: str) -> None:
        """Write a violation to the state file, print it, and save its story."""
        self.found += 1
        self.state.add_failure(seed, kind, text)
        self.say(f"VIOLATION in seed {seed}: {found_text(kind, text)}")
        self.keep_story(seed, story or f"seed {seed}: {kind}: {text}", printed=False)

    def keep_story(self, seed: int, story: str, *, printed: bool = True) -> None:
        """Save a story beside the state file; a shrunk story replaces the whole one."""
        path = Path(f"{self.state.path}.seed-{seed}.txt")
        path.write_text(story + "\n", encoding="utf-8")
        if printed:
            self.say(f"{story}\n(saved as {path})")

    def report_progress(self, *, at_once: bool = False) -> None:
        """Report the progress, every few seconds."""
        now = time.monotonic()
        if not at_once and now - self.reported_at < self.settings.progress_seconds:
            return
        self.reported_at = now
        total, settings = self.state.totals[ALL], self.settings
        rate = (total.seeds - self.done_before) / max(now - self.began, 1e-9)
        left = self.left
        self.progress(
            f"{settings.seeds - left:,} of {settings.seeds:,} seeds, {rate:.1f}/s, "
            f"{total.virtual_seconds / 3600:,.1f} virtual hours, {total.operations:,} operations judged, "
            f"{total.turns:,} turns checked, {len(self.state.failures)} violations, "
            f"{time_text(left / rate) if rate else '?'} left"
        )


def time_text(seconds: float) -> str:
    """Return a duration for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
