"""The feed of the demo: it receives the events of every node from their publishers."""

from __future__ import annotations

import threading
from collections.abc import Callable

import zmq

from forge_consensus.events.encoding import EventDecodeError, from_msgpack
from forge_consensus.events.types import EVENT_TYPES, ConsensusEvent, LogAppended, LogCommitted
from forge_consensus.security.credentials import Credentials
from forge_consensus.security.curve import be_client

POLL_MS = 100
JOIN_SECONDS = 2.0
NOISE = (LogAppended, LogCommitted)
"""Published for every batch of entries, which is too often to watch."""

Publisher = tuple[str, str]
"""Address and boot, because a restarted node publishes at another address, or at the same one again."""


class Feed:
    """One SUB socket for all nodes, read by a thread that passes each event to `show`.

    `credentials` are shown to the publishers of a secure cluster; None for no encryption.
    """

    def __init__(self, show: Callable[[ConsensusEvent], None], credentials: Credentials | None = None) -> None:
        self.show = show
        self.credentials = credentials
        self.received = 0
        self.wanted: dict[str, str] = {}
        """Address -> the node that publishes there."""
        self.known: set[str] = set()
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.run, name="demo-feed", daemon=True)
        self.thread.start()

    def follow(self, address: str, node: str) -> None:
        """Connect to one more publisher, that of a node."""
        self.wanted[address] = node

    def run(self) -> None:
        """Receive events until the end; runs on a thread, which owns the socket."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = context.socket(zmq.SUB)
        try:
            socket.setsockopt(zmq.LINGER, 0)
            for kind, event_type in EVENT_TYPES.items():
                if event_type not in NOISE:
                    socket.setsockopt(zmq.SUBSCRIBE, kind.encode())
            while not self.ending.is_set():
                for address, node in list(self.wanted.items()):
                    if address not in self.known:
                        self.known.add(address)
                        self.connect(socket, address, node)
                if socket.poll(POLL_MS):
                    self.take(socket.recv_multipart())
        finally:
            context.destroy(linger=0)

    def connect(self, socket: zmq.Socket[bytes], address: str, node: str) -> None:
        """Connect the socket to a publisher, which must prove the key of that node if the cluster is secure."""
        if self.credentials is not None:
            be_client(socket, self.credentials.keys, self.credentials.servers[node][0])
        socket.connect(f"tcp://{address}")

    def take(self, parts: list[bytes]) -> None:
        """Decode one event and show it."""
        try:
            event = from_msgpack(parts[-1])
        except EventDecodeError:
            return
        self.received += 1
        self.show(event)

    def close(self) -> None:
        """End the thread and wait a moment for it; no event is shown any more."""
        self.ending.set()
        self.thread.join(JOIN_SECONDS)
