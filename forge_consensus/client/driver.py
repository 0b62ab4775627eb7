"""The link: the one thread of a client, which moves what the core decides to and from the nodes."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

from loguru import logger

from forge_consensus.actors.messages import WireMessage
from forge_consensus.client.connections import Arrived, Connections, LocalPort
from forge_consensus.client.endpoints import LOCAL
from forge_consensus.client.pending import Pending
from forge_consensus.client.session import SessionCore
from forge_consensus.client.wakeup import Wakeup
from forge_consensus.config.address import parse_endpoint
from forge_consensus.config.client import ClientSettings
from forge_consensus.errors import BusyError, ConsensusError, InvalidConfigError, NotStartedError

WAIT_S_MAX = 1.0
CLOSE_S = 5.0
CLOSED_TEXT = "the client is closed: make a new one"
FORKED_TEXT = "this process was forked, and its parent's client has no thread here: make a client in this process"

Deliver = Callable[[list[Pending[Any]]], None]


def finish_all(pendings: list[Pending[Any]]) -> None:
    """Tell everyone who waits for these, on this thread."""
    for pending in pendings:
        pending.finish()


LINKS: WeakSet[Driver] = WeakSet()


def end_in_child() -> None:
    """The threads of clients do not live on in a forked process: there the clients are closed, without waiting."""
    for link in list(LINKS):
        link.gate = threading.Lock()  # whoever held it is not here
        link.room = threading.Condition()
        link.closed_by = NotStartedError(FORKED_TEXT)


os.register_at_fork(after_in_child=end_in_child)


class Driver:
    """A core, its connections and its thread.

    Other threads touch three things: the two deques, the wake-up, and the condition of those who
    wait for room.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        cluster: str = "",
        limits: ClientSettings | None = None,
        port: LocalPort | None = None,
        deliver: Deliver = finish_all,
        follow: bool = True,
        prefer: str = "",
    ) -> None:
        names = [*([LOCAL] if port is not None else []), *endpoints]
        self.core = SessionCore(
            names,
            now=time.monotonic(),
            random=random.random,
            limits=limits,
            cluster=cluster,
            prefer=LOCAL if port is not None else prefer,
            follow=follow,
        )
        if port is not None:
            # Known before it answers: else a peer's "it leads at that address" would lead to a socket to ourselves.
            self.core.directory.endpoints[LOCAL].node = getattr(port, "node", "")
        self.port = port
        self.deliver = deliver
        self.wakeup = Wakeup()
        self.wires = Connections(self.wakeup.fd)
        self.wanted: deque[Pending[Any]] = deque()
        self.arrived: deque[Arrived] = deque()
        """What the embedded node said."""
        self.closing = False
        self.reason = CLOSED_TEXT
        self.closed_by: ConsensusError | None = None
        self.gate = threading.Lock()
        """Between handing something over and the end of the thread that would take it."""
        self.room = threading.Condition()
        self.waiting_for_room = 0
        self.thread = threading.Thread(target=self.run, name="forge-client", daemon=True)
        self.thread.start()
        LINKS.add(self)

    # --- for other threads ---

    def hand_over(self, pending: Pending[Any]) -> None:
        """Let the driver take it. Raises `NotStartedError` after `close`."""
        if self.closed_by is not None:
            raise self.closed_by
        self.wanted.append(pending)
        if self.wakeup.sleeping:
            self.rouse()
        if self.closed_by is not None:
            self.abandon()

    def rouse(self) -> None:
        """End the driver's sleep."""
        with self.gate:
            if self.closed_by is None:
                self.wakeup.rouse()

    def abandon(self) -> None:
        """What nobody will take any more ends here."""
        error = self.closed_by
        left: list[Pending[Any]] = []
        while error is not None and self.wanted:
            try:
                pending = self.wanted.popleft()
            except IndexError:
                break
            pending.error = error
            left.append(pending)
        if left:
            self.deliver(left)

    def full(self) -> bool:
        """Whether as much is outstanding as may be."""
        commands = self.core.commands
        waiting = len(self.wanted) + len(commands.open) + len(commands.queue)
        return waiting >= self.core.limits.outstanding_max

    def wait_for_room(self, timeout: float) -> None:
        """Block until less is outstanding; raises `BusyError` after `timeout` seconds."""
        if threading.current_thread() is self.thread:  # a callback: nobody else makes room
            raise self.busy(0.0)
        end = time.monotonic() + timeout
        with self.room:
            self.waiting_for_room += 1
            try:
                while self.full() and self.closed_by is None:
                    left = end - time.monotonic()
                    if left <= 0:
                        raise self.busy(timeout)
                    self.room.wait(min(left, WAIT_S_MAX))
            finally:
                self.waiting_for_room -= 1

    def busy(self, timeout: float) -> BusyError:
        """The error of having too much outstanding."""
        return BusyError(
            f"{self.core.limits.outstanding_max} commands are outstanding "
            f"and none was answered within {timeout:g} s: wait for results before submitting more"
        )

    def end_soon(self, reason: str) -> None:
        """Have the thread end, and everything outstanding with that reason; waits for nothing."""
        if not self.closing:
            self.reason = reason
        self.closing = True
        self.rouse()

    def close(self, reason: str = CLOSED_TEXT) -> None:
        """End the thread and everything outstanding; within seconds, whatever the nodes do."""
        self.end_soon(reason)
        if threading.current_thread() is not self.thread:
            self.thread.join(CLOSE_S)

    # --- the driver's thread ---

    def run(self) -> None:
        """Turn until closed."""
        error: ConsensusError | None = None
        try:
            if self.port is not None:
                self.wires.ports[LOCAL] = self.port
                self.port.connect(self.on_message)
                self.core.connected(LOCAL)
            while not self.closing:
                self.turn()
        except Exception as fault:
            logger.exception("the client's thread failed")
            error = NotStartedError(f"the client's thread failed: {type(fault).__name__}: {fault}")
        self.end(error or NotStartedError(self.reason))

    def end(self, error: ConsensusError) -> None:
        """Let go of the network and tell everyone who waits."""
        with self.gate:
            self.closed_by = error
        self.wires.close()
        self.core.close(str(error))
        self.tell()
        self.abandon()
        with self.room:
            self.room.notify_all()
        with self.gate:
            self.wakeup.close()

    def on_message(self, message: WireMessage, request: int) -> None:
        """Take an answer of the embedded node, on whatever thread."""
        self.arrived.append((LOCAL, message, request))
        if self.wakeup.sleeping:
            self.rouse()

    def turn(self) -> None:
        """Wait, take what arrived, let time pass, send, tell."""
        core, wires = self.core, self.wires
        if len(wires) != len(core.directory.endpoints):
            self.connect_new()
        wakeup = self.wakeup
        wakeup.doze()
        idle = not (self.wanted or self.arrived or self.closing)
        wait = core.wake_at() - time.monotonic() if idle else 0.0
        happened = wires.wait(min(max(wait, 0.0), WAIT_S_MAX))
        wakeup.awake()
        core.now = time.monotonic()
        while self.arrived:
            happened.append(self.arrived.popleft())
        for name, what, request in happened:
            if what is True:
                core.connected(name)
            elif what is False:
                core.disconnected(name)
            else:
                core.receive(name, what, request)
        taken = self.take()
        if taken:
            core.submit(taken)
        core.tick(core.now)
        cluster = core.directory.cluster
        for name, message, request in list(core.outgoing()):
            if not wires.send(name, message, request, cluster):
                core.unsent(name, message, request)
        if core.resolved:
            self.tell()

    def take(self) -> list[Pending[Any]]:
        """What other threads handed over."""
        wanted = self.wanted
        return [wanted.popleft() for _ in range(len(wanted))]

    def connect_new(self) -> None:
        """Connect what the core was given or has learned."""
        for endpoint in list(self.core.directory.endpoints.values()):
            if endpoint.name in self.wires:
                continue
            try:
                self.wires.connect(parse_endpoint(endpoint.name))
            except InvalidConfigError as error:
                self.wires.failed[endpoint.name] = str(error)
            endpoint.said = self.wires.failed.get(endpoint.name, endpoint.said)

    def tell(self) -> None:
        """Hand out what is resolved, in one batch, and let those in who wait for room."""
        core = self.core
        batch, core.resolved = core.resolved, []
        self.deliver(batch)
        if self.waiting_for_room and not self.full():
            with self.room:
                self.room.notify_all()
