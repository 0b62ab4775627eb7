"""One node under test: a real engine, actors and ledger over memory; the test plays its peers, clock and clients."""

from __future__ import annotations

import atexit
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forge_consensus.actors.codec import Frame, decode, encode
from forge_consensus.actors.messages import Hello, HelloReply
from forge_consensus.actors.notices import Start
from forge_consensus.actors.runtime.clock import Clock
from forge_consensus.actors.runtime.engine import SUPERVISOR, Engine
from forge_consensus.actors.supervisor import SupervisorActor
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.events.bus import EventBus
from forge_consensus.events.types import ConsensusEvent
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.levels import LEVEL
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import Machine
from forge_consensus.storage.opening import Founding, open_ledger
from forge_consensus.storage.snapshots.export import export_state

BYTES_MAX = 1 << 24
FOLDERS = Path(tempfile.mkdtemp(prefix="one-node-"))
"""The parent of the snapshot folders of all these nodes of this process."""
atexit.register(shutil.rmtree, FOLDERS, ignore_errors=True)


class HandClock(Clock):
    """A clock that moves only when the test moves it."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 100.0
        self.error_ms = 0
        self.begin_turn()

    def reading(self) -> float:
        return self.seconds

    def boottime_ns(self) -> int:
        return int(self.seconds * 1e9)

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + int(self.seconds * 1000) + self.error_ms


class OneNode:
    """Node n1 of a cluster of `size`; the others are the test itself.

    `sent` collects (destination, message) in the order in which frames leave, commits as ("disk", number).
    """

    def __init__(
        self,
        size: int = 3,
        *,
        tables: MemoryTables | None = None,
        options: RaftSettings | None = None,
        limits: StorageSettings | None = None,
        lease_reads: bool = False,
        machine: Callable[[], Machine] = KeyValueMachine,
        greet: bool = True,
        folder: Path | None = None,
        advertised: str | None = None,
        http_url: str = "",
        level: int = LEVEL,
        joins: bool = False,
    ) -> None:
        self.peers = {f"n{i + 1}": f"127.0.0.1:{i + 1}" for i in range(size)}
        self.configuration = Configuration.of(self.peers, lease_reads=lease_reads)
        self.tables = tables or MemoryTables()
        self.folder = folder or Path(tempfile.mkdtemp(dir=FOLDERS))
        self.clock = HandClock()
        self.sent: list[tuple[str, Any]] = []
        self.frames: list[Frame] = []
        self.events: list[ConsensusEvent] = []
        self.jobs: list[tuple[Callable[[], Any], Callable[[Any, str], None]]] = []
        self.refusing: set[str] = set()
        self.bus = EventBus()
        self.bus.subscribe(ConsensusEvent, self.events.append, inline=True)
        made: Any = machine()
        opened = open_ledger(
            self.tables,
            self.folder,
            Founding("n1", "demo", self.configuration, lambda: "folder-n1", level=level, joins=joins),
            made,
            limits or StorageSettings(),
            lambda: export_state(self.tables, self.folder, type(made)),
        )
        self.ledger = opened.ledger
        self.settings = options or RaftSettings()
        own, rng = self.peers["n1"], random.Random(7)
        self.engine = Engine(opened, self.settings, self.clock, self, self.bus, rng, own, "", advertised, http_url)
        commit = self.tables.commit

        def recorded(batch: Any) -> None:
            commit(batch)
            self.sent.append(("disk", self.tables.commits))

        self.tables.commit = recorded  # type: ignore[method-assign]
        self.engine.cells.create(SupervisorActor, SUPERVISOR, None)  # type: ignore[arg-type]
        self.engine.next_turn(self.engine.actor(SUPERVISOR), Start())
        self.turn()
        if greet:
            for node in sorted(set(self.peers) - {"n1"}) if not joins else ():
                self.greet(node)
        self.sent.clear()

    # --- the wire ----------------------------------------------------------------------------------------------------

    def send_peer(self, node: str, data: bytes) -> bool:
        if node in self.refusing:
            return False
        self.frames.append(decode(data, BYTES_MAX))
        self.sent.append((node, self.frames[-1].message))
        return True

    def send_answer(self, connection: Any, frame: Frame) -> bool:
        self.frames.append(decode(encode(frame), BYTES_MAX))
        self.sent.append((str(connection), self.frames[-1].message))
        return True

    def offload(self, job: Callable[[], Any], done: Callable[[Any, str], None]) -> None:
        self.jobs.append((job, done))

    # --- what a test does --------------------------------------------------------------------------------------------

    def turn(self, *frames: tuple[Any, ...], notices: list[Any] | None = None) -> None:
        """Take one turn with these frames, and further ones while postponed messages are left."""
        self.engine.turn(list(frames), notices or [])
        while self.engine.has_work:
            self.engine.turn([], [])

    def boot_of(self, node: str) -> tuple[str, int]:
        return f"folder-{node}", 1

    def frame(self, sender: str, to: str, message: Any, **changed: Any) -> bytes:
        """A frame as that peer would send it; a client's if `sender` is empty."""
        incarnation, boot = self.boot_of(sender) if sender else ("", 0)
        to_boot = self.ledger.identity.boot if sender else 0
        sent = self.clock.boottime_ns()
        frame = Frame(to, "demo", sender, incarnation, boot, to_boot, 1, sent, message)
        for name, value in changed.items():
            setattr(frame, name, value)
        return encode(frame)

    def request(self, sender: str, to: str, message: Any, **changed: Any) -> None:
        """Deliver a request of a peer: a turn with one frame over the ROUTER."""
        self.turn((self.frame(sender, to, message, **changed), f"->{sender or 'client'}"))

    def answer(self, sender: str, to: str, message: Any, **changed: Any) -> None:
        """Deliver an answer of a peer: a turn with one frame over the DEALER."""
        self.turn((self.frame(sender, to, message, **changed), None))

    def greet(self, node: str) -> None:
        """Connect with a peer, in both directions."""
        incarnation, boot = self.boot_of(node)
        self.turn(notices=[self.engine.peers.link(node, True)])
        self.answer(node, "membership", HelloReply(incarnation, boot, "", "", clock_ns=self.clock.boottime_ns()))
        hello = Hello(incarnation, boot, self.peers[node], self.configuration.digest, self.configuration.text)
        self.request(node, "membership", hello)

    def wait(self, seconds: float) -> None:
        """Let time pass, with a turn whenever an alarm is due."""
        end = self.clock.seconds + seconds
        while True:
            due = self.clock.seconds + self.engine.patience(end - self.clock.seconds)
            if due >= end:
                self.clock.seconds = end
                self.turn()
                return
            self.clock.seconds = due
            self.turn()

    def run_jobs(self) -> None:
        """Run the jobs that were handed to helpers, and report them."""
        while self.jobs:
            job, done = self.jobs.pop(0)
            try:
                result, error = job(), ""
            except Exception as problem:
                result, error = None, str(problem)
            done(result, error)
            self.turn()

    def messages(self, kind: type) -> list[tuple[str, Any]]:
        """The sent messages of one kind."""
        return [(to, message) for to, message in self.sent if type(message) is kind]

    def last(self, kind: type) -> Any:
        """The newest sent message of a kind."""
        return self.messages(kind)[-1][1]

    def told(self, kind: type) -> list[Any]:
        """The published events of a kind."""
        return [event for event in self.events if type(event) is kind]
