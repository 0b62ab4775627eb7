"""A proxy between plain ZeroMQ sockets: one that plays the node n2, and some for its peers and clients."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import zmq

from forge_consensus.actors.codec import Frame, decode, encode
from forge_consensus.actors.messages import CheckPeer
from forge_consensus.actors.transport.endpoint import url_of
from forge_consensus.testing.local.ports import HeldPorts
from forge_consensus.testing.local.proxy import Proxy
from tests.worlds.waiting import wait_for

FRAME_BYTES_MAX = 64 << 20
WAIT_SECONDS = 5.0
WAIT_MS = 5000
QUIET_SECONDS = 0.15
"""An event that has not happened by then is assumed not to happen; a shorter time would only make a test detect
less."""
MONITORS = itertools.count(1)
WATCHED = int(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)

Socket = zmq.Socket[bytes]


def frame(sender: str, number: int) -> bytes:
    """A frame of a node, or of a client if `sender` is empty."""
    return encode(Frame("health", "c", sender, "", 1, 1, number, 0, CheckPeer(number)))


def number_of(data: bytes) -> int:
    """The number in a frame made by `frame`."""
    return decode(data, FRAME_BYTES_MAX).request


class End:
    """A socket and the events of its monitor."""

    def __init__(self, context: zmq.Context[Socket], kind: int, frames_max: int) -> None:
        self.socket = context.socket(kind)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.IMMEDIATE, 1),
            (zmq.RECONNECT_IVL, 10),
            (zmq.RECONNECT_IVL_MAX, 20),
            (zmq.SNDHWM, frames_max),
            (zmq.RCVHWM, frames_max),
        ):
            self.socket.setsockopt(option, value)
        self.monitor = self.socket.get_monitor_socket(WATCHED, f"inproc://end-{os.getpid()}-{next(MONITORS)}")

    def links(self) -> list[bool]:
        """The connection events since the last call: True for a handshake, False for a disconnect."""
        seen = []
        while self.monitor.poll(0):
            event = self.monitor.recv_multipart()[0]
            seen.append(int.from_bytes(event[:2], "little") == zmq.EVENT_HANDSHAKE_SUCCEEDED)
        return seen

    def wait_link(self, made: bool) -> None:
        """Wait until a connection is made or lost."""
        wait_for(lambda: made in self.links(), WAIT_SECONDS, f"a {'handshake' if made else 'disconnect'}", step=0.002)

    def numbers(self, count: int, seconds: float = WAIT_SECONDS) -> list[int]:
        """The numbers of the next `count` frames, or of those that arrive in time."""
        found: list[int] = []
        end = time.monotonic() + seconds
        while len(found) < count and self.socket.poll(max(0, int((end - time.monotonic()) * 1000))):
            found.append(number_of(self.socket.recv_multipart()[-1]))
        return found

    def close(self) -> None:
        """Close the socket and its monitor."""
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(0)


class Caller(End):
    """The socket of a node or a client that connects to n2."""

    def __init__(self, context: zmq.Context[Socket], name: str, address: str, frames_max: int) -> None:
        super().__init__(context, zmq.DEALER, frames_max)
        self.name = name
        self.socket.connect(url_of(address))
        self.wait_link(made=True)

    def say(self, *numbers: int) -> None:
        """Send frames with these numbers."""
        for number in numbers:
            self.socket.send(frame(self.name, number), zmq.NOBLOCK)


class Node(End):
    """The socket that plays the node n2."""

    def __init__(self, context: zmq.Context[Socket], address: str, frames_max: int) -> None:
        super().__init__(context, zmq.ROUTER, frames_max)
        self.socket.bind(url_of(address))

    def answer(self, count: int) -> list[int]:
        """Receive this many frames and send each back as an answer of n2; returns their numbers."""
        found: list[int] = []
        for _ in range(count):
            assert self.socket.poll(WAIT_MS), f"{count} frames were to come, and only {found} came"
            connection, data = self.socket.recv_multipart()
            found.append(number_of(data))
            self.socket.send_multipart([connection, frame("n2", found[-1])])
        return found


class World:
    """The node n2 behind the proxy, which knows n1, n2 and n3."""

    def __init__(self, proxy: Proxy, front: str, real: str, frames_max: int) -> None:
        self.proxy = proxy
        self.frames_max = frames_max
        self.front = front
        self.real = real
        self.context: zmq.Context[Socket] = zmq.Context()
        self.ends: list[End] = []
        self.node = self.raised()

    def raised(self) -> Node:
        """Start the node n2 (again); it is ready when the proxy listens for it."""
        wait_for(
            lambda: "n2" not in self.proxy.listening(), WAIT_SECONDS, "the proxy to see that n2 is gone", step=0.002
        )
        self.node = Node(self.context, self.real, self.frames_max)
        self.ends.append(self.node)
        wait_for(lambda: "n2" in self.proxy.listening(), WAIT_SECONDS, "the proxy to find n2", step=0.002)
        return self.node

    def caller(self, name: str) -> Caller:
        """Connect to n2 under a name."""
        caller = Caller(self.context, name, self.front, self.frames_max)
        self.ends.append(caller)
        return caller

    def close(self) -> None:
        """Close all sockets and the proxy."""
        for end in self.ends:
            if not end.socket.closed:
                end.close()
        self.context.term()


@contextlib.contextmanager
def world(folder: Path | None = None, *, frames_max: int = 1000, seed: int = 0) -> Iterator[World]:
    """A proxy before n2, over TCP or, with a folder, over sockets there; a socket queues up to `frames_max` frames."""
    ports = HeldPorts(6)
    places = ports.addresses if folder is None else [f"ipc://{folder}/{number}" for number in range(6)]
    fronts = {name: (places[i], places[i + 3]) for i, name in enumerate(("n1", "n2", "n3"))}
    try:
        with Proxy(fronts, seed=seed) as proxy:
            made = World(proxy, *fronts["n2"], frames_max)
            try:
                yield made
            finally:
                made.close()
    finally:
        ports.release()
