"""The events of a node in a child process, published again on a bus of this process."""

from __future__ import annotations

import os
import threading

import zmq
from loguru import logger

from forge_consensus.actors.transport.endpoint import url_of
from forge_consensus.events.bus import EventBus
from forge_consensus.events.encoding import EventDecodeError, from_msgpack
from forge_consensus.events.types import EVENT_TYPES, UnknownEvent

POLL_MS = 500
FRAMES_MAX = 10_000
LISTENERS_SECONDS = 0.05
"""How long blocking listeners may delay this thread for one event."""


class ChildEvents:
    """Subscribes to a node's publisher and publishes its events again, on a thread of its own, until `finish`."""

    def __init__(self, address: str, bus: EventBus) -> None:
        self.bus = bus
        self.last = 0
        """The number of the last event."""
        self.rest: list[bytes] = []
        self.finishing = False
        self.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.SUB)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.IPV6, 1)
        self.socket.setsockopt(zmq.RCVHWM, FRAMES_MAX)
        self.socket.setsockopt(zmq.SUBSCRIBE, b"")
        self.socket.connect(url_of(address))
        self.thread = threading.Thread(target=self.run, name="forge-feed", daemon=True)
        self.thread.start()

    def finish(self, rest: list[bytes]) -> None:
        """Publish what has arrived and then these last events, and end; the node is gone."""
        self.rest = rest
        self.finishing = True
        os.eventfd_write(self.wake_fd, 1)

    def run(self) -> None:
        """Publish events until `finish`; the body of the thread."""
        poller = zmq.Poller()
        poller.register(self.socket, zmq.POLLIN)
        poller.register(self.wake_fd, zmq.POLLIN)
        try:
            while not self.finishing:
                poller.poll(POLL_MS)
                self.take()
            self.take()
            for body in self.rest:
                self.publish(body)
        finally:
            self.context.destroy(linger=0)
            os.close(self.wake_fd)

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
            logger.warning("the node sent an event that does not decode: {}", error)
            return
        if event.sequence > self.last:
            self.last = event.sequence
            self.bus.begin_turn(LISTENERS_SECONDS)
            self.bus.publish(event)
