"""The programs that load a cluster, as the benchmark sees them: what they say, and when.

Each writes the line ``began`` to its output when it is warm and the work that counts begins, then one line of JSON when
that work is done, and runs on until its input is closed: so its processor time can be looked at between both.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from forge_consensus.checks.latencies import Latencies
from tests.worlds.source_tree import ROOT

BEGAN: Final = "began"
GRACE_SECONDS: Final = 60.0
"""So much longer than its work a program may take for a line, before it is ended."""


class LoadFailedError(Exception):
    """A system did not start, or a load ended without its figures; the text says what was said instead."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a program says of its load."""

    count: int
    """How many writes were acknowledged."""
    seconds: float
    """From the first write to the last answer."""
    p50_ms: float
    p99_ms: float
    max_ms: float
    failed: int

    @classmethod
    def of_times(cls, took: Sequence[float], seconds: float, failed: int) -> Self:
        """Return the figures of writes that took so many seconds each; `failed` counts those without an answer."""
        times = Latencies.of(took)
        p50, p99, slowest = (
            round(each * 1000, 3) for each in (times.p50_seconds, times.p99_seconds, times.max_seconds)
        )
        return cls(times.count, seconds, p50, p99, slowest, failed)

    @classmethod
    def of_line(cls, line: str) -> Self:
        """Return what a line of a program says. Raises `LoadFailedError` for anything else, or if nothing was done."""
        try:
            found = cls(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise LoadFailedError(f"the load said {line.strip()!r} instead of its figures") from error
        if not found.count or found.seconds <= 0:
            raise LoadFailedError(f"no write was acknowledged, {found.failed:,} failed")
        return found


class LoadProgram:
    """A process that loads a cluster, in a group of its own; a context manager, which ends it.

    Args:
        command: the program and its arguments.
        log: the file that gets what it complains of.
        seconds: how long its work takes.

    """

    def __init__(self, command: Sequence[str], log: Path, seconds: float) -> None:
        self.log, self.seconds = log, seconds
        with log.open("ab") as complaints:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                cwd=ROOT,
                text=True,
                start_new_session=True,
            )

    @property
    def pid(self) -> int | None:
        """Its process id; None for a load that comes from inside a node."""
        return self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def kill(self) -> None:
        """End the process and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def wait_until_begun(self) -> None:
        """Wait until the work that counts begins. Raises `LoadFailedError`."""
        demand_begun(self.line())

    def result(self) -> Loaded:
        """Wait for the figures. Raises `LoadFailedError`."""
        return Loaded.of_line(self.line())

    def line(self) -> str:
        """The next line that it says. Raises `LoadFailedError` if it ends or is silent instead."""
        assert self.process.stdout is not None, "it is a pipe"
        return line_within(self.process.stdout, self.seconds + GRACE_SECONDS, self.kill, self.log)


def demand_begun(line: str) -> None:
    """Raise `LoadFailedError` unless the line says that the work began."""
    if line.strip() != BEGAN:
        raise LoadFailedError(f"the load said {line.strip()!r} instead of {BEGAN!r}")


def line_within(stream: IO[str], seconds: float, end: Callable[[], None], log: Path) -> str:
    """Return the next line of a stream, whose program is ended after so many seconds without one.

    Raises `LoadFailedError` with the end of its log if there is no line.
    """
    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        line = stream.readline()
    finally:
        timer.cancel()
    if not line:
        raise LoadFailedError(f"the load ended or was silent: {end_of(log)}")
    return line


def end_of(log: Path, chars: int = 400) -> str:
    """Return the end of a log, on one line."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return " | ".join(text[-chars:].split("\n")).strip(" |") or "it said nothing"
