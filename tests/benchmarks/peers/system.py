"""What a system must offer to be measured: what is missing of it, three nodes, a load, what its leader flushed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, TypeVar

from tests.benchmarks.peers.figures import Work
from tests.benchmarks.peers.load import LoadFailedError, LoadProgram, end_of

NAMES: Final[tuple[str, ...]] = ("n1", "n2", "n3")
START_SECONDS_MAX: Final = 90.0
LOOK_SECONDS: Final = 0.05
END_SECONDS_MAX: Final = 10.0

Found = TypeVar("Found")


class System(ABC):
    """Three nodes of one system on the loopback, each a process with a folder of its own, with its durable settings.

    Args:
        folder: an empty folder for all that they write; whoever made it removes it.

    """

    name: ClassVar[str]
    """What it is called in arguments and files."""
    title: ClassVar[str]
    """What it is called in tables."""
    durability: ClassVar[str]
    """What is on disk when a write is acknowledged."""
    client: ClassVar[str]
    """By what it is loaded."""
    install: ClassVar[str]
    """The command that installs what is missing."""
    reads: ClassVar[bool] = False
    """Whether its client here can read what was acknowledged before, wherever it asks: linearizable reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    @abstractmethod
    def missing(cls) -> str:
        """Return what is not installed, in a few words; empty if nothing is."""

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Return which version is installed; empty where that is not known."""

    @abstractmethod
    def start(self) -> None:
        """Start three nodes and wait until they serve. Raises `LoadFailedError`."""

    @abstractmethod
    def stop(self) -> None:
        """End all processes."""

    @abstractmethod
    def pids(self) -> Mapping[str, int]:
        """Return the process of each node."""

    @abstractmethod
    def leader(self) -> str:
        """Return the node that leads; empty while none is known."""

    @abstractmethod
    def flushes(self) -> int | None:
        """Return how often the leader has flushed its disk since its start; None where it does not tell."""

    @abstractmethod
    def load(self, work: Work) -> LoadProgram:
        """Begin a load of the leader, with a warm-up before the work that counts; reads only if it has such `reads`."""

    def wait_for_leader(self) -> str:
        """Wait until a node leads; return its name. Raises `LoadFailedError`."""
        return self.wait_for(self.leader, "a leader")

    def wait_for(self, look: Callable[[], Found | None], what: str) -> Found:
        """Wait until `look` finds something, and return it; its `OSError` means not yet. Raises `LoadFailedError`."""
        end = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                if found := look():
                    return found
            self.demand_running()
            time.sleep(LOOK_SECONDS)
        raise LoadFailedError(f"waited {START_SECONDS_MAX:g} s for {what}")

    @abstractmethod
    def demand_running(self) -> None:
        """Raise `LoadFailedError` if a node has ended."""


class ProcessSystem(System):
    """A system whose nodes are started by command lines."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.processes: dict[str, subprocess.Popen[str]] = {}

    @abstractmethod
    def command(self, name: str) -> Sequence[str]:
        """Return the command line of a node."""

    def environment(self, name: str) -> Mapping[str, str]:
        """Return further environment variables of a node."""
        return {}

    def log(self, name: str) -> Path:
        """The file that gets what a node, or another process of that name, complains of."""
        return self.folder / f"{name}.log"

    def launch(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a process of that name in a group of its own, with pipes for its input and output."""
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if self.answers_by_pipe else log,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    answers_by_pipe: ClassVar[bool] = False
    """Whether its nodes answer questions on their output; otherwise that goes to the log."""

    def start(self) -> None:
        """Start the nodes and wait until one leads."""
        for name in NAMES:
            (self.folder / name).mkdir(exist_ok=True)
            self.launch(name, self.command(name), self.environment(name))
        self.wait_for_leader()

    def stop(self) -> None:
        """Kill all processes and what they started."""
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS_MAX)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()

    def pids(self) -> Mapping[str, int]:
        """Return the process of each node."""
        return {name: self.processes[name].pid for name in NAMES}

    def demand_running(self) -> None:
        """Raise `LoadFailedError` if a process has ended."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise LoadFailedError(f"{name} ended with {process.returncode}: {end_of(self.log(name))}")


def programs_missing(*programs: str) -> list[str]:
    """Return those programs that are not found, by name or by path."""
    return [each for each in programs if shutil.which(each) is None]


def files_missing(*paths: str) -> list[str]:
    """Return those files or folders that are not there."""
    return [each for each in paths if not Path(each).exists()]


def said_by(*command: str) -> str:
    """Return the first line that a command says, to learn a version; empty if it cannot."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next((line.strip() for line in done.stdout.splitlines() if line.strip()), "")


def package_version(package: str) -> str:
    """Return the version of a package of Debian; empty if it is not installed or this is no Debian."""
    return said_by("dpkg-query", "--show", "--showformat", "${Version}", package)
