"""``forge-consensus dev``: a small cluster of real nodes with the dashboard, in one terminal, until Ctrl-C."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click

from forge_consensus.client.sync import Client
from forge_consensus.config.node import NodeSettings
from forge_consensus.errors import (
    InvalidConfigError,
    OperationFailedError,
    StorageError,
    TransportUnavailableError,
)
from forge_consensus.testing.local.guard import Guard
from forge_consensus.testing.local.node_process import ENDING, NodeProcess
from forge_consensus.testing.local.ports import HOST, free_ports

CLUSTER: Final = "dev"
NODES: Final = 3
NODES_MAX: Final = 9
NODE_PORT: Final = 7001
HTTP_PORT: Final = 8001
PLAN: Final = "dev.json"
"""Where a folder that is kept says which addresses its nodes have."""
AGAIN_SECONDS: Final = 3.0
"""A node that has ended is started again after so long, so that one can watch the others go on without it."""
ENDS_MAX: Final = 5
ENDS_SECONDS: Final = 30.0
"""If nodes end so often within this time, something is wrong with them."""
LOOK_SECONDS: Final = 0.1
LEADER_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Places:
    """Where the nodes listen: node id -> HOST:PORT."""

    nodes: dict[str, str]
    http: dict[str, str]


class Cluster:
    """The nodes of a development cluster, from their first start to the end of the command."""

    def __init__(self, folder: Path, places: Places, guard: Guard) -> None:
        self.folder = folder
        self.places = places
        self.guard = guard
        self.nodes = [self.node(name) for name in places.nodes]
        self.ends: deque[float] = deque()
        self.again: dict[str, float] = {}
        """Node -> the monotonic time at which it is started again."""

    def node(self, name: str) -> NodeProcess:
        """Return a node that is not started."""
        settings = NodeSettings(
            name,
            CLUSTER,
            self.places.nodes[name],
            peers=self.places.nodes,
            storage_path=str(self.folder / name),
        )
        made = NodeProcess(settings, "", self.folder, self.guard)
        made.extra_args = ("--http", self.places.http[name])
        return made

    def start(self) -> None:
        """Start all nodes at once, and wait until they serve and one leads. Raises `ConsensusError`."""
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait_serving()
        with Client(list(self.places.nodes.values()), LEADER_SECONDS, CLUSTER) as client:
            client.locate()

    def look(self) -> None:
        """Start nodes again that have ended. Raises `OperationFailedError` if they end again and again."""
        now = time.monotonic()
        for node in self.nodes:
            if node.running:
                continue
            if node.name not in self.again:
                self.again[node.name] = now + AGAIN_SECONDS
                code = node.exit_code()
                self.guard.ended(node.pid)
                click.echo(f"{node.name} ended ({ended_by(code)}); it starts again in {AGAIN_SECONDS:g} s")
                self.count_end(now, node)
            elif now >= self.again[node.name]:
                del self.again[node.name]
                node.launch()
                click.echo(f"{node.name} starts again, process {node.pid}")

    def count_end(self, now: float, node: NodeProcess) -> None:
        """Count an end. Raises `OperationFailedError` if there were too many."""
        self.ends.append(now)
        while self.ends[0] < now - ENDS_SECONDS:
            self.ends.popleft()
        if len(self.ends) > ENDS_MAX:
            raise OperationFailedError(
                f"nodes ended {len(self.ends)} times within {ENDS_SECONDS:g} s; {node.name} wrote last:\n"
                f"{node.written()}"
            )

    def stop(self) -> None:
        """End all nodes at once, in order, and wait for it."""
        for node in self.nodes:
            if node.running:
                node.signal(signal.SIGTERM)
        for node in self.nodes:
            node.stop()

    def lines(self, *, kept: bool) -> Iterator[str]:
        """Yield what to tell when they run."""
        count = len(self.nodes)
        where = f"in {self.folder}" if kept else "in a folder that is removed at the end (keep it with --data DIR)"
        yield f"{count} node{'s' * (count > 1)} of cluster {CLUSTER}, {where}"
        for node in self.nodes:
            name = node.name
            yield f"  {name}  {self.places.nodes[name]}  http://{self.places.http[name]}/  process {node.pid}"
        first = self.nodes[0]
        yield f"dashboard  http://{self.places.http[first.name]}/"
        yield f"API        http://{self.places.http[first.name]}/docs"
        yield f"next       export FORGE_CONSENSUS_ENDPOINTS={','.join(self.places.nodes.values())}"
        yield "           forge-consensus kv put greeting hello && forge-consensus status"
        yield f"           kill -9 {first.pid}   # the others go on, and {first.name} starts again here"
        yield f"logs       {self.folder}/n*.log"
        yield "Ctrl-C ends them"


@click.command()
@click.option("--nodes", type=click.IntRange(1, NODES_MAX), help=f"How many nodes.  [default: {NODES}]")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder that keeps the cluster; without it the cluster is gone at the end.",
)
@click.option(
    "--port",
    type=click.IntRange(1024, 65_535 - NODES_MAX),
    help=f"The port of the first node; the others follow.  [default: {NODE_PORT}, or free ones]",
)
@click.option(
    "--http-port",
    type=click.IntRange(1024, 65_535 - NODES_MAX),
    help=f"The port of the first node's dashboard; the others follow.  [default: {HTTP_PORT}, or free ones]",
)
def dev(nodes: int | None, data: Path | None, port: int | None, http_port: int | None) -> None:
    """Start a cluster of nodes on this machine, with the dashboard.

    Each node is a process of its own. One that ends, such as by kill -9, is started again after some seconds. Ctrl-C
    ends all of them.
    """
    guard = Guard()
    folder = Path(tempfile.mkdtemp(prefix="forge-dev-")) if data is None else data
    if data is None:
        guard.folder(folder)
    try:
        places = places_in(folder, nodes, port, http_port) if data is not None else new_places(nodes, port, http_port)
        with signals_end():
            run(Cluster(folder, places, guard), kept=data is not None)
    finally:
        guard.stop()
        if data is None:
            shutil.rmtree(folder, ignore_errors=True)


def run(cluster: Cluster, *, kept: bool) -> None:
    """Run the nodes until a signal. Raises `ConsensusError` for what ends them otherwise."""
    try:
        cluster.start()
        for line in cluster.lines(kept=kept):
            click.echo(line)
        while True:
            time.sleep(LOOK_SECONDS)
            cluster.look()
    except KeyboardInterrupt:
        click.echo("ending the nodes")
    finally:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        cluster.stop()


@contextmanager
def signals_end() -> Iterator[None]:
    """Have the signals that end a program end the cluster in order."""
    before = {number: signal.signal(number, interrupted) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupted(number: int, frame: FrameType | None) -> None:
    """Have a signal end the command as Ctrl-C does."""
    raise KeyboardInterrupt


def ended_by(code: int) -> str:
    """Return how a process ended, for people."""
    if code < 0:
        return f"by {signal.Signals(-code).name}"
    return f"exit code {code}"


# --- addresses -------------------------------------------------------------------------------------------------------


def new_places(count: int | None, port: int | None, http_port: int | None) -> Places:
    """Return where new nodes listen: at the ports that are given, else at the usual ones, else at free ones.

    Raises `TransportUnavailableError` if a port that was given is in use, `InvalidConfigError` for ports too near.
    """
    names = [f"n{number}" for number in range(1, (count or NODES) + 1)]
    found = []
    for given, usual, option in ((port, NODE_PORT, "--port"), (http_port, HTTP_PORT, "--http-port")):
        ports = [(given or usual) + number for number in range(len(names))]
        taken = [each for each in ports if not is_free(each)]
        if taken and given:
            raise TransportUnavailableError(f"port {taken[0]} is in use: give another {option}")
        if taken:
            ports = free_ports(len(names))
        found.append({name: f"{HOST}:{each}" for name, each in zip(names, ports, strict=True)})
    both = set(found[0].values()) & set(found[1].values())
    if both:
        raise InvalidConfigError(f"{min(both)} would be a node's port and a dashboard's: give ports further apart")
    return Places(*found)


def is_free(port: int) -> bool:
    """Whether nothing listens at a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def places_in(folder: Path, count: int | None, port: int | None, http_port: int | None) -> Places:
    """Return where the nodes of a folder listen; a new folder is told.

    Raises `InvalidConfigError` if the options say something else than the folder, `StorageError` if it cannot be used.
    """
    plan = folder / PLAN
    try:
        if plan.exists():
            places = read_plan(plan)
            asked = count or len(places.nodes)
            if asked != len(places.nodes) or port is not None or http_port is not None:
                raise InvalidConfigError(
                    f"{folder} has {len(places.nodes)} nodes at {', '.join(places.nodes.values())}, for good: leave "
                    "out --nodes, --port and --http-port, or name another folder"
                )
            return places
        if folder.exists() and any(folder.iterdir()):
            raise InvalidConfigError(f"{folder} is not empty and no folder of this command: name another one")
        places = new_places(count, port, http_port)
        folder.mkdir(parents=True, exist_ok=True)
        beside = plan.with_name(f"{PLAN}.new")
        beside.write_text(json.dumps({"nodes": places.nodes, "http": places.http}, indent=2))
        beside.replace(plan)
    except OSError as error:
        raise StorageError(f"{folder} cannot be used: {error.strerror}: name another folder") from error
    return places


def read_plan(plan: Path) -> Places:
    """Return where nodes listen, from the folder's plan. Raises `InvalidConfigError` if it is none."""
    try:
        said: dict[str, Any] = json.loads(plan.read_text())
        places = Places(dict(said["nodes"]), dict(said["http"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidConfigError(f"{plan} cannot be read ({error}): name another folder") from error
    if not places.nodes or places.nodes.keys() != places.http.keys():
        raise InvalidConfigError(f"{plan} names no nodes, or not the same ones twice: name another folder")
    return places
