"""The stream between two ZeroMQ sockets is parsed without loss, wherever it was cut."""

from __future__ import annotations

import random

from forge_consensus.testing.local.zmtp import GREETING_BYTES, Part, Splitter, sender_of
from tests.worlds.proxy_world import frame

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL".ljust(GREETING_BYTES - 9, b"\0")
READY = b"\x04\x10\x05READY" + bytes(10)
PING = b"\x04\x07\x04PING" + bytes(2)


def message(*bodies: bytes) -> bytes:
    """A message of these frames on the wire, long ones in their long form."""
    out = b""
    for number, body in enumerate(bodies):
        more = number < len(bodies) - 1
        long = len(body) > 255
        size = len(body).to_bytes(8 if long else 1)
        out += bytes([more | 2 * long]) + size + body
    return out


def test_a_stream_cut_anywhere_gives_the_same_pieces_and_joined_they_are_the_stream() -> None:
    messages = [message(b"a"), message(b"", b"x" * 300, b""), PING, message(b"y" * 70_000), message(b"")]
    stream = GREETING + READY + b"".join(messages)
    dice = random.Random(3)
    for _ in range(200):
        splitter, pieces, rest = Splitter(), [], stream
        while rest:
            size = dice.choice([1, 2, 9, 64, 500, 80_000])
            pieces += splitter.feed(rest[:size])
            rest = rest[size:]
        assert b"".join(piece for _, piece in pieces) == stream
        assert [piece for part, piece in pieces if part is Part.MESSAGE] == messages
        assert not splitter.buffer


def test_a_stream_without_a_zeromq_greeting_passes_unchanged() -> None:
    splitter = Splitter()
    assert splitter.feed(b"GET /") == [(Part.SETUP, b"GET /")]
    assert splitter.feed(b"\xff\xff") == [(Part.SETUP, b"\xff\xff")]


def test_the_header_names_the_sender_unless_it_is_a_client() -> None:
    assert sender_of(message(frame("n3", 7))) == "n3"
    assert sender_of(message(frame("n3", 7), b"more")) == "n3"
    assert sender_of(message(frame("", 7))) == ""
    assert sender_of(message(b"\xc1junk")) == ""
    assert sender_of(PING) == ""
