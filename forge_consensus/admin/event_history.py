"""The event history: the last events of the whole cluster, in memory, for any number of readers over HTTP.

One feed serves all readers. It begins with the first of them and ends a while after the last has left. A reader's
place is what it has seen of each node. With it a reader that comes back goes on where it was, also at another node's
API; what is no longer held is told as a gap.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from forge_consensus.actors.messages import EventPage
from forge_consensus.admin.problems import invalid
from forge_consensus.admin.subject import Subject
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
OLDER_SECONDS: Final = 5.0
"""A node that could not be asked at first is read from its first event on; what is so much older is left out."""
IDLE_SECONDS: Final = 30.0
"""The feed ends so long after the last reader has left."""
FIND_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 0.2
PACE_SECONDS: Final = 0.1
"""Readers are woken so often at most, because each has one piece to be sent, however many events are in it."""
PAUSE_SECONDS_MAX: Final = 10.0
GAP_KIND: Final = Gap.kind
REPLACED: Final = "replaced"
DISCARDED: Final = "discarded"
PLACE_CHARS_MAX: Final = 32_768


class Place(NamedTuple):
    """What a reader has seen of one node."""

    position: Position
    epoch: int
    """Which of the node's folders this was, counted as this history met them; -1 for one that it never met."""


Seen = dict[str, Place]


@dataclass(slots=True)
class Entry:
    """One event that is held."""

    event: ConsensusEvent
    node: str
    place: Place
    """The place of a reader behind the event."""
    written: str = field(default="", repr=False)

    @property
    def text(self) -> str:
        """The event as one line of JSON; it is written once, for all readers."""
        if not self.written:
            self.written = to_json_line(self.event)
        return self.written

    def is_new_to(self, seen: Seen) -> bool:
        """Whether a reader has not seen it."""
        known = seen.get(self.node)
        if known is None or known.epoch != self.place.epoch:
            return known is None or self.place.epoch > known.epoch
        return self.place.position.next > known.position.next


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
        self.end = 0
        """The number of the next event; those that are held have the numbers before it."""
        self.held_from: Seen = {}
        """Node -> the place from which on its events are held, in its newest folder."""
        self.folders: dict[str, list[str]] = {}
        """Node -> the incarnations of its folders, in the order in which they were met; the place is the epoch."""
        self.dropped: dict[str, int] = {}
        """Node -> the newest epoch of which events were dropped."""
        self.positions: dict[str, Position] = {}
        """How far each node was read."""
        self.targets: dict[str, Position] = {}
        """How far the events of each node went when the feed began."""
        self.began_at = 0.0
        """The wall time at which the feed began."""
        self.ready = asyncio.Event()
        """Set while everything was read that the nodes had when the feed began."""
        self.readers = 0
        self.left_at = 0.0
        self.waiting: set[asyncio.Future[None]] = set()
        """Readers that have got everything."""
        self.woken_at = -PACE_SECONDS
        """When readers were woken last, in the loop's time."""
        self.alarm: asyncio.TimerHandle | None = None
        """What wakes them next."""
        self.follower: asyncio.Task[None] | None = None

    @property
    def first(self) -> int:
        """The number of the oldest event that is held."""
        return self.end - len(self.entries)

    # --- readers -----------------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """Count a reader, and begin to follow the cluster with the first one."""
        self.readers += 1
        if self.follower is None or self.follower.done():
            self.ready.clear()
            self.follower = asyncio.ensure_future(self.follow())

    def leave(self) -> None:
        """Count a reader less."""
        self.readers -= 1
        self.left_at = time.monotonic()

    async def wait(self, number: int, seconds: float) -> bool:
        """Wait until readers are woken for an event with that number or a later one.

        Returns False if that does not come within so many seconds.
        """
        future = asyncio.get_running_loop().create_future()
        self.waiting.add(future)
        if number < self.end:
            self.tell()
        try:
            async with asyncio.timeout(seconds):
                await future
            return True
        except TimeoutError:
            return False
        finally:
            self.waiting.discard(future)

    def tell(self) -> None:
        """Wake those who wait: at once, or `PACE_SECONDS` after the last time."""
        if self.alarm is None and self.waiting:
            loop = asyncio.get_running_loop()
            self.alarm = loop.call_at(self.woken_at + PACE_SECONDS, self.wake)

    def wake(self) -> None:
        """Wake those who wait, now."""
        if self.alarm is not None:
            self.alarm.cancel()
            self.alarm = None
        if self.waiting:
            self.woken_at = asyncio.get_running_loop().time()
        for future in self.waiting:
            if not future.done():
                future.set_result(None)
        self.waiting.clear()

    def wanted(self) -> bool:
        """Whether somebody reads, or did a moment ago."""
        return self.readers > 0 or time.monotonic() - self.left_at < IDLE_SECONDS

    def number_of(self, recent: int) -> int:
        """Return from which number on the last so many events are read."""
        return max(self.first, self.end - recent)

    def after(self, number: int, limit: int) -> Iterator[tuple[int, Entry]]:
        """Yield at most so many entries with that number or a later one, and their numbers."""
        begin = max(number, self.first)
        for offset in range(begin, min(self.end, begin + limit)):
            yield offset, self.entries[offset - self.first]

    def seen_by(self, positions: Mapping[str, Position]) -> Seen:
        """Return what a reader that comes back with these positions has seen."""
        found: Seen = {}
        for node, position in positions.items():
            folders = self.folders.get(node, [])
            last = (
                len(folders) - 1 - folders[::-1].index(position.incarnation) if position.incarnation in folders else -1
            )
            found[node] = Place(position, last)
        return found

    def seen_before(self, number: int) -> Seen:
        """Return what a reader has seen for which all events with that number or a later one are new."""
        found = self.seen_by(self.positions)
        later: set[str] = set()
        for _, entry in self.after(number, EVENTS_MAX):
            if entry.node not in later:
                later.add(entry.node)
                position, epoch = entry.place
                before = min(first_of(entry.event), position.next - 1)
                found[entry.node] = Place(Position(position.incarnation, before), epoch)
        return found

    def missing(self, seen: Seen) -> list[Gap]:
        """Return what a reader lacks and can no longer be given, and note in `seen` that it has then seen that."""
        gaps = []
        for node, held in self.held_from.items():
            known = seen.get(node)
            if known is None:
                continue
            last: int | None = held.position.next - 1
            if known.epoch == held.epoch:
                if known.position.next >= held.position.next:
                    continue
                reason = DISCARDED
            elif known.epoch < 0 or (known.epoch < held.epoch and self.dropped.get(node) == held.epoch):
                last, reason = None, REPLACED
            else:
                continue  # what tells of the new folder is held
            gaps.append(gap_of(node, self.subject.seat.cluster_id, known.position.next, last, reason))
            seen[node] = held
        return gaps

    # --- the feed ----------------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Follow the cluster until nobody reads any more; after an error again, more and more rarely."""
        pause, told = LOOK_SECONDS, ""
        while self.wanted():
            try:
                await self.follow_once()
                pause = LOOK_SECONDS
            except Exception as error:
                if str(error) != told:
                    told = str(error)
                    LINES.warning("the events of the cluster cannot be followed: {}", error)
                self.ready.set()
                await asyncio.sleep(pause)
                pause = min(2 * pause, PAUSE_SECONDS_MAX)

    async def follow_once(self) -> None:
        """Take the events of one feed for as long as somebody reads. Raises `ConsensusError`."""
        self.subject.check_key()
        self.ready.clear()
        self.began_at = time.time()
        since = await self.beginnings()
        feed = EventFeed(
            [self.subject.seat.address],
            self.kinds,
            since,
            cluster_id=self.subject.seat.cluster_id,
            queue_max=EVENTS_MAX,
            credentials=self.subject.seat.credentials(),
        )
        try:
            while self.wanted():
                with suppress(TimeoutError):
                    event = await feed.aget(LOOK_SECONDS)
                    self.take(event, feed.positions[event.node_id])
                if not self.ready.is_set():
                    self.positions |= feed.positions
                    self.check_ready()
        except StreamEndedError:
            return
        finally:
            self.positions |= feed.positions
            await asyncio.to_thread(feed.close)

    async def beginnings(self) -> dict[str, int | Position]:
        """Return where to begin on each node: where it was left, or a little before its newest event."""
        status = await self.subject.status()
        own = self.subject.own_endpoint
        places = {row.id: own if row.id == status.node_id else row.address for row in status.nodes}
        pages = await asyncio.gather(
            *(self.subject.events_end(place, FIND_SECONDS) for place in places.values()), return_exceptions=True
        )
        self.targets = {}
        found: dict[str, int | Position] = {**self.positions}
        for node, page in zip(places, pages, strict=True):
            if not isinstance(page, EventPage):
                continue  # it does not answer; see `is_too_old`
            self.targets[node] = Position(page.incarnation, page.end)
            begin = Position(page.incarnation, max(1, page.first, page.end + 1 - BEFORE))
            left = self.positions.get(node)
            if left is None or left.incarnation != begin.incarnation or left.next < begin.next:
                found[node] = begin
                self.hold_from(node, begin)
                self.dropped[node] = self.held_from[node].epoch
        return found

    def check_ready(self) -> None:
        """Note whether everything was read that the nodes had when the feed began."""
        places = self.positions
        if all(node in places and places[node].next > target.next for node, target in self.targets.items()):
            self.ready.set()

    def hold_from(self, node: str, position: Position, *, replaced: bool = False) -> None:
        """Note from where on the events of a node are held, and whether that is another folder of it."""
        folders = self.folders.setdefault(node, [])
        if replaced or not folders or folders[-1] != position.incarnation:
            folders.append(position.incarnation)
        self.held_from[node] = Place(position, len(folders) - 1)

    def is_too_old(self, event: ConsensusEvent) -> bool:
        """Whether an event is from before the feed began, of a node that could not be asked then."""
        return event.node_id not in self.targets and event.time < self.began_at - OLDER_SECONDS

    def take(self, event: ConsensusEvent, position: Position) -> None:
        """Hold an event behind which a reader is at that position, and wake the readers."""
        node = event.node_id
        self.positions[node] = position
        if self.is_too_old(event):
            return
        held, replaced = self.held_from.get(node), isinstance(event, Gap) and event.reason == REPLACED
        if held is None or replaced or held.position.incarnation != position.incarnation:
            begin = min(first_of(event), position.next) if not replaced else position.next
            self.hold_from(node, Position(position.incarnation, begin), replaced=replaced)
        if len(self.entries) == EVENTS_MAX:
            self.drop()
        self.entries.append(Entry(event, node, Place(position, self.held_from[node].epoch)))
        self.end += 1
        self.tell()

    def drop(self) -> None:
        """Forget the oldest event."""
        gone = self.entries.popleft()
        self.dropped[gone.node] = gone.place.epoch
        if gone.place.epoch == self.held_from[gone.node].epoch:
            self.held_from[gone.node] = gone.place

    async def close(self) -> None:
        """End the feed."""
        self.wake()
        self.readers, self.left_at = 0, -IDLE_SECONDS
        follower, self.follower = self.follower, None
        if follower is not None and not follower.done():
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)


def first_of(event: ConsensusEvent) -> int:
    """Return the first number that an event or a gap stands for."""
    return event.first if isinstance(event, Gap) else event.sequence


def gap_of(node: str, cluster: str, first: int, last: int | None, reason: str) -> Gap:
    """Return a gap in the numbers of a node."""
    return Gap(
        node_id=node, cluster_id=cluster, sequence=first, time=time.time(), first=first, last=last, reason=reason
    )


def place_text(seen: Seen) -> str:
    """Return what a reader has seen as one text, such as ``n1=4f1c.17,n2=88ab.5``: node, incarnation, next number."""
    rows = ((quote(node, safe=""), place.position) for node, place in sorted(seen.items()))
    return ",".join(f"{node}={position.incarnation}.{position.next}" for node, position in rows)


def positions_of(text: str) -> dict[str, Position]:
    """Return the positions that a text stands for. Raises `ProblemError` for one that is none."""
    found: dict[str, Position] = {}
    for part in filter(None, text.split(",")):
        node, equals, place = part.partition("=")
        incarnation, _, number = place.rpartition(".")
        if not (equals and node and number.isascii() and number.isdigit()) or len(text) > PLACE_CHARS_MAX:
            raise invalid(f"{text[:80]!r} is no place in the events: give the id of an event, as it was told")
        found[unquote(node)] = Position(incarnation, int(number[:19]))
    return found
