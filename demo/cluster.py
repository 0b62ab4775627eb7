"""The cluster of the demo: node processes in a temporary folder, started, killed, asked, and always cleaned up."""

from __future__ import annotations

import contextlib
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import forge_consensus
from forge_consensus.client.sync import Client
from forge_consensus.errors import ConsensusError, UnavailableError

CLUSTER = "demo"
START_SECONDS_MAX = 15.0
STOP_SECONDS_MAX = 5.0
STATUS_SECONDS_MAX = 2.0
LOOK_SECONDS = 0.02
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends the demo early."""
PORT_MIN = 10_000
EPHEMERAL_MIN = 32_768
LOG_TAIL_BYTES = 1_500


class DemoFailed(Exception):  # noqa: N818 - a verdict rather than an error of the program
    """The demo did not show what it promises; the text says what was missing."""


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on now.

    They lie below those that the system gives to outgoing connections, so that a node which is restarted finds its
    port free.
    """
    low = EPHEMERAL_MIN
    with contextlib.suppress(OSError, ValueError):
        low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        for _ in range(1000 * count):
            if len(ports) == count:
                break
            port = random.randrange(PORT_MIN, low) if low > 2 * PORT_MIN else 0
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                ports.append(probe.getsockname()[1])
    return ports


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let no signal interrupt what is done within; it arrives behind that. Only the main thread can be interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = {number: signal.signal(number, lambda number, _: arrived.append(number)) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


class NodeProcess:
    """One node's process, as far as it runs."""

    def __init__(self, name: str, address: str, peers: str, folder: Path) -> None:
        self.name = name
        self.address = address
        self.peers = peers
        self.data = folder / name
        self.log_path = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches the demo alone."""
        home = str(Path(forge_consensus.__file__).parent.parent)
        paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
        command = [sys.executable, "-m", "forge_consensus", "node", "--id", self.name, "--cluster", CLUSTER]
        command += ["--peers", self.peers, "--listen", self.address, "--data", str(self.data)]
        with self.log_path.open("ab") as log, undisturbed():  # a process that nobody knows would never be ended
            self.process = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def wait_serving(self, deadline: float) -> None:
        """Wait for the line that says that it serves. Raises `DemoFailed`."""
        assert self.process is not None, "it was launched"
        assert self.process.stdout is not None, "its output is read"
        left = max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([self.process.stdout], [], [], left)
        line = self.process.stdout.readline() if ready else b""
        if not line.startswith(b"serving "):
            raise DemoFailed(f"{self.name} did not start: {self.log_tail() or 'it said nothing'}")

    @property
    def running(self) -> bool:
        """Whether its process exists."""
        return self.process is not None and self.process.poll() is None

    def end(self, number: int) -> None:
        """Send its session a signal."""
        if self.process is not None and self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def reap(self, seconds_max: float) -> int | None:
        """Wait for its end, by force if need be; returns the exit code."""
        if self.process is None:
            return None
        try:
            code = self.process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            self.end(signal.SIGKILL)
            code = self.process.wait(STOP_SECONDS_MAX)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def log_tail(self) -> str:
        """The end of what it wrote to stderr."""
        with contextlib.suppress(OSError):
            return self.log_path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
        return ""


class DemoCluster:
    """The nodes. Use it in a `with`: neither a process nor the folder survives that."""

    def __init__(self, nodes: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="forge-consensus-demo-"))
        names = [f"n{number}" for number in range(1, nodes + 1)]
        addresses = [f"127.0.0.1:{port}" for port in free_ports(nodes)]
        peers = ",".join(f"{name}={address}" for name, address in zip(names, addresses, strict=True))
        self.nodes = {
            name: NodeProcess(name, address, peers, self.folder) for name, address in zip(names, addresses, strict=True)
        }
        self.client: Client | None = None

    @property
    def endpoints(self) -> list[str]:
        """The addresses of all nodes."""
        return [node.address for node in self.nodes.values()]

    def start(self) -> None:
        """Start all nodes and wait until they serve. Raises `DemoFailed`."""
        for node in self.nodes.values():
            node.launch()
        deadline = time.monotonic() + START_SECONDS_MAX
        for node in self.nodes.values():
            node.wait_serving(deadline)
        self.client = Client(self.endpoints)

    def restart(self, name: str) -> float:
        """Start a node that was killed and wait until it serves; returns the seconds it took."""
        began = time.monotonic()
        self.nodes[name].launch()
        self.nodes[name].wait_serving(began + START_SECONDS_MAX)
        return time.monotonic() - began

    def kill(self, name: str) -> None:
        """SIGKILL, and see it gone."""
        self.nodes[name].end(signal.SIGKILL)
        self.nodes[name].reap(STOP_SECONDS_MAX)

    def status(self, name: str) -> dict[str, Any] | None:
        """What a node says of itself, None if it does not answer."""
        assert self.client is not None, "the cluster was started"
        try:
            return self.client.status(self.nodes[name].address, timeout=STATUS_SECONDS_MAX)
        except UnavailableError:
            return None

    def leader(self, seconds_max: float) -> str:
        """The node that leads. Raises `DemoFailed` when none does in time."""
        assert self.client is not None, "the cluster was started"
        try:
            return self.client.locate(timeout=seconds_max).leader
        except ConsensusError as error:
            raise DemoFailed(f"no leader within {seconds_max:g} s: {error}") from error

    def wait_applied(self, name: str, index: int, seconds_max: float, look: Callable[[], None] = lambda: None) -> float:
        """Wait until a node has applied that entry; returns the seconds it took. Raises `DemoFailed`."""
        began = time.monotonic()
        applied = -1
        while time.monotonic() - began < seconds_max:
            status = self.status(name) if self.nodes[name].running else None
            if status is not None:
                applied = int(status["last_applied"])
            if applied >= index:
                return time.monotonic() - began
            look()
            time.sleep(LOOK_SECONDS)
        raise DemoFailed(f"{name} applied {applied} of {index} entries within {seconds_max:g} s")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process and remove the folder, whatever state they are in and whatever signals arrive."""
        with undisturbed():
            self.clear_up()

    def clear_up(self) -> None:
        """Do what `close` promises."""
        if self.client is not None:
            self.client.close()
        for node in self.nodes.values():
            node.end(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS_MAX
        for node in self.nodes.values():
            node.reap(max(0.1, deadline - time.monotonic()))
        shutil.rmtree(self.folder, ignore_errors=True)
