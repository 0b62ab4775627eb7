"""Hoarding: connections whose message never ends, all of which ZeroMQ keeps while nobody can read it.

ZeroMQ bounds how many messages of a connection wait to be read, and the size of each part of a message, but not the
number of its parts. So it is looked now and then how many bytes have come in on the connections of which nothing could
be read. If everything that was whole has been read meanwhile, what is left is the beginning of one message.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final

LOOK_SECONDS: Final = 0.12
"""A little longer than a leader's heartbeats are apart, so that an idle follower looks when one wakes it."""
LOOK_SECONDS_MAX: Final = 1.0
SECONDS_EACH: Final = 0.001
"""A look at one connection takes 2.5 microseconds, so that looking takes a four-hundredth of the time at most."""
SLACK_BYTES: Final = 1 << 20
"""What encryption and the frames of a handshake may add."""
ALL_TIMES: Final = 16
"""All beginnings together may have so many times what one may have."""
SMALL_BYTES: Final = 16 << 10
"""So much of each connection counts for nothing: handshakes, subscriptions, the beginnings of ordinary frames."""
TCP_INFO_BYTES: Final = 136
BYTES_RECEIVED: Final = slice(128, 136)
"""Where Linux tells in TCP_INFO how many bytes a connection has received."""


class Hoarding:
    """What came in on connections without being read; the owner calls `found` from time to time.

    Args:
        bytes_max: how large a message of one part can be.

    """

    def __init__(self, bytes_max: int) -> None:
        self.one_max = bytes_max + SLACK_BYTES
        self.heard: set[bytes] = set()
        """The ids of the connections of which something was read since the last look; the owner adds to it."""
        self.drained = False
        """Whether everything was read once since the last look; the owner sets it."""
        self.begun: dict[int, int] = {}
        """Descriptor -> the bytes that had come in when something had been read last; or a look later."""
        self.seen: dict[int, int] = {}
        """Descriptor -> the bytes that had come in at the last look."""

    def forget(self, descriptor: int) -> None:
        """Know nothing more of a connection."""
        self.begun.pop(descriptor, None)
        self.seen.pop(descriptor, None)

    def found(self, descriptors: Iterable[int], ids: Mapping[int, bytes]) -> list[int]:
        """Return the connections that are to be shut.

        Args:
            descriptors: all connections.
            ids: descriptor -> the connection's id, for those of which something was ever read.

        """
        if not self.drained:
            return []  # what is left may be whole messages
        held: dict[int, int] = {}
        for descriptor in descriptors:
            if ids.get(descriptor) in self.heard:
                self.forget(descriptor)
                continue
            received = bytes_received(descriptor)
            begun = self.begun.setdefault(descriptor, received if descriptor in ids else 0)
            held[descriptor] = max(self.seen.get(descriptor, begun) - begun - SMALL_BYTES, 0)
            self.seen[descriptor] = received
        self.heard.clear()
        self.drained = False
        shut, left = list[int](), sum(held.values())
        for descriptor in sorted(held, key=held.__getitem__, reverse=True):
            if held[descriptor] <= self.one_max and left <= ALL_TIMES * self.one_max:
                break
            shut.append(descriptor)
            left -= held[descriptor]
        return shut


def seconds_between(connections: int) -> float:
    """How many seconds to wait between two looks at so many connections."""
    return min(max(connections * SECONDS_EACH, LOOK_SECONDS), LOOK_SECONDS_MAX)


def bytes_received(descriptor: int) -> int:
    """Return how many bytes have come in on a connection of TCP; 0 for anything else."""
    with suppress(OSError, ValueError):
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=descriptor)
        try:
            told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
        finally:
            connection.detach()
        return int.from_bytes(told[BYTES_RECEIVED], "little")
    return 0
