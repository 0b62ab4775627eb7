"""The feed's link: the one thread of a feed, its connections to nodes, and who among them is asked or heard."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from math import ceil, inf
from typing import Any, Protocol

import zmq
from loguru import logger

from forge_consensus.actors.messages import EventPage, Locate, Located, Refused, WireMessage
from forge_consensus.client.connections import Connection, packed, unpacked
from forge_consensus.client.endpoints import ENDPOINTS_MAX
from forge_consensus.client.wakeup import Wakeup
from forge_consensus.config.address import parse_endpoint
from forge_consensus.errors import (
    ClusterNotFoundError,
    ConnectionFailedError,
    ConsensusError,
    InvalidConfigError,
    OperationFailedError,
)
from forge_consensus.events.encoding import EventDecodeError, from_msgpack
from forge_consensus.feed.event_subscriber import EventSubscriber, reachable
from forge_consensus.feed.following import Following, Position, Since, Told, Wanted

WAIT_S_MAX = 0.5
MEMBERS_S = 5.0
"""How often it is asked who the members are."""
MEMBERS_S_FIRST = 0.5
LISTEN_S_MIN = 0.1
"""Attempts to listen to one node are at least so far apart."""


class Reader(Protocol):
    """Whom the link tells; every call is made on the link's thread."""

    @property
    def room(self) -> int:
        """How many more events it takes."""

    def tell(self, told: list[Told]) -> None:
        """Take events."""

    def stand(self, node: str, position: Position, fresh: bool) -> None:
        """Note where it stands, if nothing waits."""

    def end(self, error: ConsensusError | None) -> None:
        """Nothing comes any more."""


class Source:
    """One node: its connection for questions, the ear at its publisher, and the reader's place in its events."""

    def __init__(self, wire: Connection, following: Following, expected: str) -> None:
        self.wire = wire
        self.following = following
        self.expected = expected
        """The node's id, if another node told of this one."""
        self.ear: EventSubscriber | None = None
        self.request = 0
        self.listen_at = 0.0
        self.connected = False

    @property
    def node(self) -> str:
        """The node's id, as far as it is known."""
        return self.following.node or self.expected


class FeedDriver:
    """Follows nodes until closed; other threads may call `close` and `rouse` and read `starved` and `silent`."""

    def __init__(
        self,
        reader: Reader,
        endpoints: Sequence[str],
        wanted: Wanted,
        since: Since,
        *,
        cluster_id: str,
        whole_cluster: bool,
        room_min: int,
        silent_at: float | None,
    ) -> None:
        self.reader = reader
        self.endpoints = list(endpoints)
        self.wanted = wanted
        self.since = since
        self.cluster_id = cluster_id
        self.room_min = room_min
        """With less room nobody is asked for more."""
        self.silent_at = silent_at
        """With an end: when nodes that have not answered are waited for no more."""
        self.members_at = 0.0 if whole_cluster else inf
        self.members_known = not whole_cluster
        self.sources: dict[str, Source] = {}
        self.by_socket: dict[Any, tuple[Source, Callable[[Source, float], None]]] = {}
        self.requests = 0
        self.starved = False
        self.closing = False
        self.wakeup = Wakeup()
        self.gate = threading.Lock()
        """Between rousing the thread and the end of its descriptor."""
        self.poller = zmq.Poller()
        self.poller.register(self.wakeup.fd, zmq.POLLIN)
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.thread = threading.Thread(target=self.run, name="forge-event-feed", daemon=True)

    # --- for other threads -------------------------------------------------------------------------------------------

    @property
    def silent(self) -> list[str]:
        """The addresses of nodes that do not answer."""
        return [address for address, source in list(self.sources.items()) if not source.connected]

    def rouse(self) -> None:
        """End the thread's sleep."""
        with self.gate:
            self.wakeup.rouse()

    def close(self) -> None:
        """Let the thread end."""
        self.closing = True
        self.rouse()

    # --- the thread --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Turn until closed, or until all is read that was asked for."""
        error: ConsensusError | None = None
        try:
            for address in self.endpoints:
                self.follow(address, "")
            while not self.closing and not self.finished():
                self.turn()
        except ConsensusError as fault:
            error = fault
        except Exception as fault:
            logger.exception("the feed's thread failed")
            error = OperationFailedError(f"the feed's thread failed: {type(fault).__name__}: {fault}")
        for source in self.sources.values():
            self.stop_listening(source)
            source.wire.close()
        self.context.destroy(linger=0)
        with self.gate:
            self.wakeup.close()
        self.reader.end(error)

    def finished(self) -> bool:
        """Whether there was an end to reach and it is reached. Raises `ConnectionFailedError` if nobody answered."""
        if self.silent_at is None:
            return False
        late = time.monotonic() >= self.silent_at
        known = [source for source in self.sources.values() if source.following.node]
        if late and not known:
            raise ConnectionFailedError(f"no node answered at {', '.join(self.sources)}: is one running there?")
        if not late and not (self.members_known and len(known) == len(self.sources)):
            return False
        return all(source.following.level or (late and not source.connected) for source in known)

    def turn(self) -> None:
        """Ask, wait, take what arrived."""
        now = time.monotonic()
        room = self.room_for_page()
        for source in self.sources.values():
            self.ask(source, now, room)
        if now >= self.members_at:
            self.ask_for_members(now)
        self.starved = room <= 0
        self.wakeup.doze()
        idle = not (self.closing or (self.starved and self.room_for_page()))
        asked = [source.following for source in self.sources.values() if source.connected]
        wake_at = min([following.wake_at(room) for following in asked], default=inf)
        ready = self.poller.poll(ceil(min(max(wake_at - now, 0.0), WAIT_S_MAX) * 1000) if idle else 0)
        self.wakeup.awake()
        now = time.monotonic()
        for socket, _ in ready:
            if socket in self.by_socket:
                source, take = self.by_socket[socket]
                take(source, now)
        for source in list(self.sources.values()):
            ear = source.ear
            if ear is not None and (ear.deaf or (not ear.stands and now > ear.give_up_at)):
                self.stop_listening(source)
                source.following.ring()

    def room_for_page(self) -> int:
        """How many events a page may have; 0 while it is not worth the asking."""
        room = self.reader.room
        return room if room >= self.room_min else 0

    def tell(self, source: Source, told: list[Told], *, fresh: bool = False) -> None:
        """Hand events to the reader."""
        if told:
            self.reader.tell(told)
        elif source.following.next:
            self.reader.stand(source.node, source.following.position, fresh)

    # --- whom to follow ----------------------------------------------------------------------------------------------

    def follow(self, address: str, expected: str) -> None:
        """Begin to follow the node at that address. Raises `ConnectionFailedError` for one that cannot be."""
        wire = Connection(self.context, address)
        source = Source(wire, Following(self.since, self.wanted), expected)
        self.sources[address] = source
        self.watch(source, wire.socket, self.take_answers)
        self.watch(source, wire.monitor, self.note_connection)

    def watch(self, source: Source, socket: Any, take: Callable[[Source, float], None]) -> None:
        """Have it called when that socket has something."""
        self.by_socket[socket] = (source, take)
        self.poller.register(socket, zmq.POLLIN)

    def forget(self, *sockets: Any) -> None:
        """These sockets are about to close."""
        for socket in sockets:
            del self.by_socket[socket]
            self.poller.unregister(socket)

    def leave(self, address: str) -> None:
        """Stop following what is at that address."""
        source = self.sources.pop(address)
        self.stop_listening(source)
        self.forget(source.wire.socket, source.wire.monitor)
        source.wire.close()

    def ask_for_members(self, now: float) -> None:
        """Ask everyone who answers who the members are."""
        for source in self.sources.values():
            if source.connected:
                self.send(source, Locate(0, 0))
        self.members_at = now + (MEMBERS_S if self.members_known else MEMBERS_S_FIRST)

    def learn(self, located: Located) -> None:
        """Follow the members that are not followed yet."""
        self.members_known = True
        nodes = {source.node for source in self.sources.values()}
        for node, text in located.members:
            try:
                address = parse_endpoint(text)
            except InvalidConfigError:
                continue
            if node not in nodes and address not in self.sources and len(self.sources) < ENDPOINTS_MAX:
                self.follow(address, node)

    def drop_doubles(self, source: Source) -> None:
        """One node may be known under two addresses: the one that answered first stays."""
        for address, other in list(self.sources.items()):
            if other is not source and other.node == source.node:
                self.leave(address)

    # --- asking ------------------------------------------------------------------------------------------------------

    def ask(self, source: Source, now: float, room: int) -> None:
        """Ask the node for what the reader lacks."""
        if not source.connected:
            return
        question = source.following.question(now, room)
        if question is not None:
            source.request = self.send(source, question)

    def send(self, source: Source, message: WireMessage) -> int:
        """Send a request; returns its number. One that is not taken is asked again when no answer comes."""
        self.requests += 1
        source.wire.send(packed(message, self.requests, self.cluster_id))
        return self.requests

    def note_connection(self, source: Source, now: float) -> None:
        """A connection for questions stands, or broke."""
        for made in source.wire.events():
            source.connected = made
            source.following.interrupted()
            if made:
                self.members_at = min(self.members_at, now if not self.members_known else self.members_at)

    def take_answers(self, source: Source, now: float) -> None:
        """Take what a node answered. Raises `ClusterNotFoundError` if it is of another cluster than the one named."""
        for data in source.wire.receive():
            frame = unpacked(data)
            if frame is None:
                continue
            message = frame.message
            if isinstance(message, EventPage) and frame.request == source.request:
                self.take_page(source, message, now)
            elif isinstance(message, Located):
                self.learn(message)
            elif isinstance(message, Refused) and message.code == ClusterNotFoundError.code:
                raise ClusterNotFoundError(message.text)

    def take_page(self, source: Source, page: EventPage, now: float) -> None:
        """Take a page of a node's journal, and listen to its publisher."""
        fresh = not source.following.node
        told = source.following.page(page, self.reader.room)
        if fresh:
            self.drop_doubles(source)
        self.tell(source, told, fresh=fresh)
        if self.silent_at is None:
            self.listen(source, page, now)

    # --- hearing -----------------------------------------------------------------------------------------------------

    def listen(self, source: Source, page: EventPage, now: float) -> None:
        """See to it that the node is heard where it says that it publishes."""
        ear, boot = source.ear, (page.incarnation, page.boot)
        try:
            address = reachable(page.events_address, source.wire.address)
        except InvalidConfigError:
            return
        if ear is not None:
            if ear.address == address and ear.boot in (("", 0), boot):
                if ear.asked_from and source.request >= ear.asked_from and not ear.trusted:
                    ear.boot = boot
                    source.following.settle(now)
                return
            self.stop_listening(source)
        if now < source.listen_at:
            return
        source.listen_at = now + LISTEN_S_MIN
        source.ear = ear = EventSubscriber(self.context, address, self.wanted.prefixes, now)
        self.watch(source, ear.socket, self.hear)
        self.watch(source, ear.monitor, self.note_ear)

    def stop_listening(self, source: Source) -> None:
        """Close the ear, if there is one."""
        ear, source.ear = source.ear, None
        if ear is not None:
            self.forget(ear.socket, ear.monitor)
            ear.close()

    def note_ear(self, source: Source, now: float) -> None:
        """The node is heard from now on, or no more."""
        if source.ear is not None and source.ear.look():
            source.ear.asked_from = self.requests + 1
            source.following.ring()

    def hear(self, source: Source, now: float) -> None:
        """Take what a node tells."""
        if source.ear is None:
            return
        told: list[Told] = []
        following, room = source.following, self.reader.room
        for body in source.ear.hear():
            if not source.ear.trusted or room - len(told) <= 0:
                following.ring()
                continue
            try:
                event = from_msgpack(body)
            except EventDecodeError:
                following.ring()
                continue
            if event.node_id == following.node:
                told += following.event(event, room - len(told))
        self.tell(source, told)
