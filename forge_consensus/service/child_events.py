"""The events of a node in a child process, published again on a bus of this process."""

from __future__ import annotations

import zmq

from forge_consensus.actors.transport.endpoint import url_of
from forge_consensus.events.bus import EventBus
from forge_consensus.events.encoding import EventDecodeError, from_msgpack
from forge_consensus.events.types import EVENT_TYPES, UnknownEvent
from forge_consensus.process.fork import close_sockets, keep, tell_of_forks
from forge_consensus.process.log import LogLines
from forge_consensus.process.threads import ForgeThread
from forge_consensus.process.wakeup import Wakeup
from forge_consensus.security.curve import KeyPair, be_client

LINES = LogLines(__name__)

POLL_MS = 500
FRAMES_MAX = 10_000
LISTENERS_SECONDS = 0.05
"""How long blocking listeners may delay this thread for one event."""


class ChildEvents:
    """Subscribes to a node's publisher and publishes its events again, on a thread of its own, until `finish`.

    With `keys` the connection is encrypted, and leads to nobody but the holder of the public key `server`.
    """

    def __init__(self, address: str, bus: EventBus, keys: KeyPair | None = None, server: str = "") -> None:
        self.bus = bus
        self.last = 0
        """The number of the last event."""
        self.rest: list[bytes] = []
        self.finishing = False
        self.address = address
        self.wakeup = Wakeup()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.SUB)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.IPV6, 1)
        self.socket.setsockopt(zmq.RCVHWM, FRAMES_MAX)
        self.socket.setsockopt(zmq.SUBSCRIBE, b"")
        if keys is not None:
            be_client(self.socket, keys, server)
        self.socket.connect(url_of(address))
        self.thread = ForgeThread(target=self.run, name="forge-feed")
        try:
            self.thread.start()
        except BaseException:
            self.context.destroy(linger=0)
            raise
        tell_of_forks(self)

    def finish(self, rest: list[bytes]) -> None:
        """Publish what has arrived and then these last events, and end; the node is gone."""
        self.rest = rest
        self.finishing = True
        self.wakeup.rouse()

    def forked(self) -> None:
        """Let go of the connection in a child process."""
        close_sockets(dialled=[self.address])
        keep(self.context, self.socket)

    def run(self) -> None:
        """Publish events until `finish`; the body of the thread."""
        poller = zmq.Poller()
        poller.register(self.socket, zmq.POLLIN)
        poller.register(self.wakeup.fd, zmq.POLLIN)
        try:
            while not self.finishing:
                self.wakeup.doze()
                poller.poll(0 if self.finishing else POLL_MS)
                self.wakeup.awake()
                self.take()
            self.take()
            for body in self.rest:
                self.publish(body)
        finally:
            self.context.destroy(linger=0)

    def take(self) -> None:
        """Publish the events that have arrived."""
        while True:
            try:
                topic, body = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            except ValueError:
                continue
            if self.bus.has_listeners(EVENT_TYPES.get(topic.decode(errors="replace"), UnknownEvent)):
                self.publish(body)

    def publish(self, body: bytes) -> None:
        """Publish one event, unless it was published before."""
        try:
            event = from_msgpack(body)
        except EventDecodeError as error:
            LINES.warning("the node sent an event that does not decode: {}", error)
            return
        if event.sequence > self.last:
            self.last = event.sequence
            self.bus.begin_turn(LISTENERS_SECONDS)
            self.bus.publish(event)
