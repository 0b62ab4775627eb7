"""A cluster of real node processes for tests: started, killed, stopped, restarted, looked into, always cleaned up."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from forge_consensus.client.sync import Client
from forge_consensus.config.rows import texts_of
from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import ConsensusError

ROOT = Path(__file__).resolve().parents[2]
SERVING = re.compile(r"\bserv(es|ing)\b")
START_SECONDS_MAX = 15.0
SCAN_ROWS = 5_000
CLUSTER = "proof"

Found = TypeVar("Found")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; all are held until the last is drawn, so none comes twice.

    They lie below the range from which the system takes ports for outgoing connections: a node that is restarted
    finds its port free.
    """
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        while len(ports) < count:
            port = 10_000 + int.from_bytes(os.urandom(4)) % (low - 10_000)
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                ports.append(port)
    return ports


def wait_for(find: Callable[[], Found | None], seconds_max: float, what: str, *, step: float = 0.02) -> Found:
    """The first thing that `find` finds. Raises TimeoutError with `what` after `seconds_max` seconds."""
    end = time.monotonic() + seconds_max
    while True:
        found = find()
        if found:
            return found
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds_max:g} s for {what}")
        time.sleep(step)


def node_command(storage: StorageSettings | None = None) -> list[str]:
    """What starts a node, with these settings of its storage."""
    changed = texts_of(storage) if storage is not None else {}
    settings = [part for name, text in changed.items() for part in ("--set", f"{name}={text}")]
    return [sys.executable, "-m", "forge_consensus", "node", *settings]


class NodeProcess:
    """One node: its arguments, its process if it runs, and everything that it wrote."""

    def __init__(
        self,
        name: str,
        address: str,
        peers: dict[str, str],
        data: Path,
        log: Path,
        *,
        cluster: str = CLUSTER,
        command: Sequence[str] = (),
        extra_args: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.address = address
        self.peers = dict(peers)
        self.data = data
        self.log = log
        self.cluster = cluster
        self.command = list(command) or node_command()
        self.extra_args = list(extra_args)
        self.process: subprocess.Popen[bytes] | None = None
        self.log_offset = 0

    def argv(self) -> list[str]:
        """The whole command."""
        peers = ",".join(f"{node}={address}" for node, address in self.peers.items())
        fixed = ["--id", self.name, "--listen", self.address, "--data", str(self.data)]
        return [*self.command, *fixed, "--peers", peers, "--cluster", self.cluster, *self.extra_args]

    @property
    def pid(self) -> int:
        """The process id."""
        assert self.process is not None, f"{self.name} was never started"
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether the process exists."""
        return self.process is not None and self.process.poll() is None

    def launch(self, *, before: Sequence[str] = ()) -> None:
        """Start the process, under another command if one is given, and do not wait."""
        assert not self.running, f"{self.name} runs already"
        self.log_offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*before, *self.argv()],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self, *, before: Sequence[str] = ()) -> float:
        """Start it and wait for its line; returns the seconds that took."""
        began = time.monotonic()
        self.launch(before=before)
        self.wait_serving()
        return time.monotonic() - began

    def wait_serving(self) -> None:
        """Wait for the line that says that it serves. Raises AssertionError with its output if it ends instead."""

        def look() -> bool:
            if SERVING.search(self.output()):
                return True
            assert self.running, f"{self.name} ended with {self.exit_code()}:\n{self.output()}"
            return False

        wait_for(look, START_SECONDS_MAX, f"{self.name} to serve; it wrote {self.output()!r}")

    def output(self) -> str:
        """What it wrote since its last start."""
        with self.log.open("rb") as log:
            log.seek(self.log_offset)
            return log.read().decode(errors="replace")

    def exit_code(self, seconds_max: float = 10.0) -> int:
        """Wait for its end; returns the exit code."""
        assert self.process is not None, f"{self.name} was never started"
        return self.process.wait(seconds_max)

    def refused(self, seconds_max: float = 10.0) -> tuple[int, str]:
        """Start it and expect it to end by itself: (exit code, what it wrote)."""
        self.launch()
        try:
            code = self.exit_code(seconds_max)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} went on instead of refusing: {self.output()}") from None
        return code, self.output()

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        assert self.process is not None, f"{self.name} was never started"
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to it and what it started, and wait for the end."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)

    def pause(self) -> None:
        """SIGSTOP."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def terminate(self) -> int:
        """SIGTERM; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.exit_code()

    def rss_anon_bytes(self) -> int:
        """Its own memory; what LMDB maps counts in RSS and is not its own."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) * 1024


class ProcessCluster:
    """Node processes on free ports of this machine. Use it in a `with`: nothing of it survives that."""

    def __init__(
        self,
        folder: Path,
        nodes: int = 3,
        *,
        extra_args: Sequence[str] = (),
        storage: StorageSettings | None = None,
    ) -> None:
        names = [f"n{number}" for number in range(1, nodes + 1)]
        self.addresses = {name: f"127.0.0.1:{port}" for name, port in zip(names, free_ports(nodes), strict=True)}
        self.folder = folder
        self.command = node_command(storage)
        self.extra_args = extra_args
        self.nodes = {name: self.make(name) for name in names}
        self.spares: list[NodeProcess] = []
        self.clients: list[Client] = []

    def make(self, name: str, **changed: Any) -> NodeProcess:
        """A node of this cluster that is not started yet, with some of its arguments changed."""
        facts: dict[str, Any] = {
            "name": name,
            "address": self.addresses.get(name, ""),
            "peers": self.addresses,
            "data": self.folder / name,
            "log": self.folder / f"{name}.log",
            "command": self.command,
            "extra_args": self.extra_args,
            **changed,
        }
        return NodeProcess(**facts)

    def spare(self, name: str, **changed: Any) -> NodeProcess:
        """One more process beside the cluster, with a log of its own, ended with the cluster."""
        log = self.folder / f"spare-{len(self.spares)}-{name}.log"
        node = self.make(name, **{"log": log, **changed})
        self.spares.append(node)
        return node

    def __enter__(self) -> Self:
        """Start all nodes and wait until they serve."""
        try:
            for node in self.nodes.values():
                node.launch()
            for node in self.nodes.values():
                node.wait_serving()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for node in [*self.nodes.values(), *self.spares]:
                if node.log.exists():
                    print(f"--- {node.name}\n{node.log.read_text(errors='replace')[-3000:]}")
        self.close()

    def close(self) -> None:
        """End every process and client."""
        for client in self.clients:
            client.close()
        for node in [*self.nodes.values(), *self.spares]:
            node.kill()

    @property
    def endpoints(self) -> list[str]:
        """The addresses of all nodes."""
        return list(self.addresses.values())

    def client(self, **options: Any) -> Client:
        """A client of all nodes, closed with the cluster."""
        client = Client(self.endpoints, **options)
        self.clients.append(client)
        return client

    def status(self, name: str, seconds_max: float = 2.0) -> dict[str, Any]:
        """What a node says of itself. Raises `ConsensusError` when it does not answer."""
        with Client([self.addresses[name]]) as client:
            return client.status(self.addresses[name], timeout=seconds_max)

    def leader(self, seconds_max: float = 10.0) -> str:
        """The node that leads, as it says itself, with the highest term of those that say so."""

        def look() -> str | None:
            leaders = []
            for name, node in self.nodes.items():
                if node.running:
                    with contextlib.suppress(ConsensusError):
                        status = self.status(name, 0.5)
                        if status["role"] == "leader":
                            leaders.append((status["term"], name))
            return max(leaders)[1] if leaders else None

        return wait_for(look, seconds_max, "a leader")

    def followers(self) -> list[str]:
        """All nodes but the leader."""
        leader = self.leader()
        return [name for name in self.nodes if name != leader]

    def wait_level(self, names: Iterable[str] = (), seconds_max: float = 15.0) -> int:
        """Wait until all these nodes (all, if none is named) applied the same, whole log; returns its last index."""
        wanted = list(names) or list(self.nodes)
        seen: dict[str, Any] = {}

        def look() -> int:
            points = set()
            for name in wanted:
                try:
                    status = self.status(name, 1.0)
                except ConsensusError as error:
                    seen[name] = str(error)
                    return 0
                seen[name] = (status["last_applied"], status["last_log_index"], status["role"])
                points |= {status["last_applied"], status["last_log_index"], status["commit_index"]}
            return points.pop() if len(points) == 1 else 0

        try:
            return wait_for(look, seconds_max, "the nodes to be level", step=0.05)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {seen}") from None

    def state(self, name: str) -> dict[str, Any]:
        """Every key and value that a node holds, as it sees them itself."""
        found: dict[str, Any] = {}
        with Client([self.addresses[name]]) as client:
            after: str | None = None
            while True:
                query: dict[str, Any] = {"scan": "", "limit": SCAN_ROWS}
                if after is not None:
                    query["after"] = after
                page = client.read(query, "stale", timeout=10.0)
                found.update((key, value) for key, value in page)
                if len(page) < SCAN_ROWS:
                    return found
                after = page[-1][0]
