"""The simulated client: counts in sessions and reads, through real frames, and retries whatever stays unanswered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgpack

from forge_consensus.actors.codec import Frame, decode, encode
from forge_consensus.actors.messages import (
    OpenSession,
    Read,
    ReadResults,
    Refused,
    Request,
    Results,
    SessionOpened,
    Submit,
)
from forge_consensus.actors.simulated_cluster import SimulatedCluster
from forge_consensus.actors.simulated_network import Connection
from forge_consensus.storage.machine import Command

FRAME_BYTES_MAX = 64 << 20
EXPIRED = "CONSENSUS_SESSION_EXPIRED"


@dataclass(eq=False, slots=True)
class Operation:
    """One call of a client; `kind` is "increment" or "read". `answered_at` stays None while its outcome is unknown."""

    client: str
    kind: str
    key: str
    invoked_at: float
    number: int = 0
    answered_at: float | None = None
    value: Any = None
    floor: int = 0
    """For the judge: what had been seen of the key when the call began."""


class Judge(Protocol):
    """Who hears of every call and answer."""

    def invoked(self, operation: Operation) -> None:
        """A call begins."""

    def answered(self, operation: Operation) -> None:
        """It has its answer."""

    def failed(self, operation: Operation, code: str) -> None:
        """The command was answered with an error that nothing in the workload explains."""


@dataclass(slots=True)
class Habits:
    """What a client does."""

    keys: tuple[str, ...] = ("a", "b", "c")
    pipeline_max: int = 4
    read_share: float = 0.35
    lease_share: float = 0.0
    abandon_share: float = 0.02
    """How often a client that waits too long leaves the outcome unknown instead of asking again."""
    rest_s_max: float = 0.1
    patience_s: float = 0.4
    ttl_ms: int = 60_000


class SimulatedClient:
    """One client with one session at a time. It is a party of the network: `take` gets answers."""

    def __init__(self, cluster: SimulatedCluster, name: str, judge: Judge, habits: Habits | None = None) -> None:
        self.cluster = cluster
        self.name = name
        self.judge = judge
        self.habits = habits or Habits()
        self.alive = True
        self.timeline = cluster.timeline
        self.chance = self.timeline.chance(self.name)
        self.connections: dict[str, Connection] = {}
        self.target = self.chance.choice(self.cluster.names)
        self.session = 0
        self.seq = 0
        self.asked = 0
        self.request = 0
        self.open: dict[int, Operation] = {}
        self.reading: dict[int, Operation] = {}
        self.resting = False
        self.done = 0

    # --- acting ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work."""
        self.rest()

    def stop(self) -> None:
        """Finish what is open, begin nothing more."""
        self.resting = True

    @property
    def idle(self) -> bool:
        """Whether nothing is open."""
        return not self.open and not self.reading

    def rest(self) -> None:
        """Do the next thing after a while."""
        self.timeline.after(self.chance.uniform(0.0, self.habits.rest_s_max), self.act)

    def act(self) -> None:
        """Begin the next calls."""
        if self.resting or not self.idle or not self.alive:
            return
        if not self.session:
            self.send(OpenSession(self.habits.ttl_ms))
        elif self.chance.random() < self.habits.read_share:
            self.ask_to_read()
        else:
            self.submit_new()

    def submit_new(self) -> None:
        """Count on some keys at once."""
        for _ in range(self.chance.randint(1, self.habits.pipeline_max)):
            self.seq += 1
            self.open[self.seq] = operation = self.begin("increment", self.seq)
            self.judge.invoked(operation)
        self.submit()

    def begin(self, kind: str, number: int) -> Operation:
        """A call."""
        return Operation(self.name, kind, self.chance.choice(self.habits.keys), self.timeline.now, number)

    def submit(self) -> None:
        """Send all open commands, perhaps once more."""
        commands = tuple(
            (seq, Command("increment", {"key": operation.key}).encode()) for seq, operation in self.open.items()
        )
        self.send(Submit(self.session, min(self.open), commands))

    def ask_to_read(self) -> None:
        """Read a key."""
        self.seq += 1
        self.reading = {self.seq: self.begin("read", self.seq)}
        operation = self.reading[self.seq]
        self.judge.invoked(operation)
        lease = self.chance.random() < self.habits.lease_share
        query = msgpack.packb({"get": operation.key})
        self.send(Read("lease" if lease else "linearizable", ((self.seq, query),)))

    def send(self, message: Request) -> None:
        """Send a request to who is thought to lead, and look after it."""
        self.request += 1
        self.asked = self.request
        connection = self.connections.setdefault(self.target, Connection(self, self.target))
        frame = Frame("gateway", "", "", "", 0, 0, self.request, 0, message)
        self.cluster.network.ask(connection, encode(frame))
        asked = self.asked
        patience = self.habits.patience_s * self.chance.uniform(0.5, 2.0)
        self.timeline.after(patience, lambda: self.overdue(asked))

    def overdue(self, asked: int) -> None:
        """No answer in time: ask somebody else, or leave the outcome unknown."""
        if asked != self.asked or not self.alive:
            return
        self.again(self.chance.choice(self.cluster.names))

    def again(self, target: str) -> None:
        """Ask again, a known leader or anybody."""
        self.asked = 0
        self.target = target
        if self.reading:
            self.reading = {}
            self.rest()
        elif self.open and self.chance.random() < self.habits.abandon_share:
            self.abandon()
        elif self.open:
            self.submit()
        else:
            self.rest()

    def abandon(self) -> None:
        """Nobody will ever know what became of the open commands; go on with another session."""
        self.open.clear()
        self.session = 0
        self.rest()

    # --- answers -----------------------------------------------------------------------------------------------------

    def linked(self, node: str, stands: bool) -> None:
        """Clients are not told of connections."""

    def take(self, data: bytes, connection: Any) -> None:
        """An answer arrived, perhaps an old one."""
        frame = decode(data, FRAME_BYTES_MAX)
        message = frame.message
        if isinstance(message, SessionOpened):
            self.opened(message, frame.request)
        elif isinstance(message, Results):
            if message.session == self.session:
                for seq, code, payload in message.items:
                    self.result(self.open, seq, code, payload)
        elif isinstance(message, ReadResults):
            for number, code, payload in message.items:
                self.result(self.reading, number, code, payload)
        elif isinstance(message, Refused):
            self.refused(message, frame.request)
        if self.idle and self.session and self.asked:
            self.asked = 0
            self.rest()

    def opened(self, message: SessionOpened, request: int) -> None:
        """The session is there. Sequence numbers go on: they are never used twice."""
        if not self.session and request == self.asked:
            self.session = message.session

    def result(self, waiting: dict[int, Operation], number: int, code: str, payload: bytes) -> None:
        """A result, unless it was known."""
        operation = waiting.get(number)
        if operation is None:
            return
        if code == EXPIRED:
            self.abandon()
        elif code:
            self.judge.failed(operation, code)
        else:
            del waiting[number]
            self.done += 1
            operation.answered_at = self.timeline.now
            operation.value = msgpack.unpackb(payload)
            self.judge.answered(operation)

    def refused(self, message: Refused, request: int) -> None:
        """Ask again after a moment, whom the node names or anybody."""
        if request != self.asked:
            return
        self.asked = 0
        target = message.leader or self.chance.choice(self.cluster.names)
        act: Callable[[], None] = lambda: self.again(target) if not self.asked else None  # noqa: E731
        self.timeline.after(self.chance.uniform(0.005, 0.1), act)
