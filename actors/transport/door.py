"""The door: how many connections a node accepts, so that its peers always find a file descriptor.

Without a descriptor ZeroMQ's thread would try for ever to accept the next connection, at the cost of a whole core, and
a peer that restarts could not come back. So a process of the node's own asks for as many descriptors as it may have; a
connection beyond the limit is shut unless it greets as a node soon, and one beyond the reserve at once.
"""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from math import inf
from typing import Final

import zmq

from forge_consensus.actors.transport.link import happened, open_monitor

ACCEPTED: Final = int(zmq.EVENT_ACCEPTED)
DISCONNECTED: Final = int(zmq.EVENT_DISCONNECTED)
DOOR_EVENTS: Final = ACCEPTED | DISCONNECTED
FAILED_EVENTS: Final = int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
"""Handshakes that failed before a key was shown."""
OWN_DESCRIPTORS: Final = 256
"""So many descriptors are left to everything else in the process."""
RESERVE: Final = 64
"""So many connections beyond the limit are let in until it is known whether they are peers'."""
PROBATION_SECONDS: Final = 2.0
UNPROVEN_MAX: Final = 512
"""So many connections at most may have no proven key yet."""


def connections_allowed(wanted: int) -> int:
    """The limit of connections: what is wanted, or what the descriptors of this process allow."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(min(wanted, soft - OWN_DESCRIPTORS - RESERVE), RESERVE)


class Door:
    """The accepted connections of a listening socket, by descriptor; at most `limit` of them are not greeted by peers.

    The owner polls `monitor` and calls `look` when it has something, `tick` at `wake_at`, and `greeted` for the
    descriptor of each greeting while the door is `crowded`. With `failed` connections prove a key: the owner calls
    `proven` for each, and `failed` is called with ZeroMQ's detail of each handshake that failed before that.
    """

    def __init__(self, router: zmq.Socket[bytes], limit: int, failed: Callable[[int], None] | None = None) -> None:
        self.router = router
        self.failed = failed
        self.unproven: dict[int, None] = {}
        """The descriptors of the connections without a proven key, the oldest first."""
        self.keys: dict[int, str] = {}
        """The proven keys by descriptor."""
        self.limit = limit
        self.inside: set[int] = set()
        self.probation: dict[int, float] = {}
        """Descriptor of each connection beyond the limit, and until when it must greet."""
        self.shut = 0
        """How many connections were shut."""
        self.wake_at = inf
        self.monitor = open_monitor(router, DOOR_EVENTS | (FAILED_EVENTS if failed is not None else 0), "door")

    @property
    def crowded(self) -> bool:
        """Whether any connection has yet to greet."""
        return bool(self.probation)

    def look(self, now: float) -> None:
        """Note who came and who went."""
        for event, descriptor, _ in happened(self.monitor):
            if event == ACCEPTED:
                self.accept(descriptor, now)
            elif event == DISCONNECTED:
                self.forget(descriptor)
            elif self.failed is not None:
                self.failed(descriptor)  # it is the detail here
        self.wake_at = min(self.probation.values(), default=inf)

    def accept(self, descriptor: int, now: float) -> None:
        """Let a connection in, on probation, or not at all."""
        self.forget(descriptor)  # the number of an earlier one
        if self.failed is not None:
            self.make_room()
            self.unproven[descriptor] = None
        if len(self.inside) < self.limit:
            self.inside.add(descriptor)
        elif len(self.probation) < RESERVE:
            self.probation[descriptor] = now + PROBATION_SECONDS
        else:
            self.turn_away(descriptor)

    def make_room(self) -> None:
        """Shut the connection that has been trying for longest to prove a key, if they are too many, or in the way."""
        found = None
        if len(self.unproven) >= UNPROVEN_MAX:
            found = next(iter(self.unproven))
        elif len(self.inside) >= self.limit:
            found = next((one for one in self.unproven if one in self.inside), None)
            if found is None and len(self.probation) >= RESERVE:
                found = next((one for one in self.unproven if one in self.probation), None)
        if found is not None:
            self.expel(found)

    def proven(self, descriptor: int, key: str) -> None:
        """Note which key a connection has proven."""
        self.unproven.pop(descriptor, None)
        if descriptor in self.inside or descriptor in self.probation:
            self.keys[descriptor] = key

    def judge(self, admits: Callable[[str], bool]) -> None:
        """Shut the connections of all keys that are not admitted, and those that have proven none yet."""
        for descriptor in [*self.inside, *self.probation]:
            key = self.keys.get(descriptor)
            if key is None or not admits(key):
                self.expel(descriptor)

    def part_with(self, keys: Collection[str]) -> None:
        """Shut the connections that have proven one of these keys."""
        for descriptor in [one for one, key in self.keys.items() if key in keys]:
            self.expel(descriptor)

    def expel(self, descriptor: int) -> None:
        """Shut a connection that was let in."""
        self.forget(descriptor)
        self.turn_away(descriptor)

    def forget(self, descriptor: int) -> None:
        """Know nothing more of a connection."""
        self.inside.discard(descriptor)
        self.probation.pop(descriptor, None)
        self.unproven.pop(descriptor, None)
        self.keys.pop(descriptor, None)

    def greeted(self, descriptor: int) -> None:
        """Keep a connection, because a peer greeted on it."""
        if self.probation.pop(descriptor, None) is not None:
            self.inside.add(descriptor)

    def tick(self, now: float) -> None:
        """Shut the connections that have not greeted in time."""
        for descriptor in [one for one, until in self.probation.items() if until <= now]:
            self.expel(descriptor)
        self.wake_at = min(self.probation.values(), default=inf)

    def turn_away(self, descriptor: int) -> None:
        """Shut a connection; ZeroMQ then closes it. Its number may be another's by now, so it must be one of ours."""
        self.shut += 1
        with suppress(OSError):
            connection = socket.socket(fileno=descriptor)
            try:
                if is_ours(connection, self.router):
                    connection.shutdown(socket.SHUT_RDWR)
            finally:
                connection.detach()


def is_ours(connection: socket.socket, router: zmq.Socket[bytes]) -> bool:
    """Whether a connection was accepted where the router listens."""
    here = connection.getsockname()
    listening = bytes(router.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()
    if isinstance(here, str):
        return listening == f"ipc://{here}"
    return listening.rpartition(":")[2] == str(here[1])
