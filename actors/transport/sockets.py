"""The sockets: one ROUTER where the node listens, one link to each peer, one publisher of events.

ZeroMQ queues for peers that are gone, drops without notice, and can block. Therefore no call here waits, every refusal
is returned to the caller, no socket carries an identity, and only the frame names its sender.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Collection, Iterator
from math import inf
from typing import Any, Final, cast

import zmq

from forge_consensus.actors.runtime.access_control import AccessControl
from forge_consensus.actors.runtime.audit import Audit
from forge_consensus.actors.runtime.refusals import TOO_MANY_TOPICS, Refusals
from forge_consensus.actors.transport.door import HALF_OPEN_MAX, Door, connections_allowed
from forge_consensus.actors.transport.endpoint import (
    cannot_listen,
    claim_path,
    events_endpoint,
    in_use,
    path_of,
    url_of,
)
from forge_consensus.actors.transport.link import DealerOptions, Link
from forge_consensus.actors.transport.liveness import PING, watch_those_who_connect
from forge_consensus.actors.transport.zap import EVENTS as EVENTS_DOMAIN
from forge_consensus.actors.transport.zap import HANDSHAKES_MAX, ZapHandler
from forge_consensus.actors.transport.zap import NODE as NODE_DOMAIN
from forge_consensus.errors import InvalidConfigError, TransportUnavailableError
from forge_consensus.process.socket_poller import SocketPoller

NOBLOCK: Final = int(zmq.NOBLOCK)
SNDMORE: Final = int(zmq.SNDMORE | zmq.NOBLOCK)
RCVMORE: Final = int(zmq.RCVMORE)
SRCFD: Final = int(zmq.SRCFD)
PEER_FRAMES_MAX: Final = 4096
"""The send queue of a peer, in frames: more than the in-flight window, votes, heartbeats and chunks together. The
actors control the flow, so EAGAIN means that the peer is stuck."""
CLIENT_FRAMES_MAX: Final = 4096
EVENT_FRAMES_MAX: Final = 10_000
TOPIC_BYTES_MAX: Final = 1024
TOPICS_MAX: Final = 1000
"""Of so many different topics ZeroMQ keeps each in memory, byte by byte, and each event is compared with all of them;
with more of them the subscriber that asked for most is shut."""
SUBSCRIPTIONS_A_LOOK: Final = 256
FRAMES_UNREAD_MAX: Final = 16
"""So many frames of one connection wait here to be read; further ones wait at their sender. So a connection holds at
most this many times `message_bytes_max` of this node's memory."""
GREETING_HEAD_BYTES: Final = 16
NO_DESCRIPTOR: Final = -1
EARLY_SECONDS: Final = 0.04
"""What the doors look for is looked for so much earlier if the node is awake: it seldom wakes for that alone."""
RECONNECT_MS: Final = 50
RECONNECT_MS_MAX: Final = 200

Socket = zmq.Socket[bytes]


class Sockets:
    """The sockets of one node; they belong to its thread.

    `bind` is HOST:PORT or ipc://PATH, and so is `events_bind` (None for `events_endpoint`); `peers` maps node ids to
    such addresses, `bytes_max` bounds one message, `link_timeout` is in seconds (see `liveness`), `connections_max` and
    `half_open_max` bound what is accepted (see `door`), `handshakes_max` what is judged in a second (see `zap`). With
    `access` every socket speaks CURVE, and whoever connects must be known. Raises `TransportUnavailableError` when an
    address is taken, `InvalidConfigError` for a malformed one.
    """

    def __init__(
        self,
        bind: str,
        peers: dict[str, str],
        bytes_max: int,
        link_timeout: float,
        connections_max: int,
        events_bind: str | None = None,
        access: AccessControl | None = None,
        half_open_max: int = HALF_OPEN_MAX,
        handshakes_max: int = HANDSHAKES_MAX,
    ) -> None:
        self.poller = SocketPoller()
        self.context: zmq.Context[Socket] = zmq.Context()
        self.access = access
        self.zap: ZapHandler | None = None
        self.doors: list[Door] = []
        """Those of the router and of the publisher."""
        self.refusals = Refusals()
        self.bytes_max = bytes_max
        self.link_timeout = link_timeout
        self.dealers: dict[str, Socket] = {}
        self.links: dict[str, Link] = {}
        self.links_of: dict[Socket, Link] = {}
        """The links by their DEALERs."""
        self.monitors: dict[Socket, str] = {}
        self.wake_at = inf
        """When to call `tick` (monotonic)."""
        self.paths: list[str] = []
        """The files of sockets that listen at a path, to be removed because ZeroMQ leaves them behind."""
        try:
            if access is not None:
                self.zap = ZapHandler(self.context, access, handshakes_max)
            failed = None if self.zap is None else self.zap.failed
            allowed, events_allowed = connections_allowed(connections_max)
            self.router = self.bound(zmq.ROUTER, bind, bytes_max)
            self.router.setsockopt(zmq.ROUTER_MANDATORY, 1)
            self.door = Door(self.router, allowed, bytes_max, half_open_max, failed)
            self.doors.append(self.door)
            self.publisher = self.bound_for_events(events_bind or events_endpoint(bind))
            self.publisher.setsockopt(zmq.XPUB_VERBOSE, 1)  # tells of each subscriber, and so who is one
            self.events_door = Door(self.publisher, events_allowed, TOPIC_BYTES_MAX, half_open_max, failed)
            self.doors.append(self.events_door)
            for node, address in peers.items():
                self.connect(node, address)
            self.bind_address = endpoint_of(self.router)
            self.events_address = endpoint_of(self.publisher)
        except BaseException:
            self.close()
            raise
        self.topics: set[bytes] = set()
        self.poller.register(self.router)
        self.poller.register(self.publisher)
        self.entrances: set[Socket] = {door.monitor for door in self.doors}
        """Where it is told who comes and goes, or asked who may come: `let_in` when one of them has something."""
        if self.zap is not None:
            self.entrances.add(self.zap.socket)
        for entrance in self.entrances:
            self.poller.register(entrance)
        self.take_refusals(self.refusals)

    def take_refusals(self, refusals: Refusals) -> None:
        """Count and tell there who is not let in, or shut."""
        self.refusals = refusals
        for door in self.doors:
            door.refusals = refusals
        if self.zap is not None:
            self.zap.refusals = refusals

    def take_audit(self, audit: Audit) -> None:
        """Have those who are not let in recorded there, which asks here from where others come."""
        audit.origin_of = self.origin_of
        if self.zap is not None:
            self.zap.audit = audit

    def origin_of(self, connection: Any) -> str:
        """Return the address that a connection comes from: "local" by a path of this machine, "" if it is not known."""
        return self.door.origins.get(connection, "")

    def bound(self, kind: int, address: str, bytes_max: int) -> Socket:
        """Open a listening socket. Raises the errors of the class."""
        path = path_of(address)
        if path is not None:
            claim_path(path)
        socket = self.context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IPV6, int(address.startswith("[")))
        socket.setsockopt(zmq.MAXMSGSIZE, bytes_max)
        socket.setsockopt(zmq.RCVHWM, FRAMES_UNREAD_MAX)
        socket.setsockopt(zmq.SNDHWM, EVENT_FRAMES_MAX if kind == zmq.XPUB else CLIENT_FRAMES_MAX)
        watch_those_who_connect(socket, self.link_timeout)
        if self.zap is not None:
            self.zap.guard(socket, EVENTS_DOMAIN if kind == zmq.XPUB else NODE_DOMAIN)
        try:
            socket.bind(url_of(address))
        except zmq.ZMQError as error:
            socket.close(0)
            if error.errno == zmq.EADDRINUSE:
                raise in_use(address) from error
            if error.errno in (errno.EINVAL, errno.ENODEV):
                raise InvalidConfigError(
                    f"{address!r} is no address to listen on: it is HOST:PORT with a host of this machine, or ipc://PATH"
                ) from error
            raise cannot_listen(address, zmq.strerror(error.errno or 0)) from error
        if path is not None:
            self.paths.append(path)
        return socket

    def bound_for_events(self, address: str) -> Socket:
        """Open the publisher of events. Raises the errors of the class, which name it."""
        try:
            return self.bound(zmq.XPUB, address, TOPIC_BYTES_MAX)
        except (InvalidConfigError, TransportUnavailableError) as error:
            raise type(error)(f"events: {error}") from error

    def connect(self, node: str, address: str) -> bool:
        """Begin to connect to a peer; ZeroMQ repeats the attempt by itself. Raises `InvalidConfigError`.

        Returns False, and does nothing, for a peer that has no key by which it could prove who it is.
        """
        access = self.access
        servers = () if access is None else access.current.member_keys(node)
        if access is not None and not servers:
            return False
        options = DealerOptions(
            self.bytes_max, PEER_FRAMES_MAX, None, RECONNECT_MS, RECONNECT_MS_MAX, self.link_timeout
        )
        try:
            link = Link(
                self.context, address, options, "node", keys=None if access is None else access.keys, servers=servers
            )
        except zmq.ZMQError as error:
            raise InvalidConfigError(
                f"{address!r} of peer {node!r} is no address: it is HOST:PORT or ipc://PATH"
            ) from error
        self.links[node] = link
        self.dealers[node] = link.socket
        self.links_of[link.socket] = link
        self.monitors[link.monitor] = node
        self.poller.register(link.socket)
        self.poller.register(link.monitor)
        self.wake_at = min(self.wake_at, link.wake_at)
        return True

    def disconnect(self, node: str) -> bool:
        """End the link to a peer; returns whether a connection stood. What was not sent yet is dropped."""
        link = self.links.pop(node)
        stood = link.stands
        del self.dealers[node], self.links_of[link.socket], self.monitors[link.monitor]
        self.poller.unregister(link.socket)
        self.poller.unregister(link.monitor)
        link.close()
        return stood

    # --- receiving ---------------------------------------------------------------------------------------------------

    def changes(self, node: str) -> Iterator[bool]:
        """Yield the changes of a peer's connection: True for established, False for lost."""
        link = self.links[node]
        yield from link.changes()
        self.wake_at = min(self.wake_at, link.wake_at)

    def has_work(self, now: float) -> bool:
        """Whether `tick` has something to do that is due, or may be done early, at the monotonic time `now`."""
        return self.wake_at <= now + EARLY_SECONDS

    def tick(self, now: float) -> list[str]:
        """Let the links and the door do what is due at the monotonic time `now`.

        Returns the peers whose connections were given up; `changes` reports them.
        """
        given_up = []
        for node, link in self.links.items():
            if link.wake_at <= now:
                if link.tick(now):
                    given_up.append(node)
                self.poller.used(link.socket)
        for door in self.doors:
            if door.wake_at <= now + EARLY_SECONDS:
                door.tick(now, EARLY_SECONDS)
                self.poller.used(door.listener)
        self.wake_at = min(*(door.wake_at for door in self.doors), *(link.wake_at for link in self.links.values()), inf)
        return given_up

    def let_in(self, now: float) -> None:
        """Let connect who may, and note who did and who went."""
        if self.zap is not None:
            self.zap.answer(now)
            self.poller.used(self.zap.socket)
        for door in self.doors:
            door.look(now)
            self.wake_at = min(self.wake_at, door.wake_at)

    def judge_anew(self, now: float) -> list[str]:
        """Shut the connections of keys that may be connected no more, because the list of access changed.

        Links that prove a key which is valid no more are begun anew with another one; returns the peers to which links
        were ended because no key of theirs is known, after `disconnect`.
        """
        zap, access = self.zap, self.access
        if zap is None or access is None:
            return []
        self.let_in(now)
        self.door.judge(lambda key: zap.admits(NODE_DOMAIN, key))
        self.events_door.judge(lambda key: zap.admits(EVENTS_DOMAIN, key))
        ended = []
        for node, link in list(self.links.items()):
            servers = access.current.member_keys(node)
            if servers:
                link.take_servers(servers)
                self.poller.used(link.socket)
            elif self.disconnect(node):
                ended.append(node)
        self.wake_at = now
        return ended

    def part_with(self, keys: Collection[str], now: float) -> list[str]:
        """End the connections by these keys of members, in both directions; they are made anew, and greeted again.

        Returns the peers to which a connection stood; `changes` reports them.
        """
        self.let_in(now)
        self.door.part_with(keys)
        parted = [node for node, link in self.links.items() if link.server in keys and link.stands]
        for node in parted:
            self.links[node].begin_anew()
            self.poller.used(self.links[node].socket)
            self.wake_at = min(self.wake_at, self.links[node].wake_at)
        return parted

    def next_part(self, socket: Socket, number: int) -> bytes | None:
        """Read the first part of the next message, None if there is none; so many were read just before.

        Mostly there is one message. Whether it has come, and another one behind it, is asked, because an empty read
        costs several times as much as the question; a row of messages is read to its end.
        """
        if number <= 1 and not self.poller.has_more(socket):
            return None
        try:
            return socket.recv(NOBLOCK)
        except zmq.Again:
            return None

    def from_peer(self, dealer: Socket, count_max: int) -> Iterator[tuple[bytes, None, str]]:
        """Yield (answer, None, key that the peer proves) of a peer, at most `count_max`."""
        link = self.links_of[dealer]
        for number in range(count_max):
            data = self.next_part(dealer, number)
            if data is None:
                return
            link.heard = True
            more = False
            while dealer.getsockopt(RCVMORE):
                dealer.recv(NOBLOCK)
                more = True
            if not more and data != PING:
                yield data, None, link.server

    def from_anyone(self, count_max: int, bytes_max: int) -> Iterator[tuple[bytes, bytes, str]]:
        """Yield (frame, connection, key) of peers and clients, bounded in count and bytes.

        A frame is one part behind the connection's id; any other message is yielded empty, so that the gate refuses it.
        Pings are answered here. The key is the one that the connection proves, "" where nobody is asked. It is asked
        for each frame, because whoever connects may choose the id of a connection that is gone.
        """
        router, shown, keyed, key = self.router, self.door.shown, self.access is not None, ""
        hoarding = self.door.hoarding
        for number in range(count_max):
            connection = self.next_part(router, number)
            if connection is None:
                hoarding.drained = True
                return
            hoarding.heard.add(connection)
            part = router.recv(NOBLOCK, copy=False)
            data, more = part.bytes, part.more
            if keyed:
                key = str(part.get("User-Id"))
            if shown.get(connection) != key:
                self.note_proof(part, key, connection)
            if data == PING and not more:
                self.answer(connection, PING)
                continue
            if self.door.probation and is_greeting(data):
                self.door.greeted(descriptor_of(part))
            while more:
                extra = router.recv(NOBLOCK, copy=False)
                data, more = b"", extra.more
            yield data, connection, key
            bytes_max -= len(data)
            if bytes_max < 0:
                return

    def note_proof(self, part: zmq.Frame, key: str, connection: bytes) -> None:
        """Tell the door that something has arrived on a connection, and which key it proves."""
        door = self.door
        descriptor = descriptor_of(part)
        door.look(time.monotonic())  # it may have the number of one that is gone
        self.wake_at = min(self.wake_at, door.wake_at)
        door.proven(descriptor, key, connection, origin_of_part(part))

    # --- sending -----------------------------------------------------------------------------------------------------

    def send_peer(self, node: str, data: bytes) -> bool:
        """Send a frame to a peer; False when its queue is full or there is no connection."""
        dealer = self.dealers.get(node)
        if dealer is None:
            return False
        self.poller.used(dealer)
        try:
            dealer.send(data, NOBLOCK)
        except zmq.ZMQError:
            return False
        return True

    def answer(self, connection: bytes, data: bytes) -> bool:
        """Send an answer on a connection; False when it is gone or its queue is full."""
        self.poller.used(self.router)
        try:
            self.router.send(connection, SNDMORE)
            self.router.send(data, NOBLOCK)
        except zmq.ZMQError:
            return False
        return True

    def take_subscriptions(self) -> None:
        """Record which topics have subscribers, so that no event is sent without one; some of them at a time."""
        door = self.events_door
        door.look(time.monotonic())  # whoever has subscribed had connected before
        for _ in range(SUBSCRIPTIONS_A_LOOK):
            if not self.poller.has_more(self.publisher):
                return
            part = self.publisher.recv(NOBLOCK, copy=False)
            wish = part.bytes
            if wish[:1] == b"\x01":
                descriptor = descriptor_of(part)
                if descriptor not in door.keys:
                    door.proven(descriptor, "" if self.access is None else str(part.get("User-Id")))
                self.wish(wish[1:], descriptor)
            elif wish[:1] == b"\x00":
                self.topics.discard(wish[1:])

    def wish(self, topic: bytes, descriptor: int) -> None:
        """Note a topic that a subscriber asked for, and shut the one with most of them if they are too many."""
        if topic in self.topics:
            return
        self.topics.add(topic)
        door = self.events_door
        if descriptor not in door.keys:
            return  # it is gone: ZeroMQ tells soon that nobody wants its topics
        door.wishes[descriptor] = door.wishes.get(descriptor, 0) + 1
        if len(self.topics) > TOPICS_MAX and sum(door.wishes.values()) > TOPICS_MAX:
            door.expel(max(door.wishes, key=door.wishes.__getitem__), TOO_MANY_TOPICS)

    def publish(self, topic: bytes, data: bytes) -> None:
        """Send to subscribers. A slow subscriber misses the event and detects the gap by the sequence number."""
        self.poller.used(self.publisher)
        self.publisher.send(topic, SNDMORE)
        self.publisher.send(data, NOBLOCK)

    def close(self) -> None:
        """Close all sockets at once; unsent frames are dropped."""
        self.poller.close()
        for path in self.paths:  # first: once this node does not listen, another one may take the path
            with contextlib.suppress(OSError):
                os.unlink(path)
        for dealer in self.dealers.values():
            dealer.disable_monitor()
        for door in self.doors:
            door.listener.disable_monitor()
            door.monitor.close(0)
        for monitor in self.monitors:
            monitor.close(0)
        self.context.destroy(linger=0)


def is_greeting(data: bytes) -> bool:
    """Whether a frame is for the actor that handles greetings; a peer's first frame on a connection is."""
    return b"membership" in data[:GREETING_HEAD_BYTES]


def endpoint_of(socket: Any) -> str:
    """Return HOST:PORT or ipc://PATH of a bound socket."""
    return cast("bytes", socket.getsockopt(zmq.LAST_ENDPOINT)).decode().removeprefix("tcp://")


def origin_of_part(part: zmq.Frame) -> str:
    """Return the address that a frame came from; "local" if it has none, as at a path of this machine."""
    try:
        return str(part.get("Peer-Address")) or "local"
    except zmq.ZMQError:
        return "local"


def descriptor_of(part: zmq.Frame) -> int:
    """Return the descriptor of the connection that a frame came on; `NO_DESCRIPTOR` if ZeroMQ does not say."""
    try:
        return int(part.get(SRCFD))
    except (zmq.ZMQError, TypeError, ValueError):
        return NO_DESCRIPTOR
