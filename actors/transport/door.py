"""The door: how many connections a node accepts, so that its peers always find a file descriptor.

Without a descriptor ZeroMQ's thread would try for ever to accept the next connection, at the cost of a whole core, and
a peer that restarts could not come back. So a process of the node's own asks for as many descriptors as it may have; a
connection beyond the limit is shut unless it greets as a node soon, and one beyond the reserve at once.
"""

from __future__ import annotations

import resource
import socket
from contextlib import suppress
from math import inf
from typing import Final

import zmq

from forge_consensus.actors.transport.link import happened_at, open_monitor

ACCEPTED: Final = int(zmq.EVENT_ACCEPTED)
DOOR_EVENTS: Final = int(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
OWN_DESCRIPTORS: Final = 256
"""So many descriptors are left to everything else in the process."""
RESERVE: Final = 64
"""So many connections beyond the limit are let in until it is known whether they are peers'."""
PROBATION_SECONDS: Final = 2.0


def connections_allowed(wanted: int) -> int:
    """The limit of connections: what is wanted, or what the descriptors of this process allow."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(min(wanted, soft - OWN_DESCRIPTORS - RESERVE), RESERVE)


class Door:
    """The accepted connections of a listening socket, by descriptor; at most `limit` of them are not greeted by peers.

    The owner polls `monitor` and calls `look` when it has something, `tick` at `wake_at`, and `greeted` for the
    descriptor of each greeting while the door is `crowded`.
    """

    def __init__(self, router: zmq.Socket[bytes], limit: int) -> None:
        self.router = router
        self.limit = limit
        self.inside: set[int] = set()
        self.probation: dict[int, float] = {}
        """Descriptor of each connection beyond the limit, and until when it must greet."""
        self.shut = 0
        """How many connections were shut."""
        self.wake_at = inf
        self.monitor = open_monitor(router, DOOR_EVENTS, "door")

    @property
    def crowded(self) -> bool:
        """Whether any connection has yet to greet."""
        return bool(self.probation)

    def look(self, now: float) -> None:
        """Note who came and who went."""
        for event, descriptor in happened_at(self.monitor):
            if event == ACCEPTED:
                self.accept(descriptor, now)
            else:
                self.inside.discard(descriptor)
                self.probation.pop(descriptor, None)
        self.wake_at = min(self.probation.values(), default=inf)

    def accept(self, descriptor: int, now: float) -> None:
        """Let a connection in, on probation, or not at all."""
        self.probation.pop(descriptor, None)  # the number of an earlier one
        if len(self.inside) < self.limit:
            self.inside.add(descriptor)
        elif len(self.probation) < RESERVE:
            self.probation[descriptor] = now + PROBATION_SECONDS
        else:
            self.turn_away(descriptor)

    def greeted(self, descriptor: int) -> None:
        """Keep a connection, because a peer greeted on it."""
        if self.probation.pop(descriptor, None) is not None:
            self.inside.add(descriptor)

    def tick(self, now: float) -> None:
        """Shut the connections that have not greeted in time."""
        for descriptor in [one for one, until in self.probation.items() if until <= now]:
            del self.probation[descriptor]
            self.turn_away(descriptor)
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
