"""Hostile connections: TCP to a node's port with everything that is not a whole handshake of ZeroMQ."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from contextlib import suppress

CONNECT_SECONDS = 3.0
SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
HELLO_BODY = b"\x05HELLO\x01\x00" + bytes(72) + bytes(32) + bytes(8) + bytes(80)
HELLO = b"\x04" + bytes([len(HELLO_BODY)]) + HELLO_BODY
"""A HELLO of CURVE, whose box proves nothing."""
Stage = Callable[[random.Random], bytes]


def greeting(mechanism: bytes = b"NULL", version: bytes = b"\x03\x01") -> bytes:
    """The first 64 bytes of a connection."""
    return SIGNATURE + version + mechanism.ljust(20, b"\0") + bytes(32)


def ready(kind: bytes) -> bytes:
    """The command with which a socket of that kind ends its handshake where nothing is encrypted."""
    body = b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4) + kind + b"\x08Identity\x00\x00\x00\x00"
    return b"\x04" + bytes([len(body)]) + body


READY = ready(b"DEALER")


def cut(data: bytes) -> Stage:
    """The beginning of these bytes."""
    return lambda dice: data[: dice.randrange(len(data))]


STAGES: tuple[Stage, ...] = (
    lambda dice: b"",
    cut(greeting()),
    lambda dice: greeting(),
    cut(greeting() + READY),
    lambda dice: greeting(b"CURVE"),
    cut(greeting(b"CURVE") + HELLO),
    lambda dice: greeting(b"CURVE") + HELLO,
    lambda dice: greeting(b"PLAIN"),
    lambda dice: greeting(version=bytes([dice.randrange(256), dice.randrange(256)])),
    lambda dice: greeting() + b"\x06" + b"\x7f" + b"\xff" * 7,
    lambda dice: greeting() + b"\x04\xff" + dice.randbytes(255),
    lambda dice: greeting() + b"\x00\x05frame",
    lambda dice: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    lambda dice: dice.randbytes(dice.randrange(1, 200)),
    lambda dice: b"\x16\x03\x01\x02\x00\x01" + dice.randbytes(60),
)
"""What is sent on a connection on which nothing follows: each stage of a handshake, broken off or wrong."""


def shaken(address: str, kind: bytes, seconds_max: float = 60.0) -> socket.socket:
    """A connection whose handshake is over; what comes before its end would break it. Raises `OSError`."""
    host, _, port = address.rpartition(":")
    made = socket.create_connection((host, int(port)), seconds_max)
    made.sendall(greeting() + ready(kind))
    heard = b""
    while b"READY" not in heard:
        more = made.recv(1000)
        if not more:
            raise ConnectionError(f"{address} ended the handshake")
        heard += more
    return made


class Endless:
    """A connection without encryption on which the parts of one message come and come.

    Args:
        address: where it goes.
        kind: what kind of socket it says it is.

    """

    PARTS = (b"\x01\xff" + bytes(255)) * 150

    def __init__(self, address: str, kind: bytes) -> None:
        self.socket = shaken(address, kind)
        self.socket.setblocking(False)
        self.bytes = 0
        self.ended = False

    def go_on(self) -> None:
        """Send as much as is taken."""
        if self.ended:
            return
        try:
            self.bytes += self.socket.send(self.PARTS)
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True


class HalfOpen:
    """Connections that stay where they are.

    Args:
        addresses: where they go, in turns.
        dice: draws what is sent on each.

    """

    def __init__(self, addresses: list[str], dice: random.Random) -> None:
        self.addresses = addresses
        self.dice = dice
        self.sockets: list[socket.socket] = []
        self.failed = 0
        """How many connections could not be made."""

    def open(self, count: int) -> int:
        """Open so many more; returns how many could be."""
        for number in range(count):
            host, _, port = self.addresses[number % len(self.addresses)].rpartition(":")
            try:
                made = socket.create_connection((host, int(port)), CONNECT_SECONDS)
            except OSError:
                self.failed += 1
                continue
            with suppress(OSError):
                made.sendall(self.dice.choice(STAGES)(self.dice))
            self.sockets.append(made)
        return count - self.failed

    def shut(self) -> int:
        """How many of them the nodes have ended."""
        ended = 0
        for each in self.sockets:
            each.setblocking(False)
            try:
                while data := each.recv(4096):
                    assert data
                ended += 1
            except BlockingIOError:
                continue
            except OSError:
                ended += 1
        return ended

    def close(self) -> None:
        """Close all."""
        for each in self.sockets:
            each.close()
        self.sockets.clear()
