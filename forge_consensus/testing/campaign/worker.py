"""The worker of a campaign: a process that runs seeds, so that a seed that hangs or kills it is only a finding."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import glob
import os
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from loguru import logger

from forge_consensus.testing.campaign.shrink import Run, shrink
from forge_consensus.testing.campaign.state import code_version
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.trial import Trial
from forge_consensus.testing.world.folder import PREFIX, SHARED_MEMORY

DUMP_SECONDS_MAX = 2.0
"""The time that a hanging worker has for writing its stack to the dump."""
DUMP_LINES = 30
WAITING_SHARE = 25
"""A worker that computes for less than one part in this many of its time waits for something: no seed does that."""


@dataclass(frozen=True, slots=True)
class Job:
    """A plan to run.

    `again`: it is run only to compare the digest with the first. `shrink_seconds`: how long a failure is shrunk.
    `options`: the options with which the command runs the seed again.
    """

    plan: Plan
    again: bool = False
    shrink_seconds: float = 0.0
    options: str = ""


@dataclass(frozen=True, slots=True)
class Ran:
    """The result of a job."""

    trial: Trial


@dataclass(frozen=True, slots=True)
class Shrunken:
    """The story of a shrunk failure; it follows the result of the job."""

    seed: int
    text: str


def work(pipe: Connection, run: Run, dump: str, version: str) -> None:
    """Run jobs until there are no more. First send the version of the code if it is not the expected one, else ""."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the campaign decides when to stop
    logger.disable("forge_consensus")
    with open(dump, "w", encoding="utf-8") as file, contextlib.suppress(EOFError, BrokenPipeError):
        faulthandler.enable(file)
        faulthandler.register(signal.SIGUSR1, file)
        now = code_version()
        pipe.send(now if now != version else "")
        gc.freeze()  # the collector need not examine the imported modules, because they stay
        while (job := pipe.recv()) is not None:
            trial = run(job.plan)
            pipe.send(Ran(trial))
            if trial.failure is not None and job.shrink_seconds:
                pipe.send(Shrunken(job.plan.seed, shrunk(job, trial, run)))
            gc.collect()
    Path(dump).unlink(missing_ok=True)  # in case the campaign was killed and cannot remove it


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process used so far, in seconds; inf where the system does not tell it."""
    try:
        of_process = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return (int(of_process[11]) + int(of_process[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return float("inf")


def shrunk(job: Job, trial: Trial, run: Run) -> str:
    """Return the story of the shrunk failure."""
    return shrink(trial, run, seconds_max=job.shrink_seconds, options=job.options).text()


@dataclass(eq=False, slots=True)
class Worker:
    """The campaign's end of a worker: `give` it a job, receive from `pipe`, `end` it."""

    run: Run
    version: str
    job: Job | None = None
    since: float = 0.0
    computed_before: float = 0.0
    """The processor time of the process when its present work began."""
    shrinking: bool = False
    jobs: int = 0
    ready: bool = False
    pipe: Connection = field(init=False)
    process: Any = field(init=False)
    dump: Path = field(init=False)

    def __post_init__(self) -> None:
        """Start the process."""
        context = get_context("spawn")
        handle, name = tempfile.mkstemp(prefix="forge-campaign-")
        os.close(handle)
        self.dump = Path(name)
        self.pipe, theirs = context.Pipe()  # pyright: ignore[reportAttributeAccessIssue] - on Windows it is another
        self.process = context.Process(target=work, args=(theirs, self.run, name, self.version), daemon=True)
        self.process.start()
        theirs.close()
        self.begin()

    def give(self, job: Job) -> None:
        """Have the process run a job. Raises `OSError` if it is dead."""
        self.job, self.shrinking = job, False
        self.begin()
        self.jobs += 1
        self.pipe.send(job)

    def begin(self) -> None:
        """Measure the time of the present work from now on."""
        self.since, self.computed_before = time.monotonic(), cpu_seconds(self.process.pid)

    def hangs(self, seconds_max: float) -> bool:
        """Return whether the present work takes longer than `seconds_max`; false without any.

        On a machine that is busy with other things, waiting for a processor does not count. So the worker has either
        computed for that long, or it waits for something else, which no seed does.
        """
        took = time.monotonic() - self.since if self.job is not None or not self.ready else 0.0
        if took <= seconds_max:
            return False
        now = cpu_seconds(self.process.pid)
        computed = now - self.computed_before if now < float("inf") else took
        return computed > seconds_max or computed < took / WAITING_SHARE

    def where(self) -> str:
        """Return where a worker that hangs is: the innermost calls of its stack."""
        with contextlib.suppress(ProcessLookupError, OSError):
            os.kill(self.process.pid, signal.SIGUSR1)
        until = time.monotonic() + DUMP_SECONDS_MAX
        while time.monotonic() < until and not self.dump.stat().st_size:
            time.sleep(0.05)
        time.sleep(0.05)
        return self.dump_text()

    def dump_text(self) -> str:
        """Return the text that a worker wrote before its end."""
        if not self.dump.exists():  # it ended by itself
            return ""
        lines = self.dump.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[:DUMP_LINES])

    def end(self) -> None:
        """End the process at once, and remove the folders of a simulation that was cut off."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self.dump.unlink(missing_ok=True)
        for place in {str(SHARED_MEMORY), tempfile.gettempdir()}:
            for folder in glob.glob(f"{glob.escape(place)}/{PREFIX}{self.process.pid}-*"):
                shutil.rmtree(folder, ignore_errors=True)
