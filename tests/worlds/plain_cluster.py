"""A cluster without a world around it: three engines in one process, whose frames arrive at once and in order.

What a command costs is counted here, because nothing but the nodes' own code runs in their turns.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forge_consensus.actors.codec import Frame, decode, encode
from forge_consensus.actors.messages import OpenSession, Results, SessionOpened, Submit
from forge_consensus.actors.notices import Start
from forge_consensus.actors.runtime.engine import SUPERVISOR, Engine
from forge_consensus.actors.supervisor import SupervisorActor
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.events.bus import EventBus
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import Command
from forge_consensus.storage.opening import Founding, open_ledger
from forge_consensus.storage.snapshots.export import export_state
from tests.worlds.one_node import BYTES_MAX, HandClock

CLIENT = "client"
STEP_SECONDS = 0.01
STEPS_MAX = 1000

Act = Callable[["PlainNode", list[tuple[Any, ...]]], None]


class PlainNode:
    """One node: its engine, what has arrived for it, and what left it."""

    def __init__(self, cluster: PlainCluster, name: str, folder: Path) -> None:
        self.cluster = cluster
        self.name = name
        self.tables = MemoryTables()
        self.clock = HandClock()
        self.inbox: deque[tuple[Any, ...]] = deque()
        self.turns = self.frames_sent = self.bytes_sent = 0
        opened = open_ledger(
            self.tables,
            folder,
            Founding(name, "demo", cluster.configuration, lambda: f"folder-{name}"),
            KeyValueMachine(),
            StorageSettings(),
            lambda: export_state(self.tables, folder, KeyValueMachine),
        )
        own = cluster.configuration.addresses[name]
        self.engine = Engine(opened, RaftSettings(), self.clock, self, EventBus(), random.Random(name), own)
        self.engine.cells.create(SupervisorActor, SUPERVISOR, None)  # type: ignore[arg-type]
        self.engine.next_turn(self.engine.actor(SUPERVISOR), Start())

    def turn(self, notices: list[Any] | None = None) -> None:
        """Take a turn with everything that has arrived."""
        frames = list(self.inbox)
        self.inbox.clear()
        self.turns += 1
        self.cluster.take_turn(self, frames, notices or [])

    def send_peer(self, node: str, data: bytes) -> bool:
        """Let a frame arrive at a peer."""
        self.count(data)
        self.cluster.nodes[node].inbox.append((data, self.name))
        return True

    def send_answer(self, connection: Any, frame: Frame) -> bool:
        """Let an answer arrive where its request came from."""
        data = encode(frame)
        self.count(data)
        if connection == CLIENT:
            self.cluster.answers.append(data)
        else:
            self.cluster.nodes[connection].inbox.append((data, None))
        return True

    def count(self, data: bytes) -> None:
        """Count a frame that leaves."""
        self.frames_sent += 1
        self.bytes_sent += len(data)

    def offload(self, job: Callable[[], Any], done: Callable[[Any, str], None]) -> None:
        """No job is expected: snapshots are not due."""
        raise AssertionError("a job was begun")


class PlainCluster:
    """Nodes n1 to n3, of which n1 leads, and one client with a session."""

    def __init__(self, folder: Path) -> None:
        self.configuration = Configuration.of({f"n{number}": f"127.0.0.1:{number}" for number in (1, 2, 3)})
        self.answers: list[bytes] = []
        self.around: Callable[[PlainNode], Any] | None = None
        self.number = self.session = 0
        self.nodes: dict[str, PlainNode] = {}
        for name in sorted(self.configuration.nodes):
            (folder / name).mkdir()
            self.nodes[name] = PlainNode(self, name, folder / name)
        for node in self.nodes.values():
            node.turn()
        for node in self.nodes.values():
            node.turn([node.engine.peers.link(other, True) for other in self.nodes if other != node.name])
        self.run()
        self.leader = self.elected()
        self.followers = [node for node in self.nodes.values() if node is not self.leader]
        self.ask(OpenSession(ttl_ms=60_000))
        self.session = self.message(SessionOpened).session

    def elected(self) -> PlainNode:
        """Let time pass until a node leads and all of them have its first entry."""
        for _ in range(STEPS_MAX):
            self.wait(STEP_SECONDS)
            for node in self.nodes.values():
                if node.engine.ledger.leading_term is not None and node.engine.ledger.commit_index > 0:
                    return node
        raise AssertionError("nobody was elected")

    def wait(self, seconds: float) -> None:
        """Let time pass, and take the turns that are due."""
        for node in self.nodes.values():
            node.clock.seconds += seconds
        self.run()

    def run(self) -> None:
        """Take turns, one node after the other, until no node has anything to do."""
        for _ in range(STEPS_MAX):
            busy = [node for node in self.nodes.values() if node.inbox or node.engine.patience(1.0) == 0.0]
            if not busy:
                return
            for node in busy:
                node.turn()
        raise AssertionError("the cluster does not come to rest")

    def take_turn(self, node: PlainNode, frames: list[tuple[Any, ...]], notices: list[Any]) -> None:
        """Take a node's turn, inside the context that `watched` has set."""
        if self.around is None:
            node.engine.turn(frames, notices)
            return
        with self.around(node):
            node.engine.turn(frames, notices)

    @contextmanager
    def watched(self, around: Callable[[PlainNode], Any]) -> Iterator[None]:
        """Enter the context `around(node)` for each turn in this block."""
        self.around = around
        try:
            yield
        finally:
            self.around = None

    def ask(self, message: Any) -> None:
        """Send the leader a request, and run."""
        self.number += 1
        self.leader.inbox.append((encode(Frame("gateway", "demo", "", "", 0, 0, self.number, 0, message)), CLIENT))
        self.run()

    def message(self, kind: type[Any]) -> Any:
        """The newest answer to the client, which is of that kind."""
        found = decode(self.answers[-1], BYTES_MAX).message
        assert type(found) is kind, found
        return found

    def put(self, value: str) -> None:
        """Set one of ten keys, and check that it was done."""
        seq = self.number
        command = Command("set", {"key": f"k{seq % 10}", "value": value}).encode()
        self.ask(Submit(self.session, seq, ((seq, command),)))
        assert [number for number, *_ in self.message(Results).items] == [seq]
