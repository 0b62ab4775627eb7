"""EventSubscribers: a subscription to one node's publisher, for the life of one connection."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from typing import Final

import zmq

from forge_consensus.actors.transport.endpoint import url_of
from forge_consensus.config.address import parse_endpoint
from forge_consensus.errors import InvalidConfigError

NOBLOCK: Final = int(zmq.NOBLOCK)
POLLIN: Final = int(zmq.POLLIN)
MONITORED: Final = int(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_CLOSED)
HANDSHAKE: Final = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
EVENTS_MAX: Final = 10_000
"""What may wait in the socket; more is dropped and read from the journal."""
EVENTS_A_LOOK: Final = 256
CONNECT_S: Final = 1.0
ANYWHERE: Final = ("0.0.0.0", "[::]", "*")
MONITOR_NUMBERS = itertools.count(1)


class EventSubscriber:
    """A SUB socket that never connects again: what it hears comes from one life of one process.

    So it can be known which incarnation's numbers it hears: a node that is asked after the connection stood, and
    names this address as its own, is the one that is heard.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], address: str, prefixes: Iterable[str], now: float
    ) -> None:
        """Begin to connect. Raises zmq.ZMQError for an address that is none."""
        self.address = address
        self.boot = ("", 0)
        """Incarnation and boot of whom it hears, once that is known."""
        self.deaf = False
        self.stands = False
        self.asked_from = 0
        """The answer to this request, or a later one, says whom the connection is to; 0 while it does not stand."""
        self.give_up_at = now + CONNECT_S
        self.socket = context.socket(zmq.SUB)
        for option, value in ((zmq.LINGER, 0), (zmq.RECONNECT_IVL, -1), (zmq.RCVHWM, EVENTS_MAX), (zmq.IPV6, 1)):
            self.socket.setsockopt(option, value)
        for prefix in prefixes:
            self.socket.setsockopt(zmq.SUBSCRIBE, prefix.encode())
        self.monitor = self.socket.get_monitor_socket(
            MONITORED, f"inproc://forge-ear-{os.getpid()}-{next(MONITOR_NUMBERS)}"
        )
        try:
            self.socket.connect(url_of(address))
        except zmq.ZMQError:
            self.close()
            raise

    @property
    def trusted(self) -> bool:
        """Whether it is known whose events it hears."""
        return self.boot[0] != ""

    def look(self) -> bool:
        """Note what happened to the connection; returns whether it was just made."""
        made = False
        while True:
            try:
                event = self.monitor.recv_multipart(NOBLOCK)[0]
            except zmq.Again:
                return made
            if int.from_bytes(event[:2], "little") == HANDSHAKE:
                made = self.stands = True
            else:
                self.deaf = True

    def hear(self) -> Iterable[bytes]:
        """The bodies of what has arrived, at most `EVENTS_A_LOOK`."""
        for _ in range(EVENTS_A_LOOK):
            try:
                parts = self.socket.recv_multipart(NOBLOCK)
            except zmq.Again:
                return
            if len(parts) == 2:
                yield parts[1]

    def close(self) -> None:
        """Let go of both sockets."""
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(0)


def reachable(events_address: str, node_address: str) -> str:
    """The publisher's address, on the host under which the node was reached where it listens on every one.

    Raises `InvalidConfigError` for what is no address.
    """
    host, _, port = events_address.rpartition(":")
    if host in ANYWHERE:
        host = node_address.rpartition(":")[0]
    if not host or not port:
        raise InvalidConfigError(f"{events_address!r} is not where a node publishes")
    return parse_endpoint(f"{host}:{port}")
