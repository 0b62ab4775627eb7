"""A request window: calls of one kind that wait or are under way, packed into frames and kept until answered."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Any, Generic, TypeVar

from forge_consensus.client.pending import Pending

P = TypeVar("P", bound=Pending[Any])

ITEM_BYTES = 16
"""More bytes than the number and the length fields of one call take in a frame."""
FLIGHTS_KEPT = 64
HOPE = 1.5
"""A call that waits is given up if less than so many times the usual time for an answer is left."""
GROWTH = 4
"""After an answer "busy" a window grows by one call for so many answers: so it finds the leader's pace, and few calls
are refused."""


@dataclass(slots=True)
class Flight:
    """One frame that was sent: to which endpoint, and the numbers of the calls in it."""

    endpoint: str
    numbers: list[int]


class RequestWindow(Generic[P]):
    """The calls of one kind: those that wait in a queue, those that were sent, and the frames that held them.

    It is told the time and plans nothing by itself.

    Args:
        numbers: yields the number of each call when it is sent for the first time.
        items_max: so many calls travel in one frame at most.
        bytes_max: so many bytes of payload travel in one frame, if it holds more than one call.
        open_max: so many calls are sent and unanswered at most.

    """

    def __init__(self, numbers: Iterator[int], *, items_max: int, bytes_max: int, open_max: int) -> None:
        self.numbers = numbers
        self.last = 0
        """The highest number given."""
        self.items_max = items_max
        self.bytes_max = bytes_max
        self.open_max = open_max
        self.call_bytes_max = inf
        """No frame can hold a larger call."""
        self.too_large: list[P] = []
        """The calls for which that was so; `sends` tells whether one was sent before the limit was known."""
        self.allowed = open_max
        """So many calls may be under way now: fewer than `open_max` after an answer "busy", more with each answer."""
        self.answer_seconds = 0.0
        """About how long an answer takes, measured while fewer than `open_max` are allowed."""
        self.queue: deque[P] = deque()
        """The calls that were never sent."""
        self.open: dict[int, P] = {}
        """The calls that were sent and not answered, by number, in the order of their numbers."""
        self.again: set[int] = set()
        """The numbers of those that are to be sent again."""
        self.flights: dict[int, Flight] = {}
        self.purge_at = FLIGHTS_KEPT
        self.earliest = inf
        """No deadline of an unanswered call is earlier. It may be that of a call that was answered long ago."""
        self.answered_sent_at = 0.0
        """When the call that was answered last had been sent."""

    def __bool__(self) -> bool:
        """Whether any call is unanswered."""
        return bool(self.open or self.queue)

    def __len__(self) -> int:
        """How many calls are unanswered."""
        return len(self.open) + len(self.queue)

    def take(self, pendings: Iterable[P]) -> None:
        """Queue new calls behind those that wait; sends nothing."""
        earliest, append = self.earliest, self.queue.append
        for pending in pendings:
            append(pending)
            if pending.deadline < earliest:  # noqa: PLR1730 (min() takes four times as long)
                earliest = pending.deadline
        self.earliest = earliest

    def sendable(self) -> bool:
        """Whether there is a call to send, and the window allows it."""
        return bool(self.again or self.queue) and self.allowed - len(self.open) + len(self.again) > 0

    @property
    def room(self) -> int:
        """How many calls may be sent now."""
        return self.allowed - len(self.open) + len(self.again)

    def busy(self, pendings: Iterable[P]) -> None:
        """Send these calls again later, because the leader had no room for them; it had room for the others.

        They keep their numbers, by which the session knows them: the refusal may be that of a second copy of a frame of
        which the first was taken.
        """
        self.again.update(pending.number for pending in pendings)
        self.allowed = max(1, len(self.open) - len(self.again))

    def grow(self, answered: int, seconds: float) -> None:
        """After an answer "busy": allow a few more calls under way, because so many were answered after `seconds`."""
        self.allowed = min(self.open_max, self.allowed + max(1, answered // GROWTH))
        self.answer_seconds += (seconds - self.answer_seconds) / GROWTH

    def hopeless(self, now: float) -> list[P]:
        """Take out waiting calls that would not be answered before their deadline, while the leader is busy.

        Sent in the order in which they came, all of them would be answered just too late, and the leader would work for
        nobody. While none is under way nothing is given up: without an answer nobody would learn that the leader is
        quicker again, and every call would be given up for ever.
        """
        if self.allowed >= self.open_max or not self.open:
            return []
        taken = []
        soon = now + HOPE * self.answer_seconds
        while self.queue and self.queue[0].deadline < soon:
            taken.append(self.queue.popleft())
        return taken

    def pack(self, endpoint: str, request: int, now: float) -> tuple[tuple[int, bytes], ...]:
        """Fill one frame for an endpoint: first with calls to send again, in order, then with new ones.

        It holds at least one call if there is one, however large that is, unless it is larger than `call_bytes_max`.
        Returns (number, payload) pairs.
        """
        items: list[tuple[int, bytes]] = []
        left = self.bytes_max
        room = min(self.items_max, self.room)
        for number in sorted(self.again) if self.again else ():
            pending = self.open[number]
            if len(pending.payload) > self.call_bytes_max:
                self.drop(number)
                self.too_large.append(pending)
                continue
            left -= len(pending.payload) + ITEM_BYTES
            if len(items) >= room or (items and left < 0):
                break
            self.again.discard(number)
            pending.sends += 1
            pending.sent_at = now
            items.append((number, pending.payload))
        queue, opened, numbers = self.queue, self.open, self.numbers
        count = min(room - len(items), len(queue))
        for _ in range(0 if self.again else count):
            payload = queue[0].payload
            if len(payload) > self.call_bytes_max:
                self.too_large.append(queue.popleft())
                continue
            left -= len(payload) + ITEM_BYTES
            if left < 0 and items:
                break
            pending = queue.popleft()
            number = pending.number = self.last = next(numbers)
            pending.sends = 1
            pending.sent_at = now
            opened[number] = pending
            items.append((number, payload))
        if items:
            self.flights[request] = Flight(endpoint, [number for number, _ in items])
            if len(self.flights) > self.purge_at:
                self.purge()
        return tuple(items)

    def purge(self) -> None:
        """Forget frames of which every call is answered."""
        opened = self.open
        self.flights = {
            request: flight for request, flight in self.flights.items() if not opened.keys().isdisjoint(flight.numbers)
        }
        self.purge_at = 2 * len(self.flights) + FLIGHTS_KEPT

    def drop(self, number: int) -> P | None:
        """Take a call out of the window; None if it is not there, because its answer is late or comes twice."""
        self.again.discard(number)
        return self.open.pop(number, None)

    def refused(self, request: int, numbers: tuple[int, ...], *, certain: bool) -> list[P]:
        """The unanswered calls of a refused frame: those with the `numbers` named, or all.

        With `certain` the frame certainly had no effect. A second refusal of one frame finds nothing.
        """
        flight = self.flights.get(request)
        if flight is None:
            return []
        if numbers:
            meant = set(numbers)
            hit = [number for number in flight.numbers if number in meant]
            flight.numbers = [number for number in flight.numbers if number not in meant]
        else:
            hit = flight.numbers
            del self.flights[request]
        found = [self.open[number] for number in hit if number in self.open]
        if certain:
            for pending in found:
                pending.sends -= 1
        return found

    def resend_all(self) -> None:
        """Mark every call in the window for sending again."""
        self.again = set(self.open)

    def resend_to(self, endpoint: str) -> None:
        """Mark the calls that were sent to an endpoint for sending again, because frames or answers may be lost."""
        for flight in self.flights.values():
            if flight.endpoint == endpoint:
                self.again.update(number for number in flight.numbers if number in self.open)

    def resend_overdue(self, now: float, plain_s: float, passed_s: float) -> bool:
        """Mark calls that seem lost for sending again; returns whether any does.

        The oldest decides: it seems lost `passed_s` after it was sent if a call that was sent later is answered,
        otherwise after `plain_s`; twice as long after each attempt, up to 16 times.
        """
        first = next(iter(self.open.values()), None)
        if first is None or first.number in self.again:
            return False
        delay = passed_s if first.sent_at < self.answered_sent_at else plain_s
        delay *= 1 << min(max(first.sends - 1, 0), 4)
        if first.sent_at + delay > now:
            return False
        overdue = {n for n, pending in self.open.items() if pending.sent_at + delay <= now}
        self.again |= overdue
        return True

    def first_sent_at(self) -> float:
        """When the oldest unanswered call was sent last; infinity if there is none."""
        first = next(iter(self.open.values()), None)
        return inf if first is None else first.sent_at

    def expired(self, now: float) -> list[P]:
        """Take out the calls whose deadline has passed."""
        if now < self.earliest:
            return []
        late = [pending for pending in self.open.values() if pending.deadline <= now]
        for pending in late:
            self.drop(pending.number)
        if any(pending.deadline <= now for pending in self.queue):
            late += [pending for pending in self.queue if pending.deadline <= now]
            self.queue = deque(pending for pending in self.queue if pending.deadline > now)
        self.earliest = min(
            (pending.deadline for group in (self.open.values(), self.queue) for pending in group),
            default=inf,
        )
        return late

    def requeue(self, pendings: list[P]) -> None:
        """Put calls that had no effect back at the head of the queue, as if they had never been sent."""
        for pending in reversed(pendings):
            self.drop(pending.number)
            pending.number = 0
            self.queue.appendleft(pending)

    def clear(self) -> list[P]:
        """Take out all calls, sent or not, without answering them; the caller must."""
        taken = [*self.open.values(), *self.queue]
        self.open.clear()
        self.queue.clear()
        self.again.clear()
        self.flights.clear()
        self.earliest = inf
        return taken
