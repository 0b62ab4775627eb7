"""The driver: the one thread of a client, which carries out what the core decides and hands it what arrives."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from forge_consensus.actors.messages import WireMessage
from forge_consensus.client.connections import Arrived, Connections, LocalPort
from forge_consensus.client.endpoints import LOCAL
from forge_consensus.client.lease_keeper import LeaseKeeper, LeaseLife
from forge_consensus.client.pending import Pending
from forge_consensus.client.session import Outgoing, SessionCore
from forge_consensus.config.address import parse_endpoint
from forge_consensus.config.client import ClientSettings
from forge_consensus.errors import (
    BusyError,
    ConsensusError,
    InvalidConfigError,
    NotStartedError,
    TransportUnavailableError,
    fresh,
)
from forge_consensus.process.descriptors import require_descriptors
from forge_consensus.process.fork import close_descriptor, close_sockets, keep, tell_of_forks
from forge_consensus.process.log import LogLines
from forge_consensus.process.threads import ForgeThread
from forge_consensus.process.waiters import Waiters
from forge_consensus.process.wakeup import NOBODY, Wakeup
from forge_consensus.security.credentials import Credentials

LINES = LogLines(__name__)

WAIT_SECONDS_MAX = 1.0
MEMBERS_SECONDS = 5.0
"""How often a client asks who the members of the cluster are."""
CLOSE_SECONDS = 5.0
CLOSED_TEXT = "the client is closed: make a new one"
FORKED_TEXT = (
    "this process was forked, and the node of its parent does not run here: make a Client with the node's address"
)
FORKED_CALL_TEXT = "the parent of this process made this call and goes on with it: its outcome is told there"
DESCRIPTORS = 8
"""More than the wake-up and the threads of ZeroMQ take."""
DESCRIPTORS_EACH = 4
"""What one connection takes."""

Deliver = Callable[[list[Pending[Any]]], None]


def finish_all(pendings: list[Pending[Any]]) -> None:
    """Finish these calls on this thread: wake the threads that wait for them and run their callbacks."""
    for pending in pendings:
        pending.finish()


class Driver:
    """A core, its connections and its thread, which begins with the first call or with `begin`.

    Other threads touch only the two deques, the wake-up, and the waiters for capacity. None of that is a lock, so a
    signal handler that interrupts any call can make any other, `close` too.

    In a forked child the driver is as good as new: the thread, the connections and the calls belong to the parent. The
    calls end in the child with an error, and the first call there begins a thread with a session of its own. A driver
    of an embedded node ends in the child, because that node is not there.

    Args:
        endpoints: the addresses that the client is given.
        cluster: the id of the cluster, "" for that of the first node that answers.
        settings: bounds and times; None for the defaults.
        port: a node of this process, which is then the endpoint `LOCAL`.
        deliver: takes the calls that ended, on the driver's thread.
        follow: whether to go to nodes that were not given.
        prefer: the endpoint that answers stale queries while it is connected.
        credentials: what the client shows the nodes, and by what they prove themselves; None for no encryption.

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
        credentials: Credentials | None = None,
    ) -> None:
        self.credentials = credentials
        names = [*([LOCAL] if port is not None else []), *endpoints]
        self.make_core = partial(
            SessionCore,
            names,
            random=random.random,
            settings=settings,
            cluster=cluster,
            prefer=LOCAL if port is not None else prefer,
            follow=follow,
        )
        self.port = port
        self.deliver = deliver
        self.on_fork: Callable[[], object] = lambda: None
        """Called in a forked child, after the driver let go of what belongs to the parent."""
        self.closing = False
        self.orphaned = False
        """Whether nobody holds the client any more: the thread ends when no call is outstanding."""
        self.reason = CLOSED_TEXT
        self.closed_by: ConsensusError | None = None
        self.set_up()
        tell_of_forks(self)

    def set_up(self) -> None:
        """Make everything anew that a thread of this driver works with."""
        self.core = self.make_core(now=time.monotonic())
        if self.port is not None:
            # Known before it answers: else a peer's "it leads at that address" would lead to a socket to ourselves.
            self.core.directory.endpoints[LOCAL].node = getattr(self.port, "node", "")
        self.wakeup: Wakeup = NOBODY
        self.connections: Connections | None = None
        self.changes = -1
        """Of the core's directory, when the connections were made for it."""
        self.members_at = 0.0
        """When to ask next who the members are."""
        self.wanted: deque[Pending[Any]] = deque()
        self.arrived: deque[Arrived] = deque()
        """Answers of the embedded node, from any thread."""
        self.capacity = Waiters()
        self.keeper = LeaseKeeper()
        self.thread: ForgeThread | None = None
        self.unbegun = [True]
        """Who takes the one element out begins the thread, or ends a driver without one."""

    # --- for other threads ---

    def begin(self) -> None:
        """Begin the thread, unless it has begun. Raises `TransportUnavailableError` without descriptors or threads."""
        try:
            self.unbegun.pop()
        except IndexError:
            return
        try:
            endpoints = len(self.core.directory.endpoints)
            require_descriptors(DESCRIPTORS + DESCRIPTORS_EACH * endpoints, "a client")
            self.wakeup = Wakeup()
            self.connections = Connections(self.wakeup, self.core.settings.link_timeout, self.credentials)
            self.thread = ForgeThread(target=self.run, name="forge-client")
            self.thread.start()
        except BaseException as error:
            self.thread, self.connections, self.wakeup = None, None, NOBODY
            if isinstance(error, ConsensusError):
                self.abandon(error)
            self.unbegun.append(True)
            raise

    def hand_over(self, pending: Pending[Any]) -> None:
        """Hand a call over to the driver's thread. Raises `NotStartedError` after `close`, and as `begin` does."""
        if self.closed_by is not None:
            raise fresh(self.closed_by)
        if self.unbegun:
            self.begin()
        self.wanted.append(pending)
        wakeup = self.wakeup
        if wakeup.sleeping:
            wakeup.rouse()
        if self.closed_by is not None:
            self.abandon(self.closed_by)

    def hand_over_all(self, pendings: list[Pending[Any]]) -> None:
        """Hand several calls over at once: all of them, or none if it raises, as `hand_over` does."""
        if self.closed_by is not None:
            raise fresh(self.closed_by)
        if self.unbegun:
            self.begin()
        self.wanted.extend(pendings)  # of a list: no other thread and no signal handler comes in between
        self.wakeup.rouse()
        if self.closed_by is not None:
            self.abandon(self.closed_by)

    def keep_lease(self, life: LeaseLife) -> None:
        """Keep a lease alive from now on. Raises `NotStartedError` after `close`, and as `begin` does."""
        if self.closed_by is not None:
            raise fresh(self.closed_by)
        if self.unbegun:
            self.begin()
        self.keeper.keep(life)
        self.rouse()
        if self.closed_by is not None:
            self.keeper.end()

    def leave_lease(self, life: LeaseLife) -> None:
        """Keep a lease alive no longer; it ends by itself."""
        self.keeper.leave(life)

    def rouse(self) -> None:
        """Have the driver's thread look for work now, if it sleeps; callable from any thread."""
        self.wakeup.rouse()

    def abandon(self, error: ConsensusError) -> None:
        """End the calls that were handed over while there was no thread: nobody else will."""
        left: list[Pending[Any]] = []
        while self.wanted:
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
        if self.is_current():  # a callback: only this thread could end commands
            raise self.busy(0.0)
        if not self.capacity.wait_for(lambda: not self.full() or self.closed_by is not None, timeout):
            raise self.busy(timeout)

    def is_current(self) -> bool:
        """Whether the caller runs on the driver's thread."""
        return self.thread is not None and self.thread.is_current()

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
        self.end_unbegun()
        self.rouse()

    def end_unbegun(self) -> None:
        """End a driver whose thread never began."""
        with suppress(IndexError):
            self.unbegun.pop()
            self.closed_by = NotStartedError(self.reason)
            self.abandon(self.closed_by)

    def let_go(self) -> None:
        """Have the thread end when no call is outstanding, because nobody can make another one."""
        self.orphaned = True
        self.end_unbegun()
        self.rouse()

    def close(self, reason: str = CLOSED_TEXT) -> None:
        """End the thread and every outstanding call, within `CLOSE_SECONDS` whatever the nodes do."""
        self.end_soon(reason)
        if self.thread is not None and not self.is_current():
            self.thread.join(CLOSE_SECONDS)

    def forked(self) -> None:
        """Let go of what belongs to the parent of this process."""
        core, connections, wanted = self.core, self.connections, list(self.wanted)
        if connections is not None:
            connections.poller.close()
            close_sockets(dialled=connections.dialled())
            close_descriptor(self.wakeup.fd)
            self.wakeup.fd = -1
        keep(connections, core, self.wakeup)
        self.keeper.forked()
        running = self.thread is not None and self.closed_by is None
        self.set_up()
        if running and (self.port is not None or self.closing):
            self.closed_by = NotStartedError(FORKED_TEXT)
        for pending in [*wanted, *core.outstanding()]:
            pending.disown(FORKED_CALL_TEXT)
        self.on_fork()

    # --- the driver's thread ---

    def run(self) -> None:
        """Take turns until closed, then end every call that is left; also if this thread itself fails."""
        error: ConsensusError | None = None
        connections = self.connections
        assert connections is not None, "the driver has begun"
        try:
            if self.port is not None:
                connections.ports[LOCAL] = self.port
                self.port.connect(self.on_message)
                self.core.connected(LOCAL)
            while not self.ending():
                self.turn(connections)
        except Exception as fault:
            LINES.error("the client's thread failed", error=fault)
            error = NotStartedError(f"the client's thread failed: {type(fault).__name__}: {fault}")
        self.end(connections, error or NotStartedError(self.reason))

    def end(self, connections: Connections, error: ConsensusError) -> None:
        """Close all connections and end every outstanding call."""
        self.closed_by = error
        connections.close()
        self.core.close(str(error))
        self.tell()
        self.keeper.end()
        self.abandon(error)
        self.capacity.wake()
        self.wakeup = NOBODY  # the descriptor goes with the last thread that is inside `rouse`

    def ending(self) -> bool:
        """Whether the thread is to end: it was closed, or nobody holds the client and no call is outstanding."""
        return self.closing or (self.orphaned and not self.wanted and not self.core.working())

    def on_message(self, message: WireMessage, request: int) -> None:
        """Take an answer of the embedded node; called on any thread."""
        self.arrived.append((LOCAL, message, request))
        wakeup = self.wakeup
        if wakeup.sleeping:
            wakeup.rouse()

    def turn(self, connections: Connections) -> None:
        """Wait for messages or a timer, hand them to the core, send its frames, and deliver calls that ended."""
        core = self.core
        if self.changes != core.directory.changes:
            self.follow_endpoints(connections)
        self.wakeup.doze()
        idle = not (self.wanted or self.arrived or self.ending())
        happened = connections.wait(self.patience() if idle else 0.0)
        core.now = time.monotonic()
        while self.arrived:
            happened.append(self.arrived.popleft())
        for name, what, request in happened:
            if type(what) is bool or type(what) is str:
                self.note_connection(name, what)
            else:
                core.receive(name, what, request)
        if self.wanted or self.keeper.lives or self.keeper.wishes:
            core.submit(self.take())
        core.tick(core.now)
        cluster = core.directory.cluster
        frames = core.outgoing()
        if core.now >= self.members_at:
            frames += self.members_due(core.now)
        for name, message, request in frames:
            if not connections.send(name, message, request, cluster):
                core.unsent(name, message, request)
        if core.resolved:
            self.tell()

    def note_connection(self, name: str, what: bool | str) -> None:
        """Tell the core that a connection was made or lost, or why there is none or it is of no use."""
        if what is True:
            self.core.connected(name)
        elif what is False:
            self.core.disconnected(name)
        else:
            endpoint = self.core.directory.add(name)
            endpoint.said = str(what)
            endpoint.denied = self.connections is not None and self.connections.is_denied(name)

    def take(self) -> list[Pending[Any]]:
        """The calls that other threads handed over, and the keep-alives that are due."""
        wanted = self.wanted
        taken = [wanted.popleft() for _ in range(len(wanted))]
        return taken + self.keeper.due() if self.keeper else taken

    def patience(self) -> float:
        """For how many seconds to wait for what arrives."""
        seconds = min(self.core.wake_at() - time.monotonic(), WAIT_SECONDS_MAX)
        return min(seconds, self.keeper.seconds()) if self.keeper.lives or self.keeper.wishes else seconds

    def members_due(self, now: float) -> Iterable[Outgoing]:
        """The frames that ask who the members are, because it is time for that."""
        self.members_at = now + MEMBERS_SECONDS
        return self.core.ask_for_members()

    def follow_endpoints(self, connections: Connections) -> None:
        """Connect what the core was given or has learned, and close the connections to what it has dropped."""
        self.changes = self.core.directory.changes
        connections.keep(self.core.directory.endpoints.keys())
        for endpoint in list(self.core.directory.endpoints.values()):
            if endpoint.name in connections:
                continue
            try:
                require_descriptors(DESCRIPTORS_EACH, f"a connection to {endpoint.name}")
                connections.connect(parse_endpoint(endpoint.name))
            except (InvalidConfigError, TransportUnavailableError) as error:
                connections.failed[endpoint.name] = str(error)
            endpoint.said = connections.failed.get(endpoint.name, endpoint.said)

    def tell(self) -> None:
        """Deliver the calls that ended, in one batch, and wake the threads that wait for capacity."""
        core = self.core
        batch, core.resolved = core.resolved, []
        if self.keeper.attempts:
            batch = self.keeper.take(batch)
        self.deliver(batch)
        if self.capacity.locks and not self.full():
            self.capacity.wake()
