"""The ZeroMQ base: a Thespian system base that runs one node on one thread, over sockets and real clocks."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

from forge_consensus.actors.codec import STAMP, Frame, encode
from forge_consensus.actors.runtime.access_control import AccessControl
from forge_consensus.actors.runtime.address import SenderAddress
from forge_consensus.actors.runtime.audit import AUDITED
from forge_consensus.actors.runtime.clock import SystemClock
from forge_consensus.actors.runtime.engine import Engine
from forge_consensus.actors.transport.base import SystemBase
from forge_consensus.actors.transport.sockets import Sockets
from forge_consensus.config.raft import RaftSettings
from forge_consensus.errors import InvalidConfigError, NotStartedError
from forge_consensus.events.bus import EventBus
from forge_consensus.events.encoding import topic_bytes
from forge_consensus.events.types import ConsensusEvent
from forge_consensus.process.fork import close_descriptor, close_sockets, keep, tell_of_forks
from forge_consensus.process.log import LogLines
from forge_consensus.process.wakeup import NOBODY, Wakeup
from forge_consensus.storage.opening import Opened

LINES = LogLines(__name__)
WAIT_SECONDS_MAX = 0.1
"""The longest wait for frames, which bounds the lost time that goes unnoticed."""
LISTEN_MS = 10
GATEWAY = "gateway"
LATE_SECONDS = 0.02
"""A larger delay counts as time in which the node did not run."""


class LocalConnection:
    """A client in the node's process, which exchanges messages without encoding. It is a client's `LocalPort`.

    Args:
        base: the node.
        key: the public key that the client shows other nodes, so that its session is one for all; empty if none.

    """

    def __init__(self, base: ZeroMqBase, key: str = "") -> None:
        self.base = base
        self.key = key
        self.deliver: Callable[[Any, int], None] = lambda message, request: None

    @property
    def node(self) -> str:
        """The id of the node behind this connection."""
        return self.base.engine.ledger.identity.node_id

    def connect(self, on_message: Callable[[Any, int], None]) -> None:
        """Call `on_message(message, request number)` with every answer, on the node's thread."""
        self.deliver = on_message

    def send(self, message: Any, request: int) -> None:
        """Send the node a request, from any thread. Raises `NotStartedError` when the node has stopped."""
        if self.base.closed:
            raise NotStartedError("the node has stopped: start it again")
        self.base.post(self.receive, (message, request))

    def receive(self, asked: tuple[Any, int]) -> None:
        """Hand the gateway a request in this turn; runs on the node's thread."""
        engine = self.base.engine
        message, request = asked
        sender = SenderAddress("", GATEWAY, self, request, 0, engine.outbox)
        sender.identity = "" if self.base.access is None else self.base.access.name_of(self.key)
        if type(message) in AUDITED:
            engine.audit.note(message, sender, local=True)
        engine.next_turn(engine.actor(GATEWAY), message, sender)

    def close(self) -> None:
        """Drop every further answer, because the client inside this process is gone."""
        self.deliver = lambda message, request: None


class ZeroMqBase(SystemBase):
    """One node on one thread: construct it, pass it to `start_system`, then call `run`.

    `bind` is HOST:PORT or ipc://PATH, and so is `events_bind`, where the node publishes its events; None stands for
    `events_endpoint`. `http_url` is where the node's application answers HTTP. `access` says who may do what; with it
    every connection is encrypted. `rng` is the node's random source;
    without it the node makes one of its own.
    Raises `TransportUnavailableError` when the address is taken, `InvalidConfigError` for a malformed one.
    """

    access: AccessControl | None = None
    judged = 0
    """The version of the list of access by which the connections were judged last."""

    def __init__(
        self,
        opened: Opened,
        settings: RaftSettings,
        bus: EventBus,
        bind: str,
        *,
        rng: random.Random | None = None,
        advertised: str | None = None,
        events_bind: str | None = None,
        http_url: str = "",
        access: AccessControl | None = None,
    ) -> None:
        identity = opened.ledger.identity
        addresses = {node: address for node, address in opened.ledger.configuration.members if node != identity.node_id}
        self.access = access
        self.sockets = Sockets(
            bind,
            addresses,
            settings.message_bytes_max,
            settings.link_timeout,
            settings.connections_max,
            events_bind,
            access,
            settings.half_open_max,
            settings.handshakes_max,
        )
        self.clock = SystemClock()
        try:
            self.engine = Engine(
                opened,
                settings,
                self.clock,
                self,
                bus,
                rng or random.Random(),
                self.sockets.bind_address,
                self.sockets.events_address,
                advertised,
                http_url,
                access,
            )
            self.wakeup = Wakeup()
        except BaseException:
            self.sockets.close()
            raise
        self.sockets.take_refusals(self.engine.refusals)
        self.sockets.take_audit(self.engine.audit)
        if access is not None:
            self.note_strangers()
        self.inbox: deque[tuple[Any, Any]] = deque()
        self.sockets.poller.register_file(self.wakeup.fd)
        self.bus = bus
        self.closed = False
        tell_of_forks(self)

    # --- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run turns until `stop` is called. Raises every error that ends the node before."""
        engine = self.engine
        try:
            engine.turn([], [])  # creates the actors, so that no frame arrives before them
            while not engine.stopping:
                frames, notices = self.wait()
                if not (frames or notices or engine.patience(WAIT_SECONDS_MAX) == 0.0):
                    continue
                began = self.clock.reading()
                engine.turn(frames, notices)
                took = self.clock.reading() - began
                if took > LATE_SECONDS:
                    self.clock.lost(took - LATE_SECONDS)
            engine.finish()
        finally:
            self.close()

    def wait(self) -> tuple[list[tuple[Any, ...]], list[Any]]:
        """Wait for frames or the next timer; returns (frames, notices), with peers' answers before all requests."""
        wakeup = self.wakeup
        wakeup.doze()
        notices = self.tend()
        patience = 0.0 if notices else self.patience()
        began = self.clock.reading()
        ready = self.sockets.poller.wait(patience)
        wakeup.sleeping = False
        late = self.clock.reading() - began - patience
        if late > LATE_SECONDS:
            self.clock.lost(late)
        frames: list[tuple[Any, ...]] = []
        settings, sockets = self.engine.settings, self.sockets
        for socket in ready:
            if isinstance(socket, int):
                wakeup.awake()
            elif socket in sockets.monitors:
                notices += self.changes_of(sockets.monitors[socket])
            elif socket is sockets.publisher:
                self.serve_subscribers()
            elif socket in sockets.entrances:
                sockets.let_in(time.monotonic())
            elif socket is not sockets.router:
                frames += sockets.from_peer(socket, settings.turn_frames_max)
        if sockets.router in ready:
            frames += sockets.from_anyone(settings.turn_frames_max, settings.turn_bytes_max)
        self.take_inbox()
        return frames, notices

    def tend(self) -> list[Any]:
        """Let the links to peers be those of the members, and do what is due; returns the notices of what ended."""
        now = time.monotonic()
        notices = self.follow_members() if self.engine.follow_members() else []
        if self.access is not None and self.access.version != self.judged:
            notices += self.judge_anew(self.access, now)
        if self.access is not None and self.access.certificates is not None:
            notices += self.part_with(self.access.certificates.ended(), now)
        if not self.sockets.has_work(now):
            return notices
        given_up = self.sockets.tick(now)
        for node in self.sockets.links:
            self.note_problem(node)
        return [*notices, *(notice for node in given_up for notice in self.changes_of(node))]

    def patience(self) -> float:
        """For how many seconds to wait for frames."""
        if self.inbox:
            return 0.0
        return min(self.engine.patience(WAIT_SECONDS_MAX), max(self.sockets.wake_at - time.monotonic(), 0.0))

    def follow_members(self) -> list[Any]:
        """Connect to members that were added or moved, and no longer to those that were removed; returns notices."""
        sockets, peers = self.sockets, self.engine.peers
        notices: list[Any] = []
        for node in [node for node, link in sockets.links.items() if peers.wanted.get(node) != link.address]:
            if sockets.disconnect(node):
                notices.append(peers.link(node, False))
        for node, address in peers.wanted.items():
            if node in sockets.links:
                continue
            try:
                if not sockets.connect(node, address):
                    self.note_strangers()
            except InvalidConfigError as error:  # the configuration is in force all the same
                peers.problems[node] = str(error)
                LINES.error("peer {}: {}", node, error)
        return notices

    def judge_anew(self, access: AccessControl, now: float) -> list[Any]:
        """Shut out whoever the list of access knows no more, and connect to whom it knows now; returns notices."""
        self.judged = access.version
        ended = self.sockets.judge_anew(now)
        notices = [self.engine.peers.link(node, False) for node in ended]
        return notices + self.follow_members()

    def part_with(self, keys: set[str], now: float) -> list[Any]:
        """End the connections of members for whose keys no certificate vouches any more; returns notices."""
        if not keys:
            return []
        return [notice for node in self.sockets.part_with(keys, now) for notice in self.changes_of(node)]

    def note_strangers(self) -> None:
        """Note to which members there is no link, because the list of access has no key of theirs."""
        problems = self.engine.peers.problems
        for node in self.engine.peers.wanted.keys() - self.sockets.links.keys():
            why = f"the list of access has no key of {node}: add it under members"
            if problems.get(node) != why:
                problems[node] = why
                LINES.warning("peer {}: {}", node, why)

    def changes_of(self, node: str) -> list[Any]:
        """Return the notices of what happened to the connection to a peer."""
        notices = [self.engine.peers.link(node, made) for made in self.sockets.changes(node)]
        self.note_problem(node)
        return notices

    def note_problem(self, node: str) -> None:
        """Note why there is no connection to a peer, and log it if a name does not resolve."""
        link, problems = self.sockets.links[node], self.engine.peers.problems
        before = problems.get(node, "")
        if link.problem == before:
            return
        problems[node] = link.problem
        if link.problem and link.problem == link.name.problem:
            LINES.warning("peer {}: {}: no other peer is affected, and it is asked again", node, link.problem)

    def take_inbox(self) -> None:
        """Run the calls that other threads posted: requests of clients in this process, and reports of jobs."""
        inbox = self.inbox
        while inbox:
            act, argument = inbox.popleft()
            act(argument)

    def post(self, act: Callable[[Any], None], argument: Any) -> None:
        """Call `act(argument)` on the node's thread before its next turn; any thread may post."""
        self.inbox.append((act, argument))
        wakeup = self.wakeup
        if wakeup.sleeping:
            wakeup.rouse()

    def stop(self, reason: str) -> None:
        """Stop the node after its turn; callable from any thread and from a signal handler."""
        self.post(self.engine.stop, reason)

    def retire(self, reason: str) -> None:
        """Stop the node, once another one leads if it does; from any thread and from a signal handler."""
        self.post(self.engine.retire, reason)

    def close(self) -> None:
        """Close the sockets, and leave the part of a snapshot that arrived to the next process."""
        if self.closed:
            return
        self.closed = True
        self.wakeup = NOBODY  # the descriptor goes with the last thread that is inside `rouse`
        self.sockets.close()
        self.engine.outbox.drop()
        self.engine.opened.snapshots.leave_incoming()

    def forked(self) -> None:
        """Let go of everything in a child process: the node runs in its parent."""
        sockets = self.sockets
        dialled = {place for link in sockets.links.values() for place in link.places()}
        close_sockets(bound=[sockets.bind_address, sockets.events_address], dialled=dialled)
        sockets.poller.close()
        close_descriptor(self.wakeup.fd)
        self.wakeup.fd = -1
        keep(self.engine, sockets, self.wakeup)
        self.closed, self.wakeup = True, NOBODY

    # --- the transport of the engine ----------------------------------------------------------------------------------

    def send_peer(self, node: str, data: bytes) -> bool:
        """Send a frame to a peer; False when its queue is full or there is no connection."""
        return self.sockets.send_peer(node, data)

    def send_answer(self, connection: Any, frame: Frame) -> bool:
        """Send an answer back; what clients do not read is counted. One in this process gets the message itself."""
        if type(connection) is LocalConnection:
            connection.deliver(frame.message, frame.request)
            return True
        if frame.to != GATEWAY:
            return self.sockets.answer(connection, encode(frame))
        unread = self.engine.unread
        stamp = unread.next_stamp(connection)
        if stamp:
            frame.extension = {STAMP: stamp}
        data = encode(frame)
        if not self.sockets.answer(connection, data):
            return False
        unread.sent(connection, len(data), stamp)
        return True

    def offload(self, job: Callable[[], Any], done: Callable[[Any, str], None]) -> None:
        """Run a job on a thread of its own, and report its result before a later turn."""

        def work() -> None:
            try:
                result, error = job(), ""
            except Exception as problem:
                result, error = None, f"{type(problem).__name__}: {problem}"
            self.post(lambda outcome: done(*outcome), (result, error))

        try:
            threading.Thread(target=work, name="forge-helper", daemon=True).start()
        except RuntimeError as problem:  # no more threads; the turn is committed, so it cannot be rolled back
            self.post(lambda error: done(None, error), f"{type(problem).__name__}: {problem}")

    def await_subscriber(self, seconds: float) -> None:
        """Wait for a subscriber to the events, before `run`; whoever has to show a key is asked meanwhile."""
        sockets, end = self.sockets, time.monotonic() + seconds
        while time.monotonic() < end:
            if sockets.publisher.poll(LISTEN_MS, zmq.POLLIN):
                self.serve_subscribers()
                return
            sockets.let_in(time.monotonic())

    def serve_subscribers(self) -> None:
        """Read new subscriptions over ZeroMQ; events are forwarded only while there is one."""
        self.sockets.take_subscriptions()
        self.engine.events.forward = self.publish_event if self.sockets.topics else None

    def publish_event(self, event: ConsensusEvent, data: bytes) -> None:
        """Send an event to the subscribers of its topic."""
        topic = topic_bytes(event)
        if any(topic.startswith(wanted) for wanted in self.sockets.topics):
            self.sockets.publish(topic, data)

    # --- what Thespian calls -----------------------------------------------------------------------------------------

    def tell(self, address: Any, message: Any) -> None:
        """Send an actor a message from outside; it is delivered in the next turn."""
        self.post(lambda target: self.engine.next_turn(target, message), address)

    def shutdown(self) -> None:
        """Stop the node, because `ActorSystem.shutdown` was called."""
        self.stop("the actor system was shut down")
