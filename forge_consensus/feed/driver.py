"""The feed's driver: the one thread of a feed, its connections to nodes, and which of them it asks and listens to."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from typing import Any, Protocol

import zmq

from forge_consensus.actors.messages import EventPage, Locate, Located, Refused, WireMessage
from forge_consensus.client.connections import Arrived, Connection, tend_links
from forge_consensus.client.endpoints import ENDPOINTS_MAX
from forge_consensus.config.address import parse_endpoint
from forge_consensus.errors import (
    AuthenticationFailedError,
    ClusterNotFoundError,
    ConnectionFailedError,
    ConsensusError,
    InvalidConfigError,
    NotStartedError,
    OperationFailedError,
)
from forge_consensus.events.encoding import EventDecodeError, from_msgpack
from forge_consensus.feed.cursor import Delivery, EventCursor, Position, Since, Wanted
from forge_consensus.feed.event_subscriber import EventSubscriber, reachable
from forge_consensus.process.descriptors import require_descriptors
from forge_consensus.process.fork import close_descriptor, close_sockets, keep, tell_of_forks
from forge_consensus.process.log import LogLines
from forge_consensus.process.socket_poller import SocketPoller
from forge_consensus.process.threads import ForgeThread
from forge_consensus.process.wakeup import NOBODY, Wakeup
from forge_consensus.security.credentials import Credentials

LINES = LogLines(__name__)

CONNECT_SECONDS = 5.0
"""How long to wait for nodes that do not answer, where nothing else is said."""
FORKED_TEXT = "this process was forked, and its parent's event feed has no thread here: make a feed in this process"
DESCRIPTORS = 10
DESCRIPTORS_EACH = 8
"""What the connection for requests to one node and the subscription to its events take."""
OnSilence = Callable[[ConnectionFailedError], object]
WAIT_SECONDS_MAX = 0.5
MEMBERS_SECONDS = 5.0
"""How often the nodes are asked who the members are."""
MEMBERS_SECONDS_FIRST = 0.5
MOVED_SECONDS = 2.0
"""A member without a connection for so long is looked for where the cluster says that it is now."""
LISTEN_SECONDS_MIN = 0.1
"""How long after an attempt to listen to a node the next one begins at the earliest."""


def log_silence(error: ConnectionFailedError) -> None:
    """Warn by the standard library, which shows it where nobody set up a log: else the feed would wait in silence."""
    logging.getLogger(__name__).warning("%s", error)


def check_connect_seconds(seconds: object) -> None:
    """Raise `InvalidConfigError` for what is no time to wait for nodes."""
    if not isinstance(seconds, int | float) or not 0 < seconds < inf:
        raise InvalidConfigError(f"connect_seconds is {seconds!r}: expected seconds above 0, such as 5.0")


class Reader(Protocol):
    """Receives what the driver reads; every call is made on the driver's thread."""

    @property
    def capacity(self) -> int:
        """How many more events it can hold."""

    def tell(self, told: list[Delivery]) -> None:
        """Take events, in order per node."""

    def stand(self, node: str, position: Position, fresh: bool) -> None:
        """Note up to where a node was read, unless events wait to be taken; `fresh`: the node has just been met."""

    def end(self, error: ConsensusError | None) -> None:
        """The feed has ended, with an error or because it was closed or everything was read."""


class Source:
    """One node: the connection for requests to it, the subscriber to its publisher, and the cursor in its events."""

    def __init__(self, connection: Connection, cursor: EventCursor, expected: str, given: str) -> None:
        self.connection = connection
        self.cursor = cursor
        self.expected = expected
        """The node's id if another node named it as a member, "" for an endpoint that was given."""
        self.given = given
        """The endpoint that was given for this node, "" if none was."""
        self.lost_at = time.monotonic()
        """When it was begun, or the connection was lost."""
        self.subscriber: EventSubscriber | None = None
        self.request = 0
        self.listen_at = 0.0
        self.connected = False

    @property
    def node(self) -> str:
        """The node's id, as far as it is known."""
        return self.cursor.node or self.expected


class FeedDriver:
    """Follows nodes until closed; other threads may call `close` and `rouse` and read `starved` and `silent`.

    Args:
        reader: receives the events.
        endpoints: where nodes answer, as ``host:port`` or ``ipc://path``.
        wanted: which kinds of event.
        since: where to begin on each node.
        cluster_id: the cluster that the nodes must belong to, "" for any.
        whole_cluster: whether to follow every member; otherwise only the nodes at `endpoints`.
        capacity_min: no node is asked for more while the reader can hold fewer events than this.
        follow: whether to go on for ever; otherwise the feed ends when it is level with all nodes that answer.
        connect_seconds: how long to wait for nodes that do not answer.
        on_silence: called when none has answered for so long; None for a line in the log.
        credentials: what the feed shows the nodes, and by what they prove themselves; None for no encryption.

    """

    poller: SocketPoller
    """Made by `begin`, because it takes a descriptor."""

    def __init__(
        self,
        reader: Reader,
        endpoints: Sequence[str],
        wanted: Wanted,
        since: Since,
        *,
        cluster_id: str,
        whole_cluster: bool,
        capacity_min: int,
        follow: bool = True,
        connect_seconds: float = CONNECT_SECONDS,
        on_silence: OnSilence | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        check_connect_seconds(connect_seconds)
        self.credentials = credentials
        self.reader = reader
        self.endpoints = list(endpoints)
        self.wanted = wanted
        self.since = since
        self.cluster_id = cluster_id
        self.capacity_min = capacity_min
        self.follows = follow
        self.connect_seconds = connect_seconds
        self.on_silence = on_silence or log_silence
        self.silent_at = time.monotonic() + connect_seconds
        """From then on nodes that do not answer are not waited for, or it is told that none does."""
        self.members_at = 0.0 if whole_cluster else inf
        self.members_known = not whole_cluster
        self.sources: dict[str, Source] = {}
        self.cursors: dict[str, EventCursor] = {}
        """The cursors of members that left, for their return."""
        self.by_socket: dict[Any, tuple[Source, Callable[[Source, float], None]]] = {}
        self.requests = 0
        self.starved = False
        self.closing = False
        self.wakeup: Wakeup = NOBODY
        self.context: zmq.Context[zmq.Socket[bytes]] | None = None
        self.thread = ForgeThread(target=self.run, name="forge-event-feed")

    # --- for other threads -------------------------------------------------------------------------------------------

    @property
    def silent(self) -> list[str]:
        """The addresses of nodes that do not answer."""
        return [address for address, source in list(self.sources.items()) if not source.connected]

    def begin(self) -> None:
        """Begin the thread. Raises `TransportUnavailableError` without descriptors or threads."""
        require_descriptors(DESCRIPTORS + DESCRIPTORS_EACH * len(self.endpoints), "an event feed")
        self.wakeup, self.poller = Wakeup(), SocketPoller()
        self.poller.register_file(self.wakeup.fd)
        self.thread.start()
        tell_of_forks(self)

    def rouse(self) -> None:
        """Have the thread look at once at what has changed, if it sleeps; callable from any thread."""
        self.wakeup.rouse()

    def rouse_if_starved(self) -> None:
        """End the thread's sleep, if it waits for the reader to take events."""
        if self.starved:
            self.wakeup.rouse()

    def forked(self) -> None:
        """In a child process: end, because the thread and the connections belong to the parent."""
        if self.closing and not self.thread.is_alive():
            return
        dialled = {place for source in self.sources.values() for place in source.connection.link.places()}
        heard = {source.subscriber.address for source in self.sources.values() if source.subscriber is not None}
        self.poller.close()
        close_sockets(dialled=dialled | heard)
        close_descriptor(self.wakeup.fd)
        self.wakeup.fd = -1
        keep(self.context, self.sources, self.wakeup, self.thread)
        self.closing, self.wakeup = True, NOBODY
        self.thread = ForgeThread(target=self.run)  # it never begins, so nobody waits for it
        self.reader.end(NotStartedError(FORKED_TEXT))

    def close(self) -> None:
        """Ask the thread to end, and wait for nothing: the reader is told when it has ended."""
        self.closing = True
        self.rouse()

    # --- the thread --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Turn until closed, or until all is read that was asked for."""
        error: ConsensusError | None = None
        self.context = context = zmq.Context()
        try:
            for address in self.endpoints:
                self.follow(address, "", given=address)
            while not self.closing and not self.finished():
                self.turn()
        except ConsensusError as fault:
            error = fault
        except Exception as fault:
            LINES.error("the feed's thread failed", error=fault)
            error = OperationFailedError(f"the feed's thread failed: {type(fault).__name__}: {fault}")
        for source in self.sources.values():
            self.stop_listening(source)
            source.connection.close()
        self.poller.close()
        context.destroy(linger=0)
        self.wakeup = NOBODY
        self.reader.end(error)

    def finished(self) -> bool:
        """Whether there was an end to reach and it is reached. Raises `ConnectionFailedError` if nobody answered."""
        late = time.monotonic() >= self.silent_at
        if self.follows:
            self.note_silence(late)
            return False
        known = [source for source in self.sources.values() if source.cursor.node]
        if late and not known:
            raise self.silence()
        if not late and not (self.members_known and len(known) == len(self.sources)):
            return False
        return all(source.cursor.level or (late and not source.connected) for source in known)

    def note_silence(self, late: bool) -> None:
        """Tell once that no node answers, if that is so for `connect_seconds`; again if that comes again."""
        if any(source.connected and source.cursor.node for source in self.sources.values()):
            self.silent_at = time.monotonic() + self.connect_seconds
        elif late:
            self.silent_at = inf
            try:
                self.on_silence(self.silence())
            except Exception as error:
                LINES.error("on_silence of an event feed failed", error=error)

    def silence(self) -> ConnectionFailedError:
        """The error that says that no node answers."""
        denied = [source.connection.link.problem for source in self.sources.values() if source.connection.link.denied]
        return ConnectionFailedError(
            f"no node answered at {', '.join(self.sources)} within {self.connect_seconds:g} s: "
            f"{denied[0] if denied else 'check that one runs there and the addresses'}"
        )

    def turn(self) -> None:
        """Ask, wait, take what arrived."""
        now = time.monotonic()
        capacity = self.capacity_for_page()
        for source in self.sources.values():
            self.ask(source, now, capacity)
        if now >= self.members_at:
            self.ask_for_members(now)
        self.starved = capacity <= 0
        self.wakeup.doze()
        idle = not (self.closing or (self.starved and self.capacity_for_page()))
        asked = [source.cursor for source in self.sources.values() if source.connected]
        wake_at = min([cursor.wake_at(capacity) for cursor in asked], default=inf)
        wait = max(min(wake_at, self.tend(now)) - now, 0.0)
        ready = self.poller.wait(min(wait, WAIT_SECONDS_MAX) if idle else 0.0)
        self.wakeup.sleeping = False
        now = time.monotonic()
        for socket in ready:
            if type(socket) is int:
                self.wakeup.awake()
            elif socket in self.by_socket:
                source, take = self.by_socket[socket]
                take(source, now)
        for source in list(self.sources.values()):
            subscriber = source.subscriber
            if subscriber is not None and (
                subscriber.lost or (not subscriber.connected and now > subscriber.give_up_at)
            ):
                self.stop_listening(source)
                source.cursor.note_news()

    def tend(self, now: float) -> float:
        """Let the connections for requests do what is due; returns the monotonic time before which nothing is."""
        told: list[Arrived] = []
        due_at = tend_links([source.connection for source in self.sources.values()], told)
        for address, what, _ in told:
            if type(what) is bool:
                self.note_connection(self.sources[address], what, now)
        return due_at

    def capacity_for_page(self) -> int:
        """How many events a page may have; 0 while it is not worth the asking."""
        capacity = self.reader.capacity
        return capacity if capacity >= self.capacity_min else 0

    def tell(self, source: Source, told: list[Delivery], *, fresh: bool = False) -> None:
        """Hand events to the reader."""
        if told:
            self.reader.tell(told)
        elif source.cursor.next:
            self.reader.stand(source.node, source.cursor.position, fresh)

    # --- whom to follow ----------------------------------------------------------------------------------------------

    def follow(self, address: str, expected: str, *, given: str = "", cursor: EventCursor | None = None) -> None:
        """Begin to follow the node at that address. Raises `ConnectionFailedError` for one that cannot be."""
        assert self.context is not None, "the thread runs"
        connection = Connection(self.context, address, self.poller, credentials=self.credentials)
        kept = cursor or self.cursors.pop(expected, None) or EventCursor(self.since, self.wanted)
        source = Source(connection, kept, expected, given)
        self.sources[address] = source
        self.watch(source, connection.socket, self.take_answers)
        self.watch(source, connection.monitor, self.look_at_connection)

    def watch(self, source: Source, socket: Any, take: Callable[[Source, float], None]) -> None:
        """Have it called when that socket has something."""
        self.by_socket[socket] = (source, take)
        self.poller.register(socket)

    def forget(self, *sockets: Any) -> None:
        """These sockets are about to close."""
        for socket in sockets:
            del self.by_socket[socket]
            self.poller.unregister(socket)

    def leave(self, address: str) -> None:
        """Stop following the node at that address."""
        source = self.sources.pop(address)
        self.stop_listening(source)
        self.forget(source.connection.socket, source.connection.monitor)
        source.connection.close()

    def ask_for_members(self, now: float) -> None:
        """Ask every connected node who the members are."""
        for source in self.sources.values():
            if source.connected:
                self.send(source, Locate(0, 0))
        self.members_at = now + (MEMBERS_SECONDS if self.members_known else MEMBERS_SECONDS_FIRST)

    def learn(self, located: Located, now: float) -> None:
        """Follow the members that are not followed yet, or that moved, and leave those that left the cluster.

        One that has no connection is looked for in turns where the members look for it and at the endpoint that was
        given, because either may be an address that holds only inside of some network.
        """
        self.members_known = True
        members: dict[str, str] = {}
        for node, text in located.members:
            with suppress(InvalidConfigError):
                members[node] = parse_endpoint(text)
        followed = {source.node: (address, source) for address, source in self.sources.items()}
        for node, told in members.items():
            address, source = followed.get(node, ("", None))
            if source is None:
                if told not in self.sources and len(self.sources) < ENDPOINTS_MAX:
                    self.follow(told, node)
            elif self.is_lost(source, now) and (other := told if told != address else source.given):
                self.move(address, other)
        if located.leader == located.node:
            for node, (address, source) in followed.items():
                if node and node not in members and not source.given and self.is_lost(source, now):
                    self.leave(address)
                    self.cursors[node] = source.cursor

    def is_lost(self, source: Source, now: float) -> bool:
        """Whether the node has had no connection for some time."""
        return not source.connected and now - source.lost_at >= MOVED_SECONDS

    def move(self, address: str, other: str) -> None:
        """Follow a node at another address, unless that is another node's."""
        if other not in self.sources:
            source = self.sources[address]
            self.leave(address)
            self.follow(other, source.node, given=source.given, cursor=source.cursor)

    def exchange(self, source: Source, node: str) -> None:
        """Follow another node at an address, because it took the place of the one that was there."""
        address = source.connection.address
        self.leave(address)
        self.cursors[source.node] = source.cursor
        self.follow(address, node, given=source.given)

    def drop_doubles(self, source: Source) -> None:
        """Drop other sources of the same node: it may be known under two addresses."""
        for address, other in list(self.sources.items()):
            if other is not source and other.node == source.node:
                self.leave(address)

    # --- asking ------------------------------------------------------------------------------------------------------

    def ask(self, source: Source, now: float, capacity: int) -> None:
        """Ask the node for what the reader lacks."""
        if not source.connected:
            return
        request = source.cursor.request(now, capacity)
        if request is not None:
            source.request = self.send(source, request)

    def send(self, source: Source, message: WireMessage) -> int:
        """Send a request; returns its number. One that is not taken is asked again when no answer comes."""
        self.requests += 1
        source.connection.ask(message, self.requests, self.cluster_id)
        return self.requests

    def look_at_connection(self, source: Source, now: float) -> None:
        """Take what the monitor of the connection for requests has recorded."""
        for made in source.connection.events():
            self.note_connection(source, made, now)

    def note_connection(self, source: Source, made: bool, now: float) -> None:
        """Note that the connection for requests was made or lost."""
        source.connected, source.lost_at = made, now
        source.cursor.interrupted()
        if made:
            self.members_at = min(self.members_at, now if not self.members_known else self.members_at)

    def take_answers(self, source: Source, now: float) -> None:
        """Take what a node answered.

        Raises `ClusterNotFoundError` if it is of another cluster than the one named, and `AuthenticationFailedError` if
        it does not let this feed read events.
        """
        for frame in source.connection.frames():
            message = frame.message
            if isinstance(message, EventPage) and frame.request == source.request:
                if source.cursor.node not in ("", message.node):
                    self.exchange(source, message.node)
                    return
                self.take_page(source, message, now)
            elif isinstance(message, Located):
                self.learn(message, now)
            elif isinstance(message, Refused) and message.code == ClusterNotFoundError.code:
                raise ClusterNotFoundError(message.text)
            elif isinstance(message, Refused) and message.code == AuthenticationFailedError.code:
                raise AuthenticationFailedError(message.text)

    def take_page(self, source: Source, page: EventPage, now: float) -> None:
        """Take a page of a node's journal, and listen to its publisher."""
        fresh = not source.cursor.node
        told = source.cursor.page(page, self.reader.capacity)
        if fresh:
            self.drop_doubles(source)
        self.tell(source, told, fresh=fresh)
        if self.follows:
            self.listen(source, page, now)

    # --- hearing -----------------------------------------------------------------------------------------------------

    def listen(self, source: Source, page: EventPage, now: float) -> None:
        """Subscribe to the publisher that a page of the node's journal names, unless that is done."""
        subscriber, boot = source.subscriber, (page.incarnation, page.boot)
        try:
            address = reachable(page.events_address, source.connection.reached)
        except InvalidConfigError:
            return
        if subscriber is not None:
            if subscriber.address == address and subscriber.boot in (("", 0), boot):
                if subscriber.asked_from and source.request >= subscriber.asked_from and not subscriber.trusted:
                    subscriber.boot = boot
                    source.cursor.settle(now)
                return
            self.stop_listening(source)
        if now < source.listen_at:
            return
        source.listen_at = now + LISTEN_SECONDS_MIN
        assert self.context is not None, "the thread runs"
        keys = None if self.credentials is None else self.credentials.keys
        source.subscriber = subscriber = EventSubscriber(
            self.context, address, self.wanted.prefixes, now, keys, source.connection.link.server
        )
        self.watch(source, subscriber.socket, self.take_events)
        self.watch(source, subscriber.monitor, self.note_subscriber)

    def stop_listening(self, source: Source) -> None:
        """Close the subscriber to the node's publisher, if there is one."""
        subscriber, source.subscriber = source.subscriber, None
        if subscriber is not None:
            self.forget(subscriber.socket, subscriber.monitor)
            subscriber.close()

    def note_subscriber(self, source: Source, now: float) -> None:
        """Note that the connection to the node's publisher was made or lost."""
        if source.subscriber is not None and source.subscriber.look():
            source.subscriber.asked_from = self.requests + 1
            source.cursor.note_news()

    def take_events(self, source: Source, now: float) -> None:
        """Take what a node's publisher sends."""
        if source.subscriber is None:
            return
        told: list[Delivery] = []
        cursor, capacity = source.cursor, self.reader.capacity
        for body in source.subscriber.receive():
            if not source.subscriber.trusted or capacity - len(told) <= 0:
                cursor.note_news()
                continue
            try:
                event = from_msgpack(body)
            except EventDecodeError:
                cursor.note_news()
                continue
            if event.node_id == cursor.node:
                told += cursor.event(event, capacity - len(told))
        self.poller.used(source.subscriber.socket)  # more may be waiting than a look takes
        self.tell(source, told)
