"""The bytes between two ZeroMQ sockets, split into greeting, commands and messages (ZMTP 3.x, RFC 37)."""

from __future__ import annotations

from enum import Enum
from typing import Final

from forge_consensus.actors.codec import unpacked
from forge_consensus.errors import ProtocolError

GREETING_BYTES: Final = 64
SIGNATURE: Final = 0xFF
MORE: Final = 1
LONG: Final = 2
COMMAND: Final = 4
SENDER: Final = 3
"""The index of the sender's name in the header of our own frames."""


class Part(Enum):
    """The kind of a piece of the stream."""

    SETUP = "setup"
    """Part of the greeting or the handshake, or of a stream that is not ZeroMQ: forwarded unchanged."""
    MESSAGE = "message"
    """A whole message, or a command such as PING after the handshake."""


class Splitter:
    """Splits the bytes of one direction of a connection into whole pieces; joined, they are the same bytes."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.greeting_left = GREETING_BYTES
        self.strange = False
        """Whether the stream is not ZeroMQ."""

    def feed(self, data: bytes) -> list[tuple[Part, bytes]]:
        """The pieces that these bytes complete, in order."""
        if self.greeting_left == GREETING_BYTES and data[0] != SIGNATURE:
            self.strange = True
        if self.strange:
            return [(Part.SETUP, data)]
        pieces: list[tuple[Part, bytes]] = []
        if self.greeting_left:
            greeting, data = data[: self.greeting_left], data[self.greeting_left :]
            self.greeting_left -= len(greeting)
            pieces.append((Part.SETUP, greeting))
        self.buffer += data
        done = 0
        while (end := message_end(self.buffer, done)) is not None:
            piece = bytes(self.buffer[done:end])
            pieces.append((Part.SETUP if is_handshake(piece) else Part.MESSAGE, piece))
            done = end
        del self.buffer[:done]
        return pieces


def frame_bounds(data: bytearray | bytes, start: int) -> tuple[int, int] | None:
    """The start and the end of the body of the frame that begins at `start`; None while its header is incomplete."""
    if len(data) < start + 2:
        return None
    if not data[start] & LONG:
        return start + 2, start + 2 + data[start + 1]
    if len(data) < start + 9:
        return None
    return start + 9, start + 9 + int.from_bytes(data[start + 1 : start + 9])


def message_end(data: bytearray | bytes, start: int) -> int | None:
    """The end of the message that begins at `start`, with all its frames; None while it is incomplete."""
    while True:
        bounds = frame_bounds(data, start)
        if bounds is None or bounds[1] > len(data):
            return None
        if not data[start] & MORE:
            return bounds[1]
        start = bounds[1]


def is_handshake(piece: bytes) -> bool:
    """Whether a piece is one of the commands with which two sockets open a connection."""
    bounds = frame_bounds(piece, 0)
    return bool(piece[0] & COMMAND) and bounds is not None and piece[bounds[0] + 1 : bounds[1]].startswith(b"READY")


def sender_of(message: bytes) -> str:
    """The node that sent a message; "" for a client, and for a message that is no frame of ours."""
    bounds = frame_bounds(message, 0)
    if bounds is None:
        return ""
    try:
        return str(unpacked(message[bounds[0] : bounds[1]])[SENDER])
    except ProtocolError:
        return ""
