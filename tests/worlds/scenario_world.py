"""The common parts of the numbered scenarios: one node over LMDB, a copied disk, a scripted client, whole runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from forge_consensus.actors.codec import Frame, decode, encode
from forge_consensus.actors.messages import AppendReply, OpenSession, Results, SessionOpened, Submit
from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.rules.invariants import Invariants
from forge_consensus.testing.world.base import SimulatedBase, Watcher
from forge_consensus.testing.world.cluster import SimulatedCluster
from forge_consensus.testing.world.network import Connection
from tests.worlds.one_node import OneNode

TTL_MS = 60_000
FRAME_BYTES_MAX = 64 << 20


@contextmanager
def node_on_lmdb(path: Path, size: int = 3, **settings: Any) -> Iterator[OneNode]:
    """Node n1 over LMDB in that folder; leaving the block ends its process, and the next one is a restart."""
    snapshots = path / "snapshots"
    snapshots.mkdir(parents=True, exist_ok=True)
    with LmdbTables(path / "tables") as tables:
        yield OneNode(size, tables=cast("Any", tables), folder=snapshots, **settings)


def file_of(path: Path) -> Path:
    """The file of LMDB's data for `node_on_lmdb`."""
    return path / "tables" / "data.mdb"


def acknowledge(node: OneNode, *peers: str) -> None:
    """Let these peers of a leader (default: n2) acknowledge its whole log."""
    for peer in peers or ("n2",):
        reply = AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0)
        node.answer(peer, "replication", reply)


def open_session(node: OneNode) -> int:
    """Open a client's session at a leader."""
    node.request("", "gateway", OpenSession(TTL_MS))
    if len(node.peers) > 1:
        acknowledge(node)
    return int(node.last(SessionOpened).session)


def ask(node: OneNode, session: int, *commands: bytes, first: int = 1) -> None:
    """Deliver a client's commands in one frame, numbered from `first` on."""
    numbered = tuple(enumerate(commands, first))
    node.request("", "gateway", Submit(session, 1, numbered))


def outcomes(node: OneNode) -> list[tuple[int, str, bytes]]:
    """All outcomes that left the node: (number, error code, result)."""
    return [item for _, message in node.messages(Results) for item in message.items]


def put(key: str, value: Any) -> bytes:
    """An encoded command that sets a key."""
    return Command("set", {"key": key, "value": value}).encode()


def increment(key: str) -> bytes:
    """An encoded command that increments a key."""
    return Command("increment", {"key": key}).encode()


def copied(path: Path, to: Path) -> Path:
    """Copy a folder, as it would be after a power failure now."""
    if to.exists():
        shutil.rmtree(to)
    shutil.copytree(path, to)
    return to


# --- whole clusters under one seed ------------------------------------------------------------------------------------


class Caller:
    """A client that is driven by a test: it sends single frames and keeps every answer. A party of the network."""

    def __init__(self, cluster: SimulatedCluster, name: str = "caller") -> None:
        self.cluster = cluster
        self.name = name
        self.alive = True
        self.number = 0
        self.answers: list[tuple[int, Any]] = []

    def take(self, data: bytes, connection: Any, sender: str) -> None:
        frame = decode(data, FRAME_BYTES_MAX)
        self.answers.append((frame.request, frame.message))

    def linked(self, node: str, stands: bool) -> None:
        """Ignore the state of connections."""

    def send(self, node: str, message: Any) -> int:
        """Send a request to a node; returns its number."""
        self.number += 1
        data = encode(Frame("gateway", "", "", "", 0, 0, self.number, 0, message))
        self.cluster.network.ask(Connection(self, node), data)
        return self.number

    def heard(self, number: int) -> list[Any]:
        """The answers to a request."""
        return [message for request, message in self.answers if request == number]

    def ask(self, node: str, message: Any, seconds_max: float = 5.0) -> Any:
        """Send a request and wait for its answer."""
        number = self.send(node, message)
        assert self.cluster.run(seconds_max, lambda: bool(self.heard(number))), f"{node} does not answer {message}"
        return self.heard(number)[0]

    def open_session(self, node: str) -> int:
        """Open a session at the leader."""
        return int(self.ask(node, OpenSession(TTL_MS)).session)


class SilentWatcher(Watcher):
    """A watcher that does nothing; derive watchers from it."""

    def began(self, node: SimulatedBase) -> None:
        """Do nothing."""

    def ended(self, node: SimulatedBase, error: BaseException | None) -> None:
        """Do nothing."""

    def replaced(self, name: str) -> None:
        """Do nothing."""

    def durable(self, node: SimulatedBase, batch: Batch) -> None:
        """Do nothing."""

    def asks(self, node: SimulatedBase, to: str, data: bytes) -> None:
        """Do nothing."""

    def answers(self, node: SimulatedBase, connection: Connection, frame: Frame) -> None:
        """Do nothing."""

    def turned(self, node: SimulatedBase) -> None:
        """Do nothing."""


@contextmanager
def led_cluster(nodes: int = 3, seed: int = 1, **settings: Any) -> Iterator[tuple[SimulatedCluster, Invariants]]:
    """A simulated cluster with a leader, in which everything is applied; every invariant is checked."""
    invariants = Invariants()
    with SimulatedCluster(nodes, seed, watchers=[invariants], **settings) as cluster:
        cluster.start()
        assert cluster.run(10.0, cluster.settled), "nobody leads"
        yield cluster, invariants


def leader_of(cluster: SimulatedCluster) -> SimulatedBase:
    """The process that leads the highest term."""
    leader = cluster.leader()
    assert leader is not None, "nobody leads"
    return leader


def others_than(cluster: SimulatedCluster, *names: str) -> list[str]:
    """All nodes but these."""
    return [name for name in cluster.names if name not in names]


def base_of(cluster: SimulatedCluster, name: str) -> SimulatedBase:
    """The running process of a node."""
    base = cluster.nodes[name].running
    assert base is not None, f"{name} does not run"
    return base


def value_at(cluster: SimulatedCluster, name: str, key: str) -> Any:
    """The value of a key in a node's machine."""
    return base_of(cluster, name).engine.ledger.applier.machine.query({"get": key})


def submit_all(caller: Caller, node: str, session: int, commands: list[bytes], first: int = 1) -> Results:
    """Submit these commands to the leader in one frame; returns its answer."""
    answer = caller.ask(node, Submit(session, first, tuple(enumerate(commands, first))))
    assert isinstance(answer, Results), f"{node} answers {answer}"
    return answer
