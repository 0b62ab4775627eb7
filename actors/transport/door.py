"""The door: how many connections a node accepts, so that its peers always find a file descriptor.

Without a descriptor ZeroMQ's thread would try for ever to accept the next connection, at the cost of a whole core, and
a peer that restarts could not come back. So a process of the node's own asks for as many descriptors as it may have; a
connection beyond the limit is shut unless it greets as a node soon, and one beyond the reserve at once.

A connection is half open until it has proven a key, or where nobody needs one, until its first frame has arrived. Few
are held, and they give way to those that come after them: whoever has many takes places from itself first.
"""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Collection, Container
from contextlib import suppress
from math import inf
from typing import Final, cast

import zmq

from forge_consensus.actors.runtime.refusals import ENDLESS_MESSAGE, HALF_OPEN, TOO_MANY_CONNECTIONS, Refusals
from forge_consensus.actors.transport.hoarding import Hoarding, seconds_between
from forge_consensus.actors.transport.link import happened, open_monitor
from forge_consensus.security.networks import network_of

ACCEPTED: Final = int(zmq.EVENT_ACCEPTED)
DISCONNECTED: Final = int(zmq.EVENT_DISCONNECTED)
POLLIN: Final = int(zmq.POLLIN)
DOOR_EVENTS: Final = ACCEPTED | DISCONNECTED
FAILED_EVENTS: Final = int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
"""Handshakes that failed before a key was shown."""
OWN_DESCRIPTORS: Final = 256
"""So many descriptors are left to everything else in the process."""
RESERVE: Final = 64
"""So many connections beyond the limit are let in until it is known whether they are peers'."""
PROBATION_SECONDS: Final = 2.0
HALF_OPEN_MAX: Final = 512
"""So many connections at most are half open, unless the owner says otherwise."""


def connections_allowed(wanted: int) -> tuple[int, int]:
    """The limits of connections for frames and for events: what is wanted, or what this process's descriptors allow.

    They are shared two to one, because a reader of events has a connection of each kind, and a client only one.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted, wanted
    there = soft - OWN_DESCRIPTORS - 2 * RESERVE
    of_events = max(min(wanted, there // 3), RESERVE)
    return max(min(wanted, there - of_events), RESERVE), of_events


class Door:
    """The accepted connections of a listening socket, by descriptor; at most `limit` of them are not greeted by peers.

    The owner polls `monitor` and calls `look` when it has something, `tick` at `wake_at`, `proven` for each connection
    that is not in `shown`, and `greeted` for the descriptor of each greeting while the door is `crowded`.

    Args:
        listener: the socket.
        limit: see above.
        bytes_max: how large a message can be that arrives there.
        half_open_max: of so many half-open connections the next one takes the place of another.
        failed: where connections prove a key, called with ZeroMQ's detail of each handshake that failed before that.

    """

    def __init__(
        self,
        listener: zmq.Socket[bytes],
        limit: int,
        bytes_max: int,
        half_open_max: int = HALF_OPEN_MAX,
        failed: Callable[[int], None] | None = None,
    ) -> None:
        self.listener = listener
        self.limit = limit
        self.half_open_max = half_open_max
        self.failed = failed
        self.refusals = Refusals()
        """Where shut connections are counted and told; the owner puts the node's own in its place."""
        self.unproven: dict[int, str] = {}
        """The descriptors of the half-open connections, the oldest first, with the networks that they come from."""
        self.networks: dict[str, dict[int, None]] = {}
        """Network -> the descriptors of its half-open connections, the oldest first."""
        self.keys: dict[int, str] = {}
        """Descriptor -> the proven key, "" where nobody needs one."""
        self.shown: dict[bytes, str] = {}
        """The connection's id, as ZeroMQ has it -> the same key, for those whose descriptors are known."""
        self.origins: dict[bytes, str] = {}
        """The connection's id -> the address that it comes from, for those in `shown`."""
        self.ids: dict[int, bytes] = {}
        """Descriptor -> the connection's id in `shown`."""
        self.wishes: dict[int, int] = {}
        """Descriptor -> how many topics it was the first to subscribe to."""
        self.inside: set[int] = set()
        self.probation: dict[int, float] = {}
        """Descriptor of each connection beyond the limit, and until when it must greet."""
        self.shut = 0
        """How many connections were shut."""
        self.hoarding = Hoarding(bytes_max)
        self.hoarding_at = 0.0
        """When to look next for connections that make the node keep what it cannot read."""
        self.wake_at = inf
        self.monitor = open_monitor(listener, DOOR_EVENTS | (FAILED_EVENTS if failed is not None else 0), "door")

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
        self.wake_at = self.next_at()

    def accept(self, descriptor: int, now: float) -> None:
        """Let a connection in, on probation, or not at all."""
        self.forget(descriptor)  # the number of an earlier one
        network = network_behind(descriptor)
        self.make_room(network)
        self.unproven[descriptor] = network
        self.networks.setdefault(network, {})[descriptor] = None
        if len(self.inside) < self.limit:
            self.inside.add(descriptor)
        elif len(self.probation) < RESERVE:
            self.probation[descriptor] = now + PROBATION_SECONDS
        else:
            self.expel(descriptor, TOO_MANY_CONNECTIONS)

    def make_room(self, network: str) -> None:
        """Shut a half-open connection for one of that network, if they are too many, or in the way."""
        found = None
        if len(self.unproven) >= self.half_open_max:
            found = self.most_patient(self.unproven, network)
        elif len(self.inside) >= self.limit:
            found = self.most_patient(self.inside, network)
            if found is None and len(self.probation) >= RESERVE:
                found = self.most_patient(self.probation, network)
        if found is not None:
            self.expel(found, HALF_OPEN)

    def most_patient(self, among: Container[int], network: str) -> int | None:
        """The oldest half-open connection among these, of the network that has most; None for none.

        A connection that comes from `network` is counted already.
        """

        def count(name: str) -> int:
            return len(self.networks[name]) + (name == network)

        for name in sorted(self.networks, key=count, reverse=True):
            found = next((one for one in self.networks[name] if one in among), None)
            if found is not None:
                return found
        return None

    def proven(self, descriptor: int, key: str, connection: bytes = b"", origin: str = "") -> None:
        """Note which key a connection has proven.

        Args:
            descriptor: the connection's.
            key: the key; "" where nobody needs one, and a frame has arrived.
            connection: its id, as ZeroMQ has it; empty if it has none.
            origin: the address that it comes from; empty if that is not known.

        """
        self.leave_half_open(descriptor)
        if descriptor not in self.inside and descriptor not in self.probation:
            return
        self.keys[descriptor] = key
        if connection:
            self.forget_id(descriptor)
            self.ids[descriptor] = connection
            self.shown[connection], self.origins[connection] = key, origin

    def leave_half_open(self, descriptor: int) -> None:
        """Count a connection among the half-open ones no more."""
        network = self.unproven.pop(descriptor, None)
        if network is None:
            return
        held = self.networks[network]
        del held[descriptor]
        if not held:
            del self.networks[network]

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

    def expel(self, descriptor: int, reason: str = "") -> None:
        """Shut a connection; with a reason it is counted and told as a refusal."""
        if reason:
            network = self.unproven.get(descriptor, "")
            origin = f" from {network}" if network else ""
            self.refusals.report(reason, f"one{origin} was shut while {len(self.inside)} were open")
        self.forget(descriptor)
        self.turn_away(descriptor)

    def forget(self, descriptor: int) -> None:
        """Know nothing more of a connection."""
        self.inside.discard(descriptor)
        self.probation.pop(descriptor, None)
        self.leave_half_open(descriptor)
        self.keys.pop(descriptor, None)
        self.wishes.pop(descriptor, None)
        self.hoarding.forget(descriptor)
        self.forget_id(descriptor)

    def forget_id(self, descriptor: int) -> None:
        """Know no more by which id ZeroMQ calls a connection."""
        connection = self.ids.pop(descriptor, b"")
        self.shown.pop(connection, None)
        self.origins.pop(connection, None)

    def greeted(self, descriptor: int) -> None:
        """Keep a connection, because a peer greeted on it."""
        if self.probation.pop(descriptor, None) is not None:
            self.inside.add(descriptor)

    def tick(self, now: float, early: float = 0.0) -> None:
        """Shut the connections that have not greeted in time, and those that send a message without end.

        Args:
            now: the monotonic time.
            early: what is due within so many seconds may be done now.

        """
        for descriptor in [one for one, until in self.probation.items() if until <= now]:
            self.expel(descriptor, TOO_MANY_CONNECTIONS)
        if self.hoarding_at <= now + early:
            self.hoarding_at = now + seconds_between(len(self.inside))
            self.hoarding.drained |= not int(cast("int", self.listener.getsockopt(zmq.EVENTS))) & POLLIN
            for descriptor in self.hoarding.found([*self.inside, *self.probation], self.ids):
                self.expel(descriptor, ENDLESS_MESSAGE)
        self.wake_at = self.next_at()

    def next_at(self) -> float:
        """When `tick` has something to do."""
        return min(self.hoarding_at if self.inside else inf, *self.probation.values(), inf)

    def turn_away(self, descriptor: int) -> None:
        """Shut a connection; ZeroMQ then closes it. Its number may be another's by now, so it must be one of ours."""
        self.shut += 1
        with suppress(OSError):
            connection = socket.socket(fileno=descriptor)
            try:
                if is_ours(connection, self.listener):
                    connection.shutdown(socket.SHUT_RDWR)
            finally:
                connection.detach()


def network_behind(descriptor: int) -> str:
    """Return the network that a connection comes from; "" for this machine by a path, and for one that is gone."""
    with suppress(OSError):
        connection = socket.socket(fileno=descriptor)
        try:
            there = connection.getpeername()
        finally:
            connection.detach()
        return network_of(str(there[0])) if isinstance(there, tuple) else ""
    return ""


def is_ours(connection: socket.socket, listener: zmq.Socket[bytes]) -> bool:
    """Whether a connection was accepted where the socket listens."""
    here = connection.getsockname()
    listening = bytes(listener.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()
    if isinstance(here, str):
        return listening == f"ipc://{here}"
    return listening.rpartition(":")[2] == str(here[1])
