"""A client's connections: a DEALER for each address, and a port to an embedded node."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from math import ceil
from typing import Any, Final, Protocol

import zmq

from forge_consensus.actors.codec import Frame, decode, encode
from forge_consensus.actors.messages import WireMessage
from forge_consensus.actors.transport.dealer import DealerOptions, close_watched, monitored, open_dealer
from forge_consensus.errors import ConnectionFailedError, ProtocolError

NOBLOCK: Final = int(zmq.NOBLOCK)
POLLIN: Final = int(zmq.POLLIN)
FRAME_BYTES_MAX: Final = 64 << 20
FRAMES_A_LOOK: Final = 64
"""So many frames are taken from one connection before it is the turn of the others."""
FRAMES_WAITING_MAX: Final = 100_000
OPTIONS: Final = DealerOptions(
    frame_bytes_max=FRAME_BYTES_MAX,
    send_frames_max=FRAMES_WAITING_MAX,
    receive_frames_max=FRAMES_WAITING_MAX,
    reconnect_ms=20,
    reconnect_ms_max=200,
)
GATEWAY: Final = "gateway"


class LocalPort(Protocol):
    """A node of this process as an endpoint: messages are handed over as objects, without a socket."""

    def connect(self, on_message: Callable[[WireMessage, int], None]) -> None:
        """From now on call `on_message(answer, request number)`, from any thread."""

    def send(self, message: WireMessage, request: int) -> None:
        """Take a request, from any thread, and return at once. It can raise anything if the node has stopped."""

    def close(self) -> None:
        """Stop sending answers."""


class Connection:
    """One DEALER to one address, and the monitor that says whether anybody is there."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self.address = address
        try:
            self.socket, self.monitor = open_dealer(context, address, OPTIONS, "client")
        except zmq.ZMQError as error:
            raise ConnectionFailedError(f"cannot connect to {address}: {error}") from error

    def events(self) -> Iterator[bool]:
        """What happened to the connection: True when it was made, False when it was lost."""
        return monitored(self.monitor)

    def receive(self) -> Iterator[bytes]:
        """The frames that have arrived, at most `FRAMES_A_LOOK`."""
        socket = self.socket
        for _ in range(FRAMES_A_LOOK):
            try:
                data = socket.recv(NOBLOCK)
            except zmq.Again:
                return
            if socket.getsockopt(zmq.RCVMORE):
                self.skip_message()
            else:
                yield data
            if not int(socket.getsockopt(zmq.EVENTS)) & POLLIN:
                return

    def skip_message(self) -> None:
        """Drop the rest of a message of several parts: it is no frame."""
        while self.socket.getsockopt(zmq.RCVMORE):
            self.socket.recv(NOBLOCK)

    def send(self, data: bytes) -> bool:
        """Send a frame; returns whether the connection took it."""
        try:
            self.socket.send(data, NOBLOCK)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        """Close both sockets; nothing lingers."""
        close_watched(self.socket, self.monitor)


def packed(message: WireMessage, request: int, cluster: str) -> bytes:
    """The bytes of a client's request."""
    sent = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return encode(Frame(GATEWAY, cluster, "", "", 0, 0, request, sent, message))


def unpacked(data: bytes) -> Frame | None:
    """The frame in these bytes; None if they are none."""
    try:
        return decode(data, FRAME_BYTES_MAX)
    except ProtocolError:
        return None


Arrived = tuple[str, Any, int]
"""The endpoint; a message, True for a connection made or False for one lost; the request number."""


class Connections:
    """All connections of one client. Only the driver's thread uses them."""

    def __init__(self, wake_fd: int) -> None:
        self.wake_fd = wake_fd
        self.poller = zmq.Poller()
        self.poller.register(wake_fd, zmq.POLLIN)
        self.context: zmq.Context[zmq.Socket[bytes]] | None = None
        self.by_address: dict[str, Connection] = {}
        self.by_socket: dict[Any, tuple[Connection, bool]] = {}
        self.ports: dict[str, LocalPort] = {}
        self.failed: dict[str, str] = {}
        """Addresses that cannot even be tried, and why."""

    def __contains__(self, name: str) -> bool:
        """Whether the endpoint has a connection or was tried."""
        return name in self.by_address or name in self.ports or name in self.failed

    def __len__(self) -> int:
        """How many endpoints have a connection or were tried."""
        return len(self.by_address) + len(self.ports) + len(self.failed)

    def connect(self, address: str) -> None:
        """Begin to connect to an address; ZeroMQ goes on by itself. What is no address is noted in `failed`."""
        if self.context is None:
            self.context = zmq.Context()
        try:
            connection = Connection(self.context, address)
        except ConnectionFailedError as error:
            self.failed[address] = str(error)
            return
        self.by_address[address] = connection
        self.by_socket[connection.socket] = (connection, False)
        self.by_socket[connection.monitor] = (connection, True)
        self.poller.register(connection.socket, zmq.POLLIN)
        self.poller.register(connection.monitor, zmq.POLLIN)

    def dialled(self) -> set[str]:
        """The addresses to which there are connections."""
        return set(self.by_address)

    def wait(self, seconds: float) -> list[Arrived]:
        """Wait up to so many seconds; returns what arrived: messages, and connections made and lost."""
        arrived: list[Arrived] = []
        for socket, _ in self.poller.poll(ceil(seconds * 1000)):
            if type(socket) is int:
                continue
            connection, monitor = self.by_socket[socket]
            if monitor:
                arrived += [(connection.address, made, 0) for made in connection.events()]
                continue
            for data in connection.receive():
                frame = unpacked(data)
                if frame is not None:
                    arrived.append((connection.address, frame.message, frame.request))
        return arrived

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
        return connection is not None and connection.send(packed(message, request, cluster))

    def close(self) -> None:
        """Close everything at once; nothing lingers."""
        for port in self.ports.values():
            port.close()
        for connection in self.by_address.values():
            connection.close()
        if self.context is not None:
            self.context.term()
