"""A client's core and a fake group in virtual time: messages can be lost, duplicated and delayed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgpack

from forge_consensus.actors.messages import Locate, WireMessage
from forge_consensus.client.pending import Pending, PendingRead
from forge_consensus.client.routes import Route
from forge_consensus.client.session import SessionCore
from forge_consensus.config.client import ClientSettings
from forge_consensus.storage.machines.machine import Command
from tests.worlds.client_fakes import FakeGroup

STEP_S = 0.005
NODES = {"n1": "h:1", "n2": "h:2", "n3": "h:3"}
NAMES = {address: node for node, address in NODES.items()}


@dataclass
class World:
    """One core and one group; `fate` returns the delays at which a message arrives: one, two or none."""

    seed: int = 1
    settings: ClientSettings = field(default_factory=ClientSettings)
    given: tuple[str, ...] = ("h:1", "h:2", "h:3")

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.now = 100.0
        self.group = FakeGroup(dict(NODES))
        self.core = SessionCore(self.given, now=self.now, random=self.random.random, settings=self.settings)
        self.flying: list[tuple[float, Callable[[], None]]] = []
        self.held: list[tuple[float, str, Locate, int]] = []
        self.down: set[str] = set()
        self.refuses = False
        """Whether the connections accept no further frames."""
        self.mute: set[str] = set()
        self.sent: list[tuple[float, str, WireMessage]] = []
        self.done: list[Pending[Any]] = []
        self.fate: Callable[[WireMessage, bool], list[float]] = lambda message, request: [0.001]

    def connect(self, *addresses: str) -> None:
        """Establish those connections."""
        for address in addresses or self.given:
            self.down.discard(address)
            self.core.now = self.now
            self.core.connected(address)

    def disconnect(self, address: str) -> None:
        """Break that connection."""
        self.down.add(address)
        self.core.now = self.now
        self.core.disconnected(address)

    def fly(self, message: WireMessage, action: Callable[[], None], *, request: bool) -> None:
        """Call `action` at each delay that `fate` returns."""
        for delay in self.fate(message, request):
            self.flying.append((self.now + delay, action))

    def arrive(self, address: str, message: WireMessage, request: int) -> None:
        """Deliver a request to its node."""
        if address in self.down or address in self.mute:
            return
        node = NAMES[address]
        answers = self.group.handle(node, message)
        if answers is None and isinstance(message, Locate):
            self.held.append((self.now + message.wait_ms / 1000, address, message, request))
        for answer in answers or ():
            self.answer(address, answer, request)

    def answer(self, address: str, answer: WireMessage, request: int) -> None:
        """Send an answer to the client."""

        def receive() -> None:
            if address not in self.down:
                self.core.receive(address, answer, request)

        self.fly(answer, receive, request=False)

    def step(self) -> None:
        """Let a short time pass."""
        self.now += STEP_S
        self.core.now = self.now
        due = [item for item in self.flying if item[0] <= self.now]
        self.flying = [item for item in self.flying if item[0] > self.now]
        for _, action in sorted(due, key=lambda item: item[0]):
            action()
        held, self.held = self.held, []
        for until, address, asked, request in held:
            if address in self.down:
                continue
            if until <= self.now or (self.group.leader and self.group.term > asked.known_term):
                self.answer(address, self.group.located(NAMES[address]), request)
            else:
                self.held.append((until, address, asked, request))
        self.core.tick(self.now)
        for address, message, request in list(self.core.outgoing()):
            self.sent.append((self.now, address, message))
            if self.refuses:
                self.core.unsent(address, message, request)
            else:
                self.launch(address, message, request)
        resolved, self.core.resolved = self.core.resolved, []
        for pending in resolved:
            assert not pending.finished, "resolved twice"
            pending.finish()
        self.done += resolved

    def launch(self, address: str, message: WireMessage, request: int) -> None:
        """Send a request of the client."""
        self.fly(message, lambda: self.arrive(address, message, request), request=True)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self.now < end:
            self.step()

    def settle(self, seconds: float = 20.0) -> float:
        """Let time pass until nothing is outstanding; returns how many seconds that took."""
        begin = self.now
        while self.core.working() and self.now < begin + seconds:
            self.step()
        assert not self.core.working()
        return self.now - begin

    def put(self, key: str, value: Any = 1, timeout: float = 5.0) -> Pending[Any]:
        """Submit a command that sets a key."""
        command = Command("set", {"key": key, "value": value})
        pending: Pending[Any] = Pending(command.encode(), self.now + timeout)
        self.core.submit([pending])
        return pending

    def get(self, key: str, consistency: str = "linearizable", timeout: float = 5.0, **wanted: Any) -> PendingRead[Any]:
        """Submit a query of a key; `wanted` is what `Route.of` takes."""
        payload = msgpack.packb(key)
        pending: PendingRead[Any] = PendingRead(payload, self.now + timeout, Route.of(consistency, **wanted))
        self.core.submit([pending])
        return pending

    def messages(self, kind: type[Any]) -> list[Any]:
        """The messages of one kind that the client has sent."""
        return [message for _, _, message in self.sent if isinstance(message, kind)]
