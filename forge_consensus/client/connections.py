"""Connections: a client's connections, a DEALER for each address and a port to an embedded node."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from math import ceil
from typing import Any, Final, Protocol

import zmq

from forge_consensus.actors.codec import Frame, decode, encode
from forge_consensus.actors.messages import WireMessage
from forge_consensus.actors.transport.endpoint import url_of
from forge_consensus.errors import ConnectionFailedError, ProtocolError

NOBLOCK: Final = int(zmq.NOBLOCK)
POLLIN: Final = int(zmq.POLLIN)
MONITORED: Final = int(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
HANDSHAKE: Final = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
FRAME_BYTES_MAX: Final = 64 << 20
FRAMES_A_LOOK: Final = 64
"""Frames taken from one connection before the others are looked at."""
SEND_FRAMES_MAX: Final = 100_000
RECONNECT_MS: Final = 20
RECONNECT_MS_MAX: Final = 200
GATEWAY: Final = "gateway"
MONITOR_NUMBERS = itertools.count(1)


class LocalPort(Protocol):
    """A node of this process as an endpoint: messages are handed over as they are."""

    def connect(self, on_message: Callable[[WireMessage, int], None]) -> None:
        """From now on call `on_message(answer, request number)`, from any thread."""

    def send(self, message: WireMessage, request: int) -> None:
        """Take a request, from any thread, and return at once.

        May raise if the node has stopped.
        """

    def close(self) -> None:
        """No more answers are wanted."""


class Connection:
    """One DEALER to one address, and the monitor that says whether anybody is there."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self.address = address
        self.socket = context.socket(zmq.DEALER)
        for option, value in (
            (zmq.IMMEDIATE, 1),
            (zmq.LINGER, 0),
            (zmq.RECONNECT_IVL, RECONNECT_MS),
            (zmq.RECONNECT_IVL_MAX, RECONNECT_MS_MAX),
            (zmq.SNDHWM, SEND_FRAMES_MAX),
            (zmq.RCVHWM, SEND_FRAMES_MAX),
            (zmq.MAXMSGSIZE, FRAME_BYTES_MAX),
            (zmq.IPV6, 1),
        ):
            self.socket.setsockopt(option, value)
        name = f"inproc://forge-client-{os.getpid()}-{next(MONITOR_NUMBERS)}"
        self.monitor = self.socket.get_monitor_socket(MONITORED, name)
        try:
            self.socket.connect(url_of(address))
        except zmq.ZMQError as error:
            self.close()
            raise ConnectionFailedError(f"cannot connect to {address}: {error}") from error

    def events(self) -> Iterator[bool]:
        """What happened to the connection: True for made, False for lost."""
        while True:
            try:
                event = self.monitor.recv_multipart(NOBLOCK)[0]
            except zmq.Again:
                return
            yield int.from_bytes(event[:2], "little") == HANDSHAKE

    def receive(self) -> Iterator[bytes]:
        """The frames that have arrived, at most `FRAMES_A_LOOK`; there is one at least."""
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
        """Whether the connection took the frame."""
        try:
            self.socket.send(data, NOBLOCK)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        """Let go of both sockets; nothing lingers."""
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(0)


def packed(message: WireMessage, request: int, cluster: str) -> bytes:
    """The frame of a client's request."""
    sent = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return encode(Frame(GATEWAY, cluster, "", "", 0, 0, request, sent, message))


def unpacked(data: bytes) -> Frame | None:
    """The frame in those bytes; None for anything else."""
    try:
        return decode(data, FRAME_BYTES_MAX)
    except ProtocolError:
        return None


Arrived = tuple[str, Any, int]
"""Endpoint, what came (a message; True, False for a connection made, lost), request number."""


class Connections:
    """All connections of one client. Used by the driver's thread alone."""

    def __init__(self, wake_fd: int) -> None:
        self.wake_fd = wake_fd
        self.poller = zmq.Poller()
        self.poller.register(wake_fd, zmq.POLLIN)
        self.context: zmq.Context[zmq.Socket[bytes]] | None = None
        self.wires: dict[str, Connection] = {}
        self.by_socket: dict[Any, tuple[Connection, bool]] = {}
        self.ports: dict[str, LocalPort] = {}
        self.failed: dict[str, str] = {}
        """Addresses that cannot even be tried, and why."""

    def __contains__(self, name: str) -> bool:
        """Whether that endpoint has a connection or was tried."""
        return name in self.wires or name in self.ports or name in self.failed

    def __len__(self) -> int:
        """How many endpoints have a connection or were tried."""
        return len(self.wires) + len(self.ports) + len(self.failed)

    def connect(self, address: str) -> None:
        """Begin to connect; it goes on by itself for ever.

        An address that makes no sense is remembered.
        """
        if self.context is None:
            self.context = zmq.Context()
        try:
            wire = Connection(self.context, address)
        except ConnectionFailedError as error:
            self.failed[address] = str(error)
            return
        self.wires[address] = wire
        self.by_socket[wire.socket] = (wire, False)
        self.by_socket[wire.monitor] = (wire, True)
        self.poller.register(wire.socket, zmq.POLLIN)
        self.poller.register(wire.monitor, zmq.POLLIN)

    def wait(self, seconds: float) -> list[Arrived]:
        """What arrives within that time, connections lost and made included."""
        arrived: list[Arrived] = []
        for socket, _ in self.poller.poll(ceil(seconds * 1000)):
            if type(socket) is int:
                continue
            wire, monitor = self.by_socket[socket]
            if monitor:
                arrived += [(wire.address, made, 0) for made in wire.events()]
                continue
            for data in wire.receive():
                frame = unpacked(data)
                if frame is not None:
                    arrived.append((wire.address, frame.message, frame.request))
        return arrived

    def send(self, name: str, message: WireMessage, request: int, cluster: str) -> bool:
        """Whether the connection to that endpoint took the message."""
        port = self.ports.get(name)
        if port is not None:
            try:
                port.send(message, request)
            except Exception:  # whatever a stopped node raises, the message was not taken
                return False
            return True
        wire = self.wires.get(name)
        return wire is not None and wire.send(packed(message, request, cluster))

    def close(self) -> None:
        """Let go of everything; bounded, for nothing lingers."""
        for port in self.ports.values():
            port.close()
        for wire in self.wires.values():
            wire.close()
        if self.context is not None:
            self.context.term()
