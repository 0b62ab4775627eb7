"""The event cursor: one reader's place in one node's events, what it should ask the node for, and what it may deliver.

Nothing here knows sockets, threads or clocks. Sequence numbers count all kinds of event, so a reader of some kinds
cannot see from a number that it missed one. Hence one rule for all readers: an event with exactly the next number is
delivered as it comes; any other is only a reason to ask the node's journal, which answers with the wanted kinds and how
far it looked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import time as wall_time
from typing import ClassVar, Final, NamedTuple

from forge_consensus.actors.messages import EventPage, ReadEvents
from forge_consensus.events.encoding import EventDecodeError, from_msgpack
from forge_consensus.events.selection import Selection
from forge_consensus.events.types import EVENT_TYPES, ConsensusEvent

PAGE_ROWS: Final = 1000
AHEAD_MAX: Final = 2000
"""Events that may wait for a page to close the gap before them."""
ASK_SECONDS_MIN: Final = 0.02
"""Requests for what a single event announced are at least so far apart."""
SETTLE_SECONDS: Final = 0.05
"""How long after a subscription began the cursor checks that no event was published just before."""
CHECK_SECONDS: Final = 1.0
"""How often the cursor checks for events that never arrived, because the publisher drops frames to slow subscribers."""
ANSWER_SECONDS: Final = 1.0
PREFIX: Final = "consensus."


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap(ConsensusEvent):
    """Events first..last of a node will not come. The feed, not the node, delivers this in their place.

    The reason is ``discarded`` (older than the journal keeps), ``lost`` (a crash came before they were in the
    journal; most of these numbers were never given to an event), ``damaged`` (does not decode), or ``replaced``: the
    node came back with another folder, whose numbers begin anew; then `last` is None, because nobody knows it.
    """

    kind: ClassVar[str] = "consensus.feed.gap"

    first: int
    last: int | None
    reason: str


ANY_INCARNATION: Final = ""


class Position(NamedTuple):
    """Where a reader stands: the next number, within one incarnation of the node's folder."""

    incarnation: str
    next: int


Since = int | Mapping[str, int | Position] | None
"""Where to begin: at that number on every node, at a place for each, or (None) with what is told from now on."""


class Delivery(NamedTuple):
    """An event or a gap for the reader, and the reader's position behind it."""

    event: ConsensusEvent
    node: str
    position: Position


class Wanted:
    """Which kinds of event are wanted, in the three forms that are needed: here, on the publisher, in the journal."""

    def __init__(self, kinds: Sequence[type[ConsensusEvent] | str]) -> None:
        """Raises ValueError for a pattern that matches no kind; `leader.*` is short for `consensus.leader.*`."""
        self.selection = Selection.of(*(full(kind) for kind in kinds))
        everything = ConsensusEvent in self.selection.classes
        classes = () if everything else self.selection.classes
        known = [kind for kind, event_type in EVENT_TYPES.items() if issubclass(event_type, classes)]
        self.patterns = () if everything else (*self.selection.patterns, *known)
        self.prefixes = {literal_start(pattern) for pattern in self.patterns} or {""}


def full(kind: type[ConsensusEvent] | str) -> type[ConsensusEvent] | str:
    """The kind with its first word."""
    if isinstance(kind, str) and kind[:1] not in ("*", "?", "[") and not PREFIX.startswith(kind[: len(PREFIX)]):
        return PREFIX + kind
    return kind


def literal_start(pattern: str) -> str:
    """What every text that the pattern matches begins with."""
    return pattern[: min((pattern.index(mark) for mark in "*?[" if mark in pattern), default=len(pattern))]


class EventCursor:
    """One node's events as one reader sees them: each once, in ascending order, and every gap named.

    `page` takes an answer from the journal, `event` an event from the publisher; both return what to deliver.
    `request` returns what to ask the node. `capacity` is how many more events the reader can hold: if there are
    more, the cursor forgets those that came live and reads them from the journal later.
    """

    def __init__(self, since: Since, wanted: Wanted) -> None:
        self.since = since
        self.wanted = wanted
        self.node = self.cluster = self.incarnation = ""
        self.next = 0
        """The next number; 0 until the node has said who it is."""
        self.target = 0
        """The newest number that the node had when it was first asked."""
        self.seen = self.seen_when_asked = 0
        """The newest number that was delivered."""
        self.news = True
        """Whether the journal may hold something that the reader lacks."""
        self.ahead: list[ConsensusEvent] = []
        self.asking = False
        self.ask_at = self.check_at = self.deadline = 0.0

    @property
    def position(self) -> Position:
        """What was read so far, in a form from which another feed can go on (`since`)."""
        return Position(self.incarnation, self.next)

    @property
    def level(self) -> bool:
        """Whether everything was read that the node had published when it was first asked."""
        return self.next > self.target

    # --- asking ------------------------------------------------------------------------------------------------------

    def request(self, now: float, capacity: int) -> ReadEvents | None:
        """What to ask the node now, if anything."""
        if self.asking and now < self.deadline:
            return None
        if not self.node:
            request = ReadEvents(1, 0)
        elif capacity > 0 and ((self.news and now >= self.ask_at) or now >= self.check_at):
            request = ReadEvents(self.next, min(capacity, PAGE_ROWS), self.wanted.patterns)
        else:
            return None
        self.asking, self.news, self.seen_when_asked = True, False, self.seen
        self.deadline = now + ANSWER_SECONDS
        self.ask_at, self.check_at = now + ASK_SECONDS_MIN, now + CHECK_SECONDS
        return request

    def wake_at(self, capacity: int) -> float:
        """When `request` may have something new to say."""
        if self.asking or not self.node:
            return self.deadline
        if capacity <= 0:
            return float("inf")
        return self.ask_at if self.news else self.check_at

    def note_news(self) -> None:
        """Note that something happened which this reader may not have seen."""
        self.news = True

    def settle(self, now: float) -> None:
        """Check the journal soon: the subscription has just begun, and what came before may have been missed."""
        self.check_at = min(self.check_at, now + SETTLE_SECONDS)

    def interrupted(self) -> None:
        """The connection broke: what was asked is not answered any more."""
        self.asking, self.news, self.deadline = False, True, 0.0

    # --- telling on --------------------------------------------------------------------------------------------------

    def page(self, page: EventPage, capacity: int) -> list[Delivery]:
        """Take an answer from the journal; returns what to deliver."""
        self.asking = False
        if not self.node:
            self.node, self.cluster, self.target = page.node, page.cluster, page.end
            return self.begin(page)
        if page.incarnation != self.incarnation or page.end < self.seen_when_asked:
            return self.replaced(page)
        told: list[Delivery] = []
        for item in in_order(page):
            if len(told) >= capacity:
                self.news = True
                return told
            told += self.take(item)
        self.next = max(self.next, page.next)
        if page.next <= page.end:
            self.news, self.ask_at = True, 0.0
        return told + self.drain(capacity - len(told))

    def begin(self, page: EventPage) -> list[Delivery]:
        """The node said who it is: this is where its events begin for this reader."""
        self.incarnation, self.news, self.ask_at = page.incarnation, True, 0.0
        since = self.since
        if since is None:
            self.next = page.end + 1
            return []
        # A node that the reader had not met before is read from its first event on.
        place = since.get(page.node, 1) if isinstance(since, Mapping) else since
        if isinstance(place, int):
            place = Position(ANY_INCARNATION, place)
        self.incarnation, self.next = place.incarnation or page.incarnation, max(place.next, 1)
        return [] if self.incarnation == page.incarnation else self.replaced(page)

    def replaced(self, page: EventPage) -> list[Delivery]:
        """The node has another folder than before, or an old state of it."""
        gap = self.gap(self.next, None, "replaced")
        self.next = page.end + 1 if page.incarnation == self.incarnation else 1
        self.incarnation, self.target, self.seen = page.incarnation, page.end, 0
        self.ahead.clear()
        self.news, self.ask_at = True, 0.0
        return [Delivery(gap, self.node, self.position)]

    def take(self, item: tuple[int, bytes] | tuple[int, int, str]) -> list[Delivery]:
        """Take one row or one gap of a page; nothing is delivered twice."""
        if len(item) == 3:
            first, last, reason = max(item[0], self.next), item[1], item[2]
            if last < first:
                return []
            event: ConsensusEvent = self.gap(first, last, reason)
        else:
            last, data = item
            if last < self.next:
                return []
            try:
                event = from_msgpack(data)
            except EventDecodeError:
                event = self.gap(last, last, "damaged")
            self.seen = last
        self.next = last + 1
        return [Delivery(event, self.node, self.position)]

    def event(self, event: ConsensusEvent, capacity: int) -> list[Delivery]:
        """Take an event from the publisher; returns what to deliver."""
        if not self.next or event.sequence < self.next:
            return []
        if capacity <= 0:
            self.ahead.clear()
            self.news = True
            return []
        if event.sequence > self.next:
            if len(self.ahead) >= AHEAD_MAX:
                self.ahead.clear()
            self.ahead.append(event)
            self.news = True
            return []
        self.seen = self.next
        self.next += 1
        return [Delivery(event, self.node, self.position)] if self.wanted.selection.wants(event) else []

    def drain(self, capacity: int) -> list[Delivery]:
        """Deliver what waited until the page closed the gap before it."""
        told: list[Delivery] = []
        ahead, self.ahead = self.ahead, []
        for event in ahead:
            told += self.event(event, capacity - len(told))
        return told

    def gap(self, first: int, last: int | None, reason: str) -> Gap:
        """A gap in this node's numbers."""
        return Gap(
            node_id=self.node, cluster_id=self.cluster, sequence=first, time=wall_time(), first=first, last=last,
            reason=reason,
        )  # fmt: skip


def in_order(page: EventPage) -> Iterator[tuple[int, bytes] | tuple[int, int, str]]:
    """Rows and gaps of a page by number."""
    gaps = list(page.gaps)
    for row in page.rows:
        while gaps and gaps[0][0] < row[0]:
            yield gaps.pop(0)
        yield row
    yield from gaps
