"""``forge-consensus dev``: a small cluster of real nodes with the dashboard, in one terminal, until Ctrl-C."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import socket
import sys
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

from forge_consensus.cli.main import CONFIG_VARIABLE, ENDPOINTS_VARIABLE
from forge_consensus.cli.secure_set import write_secure_set
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
ADMIN: Final = "admin.yaml"
TOKEN: Final = "admin.token"
AUTHORITY: Final = "ca.crt"
"""The files of the client that may do everything, as `write_secure_set` calls them."""
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
    secure: bool = False
    """Whether the folder has keys, certificates and tokens for them, and connections are encrypted."""


class SecureNode(NodeProcess):
    """A node that runs by the file that `write_secure_set` made for it."""

    def command(self) -> list[str]:
        """The whole command line that starts the node; no secret is in it, because the file names files."""
        file = str(self.log.parent / f"{self.name}.yaml")
        return [sys.executable, "-m", "forge_consensus", "node", "-c", file, *self.extra_args]


class Cluster:
    """The nodes of a development cluster, from their first start to the end of the command."""

    def __init__(self, folder: Path, places: Places, guard: Guard) -> None:
        self.folder = folder.absolute()
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
        kind = SecureNode if self.places.secure else NodeProcess
        made = kind(settings, "", self.folder, self.guard)
        made.extra_args = ("--http", self.places.http[name])
        return made

    def start(self) -> None:
        """Start all nodes at once, and wait until they serve and one leads. Raises `ConsensusError`."""
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait_serving()
        with self.client() as client:
            client.locate()

    def client(self) -> Client:
        """Return a client that may do everything."""
        if self.places.secure:
            return Client.from_config(self.folder / ADMIN, timeout=LEADER_SECONDS)
        return Client(list(self.places.nodes.values()), LEADER_SECONDS, CLUSTER)

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
        scheme = "https" if self.places.secure else "http"
        for node in self.nodes:
            name = node.name
            yield f"  {name}  {self.places.nodes[name]}  {scheme}://{self.places.http[name]}/  process {node.pid}"
        first = self.nodes[0]
        url = f"{scheme}://{self.places.http[first.name]}"
        yield f"dashboard  {url}/"
        if self.places.secure:
            yield f"           it asks for the token in {self.folder / TOKEN}; {self.folder / AUTHORITY} vouches for it"
        yield f"API        {url}/docs"
        if self.places.secure:
            asks = f'-H "Authorization: Bearer $(cat {quoted(self.folder / TOKEN)})"'
            yield f"           curl --cacert {quoted(self.folder / AUTHORITY)} {asks} {url}/v1/cluster"
            yield f"next       export {CONFIG_VARIABLE}={quoted(self.folder / ADMIN)}   # or --config with that file"
        else:
            yield f"next       export {ENDPOINTS_VARIABLE}={','.join(self.places.nodes.values())}"
        yield "           forge-consensus kv put greeting hello && forge-consensus status"
        yield f"           kill -9 {first.pid}   # the others go on, and {first.name} starts again here"
        yield f"logs       {self.folder}/n*.log"
        yield "Ctrl-C ends them"


def quoted(path: Path) -> str:
    """Return a path as a shell reads it."""
    return shlex.quote(str(path))


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
@click.option(
    "--secure",
    is_flag=True,
    help="With keys, certificates, tokens and encrypted disks, as init --secure makes them; a folder that has them "
    "needs it no more.",
)
def dev(nodes: int | None, data: Path | None, port: int | None, http_port: int | None, secure: bool) -> None:
    """Start a cluster of nodes on this machine, with the dashboard.

    Each node is a process of its own. One that ends, such as by kill -9, is started again after some seconds. Ctrl-C
    ends all of them.
    """
    wanted = Wanted(nodes, port, http_port, secure)
    guard = Guard()
    folder = Path(tempfile.mkdtemp(prefix="forge-dev-")) if data is None else data
    if data is None:
        guard.folder(folder)
    try:
        places = places_in(folder, wanted) if data is not None else new_places(wanted, folder)
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


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the options say; None for what is not given."""

    count: int | None = None
    port: int | None = None
    http_port: int | None = None
    secure: bool = False


def new_places(wanted: Wanted, folder: Path) -> Places:
    """Return where new nodes listen: at the ports that are given, else at the usual ones, else at free ones.

    For a secure cluster the folder gets keys and all else. Raises `TransportUnavailableError` if a port that was given
    is in use, `InvalidConfigError` for ports too near, and what `write_secure_set` raises.
    """
    names = [f"n{number}" for number in range(1, (wanted.count or NODES) + 1)]
    found = []
    asked = ((wanted.port, NODE_PORT, "--port"), (wanted.http_port, HTTP_PORT, "--http-port"))
    for given, usual, option in asked:
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
    if wanted.secure:
        write_secure_set(found[0], CLUSTER, folder)
    return Places(found[0], found[1], wanted.secure)


def is_free(port: int) -> bool:
    """Whether nothing listens at a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def places_in(folder: Path, wanted: Wanted) -> Places:
    """Return where the nodes of a folder listen; a new folder is told.

    Raises `InvalidConfigError` if the options say something else than the folder, `StorageError` if it cannot be used.
    """
    plan = folder / PLAN
    try:
        if plan.exists():
            places = read_plan(plan)
            asked = wanted.count or len(places.nodes)
            if asked != len(places.nodes) or wanted.port is not None or wanted.http_port is not None:
                raise InvalidConfigError(
                    f"{folder} has {len(places.nodes)} nodes at {', '.join(places.nodes.values())}, for good: leave "
                    "out --nodes, --port and --http-port, or name another folder"
                )
            if wanted.secure and not places.secure:
                raise InvalidConfigError(
                    f"{folder} has a cluster without keys, for good: leave out --secure, or name another folder"
                )
            return places
        if folder.exists() and any(folder.iterdir()):
            raise InvalidConfigError(f"{folder} is not empty and no folder of this command: name another one")
        folder.mkdir(parents=True, exist_ok=True)
        places = new_places(wanted, folder)
        beside = plan.with_name(f"{PLAN}.new")
        said = {"nodes": places.nodes, "http": places.http, "secure": places.secure}
        beside.write_text(json.dumps(said, indent=2))
        beside.replace(plan)
    except OSError as error:
        raise StorageError(f"{folder} cannot be used: {error.strerror}: name another folder") from error
    return places


def read_plan(plan: Path) -> Places:
    """Return where nodes listen, from the folder's plan. Raises `InvalidConfigError` if it is none."""
    try:
        said: dict[str, Any] = json.loads(plan.read_text())
        places = Places(dict(said["nodes"]), dict(said["http"]), bool(said.get("secure", False)))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidConfigError(f"{plan} cannot be read ({error}): name another folder") from error
    if not places.nodes or places.nodes.keys() != places.http.keys():
        raise InvalidConfigError(f"{plan} names no nodes, or not the same ones twice: name another folder")
    return places
