"""EventSubscribers: a subscription to one node's publisher, for the life of one connection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import zmq

from forge_consensus.actors.transport.endpoint import url_of
from forge_consensus.actors.transport.link import HANDSHAKE, close_watched, happened, open_monitor
from forge_consensus.actors.transport.liveness import LINK_TIMEOUT_SECONDS, watch_other_end
from forge_consensus.config.address import parse_endpoint
from forge_consensus.errors import InvalidConfigError
from forge_consensus.security.curve import KeyPair, be_client

NOBLOCK: Final = int(zmq.NOBLOCK)
POLLIN: Final = int(zmq.POLLIN)
MONITORED: Final = int(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_CLOSED)
EVENTS_MAX: Final = 10_000
"""So many events can wait in the socket; ZeroMQ drops more, and they are read from the journal."""
EVENTS_A_LOOK: Final = 256
CONNECT_SECONDS: Final = 1.0
ANYWHERE: Final = ("0.0.0.0", "[::]", "*")


class EventSubscriber:
    """A SUB socket that never reconnects, so that everything it receives comes from one process of one node.

    Hence the reader can know whose sequence numbers it receives: those of the node that is asked after the connection
    was made and names this address as its own.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        prefixes: Iterable[str],
        now: float,
        keys: KeyPair | None = None,
        server: str = "",
    ) -> None:
        """Begin to connect at the monotonic time `now`. Raises `zmq.ZMQError` for what is no address.

        With `keys` the connection is encrypted, and leads to nobody but the holder of the public key `server`.
        """
        self.address = address
        self.boot: tuple[str, int] = ("", 0)
        """Incarnation and boot of the node at the other end, once they are known."""
        self.lost = False
        self.connected = False
        self.asked_from = 0
        """The answer to this request or a later one tells which node is at the other end; 0 while not connected."""
        self.give_up_at = now + CONNECT_SECONDS
        self.socket = context.socket(zmq.SUB)
        for option, value in ((zmq.LINGER, 0), (zmq.RECONNECT_IVL, -1), (zmq.RCVHWM, EVENTS_MAX), (zmq.IPV6, 1)):
            self.socket.setsockopt(option, value)
        watch_other_end(self.socket, LINK_TIMEOUT_SECONDS)
        for prefix in prefixes:
            self.socket.setsockopt(zmq.SUBSCRIBE, prefix.encode())
        if keys is not None:
            be_client(self.socket, keys, server)
        self.monitor = open_monitor(self.socket, MONITORED, "events")
        try:
            self.socket.connect(url_of(address))
        except zmq.ZMQError:
            self.close()
            raise

    @property
    def trusted(self) -> bool:
        """Whether it is known whose events arrive."""
        return self.boot[0] != ""

    def failed(self, now: float) -> bool:
        """Whether the connection was lost, or not made in time."""
        return self.lost or (not self.connected and now > self.give_up_at)

    def look(self) -> bool:
        """Note what happened to the connection; returns whether it was just made."""
        made = False
        for event, *_ in happened(self.monitor):
            if event == HANDSHAKE:
                made = self.connected = True
            else:
                self.lost = True
        return made

    def receive(self) -> Iterable[bytes]:
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
        close_watched(self.socket, self.monitor)


def reachable(events_address: str, node_address: str) -> str:
    """The publisher's address, on the host at which the node was reached where it listens on every one.

    Raises `InvalidConfigError` for what is no address.
    """
    host, _, port = events_address.rpartition(":")
    if host in ANYWHERE:
        host = node_address.rpartition(":")[0]
    if not host or not port:
        raise InvalidConfigError(f"{events_address!r} is not where a node publishes")
    return parse_endpoint(f"{host}:{port}")
