"""A node of a local cluster as a process of its own: started, paused, ended, and its output read."""

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
ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals with which people and systems end a program."""
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
        self.program: Sequence[str] = ()
        """The program that is run instead of ``python -m forge_consensus node``, with the same arguments."""
        self.process: subprocess.Popen[bytes] | None = None
        self.paused = False

    def command(self) -> list[str]:
        """The whole command line that starts the node."""
        program = self.program or (sys.executable, "-m", "forge_consensus", "node")
        return [*self.before, *program, *arguments(self.settings, self.machine), *self.extra_args]

    @property
    def address(self) -> str:
        """The address at which the node listens."""
        return self.settings.bind

    @property
    def data(self) -> Path:
        """The folder in which the node keeps its data."""
        return Path(self.settings.storage_path)

    @property
    def running(self) -> bool:
        """Whether its process exists; a paused process does."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """The process id. Raises `NotStartedError`."""
        if self.process is None:
            raise NotStartedError(f"{self.name} was not started")
        return self.process.pid

    def launch(self) -> None:
        """Start the process in a group of its own, without waiting for it."""
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

    def start(self) -> float:
        """Start the process and wait until it serves; returns the seconds that this took. Raises as `wait_serving`."""
        began = time.monotonic()
        self.launch()
        self.wait_serving()
        return time.monotonic() - began

    def wait_serving(self) -> None:
        """Wait for the whole line that reports that the node serves.

        Raises `OperationFailedError` if the process ends instead, `ConsensusTimeoutError` if the line does not come.
        """
        end = time.monotonic() + START_SECONDS_MAX
        while not any(line.startswith(SERVING) and line.endswith("\n") for line in self.written().splitlines(True)):
            if not self.running:
                code = self.process.returncode if self.process is not None else None
                raise OperationFailedError(f"{self.name} ended with {code} instead of serving: {self.written()}")
            if time.monotonic() > end:
                raise ConsensusTimeoutError(
                    f"{self.name} did not serve within {START_SECONDS_MAX:g} s; it wrote {self.written()!r}"
                )
            time.sleep(LOOK_SECONDS)

    def exit_code(self, timeout: float = END_SECONDS_MAX) -> int:
        """Wait until the process ends by itself; returns its exit code.

        Raises `ConsensusTimeoutError` if it still runs after `timeout` seconds, `NotStartedError` before its first
        start.
        """
        if self.process is None:
            raise NotStartedError(f"{self.name} was not started")
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ConsensusTimeoutError(
                f"{self.name} did not end within {timeout:g} s; it wrote {self.written()!r}"
            ) from None

    def refused(self, timeout: float = END_SECONDS_MAX) -> tuple[int, str]:
        """Start a node that must refuse to serve; returns its exit code and its output.

        Raises `ConsensusTimeoutError`, after a kill, if it still runs after `timeout` seconds.
        """
        self.launch()
        try:
            return self.exit_code(timeout), self.output()
        finally:
            self.kill()

    def output(self) -> str:
        """The output since the last start."""
        return self.log.read_bytes()[self.log_offset :].decode(errors="replace")

    def written(self) -> str:
        """The end of the output since the last start, short enough for a message."""
        return self.output()[-LOG_TAIL:]

    def log_text(self) -> str:
        """The output of all runs."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def signal(self, number: int) -> None:
        """Send a signal to the process and to all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def pause(self) -> None:
        """Send SIGSTOP, which stops the process without its knowledge."""
        self.signal(signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        """Send SIGCONT, so that a paused process continues."""
        self.signal(signal.SIGCONT)
        self.paused = False

    def stop(self) -> int | None:
        """Send SIGTERM, and SIGKILL if that does not end it in time; returns the exit code, None before its start."""
        if self.process is None:
            return None
        if self.running:
            self.signal(signal.SIGTERM)
            self.resume()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_SECONDS_MAX)
        self.kill()
        return self.process.returncode

    def kill(self) -> None:
        """Send SIGKILL to the process and to all that it started, and wait for its end."""
        if self.process is None:
            return
        self.signal(signal.SIGKILL)
        self.process.wait(END_SECONDS_MAX)
        self.guard.ended(self.process.pid)
        self.paused = False

    def own_memory_bytes(self) -> int:
        """The memory that the process itself allocated, in bytes, without the pages that LMDB maps. Linux only."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return int(status.partition("RssAnon:")[2].split()[0]) * 1024

    def close(self) -> None:
        """Kill the process; called at the end of the cluster."""
        self.kill()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer the signals that end a program until the block ends.

    Otherwise a process that was just started could be registered nowhere and outlive the test. Only Python's handlers
    are deferred, and only in the main thread, because no other thread is interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = {number: handler for number in ENDING if callable(handler := signal.getsignal(number))}
    held: list[int] = []
    for number in usual:
        signal.signal(number, lambda number, _: held.append(number))
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def arguments(settings: NodeSettings, machine: str = "") -> list[str]:
    """Return the arguments of ``forge-consensus node`` for a node with these settings and this state machine."""
    found = ["--id", settings.node_id, "--cluster", settings.cluster_id, "--listen", settings.bind]
    if settings.peers:
        found += ["--peers", ",".join(f"{node}={address}" for node, address in settings.peers.items())]
    found += ["--data", str(settings.storage_path)]
    for option, value in (
        ("--advertise", settings.advertise),
        ("--http-url", settings.http_url),
        ("--join", settings.join),
        ("--join-as", settings.join_as),
    ):
        if value is not None:
            found += [option, value]
    found += ["--rejoin"] * settings.rejoin + ["--lease-reads"] * settings.lease_reads
    if settings.metrics is not None:
        found += ["--metrics", settings.metrics]
    if settings.events_bind is not None:
        found += ["--events-listen", settings.events_bind]
    if machine:
        found += ["--machine", machine]
    for section in (settings.security, settings.raft, settings.storage):
        for name, text in texts_of(section).items():
            found += ["--set", f"{name}={text}"]
    return found
