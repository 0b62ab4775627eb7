"""Hostile frames by the million: noise, real frames that were cut, changed or sealed anew, and msgpack bombs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product

from forge_consensus.actors.codec import Frame, encode, sealed
from forge_consensus.actors.messages import AppendEntries, Submit, WireMessage
from forge_consensus.storage.machines.machine import Command
from tests.worlds.raw_peer import SAMPLES, TO

SENDERS = ("", "n1", "n2", "n3", "n9")
SMALL_BOMBS = (
    b"\x91" * 3000,
    b"\x81\xa1a" * 1500 + b"\xc0",
    *(mark + b"\xff\xff\xff\xff" + b"x" * 40 for mark in (b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9")),
    b"\xdc\xff\xff" + b"\xc0" * 2000,
    b"\xc7\xff\xff" + b"\xff" * 300,
    b"\xd7\xff" + b"\xff" * 8,
    b"\xd6\x05abcd",
)
"""Nesting without end, lengths of gigabytes, and types of their own."""
LARGE_BOMBS = (
    b"\xdd\x00\x07\xff\xff" + b"\x90" * 0x7FFFF,
    b"\xdd\x00\x07\xff\xff" + b"\x80" * 0x7FFFF,
    b"\xdd\x00\x1f\xff\xff" + b"\xc0" * 0x1FFFFF,
)
LARGE_SHARE = 0.0002
HEAD = b"\xdc\xff\xff\x03\xa7gateway\xa0\xa0\xa0\x00\x00\x01\x00\x90"
"""The header of a frame to the gateway, of an array with as many elements as there can be."""


COMMANDS = tuple((n, Command("set", {"key": "hostile/k", "value": 1}).encode()) for n in range(200))
"""They have the numbers of the next commands of a session that began a short time ago."""


class HostileFrames:
    """Draws messages, each as its parts.

    Args:
        seed: they are drawn from.
        cluster: the id that the real ones name.
        sessions: in which sessions real ones carry commands; those of others are a hit where they are not protected.

    """

    def __init__(self, seed: int, cluster: str, sessions: Sequence[int]) -> None:
        self.dice = random.Random(seed)
        large: tuple[WireMessage, ...] = (
            AppendEntries(7, 1, 1, 1, 1, tuple(bytes([n]) * 900 for n in range(40))),
            *(Submit(session, 1, COMMANDS) for session in sessions),
        )
        self.real = tuple(
            encode(Frame(TO.get(type(one), "gateway"), cluster, sender, "0" * 16 if sender else "", 1, 1, 9, 9, one))
            for one, sender in product((*SAMPLES, *large), SENDERS)
        )

    def next(self) -> tuple[bytes, ...]:
        """One message."""
        dice = self.dice
        roll, real = dice.random(), dice.choice(self.real)
        if roll < LARGE_SHARE:
            return (sealed(HEAD + dice.choice(LARGE_BOMBS) + b"\xce\0\0\0\0"),)
        if roll < 0.2:
            return (dice.randbytes(dice.randrange(300)),)
        if roll < 0.35:
            return (real[: dice.randrange(len(real))],)
        if roll < 0.75:
            changed = bytearray(real)
            for _ in range(dice.randint(1, 3)):
                changed[dice.randrange(len(changed))] = dice.randrange(256)
            return (bytes(changed) if roll < 0.55 else sealed(bytes(changed)),)
        if roll < 0.85:
            return (real,)
        if roll < 0.9:
            return (dice.choice(SMALL_BOMBS),)
        if roll < 0.95:
            return (sealed(HEAD + b"\x26" + dice.choice(SMALL_BOMBS) + b"\xce\0\0\0\0"),)
        return (real, b"", dice.randbytes(20)) if roll < 0.98 else (b"", real)
