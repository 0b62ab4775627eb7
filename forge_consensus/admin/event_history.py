"""The event history: the last events of the whole cluster, in memory, for any number of readers over HTTP.

One feed serves all readers. It begins with the first of them and ends a while after the last has left. Each event has
a place: what was read of each node up to it. A reader that comes back, also to another node's API, goes on from its
place; what is no longer held is told as a gap.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from forge_consensus.admin.problems import invalid
from forge_consensus.admin.subject import Subject
from forge_consensus.errors import ConsensusError
from forge_consensus.events.encoding import to_json_line
from forge_consensus.events.stream import StreamEndedError
from forge_consensus.events.types import ConsensusEvent
from forge_consensus.feed.cursor import Gap, Position
from forge_consensus.feed.event_feed import EventFeed
from forge_consensus.process.log import LogLines

LINES = LogLines(__name__)

EVENTS_MAX: Final = 5000
"""So many events are held."""
BEFORE: Final = 1000
"""So many events of each node from before the first reader are read from its journal."""
IDLE_SECONDS: Final = 30.0
"""The feed ends so long after the last reader has left."""
FIND_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 1.0
GAP_KIND: Final = Gap.kind
PLACE_CHARS_MAX: Final = 4096


@dataclass(slots=True)
class Entry:
    """One event that is held."""

    event: ConsensusEvent
    node: str
    position: Position
    """The reader's position on the node behind the event."""
    place: str
    """The positions on all nodes behind the event, as text."""
    written: str = field(default="", repr=False)

    @property
    def text(self) -> str:
        """The event as one line of JSON; it is written once, for all readers."""
        if not self.written:
            self.written = to_json_line(self.event)
        return self.written


class EventHistory:
    """The last events of a cluster.

    Args:
        subject: the node through which the cluster is found.
        kinds: patterns of the kinds that are held; none for all.

    """

    def __init__(self, subject: Subject, kinds: tuple[str, ...] = ()) -> None:
        self.subject = subject
        self.kinds = kinds
        self.entries: deque[Entry] = deque()
        self.held_from: dict[str, Position] = {}
        """Node -> its first event that is held, if it is of a kind that is; what was before is gone."""
        self.end = 0
        """The number of the next event; those that are held have the numbers before it."""
        self.readers = 0
        self.news = asyncio.Event()
        self.follower: asyncio.Task[None] | None = None
        self.left_at = 0.0
        self.places: dict[str, Position] = {}
        self.targets: dict[str, int] = {}
        """How far the events of each node went when it was first asked."""
        self.ready = asyncio.Event()
        """Set when so much was read, and when nothing can be asked."""

    @property
    def first(self) -> int:
        """The number of the oldest event that is held."""
        return self.end - len(self.entries)

    def enter(self) -> None:
        """Count a reader, and begin to follow the cluster with the first one."""
        self.readers += 1
        if self.follower is None or self.follower.done():
            self.follower = asyncio.ensure_future(self.follow())

    def leave(self) -> None:
        """Count a reader less."""
        self.readers -= 1
        self.left_at = time.monotonic()

    async def follow(self) -> None:
        """Follow the cluster until nobody reads any more."""
        try:
            while self.wanted():
                try:
                    await self.follow_once()
                except ConsensusError as error:
                    LINES.warning("the events of the cluster cannot be followed: {}", error)
                    self.ready.set()
                    await asyncio.sleep(LOOK_SECONDS)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            LINES.error("the events of the cluster are no longer followed", error=error)

    def wanted(self) -> bool:
        """Whether somebody reads, or did a moment ago."""
        return self.readers > 0 or time.monotonic() - self.left_at < IDLE_SECONDS

    async def follow_once(self) -> None:
        """Take the events of one feed for as long as somebody reads. Raises `ConsensusError`."""
        since = {**await self.beginnings(), **self.places}
        self.check_ready()
        feed = EventFeed(
            [self.subject.seat.address],
            self.kinds,
            since,
            cluster_id=self.subject.seat.cluster_id,
            queue_max=EVENTS_MAX,
        )
        try:
            while self.wanted():
                with suppress(TimeoutError):
                    self.take(await feed.aget(LOOK_SECONDS), feed.positions)
        except StreamEndedError:
            return
        finally:
            await asyncio.to_thread(feed.close)

    async def beginnings(self) -> dict[str, Position]:
        """Return where to begin on each node: a little before its newest event."""
        status = await self.subject.status()
        found: dict[str, Position] = {}
        for row in status.nodes:
            if row.id in self.places:
                continue
            own = row.id == status.node_id
            with suppress(ConsensusError):  # a node that does not answer is read from its first event on
                page = await self.subject.events_end(self.subject.own_endpoint if own else row.address, FIND_SECONDS)
                begin = Position(page.incarnation, max(1, page.first, page.end + 1 - BEFORE))
                found[row.id] = self.held_from[row.id] = begin
                self.targets[row.id] = page.end
        return found

    def check_ready(self) -> None:
        """Note whether everything was read that the nodes had when they were first asked."""
        places = self.places
        if all(node in places and places[node].next > end for node, end in self.targets.items() if end):
            self.ready.set()

    def take(self, event: ConsensusEvent, positions: Mapping[str, Position]) -> None:
        """Hold an event, and wake the readers."""
        self.places = dict(positions)
        position = self.places.get(event.node_id)
        if position is None:
            return
        known = self.held_from.get(event.node_id)
        if known is None or known.incarnation != position.incarnation:
            self.held_from[event.node_id] = Position(position.incarnation, min(position.next, first_of(event)))
        if len(self.entries) == EVENTS_MAX:
            gone = self.entries.popleft()
            self.held_from[gone.node] = gone.position
        self.entries.append(Entry(event, event.node_id, position, place_text(self.places)))
        self.end += 1
        if not self.ready.is_set():
            self.check_ready()
        self.news.set()
        self.news = asyncio.Event()

    def number_of(self, recent: int) -> int:
        """Return from which number on the last so many events are read."""
        return max(self.first, self.end - recent)

    def after(self, number: int, limit: int) -> Iterator[tuple[int, Entry]]:
        """Yield at most so many entries with that number or a later one, and their numbers."""
        begin = max(number, self.first)
        for offset in range(begin, min(self.end, begin + limit)):
            yield offset, self.entries[offset - self.first]

    def missing(self, seen: Mapping[str, Position]) -> list[Gap]:
        """Return what a reader with these positions lacks and can no longer be given."""
        gaps = []
        for node, held in self.held_from.items():
            place = seen.get(node)
            if place is not None and place.incarnation == held.incarnation and place.next < held.next:
                gaps.append(gap_of(node, self.subject.seat.cluster_id, place.next, held.next - 1))
        return gaps

    async def close(self) -> None:
        """End the feed."""
        self.readers, self.left_at = 0, -IDLE_SECONDS
        if self.follower is not None:
            self.follower.cancel()
            await asyncio.gather(self.follower, return_exceptions=True)


def first_of(event: ConsensusEvent) -> int:
    """Return the first number that an event or a gap stands for."""
    return event.first if isinstance(event, Gap) else event.sequence


def gap_of(node: str, cluster: str, first: int, last: int) -> Gap:
    """Return the gap of these numbers of a node."""
    return Gap(
        node_id=node, cluster_id=cluster, sequence=last, time=time.time(), first=first, last=last, reason="discarded"
    )


def place_text(places: Mapping[str, Position]) -> str:
    """Return positions as one text, such as ``n1=4f1c.17,n2=88ab.5``: node, incarnation, next number."""
    return ",".join(f"{node}={place.incarnation}.{place.next}" for node, place in sorted(places.items()))


def places_of(text: str) -> dict[str, Position]:
    """Return the positions that a text stands for. Raises `ProblemError` for one that is none."""
    found: dict[str, Position] = {}
    for part in filter(None, text.split(",")):
        node, equals, place = part.partition("=")
        incarnation, _, number = place.rpartition(".")
        if not (equals and node and number.isascii() and number.isdigit()) or len(text) > PLACE_CHARS_MAX:
            raise invalid(f"{text[:80]!r} is no place in the events: give the id of an event, as it was told")
        found[node] = Position(incarnation, int(number))
    return found


def is_new(entry: Entry, seen: Mapping[str, Position]) -> bool:
    """Whether a reader with these positions has not seen an entry."""
    place = seen.get(entry.node)
    return place is None or place.incarnation != entry.position.incarnation or entry.position.next > place.next
