"""The driver: the one thread of a client, which carries out what the core decides and hands it what arrives."""

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

WAIT_SECONDS_MAX = 1.0
CLOSE_SECONDS = 5.0
CLOSED_TEXT = "the client is closed: make a new one"
FORKED_TEXT = "this process was forked, and its parent's client has no thread here: make a client in this process"

Deliver = Callable[[list[Pending[Any]]], None]


def finish_all(pendings: list[Pending[Any]]) -> None:
    """Finish these calls on this thread: wake the threads that wait for them and run their callbacks."""
    for pending in pendings:
        pending.finish()


DRIVERS: WeakSet[Driver] = WeakSet()


def end_in_child() -> None:
    """Close all clients of a forked process without waiting, because their threads did not come along."""
    for driver in list(DRIVERS):
        driver.lock = threading.Lock()  # the thread that held it does not exist here
        driver.capacity = threading.Condition()
        driver.closed_by = NotStartedError(FORKED_TEXT)


os.register_at_fork(after_in_child=end_in_child)


class Driver:
    """A core, its connections and its thread.

    Other threads touch only the two deques, the wake-up, and the condition of the threads that wait for capacity.

    Args:
        endpoints: the addresses that the client is given.
        cluster: the id of the cluster, "" for that of the first node that answers.
        settings: bounds and times; None for the defaults.
        port: a node of this process, which is then the endpoint `LOCAL`.
        deliver: takes the calls that ended, on the driver's thread.
        follow: whether to go to nodes that were not given.
        prefer: the endpoint that answers stale queries while it is connected.

    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        cluster: str = "",
        settings: ClientSettings | None = None,
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
            settings=settings,
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
        self.connections = Connections(self.wakeup.fd, self.core.settings.link_timeout)
        self.wanted: deque[Pending[Any]] = deque()
        self.arrived: deque[Arrived] = deque()
        """Answers of the embedded node, from any thread."""
        self.closing = False
        self.reason = CLOSED_TEXT
        self.closed_by: ConsensusError | None = None
        self.lock = threading.Lock()
        """Held while the wake-up is written to or closed, so that nobody writes to a closed descriptor."""
        self.capacity = threading.Condition()
        self.waiting_for_capacity = 0
        self.thread = threading.Thread(target=self.run, name="forge-client", daemon=True)
        self.thread.start()
        DRIVERS.add(self)

    # --- for other threads ---

    def hand_over(self, pending: Pending[Any]) -> None:
        """Hand a call over to the driver's thread. Raises `NotStartedError` after `close`."""
        if self.closed_by is not None:
            raise self.closed_by
        self.wanted.append(pending)
        if self.wakeup.sleeping:
            self.rouse()
        if self.closed_by is not None:
            self.abandon()

    def rouse(self) -> None:
        """Wake the driver's thread."""
        with self.lock:
            if self.closed_by is None:
                self.wakeup.rouse()

    def abandon(self) -> None:
        """End the calls that were handed over while the thread ended: nobody else will."""
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
        """Whether as many commands are outstanding as are allowed."""
        commands = self.core.commands
        waiting = len(self.wanted) + len(commands.open) + len(commands.queue)
        return waiting >= self.core.settings.outstanding_max

    def wait_for_capacity(self, timeout: float) -> None:
        """Block until fewer commands are outstanding; raises `BusyError` after `timeout` seconds."""
        if threading.current_thread() is self.thread:  # a callback: only this thread could end commands
            raise self.busy(0.0)
        end = time.monotonic() + timeout
        with self.capacity:
            self.waiting_for_capacity += 1
            try:
                while self.full() and self.closed_by is None:
                    left = end - time.monotonic()
                    if left <= 0:
                        raise self.busy(timeout)
                    self.capacity.wait(min(left, WAIT_SECONDS_MAX))
            finally:
                self.waiting_for_capacity -= 1

    def busy(self, timeout: float) -> BusyError:
        """The error for too many outstanding commands."""
        return BusyError(
            f"{self.core.settings.outstanding_max} commands are outstanding "
            f"and none was answered within {timeout:g} s: wait for results before submitting more"
        )

    def end_soon(self, reason: str) -> None:
        """Have the thread end, and every outstanding call with this reason. Waits for nothing."""
        if not self.closing:
            self.reason = reason
        self.closing = True
        self.rouse()

    def close(self, reason: str = CLOSED_TEXT) -> None:
        """End the thread and every outstanding call, within `CLOSE_SECONDS` whatever the nodes do."""
        self.end_soon(reason)
        if threading.current_thread() is not self.thread:
            self.thread.join(CLOSE_SECONDS)

    # --- the driver's thread ---

    def run(self) -> None:
        """Take turns until closed."""
        error: ConsensusError | None = None
        try:
            if self.port is not None:
                self.connections.ports[LOCAL] = self.port
                self.port.connect(self.on_message)
                self.core.connected(LOCAL)
            while not self.closing:
                self.turn()
        except Exception as fault:
            logger.exception("the client's thread failed")
            error = NotStartedError(f"the client's thread failed: {type(fault).__name__}: {fault}")
        self.end(error or NotStartedError(self.reason))

    def end(self, error: ConsensusError) -> None:
        """Close all connections and end every outstanding call."""
        with self.lock:
            self.closed_by = error
        self.connections.close()
        self.core.close(str(error))
        self.tell()
        self.abandon()
        with self.capacity:
            self.capacity.notify_all()
        with self.lock:
            self.wakeup.close()

    def on_message(self, message: WireMessage, request: int) -> None:
        """Take an answer of the embedded node; called on any thread."""
        self.arrived.append((LOCAL, message, request))
        if self.wakeup.sleeping:
            self.rouse()

    def turn(self) -> None:
        """Wait for messages or a timer, hand them to the core, send its frames, and deliver calls that ended."""
        core, connections = self.core, self.connections
        if len(connections) != len(core.directory.endpoints):
            self.connect_new()
        wakeup = self.wakeup
        wakeup.doze()
        idle = not (self.wanted or self.arrived or self.closing)
        wait = core.wake_at() - time.monotonic() if idle else 0.0
        happened = connections.wait(min(max(wait, 0.0), WAIT_SECONDS_MAX))
        wakeup.awake()
        core.now = time.monotonic()
        while self.arrived:
            happened.append(self.arrived.popleft())
        for name, what, request in happened:
            if type(what) is bool or type(what) is str:
                self.note_connection(name, what)
            else:
                core.receive(name, what, request)
        taken = self.take()
        if taken:
            core.submit(taken)
        core.tick(core.now)
        cluster = core.directory.cluster
        for name, message, request in list(core.outgoing()):
            if not connections.send(name, message, request, cluster):
                core.unsent(name, message, request)
        if core.resolved:
            self.tell()

    def note_connection(self, name: str, what: bool | str) -> None:
        """Tell the core that a connection was made or lost, or why there is none."""
        if what is True:
            self.core.connected(name)
        elif what is False:
            self.core.disconnected(name)
        else:
            self.core.directory.add(name).said = str(what)

    def take(self) -> list[Pending[Any]]:
        """The calls that other threads handed over."""
        wanted = self.wanted
        return [wanted.popleft() for _ in range(len(wanted))]

    def connect_new(self) -> None:
        """Connect what the core was given or has learned."""
        for endpoint in list(self.core.directory.endpoints.values()):
            if endpoint.name in self.connections:
                continue
            try:
                self.connections.connect(parse_endpoint(endpoint.name))
            except InvalidConfigError as error:
                self.connections.failed[endpoint.name] = str(error)
            endpoint.said = self.connections.failed.get(endpoint.name, endpoint.said)

    def tell(self) -> None:
        """Deliver the calls that ended, in one batch, and wake the threads that wait for capacity."""
        core = self.core
        batch, core.resolved = core.resolved, []
        self.deliver(batch)
        if self.waiting_for_capacity and not self.full():
            with self.capacity:
                self.capacity.notify_all()
