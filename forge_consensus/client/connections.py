"""A client's connections: a link to each address, and a port to an embedded node."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from math import inf
from typing import Any, Final, Protocol

import zmq

from forge_consensus.actors.codec import NO_EXTENSION, STAMP, Extension, Frame, OtherVersionError, decode, encode
from forge_consensus.actors.messages import STALE, Read, WireMessage
from forge_consensus.actors.transport.link import DealerOptions, Link
from forge_consensus.actors.transport.liveness import LINK_TIMEOUT_SECONDS, PING
from forge_consensus.errors import ConnectionFailedError, ProtocolError
from forge_consensus.process.socket_poller import SocketPoller
from forge_consensus.process.wakeup import NOBODY, Wakeup
from forge_consensus.security.credentials import Credentials

NOBLOCK: Final = int(zmq.NOBLOCK)
FRAME_BYTES_MAX: Final = 64 << 20
FRAMES_A_LOOK: Final = 64
"""So many frames are taken from one connection before it is the turn of the others."""
FRAMES_WAITING_MAX: Final = 100_000
UNTOLD_BYTES: Final = 8 << 20
"""After so many bytes of answers without a request a connection asks for nothing, to tell the node what was read."""
RECONNECT_MS: Final = 20
RECONNECT_MS_MAX: Final = 200
GATEWAY: Final = "gateway"


Arrived = tuple[str, Any, int]
"""The endpoint; a message, True for a connection made, False for one lost, or a text that says why there is none or why
it is of no use; the request number."""


class LocalPort(Protocol):
    """A node of this process as an endpoint: messages are handed over as objects, without a socket."""

    def connect(self, on_message: Callable[[WireMessage, int], None]) -> None:
        """From now on call `on_message(answer, request number)`, from any thread."""

    def send(self, message: WireMessage, request: int) -> None:
        """Take a request, from any thread, and return at once. It can raise anything if the node has stopped."""

    def close(self) -> None:
        """Call `on_message` no more, also not with answers to what was sent before."""


class Connection:
    """One link to one address. Its owner registers its sockets with the poller, which it tells what it does with them.

    `link_timeout` is in seconds, see `forge_consensus.actors.transport.liveness`. With `credentials` it is encrypted,
    and leads to nobody but a node. Raises `ConnectionFailedError` for what is no address.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        poller: SocketPoller,
        link_timeout: float = LINK_TIMEOUT_SECONDS,
        credentials: Credentials | None = None,
    ) -> None:
        self.address = address
        self.poller = poller
        self.credentials = credentials
        self.present: Mapping[str, tuple[str, ...]] | None = None
        """The keys of the nodes as they were looked at last."""
        options = DealerOptions(
            FRAME_BYTES_MAX, FRAMES_WAITING_MAX, FRAMES_WAITING_MAX, RECONNECT_MS, RECONNECT_MS_MAX, link_timeout
        )
        keys, servers = (None, ()) if credentials is None else (credentials.keys, credentials.of(address))
        try:
            self.link = Link(context, address, options, "client", keys=keys, servers=servers)
        except zmq.ZMQError as error:
            raise ConnectionFailedError(f"cannot connect to {address}: {error}") from error
        self.socket, self.monitor = self.link.socket, self.link.monitor
        self.told = ""
        """The problem that was told last."""
        self.stamp = 0
        """The last stamp that was read, see `forge_consensus.actors.runtime.unread`."""
        self.untold = 0
        """How many bytes were read since the node was told what was read."""
        self.unreadable = ""
        """Why the node's answers cannot be read, if they are of another protocol version; "" if it was taken."""

    def renew_keys(self) -> None:
        """Take the keys by which the node may prove itself as they are now, if they may change."""
        credentials = self.credentials
        if credentials is None or credentials.present is None:
            return
        present = credentials.present()
        if present is not self.present:
            self.present = present
            servers = credentials.of(self.address)
            if servers != self.link.servers:
                self.link.take_servers(servers)
                self.poller.used(self.socket)

    @property
    def reached(self) -> str:
        """The address in numbers that the link goes to, or a path; "" before its name is resolved."""
        return self.link.url.removeprefix("tcp://")

    def news(self) -> str:
        """Why there is no connection, once for each reason; "" if there is nothing new."""
        problem = self.link.problem
        if problem == self.told:
            return ""
        self.told = problem
        return problem

    def events(self) -> Iterator[bool]:
        """What happened to the connection: True when it was made, False when it was lost."""
        return self.link.changes()

    def frames(self) -> list[Frame]:
        """The frames that have arrived, at most `FRAMES_A_LOOK`."""
        socket, link, frames = self.socket, self.link, list[Frame]()
        for _ in range(FRAMES_A_LOOK):
            try:
                part = socket.recv(NOBLOCK, copy=False)
            except zmq.Again:
                break
            link.heard = True
            data = part.bytes
            if part.more:
                self.skip_message()
            elif data != PING and (frame := self.decoded(data)) is not None:
                frames.append(frame)
            if not self.poller.has_more(socket):
                break
        return frames

    def decoded(self, data: bytes) -> Frame | None:
        """The frame in those bytes, None if there is none; the node is told from time to time how much was read."""
        try:
            frame = decode(data, FRAME_BYTES_MAX)
        except OtherVersionError as error:
            self.unreadable = f"{error}: use the same version of the program on both sides"
            return None
        except ProtocolError:
            return None
        stamp = frame.extension.get(STAMP)
        if type(stamp) is int:
            self.stamp = stamp
        self.untold += len(data)
        if self.untold >= UNTOLD_BYTES and self.stamp:
            self.ask(Read(STALE, ()), 0, "")
        return frame

    def ask(self, message: WireMessage, request: int, cluster: str) -> bool:
        """Send a request, which tells the node what was read; returns whether the connection took it."""
        self.untold = 0
        return self.send(packed(message, request, cluster, self.stamp))

    def skip_message(self) -> None:
        """Drop the rest of a message of several parts: it is no frame."""
        while self.socket.getsockopt(zmq.RCVMORE):
            self.socket.recv(NOBLOCK)

    def send(self, data: bytes) -> bool:
        """Send a frame; returns whether the connection took it."""
        self.poller.used(self.socket)
        try:
            self.socket.send(data, NOBLOCK)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        """Close both sockets; nothing lingers."""
        self.link.close()


def tend_links(connections: Iterable[Connection], told: list[Arrived]) -> float:
    """Let links do what is due; returns the monotonic time before which none of them needs to be tended again.

    What became of a connection that was given up, and why one has no connection, is added to `told`.
    """
    now = time.monotonic()
    wake_at = inf
    for connection in connections:
        connection.renew_keys()
        link = connection.link
        if link.wake_at <= now:
            if link.tick(now):
                told += [(connection.address, made, 0) for made in connection.events()]
            connection.poller.used(connection.socket)
            if text := connection.news():
                told.append((connection.address, text, 0))
        wake_at = min(wake_at, link.wake_at)
    return wake_at


def packed(message: WireMessage, request: int, cluster: str, stamp: int = 0) -> bytes:
    """The bytes of a client's request; `stamp` is the last one that was read on its connection, 0 if none was."""
    sent = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    extension: Extension = {STAMP: stamp} if stamp else NO_EXTENSION
    return encode(Frame(GATEWAY, cluster, "", "", 0, 0, request, sent, message, extension))


class Connections:
    """All connections of one client. Only the driver's thread uses them, and `wakeup` ends its wait."""

    def __init__(
        self, wakeup: Wakeup, link_timeout: float = LINK_TIMEOUT_SECONDS, credentials: Credentials | None = None
    ) -> None:
        self.wakeup = wakeup
        self.credentials = credentials
        self.keys_change = credentials is not None and credentials.present is not None
        self.link_timeout = link_timeout
        self.poller = SocketPoller()
        self.poller.register_file(wakeup.fd)
        self.tend_at = inf
        """When the links are to be tended next (monotonic)."""
        self.context: zmq.Context[zmq.Socket[bytes]] | None = None
        self.by_address: dict[str, Connection] = {}
        self.by_socket: dict[Any, tuple[Connection, bool]] = {}
        self.ports: dict[str, LocalPort] = {}
        self.failed: dict[str, str] = {}
        """Addresses that cannot even be tried, and why."""

    def __contains__(self, name: str) -> bool:
        """Whether the endpoint has a connection or was tried."""
        return name in self.by_address or name in self.ports or name in self.failed

    def connect(self, address: str) -> None:
        """Begin to connect to an address; ZeroMQ goes on by itself. What is no address is noted in `failed`."""
        if self.context is None:
            self.context = zmq.Context()
        try:
            connection = Connection(self.context, address, self.poller, self.link_timeout, self.credentials)
        except ConnectionFailedError as error:
            self.failed[address] = str(error)
            return
        self.by_address[address] = connection
        self.by_socket[connection.socket] = (connection, False)
        self.by_socket[connection.monitor] = (connection, True)
        self.poller.register(connection.socket)
        self.poller.register(connection.monitor)
        self.tend_at = min(self.tend_at, connection.link.wake_at)

    def keep(self, names: Collection[str]) -> None:
        """Close the connections to all other endpoints."""
        for name in self.by_address.keys() - set(names):
            connection = self.by_address.pop(name)
            for socket in (connection.socket, connection.monitor):
                self.poller.unregister(socket)
                del self.by_socket[socket]
            connection.close()
        for name in self.failed.keys() - set(names):
            del self.failed[name]

    def is_denied(self, name: str) -> bool:
        """Whether what listens there does not let this client in, as far as it said last."""
        connection = self.by_address.get(name)
        return connection is not None and connection.link.denied

    def dialled(self) -> set[str]:
        """The addresses in numbers to which there may be connections."""
        return {place for connection in self.by_address.values() for place in connection.link.places()}

    def wait(self, seconds: float) -> list[Arrived]:
        """Wait up to so many seconds; returns what arrived: messages, and connections made and lost.

        The sleep that `wakeup` announces is over then.
        """
        arrived: list[Arrived] = []
        if self.tend_at <= time.monotonic() or self.keys_change:
            self.tend_at = tend_links(self.by_address.values(), arrived)
        seconds = 0.0 if arrived else max(min(seconds, self.tend_at - time.monotonic()), 0.0)
        ready = self.poller.wait(seconds)
        self.wakeup.sleeping = False
        for socket in ready:
            if type(socket) is int:
                self.wakeup.awake()
                continue
            connection, monitor = self.by_socket[socket]
            if monitor:
                self.note_events(connection, arrived)
                continue
            for frame in connection.frames():
                arrived.append((connection.address, frame.message, frame.request))
            if connection.unreadable:
                arrived.append((connection.address, connection.unreadable, 0))
                connection.unreadable = ""
        return arrived

    def note_events(self, connection: Connection, arrived: list[Arrived]) -> None:
        """Add what happened to a connection to what arrived."""
        arrived += [(connection.address, made, 0) for made in connection.events()]
        if text := connection.news():
            arrived.append((connection.address, text, 0))
        self.tend_at = min(self.tend_at, connection.link.wake_at)

    def send(self, name: str, message: WireMessage, request: int, cluster: str) -> bool:
        """Send a request to an endpoint; returns whether its connection took it."""
        port = self.ports.get(name)
        if port is not None:
            try:
                port.send(message, request)
            except Exception:  # whatever a stopped node raises, the message was not taken
                return False
            return True
        connection = self.by_address.get(name)
        return connection is not None and connection.ask(message, request, cluster)

    def close(self) -> None:
        """Close everything at once; nothing lingers."""
        for port in self.ports.values():
            port.close()
        self.poller.close()
        self.wakeup = NOBODY  # its descriptor lives as long as anybody holds it
        for connection in self.by_address.values():
            connection.close()
        if self.context is not None:
            self.context.term()
