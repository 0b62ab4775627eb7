"""The inbox of a feed: the events that wait for its readers, and how far each node was read.

There is no lock in it, because a signal handler may interrupt a reader anywhere and close the feed, or read on.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from forge_consensus.errors import ConsensusError, fresh
from forge_consensus.events.stream import Sleeper, StreamEndedError
from forge_consensus.events.types import ConsensusEvent
from forge_consensus.feed.cursor import ANY_INCARNATION, Delivery, Position, Since
from forge_consensus.process.waiters import Waiters


class Note(NamedTuple):
    """That a node was read up to a position; a higher serial number is later."""

    serial: int
    node: str
    position: Position


class Inbox:
    """Receives what a feed's driver reads, and hands it to any number of threads and tasks, each event to one."""

    def __init__(self, since: Since, queue_max: int) -> None:
        self.queue_max = queue_max
        self.queue: deque[tuple[int, Delivery]] = deque()
        self.places = places_of(since)
        self.serials: dict[str, int] = {}
        """The serial number of the note behind each place."""
        self.serial = itertools.count(1)
        self.notes: deque[Note] = deque()
        """Notes that are not in `places` yet."""
        self.folding = threading.Lock()
        """Held while notes go into `places`; nobody waits for it."""
        self.waiters = Waiters()
        self.sleepers: deque[Sleeper] = deque()
        self.ended = False
        self.error: ConsensusError | None = None
        self.starved: Callable[[], object] = lambda: None
        """Called when the queue was emptied so far that the driver may go on reading."""

    # --- for readers -------------------------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether a reader need not wait."""
        return bool(self.queue) or self.ended

    def pop(self) -> ConsensusEvent | None:
        """Take the oldest event; None if there is none. Raises what ended the feed, once everything was taken."""
        ended = self.ended  # before looking: what came before the end is in the queue by then
        try:
            serial, (event, node, position) = self.queue.popleft()
        except IndexError:
            if not ended:
                return None
            raise (StreamEndedError("the event feed has ended") if self.error is None else fresh(self.error)) from None
        self.note(Note(serial, node, position))
        if len(self.queue) <= self.queue_max // 2:
            self.starved()
        return event

    def get(self, timeout: float | None) -> ConsensusEvent:
        """Return the next event. Raises TimeoutError after `timeout` seconds, and what `pop` raises."""
        while True:
            if not self.waiters.wait_for(self.ready, timeout):
                raise TimeoutError(f"no event within {timeout} s")
            event = self.pop()
            if event is not None:  # else another reader was faster
                return event

    async def aget(self, timeout: float | None) -> ConsensusEvent:
        """Return the next event, as `get` does; a task that is cancelled loses none."""
        async with asyncio.timeout(timeout):
            while True:
                sleeper = Sleeper(asyncio.get_running_loop(), asyncio.Event())
                if not self.ready():
                    self.sleepers.append(sleeper)
                event = self.pop()
                if event is not None:
                    return event
                if not self.ready():
                    await sleeper.ready.wait()

    def positions(self) -> dict[str, Position]:
        """The position on each node behind the last event that was taken."""
        self.fold()
        notes = self.notes.copy()
        places = dict(self.places)
        for _, node, position in sorted(note for note in notes if note.serial > self.serials.get(note.node, 0)):
            places[node] = position
        return places

    def note(self, note: Note) -> None:
        """Note how far a node was read."""
        self.notes.append(note)
        self.fold()

    def fold(self) -> None:
        """Put the notes into the places, unless another thread is doing so."""
        while self.notes and self.folding.acquire(blocking=False):
            try:
                with suppress(IndexError):
                    while True:
                        serial, node, position = self.notes[0]
                        if serial > self.serials.get(node, 0):
                            self.serials[node], self.places[node] = serial, position
                        self.notes.popleft()  # only now: whoever looks meanwhile finds it here or there
            finally:
                self.folding.release()

    # --- for the driver's thread -------------------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """How many more events the queue can hold."""
        return self.queue_max - len(self.queue)

    def tell(self, told: list[Delivery]) -> None:
        """Queue events and wake the readers that wait."""
        self.queue.extend((next(self.serial), delivery) for delivery in told)
        self.wake()

    def stand(self, node: str, position: Position, fresh: bool) -> None:
        """Note the reader's position on a node, unless events wait before it; none does of a node that is `fresh`."""
        if fresh or not self.queue:
            self.note(Note(next(self.serial), node, position))

    def end(self, error: ConsensusError | None) -> None:
        """Note that the feed has ended, with an error or None."""
        self.error = error
        self.ended = True
        self.wake()

    def wake(self) -> None:
        """Wake the threads and tasks that wait."""
        self.waiters.wake()
        for _ in range(len(self.sleepers)):
            with suppress(IndexError):
                sleeper = self.sleepers.popleft()
                with suppress(RuntimeError):  # its loop was closed, and its tasks with it
                    sleeper.loop.call_soon_threadsafe(sleeper.ready.set)


def places_of(since: Since) -> dict[str, Position]:
    """Where a reader stands that has not heard of any node yet."""
    if not isinstance(since, Mapping):
        return {}
    return {
        node: Position(ANY_INCARNATION, place) if isinstance(place, int) else place for node, place in since.items()
    }
