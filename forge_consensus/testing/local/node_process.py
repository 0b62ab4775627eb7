"""A node of a local cluster as a process of its own: started, paused, ended and read from."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from forge_consensus.config.node import NodeSettings
from forge_consensus.config.rows import texts_of
from forge_consensus.errors import (
    ConsensusTimeoutError,
    NotStartedError,
    OperationFailedError,
)
from forge_consensus.testing.local.guard import Guard

START_SECONDS_MAX: Final = 30.0
END_SECONDS_MAX: Final = 10.0
LOOK_SECONDS: Final = 0.005
LOG_TAIL: Final = 3_000
SERVING: Final = "serving "
HOME: Final = str(Path(__file__).parents[3])


class NodeProcess:
    """A node as a process of its own, with its output in a file."""

    def __init__(self, settings: NodeSettings, machine: str, folder: Path, guard: Guard) -> None:
        self.name = settings.node_id
        self.settings = settings
        self.machine = machine
        self.guard = guard
        self.log = folder / f"{self.name}.log"
        self.log_offset = 0
        self.extra_args: Sequence[str] = ()
        """Further arguments of ``forge-consensus node``."""
        self.environment: Mapping[str, str] = {}
        self.before: Sequence[str] = ()
        """A command that starts the node, such as ``faketime`` or ``nice`` with their arguments."""
        self.process: subprocess.Popen[bytes] | None = None
        self.paused = False

    def command(self) -> list[str]:
        """The whole command."""
        node = [sys.executable, "-m", "forge_consensus", "node", *arguments(self.settings, self.machine)]
        return [*self.before, *node, *self.extra_args]

    @property
    def running(self) -> bool:
        """Whether its process exists."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """The process id. Raises `NotStartedError`."""
        if self.process is None:
            raise NotStartedError(f"{self.name} was not started")
        return self.process.pid

    def launch(self) -> None:
        """Start the process in a group of its own, and do not wait."""
        command = self.command()
        self.log_offset = self.log.stat().st_size if self.log.exists() else 0
        path = [HOME, *(entry or os.getcwd() for entry in sys.path)]
        with uninterrupted(), self.log.open("ab") as log:
            try:
                self.process = subprocess.Popen(
                    command,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "NO_COLOR": "1", **self.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as error:
                raise OperationFailedError(
                    f"{self.name} could not be started by {command[0]!r} ({error.strerror}): see what before= says"
                ) from error
            self.guard.began(self.process.pid)
        self.paused = False

    def wait_serving(self) -> None:
        """Wait for the line that says that it serves."""
        end = time.monotonic() + START_SECONDS_MAX
        while not any(line.startswith(SERVING) for line in self.written().splitlines()):
            if not self.running:
                code = self.process.returncode if self.process is not None else None
                raise OperationFailedError(f"{self.name} ended with {code} instead of serving: {self.written()}")
            if time.monotonic() > end:
                raise ConsensusTimeoutError(
                    f"{self.name} did not serve within {START_SECONDS_MAX:g} s; it wrote {self.written()!r}"
                )
            time.sleep(LOOK_SECONDS)

    def written(self) -> str:
        """The end of what it wrote since its last start."""
        return self.log.read_bytes()[self.log_offset :][-LOG_TAIL:].decode(errors="replace")

    def log_text(self) -> str:
        """Everything that it wrote."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def signal(self, number: int) -> None:
        """Send the process and all that it started a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def pause(self) -> None:
        """SIGSTOP."""
        self.signal(signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)
        self.paused = False

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not end it in time."""
        if self.process is None:
            return
        if self.running:
            self.signal(signal.SIGTERM)
            self.resume()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_SECONDS_MAX)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to it and all that it started, and wait for the end."""
        if self.process is None:
            return
        self.signal(signal.SIGKILL)
        self.process.wait(END_SECONDS_MAX)
        self.guard.ended(self.process.pid)
        self.paused = False

    def close(self) -> None:
        """Let go of everything."""
        self.kill()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the end, or a process that was just started would be known to nobody and live on."""
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield  # it interrupts the main thread only, and only by a handler
        return
    held: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: held.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        if held:
            usual(*held[0])


def arguments(settings: NodeSettings, machine: str = "") -> list[str]:
    """Return the arguments by which ``forge-consensus node`` runs a node with these settings and this state machine."""
    peers = ",".join(f"{node}={address}" for node, address in settings.peers.items())
    found = ["--id", settings.node_id, "--cluster", settings.cluster_id, "--listen", settings.bind, "--peers", peers]
    found += ["--data", str(settings.storage_path)]
    if settings.lease_reads:
        found.append("--lease-reads")
    if settings.metrics is not None:
        found += ["--metrics", settings.metrics]
    if machine:
        found += ["--machine", machine]
    for section in (settings.raft, settings.storage):
        for name, text in texts_of(section).items():
            found += ["--set", f"{name}={text}"]
    return found
