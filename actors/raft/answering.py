"""Answering: the queries that may be answered now, a slice of them at a time.

Pure bookkeeping and calls of the machine. The gateway adds reads when the leader is confirmed and their index is
applied, has a slice worked on in each turn (on a helper thread, for a user's machine), and sends what `work` returns. A
query stays correct however late it is answered: its state has everything that was acknowledged before it was asked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import islice
from typing import Any, Final, cast

from forge_consensus.actors.raft.waiting import IN_TIME, PendingRead, Result
from forge_consensus.errors import UnavailableError
from forge_consensus.storage.ledger.applying import Applier
from forge_consensus.storage.ledger.time_slice import NS, TimeSlice
from forge_consensus.storage.machines.machine import Outcome, answer_of, failed_query, of_the_store, refusal
from forge_consensus.storage.machines.steps import WaitingQuery
from forge_consensus.storage.unpacking import unpack

ANSWER_BYTES_MAX: Final = 1 << 20
"""The approximate limit for one frame of answers, in bytes; only a single larger result exceeds it."""
RESULT_OVERHEAD_BYTES: Final = 16
KEPT_MAX: Final = 10_000
"""While so many queries wait for something to answer, further ones are answered at once with what there is."""
ENDS_SPARE: Final = 64
LONG_OPEN_MAX: Final = 4
"""So many queries in steps are under way at most; each may hold a view of the store."""
NAME_CHARS_MAX: Final = 80


@dataclass(slots=True)
class LongQuery:
    """A query that is answered in steps."""

    read: PendingRead
    number: int
    data: bytes
    steps: Generator[Any, None, Any]
    applied: int = 0
    """The state of the first step, from which it is answered."""
    stale_ms: int = 0
    """The age of that state at the first step."""
    began_ns: int = 0
    """When the first step began; 0 before it."""


@dataclass(slots=True, eq=False)
class KeptQuery:
    """A query that waits until there is something to answer."""

    read: PendingRead
    number: int
    data: bytes
    query: WaitingQuery
    until_ns: int = 0
    """By CLOCK_BOOTTIME: then it is answered with what there is."""
    place: int = 0
    """The order in which they came."""

    def __lt__(self, other: KeptQuery) -> bool:
        return (self.until_ns, self.place) < (other.until_ns, other.place)


@dataclass(slots=True)
class Answers:
    """Answers to some queries of one read, from one state."""

    read: PendingRead
    items: list[Result]
    applied: int
    stale_ms: int


@dataclass(slots=True)
class Worked:
    """The result of one slice."""

    answers: list[Answers] = field(default_factory=list)
    late: list[PendingRead] = field(default_factory=list)
    """Reads whose client does not wait any more."""
    asked: int = 0
    """How many queries were put to the machine."""
    slow: int = 0
    """How many calls of the machine took too long."""
    slowest: str = ""
    """The query of the slowest such call, shortened."""
    slowest_seconds: float = 0.0
    seconds: float = 0.0


class Answering:
    """The queries that may be answered now by the applier's machine.

    `arrived` is filled by the node's thread; all else is used by whoever works.
    """

    def __init__(self, applier: Applier) -> None:
        self.applier = applier
        self.arrived: deque[PendingRead] = deque()
        self.ready: deque[PendingRead] = deque()
        self.long: deque[LongQuery] = deque()
        self.kept: dict[WaitingQuery, KeptQuery] = {}
        """The queries that wait until there is something to answer."""
        self.woken: deque[KeptQuery] = deque()
        """Those of which that may be so, or whose wait is over."""
        self.ends: list[KeptQuery] = []
        """A heap of all that were kept, by the ends of their waits; some are answered already."""
        self.places = 0
        self.keeps = True
        """Whether queries are kept at all; not before the node stops."""
        if applier.waiting is not None:
            applier.waiting.clear()  # those of actors that failed

    def __bool__(self) -> bool:
        """Whether there is anything to work on."""
        return bool(self.arrived or self.ready or self.long or self.woken)

    def add(self, read: PendingRead) -> None:
        """Add a read that may be answered from now on."""
        self.arrived.append(read)

    def work(
        self, clock_ns: Callable[[], int], seconds: float, slow_seconds: float, applied: int, stale_ms: int
    ) -> Worked:
        """Answer queries for about `seconds` from the state after entry `applied`, which is `stale_ms` old.

        Queries in steps have half as much time of their own, so that neither kind starves the other.
        """
        found = Worked()
        while self.arrived:
            self.ready.append(self.arrived.popleft())
        began = clock_ns()
        if self.ready:
            self.answer_ready(found, TimeSlice(clock_ns, seconds, slow_seconds), applied, stale_ms)
        if self.long:
            self.take_steps(found, TimeSlice(clock_ns, seconds / 2, slow_seconds), applied, stale_ms)
        if self.woken:
            self.answer_woken(found, TimeSlice(clock_ns, seconds / 2, slow_seconds), applied, stale_ms)
        found.seconds = (clock_ns() - began) / NS
        return found

    # --- at once -----------------------------------------------------------------------------------------------------

    def answer_ready(self, found: Worked, time_slice: TimeSlice, applied: int, stale_ms: int) -> None:
        """Answer queries in the order in which they came, until the slice is over."""
        while self.ready:
            read = self.ready[0]
            over = False
            if not self.over_for(read, time_slice.now_ns, found):
                over = self.answer_read(found, read, time_slice, applied, stale_ms)
            if read.dropped or read.next == len(read.queries):
                self.ready.popleft()
            if over:
                return

    def over_for(self, read: PendingRead, now_ns: int, found: Worked) -> bool:
        """Whether nobody waits for a read any more; then it is dropped."""
        if not read.dropped and now_ns > read.until_ns:
            read.dropped = True
            found.late.append(read)
        return read.dropped

    def answer_read(self, found: Worked, read: PendingRead, time_slice: TimeSlice, applied: int, stale_ms: int) -> bool:
        """Answer the queries of one read until the slice is over; returns whether it is."""
        items: list[Result] = []
        size = 0
        over = False
        for number, data in islice(read.queries, read.next, None):
            read.next += 1
            found.asked += 1
            outcome = self.outcome(data, applied)
            if isinstance(outcome, Generator):
                self.long.append(LongQuery(read, number, data, outcome))
            elif isinstance(outcome, Outcome):
                items.append((number, outcome.code, outcome.payload))
                size += len(outcome.payload) + RESULT_OVERHEAD_BYTES
            else:
                self.keep(KeptQuery(read, number, data, outcome), time_slice.now_ns)
            over = time_slice.over()
            if over or size > ANSWER_BYTES_MAX:
                self.note_slow(found, time_slice, data)
                break
        if items:
            found.answers.append(Answers(read, items, applied, stale_ms))
        return over

    def outcome(self, data: bytes, applied: int) -> Outcome | Generator[Any, None, Any] | WaitingQuery:
        """Put one query to the machine; an error is the answer to that query alone, because a query changes nothing.

        No bytes at all are a barrier: the machine is asked nothing, because only the index of its state is wanted.
        """
        try:
            if not data:
                self.applier.check_usable()
                return answer_of(None, applied)
            answer = self.applier.ask(unpack(data))
            if isinstance(answer, Generator):
                return cast("Generator[Any, None, Any]", answer)
            if isinstance(answer, WaitingQuery):
                return answer
            return answer_of(answer, applied)
        except BaseException as error:
            return self.failed(error)

    # --- waiting for something to answer -----------------------------------------------------------------------------

    def keep(self, kept: KeptQuery, now_ns: int) -> None:
        """Keep a query that has no answer yet; it is answered with what there is if it cannot be kept."""
        self.places += 1
        kept.place = self.places
        self.kept[kept.query] = kept
        if self.applier.waiting is None or not self.keeps or len(self.kept) > KEPT_MAX:
            self.woken.append(kept)
            return
        kept.until_ns = now_ns + min(kept.query.wait_ms * 1_000_000, int(IN_TIME * max(0, kept.read.until_ns - now_ns)))
        heappush(self.ends, kept)
        self.let_wait(kept)

    def let_wait(self, kept: KeptQuery) -> None:
        """Let a query wait that has no answer in what it has looked at."""
        if kept.query.goes_on or self.applier.waiting is None:
            self.woken.append(kept)
        else:
            self.applier.waiting.add(kept.query)

    def wake(self, now_ns: int) -> None:
        """Let those queries be answered for which there may be something, or whose wait is over."""
        if self.applier.waiting is None:
            return
        self.woken += [self.kept[query] for query in self.applier.waiting.woken()]
        while self.ends and (self.ends[0].until_ns <= now_ns or not self.is_kept(self.ends[0])):
            ended = heappop(self.ends)
            if self.is_kept(ended):
                self.applier.waiting.remove(ended.query)
                self.woken.append(ended)

    def wake_all(self) -> None:
        """Keep no query any more: those that wait are answered with what there is."""
        self.keeps = False
        for kept in self.kept.values():
            kept.until_ns = 0
        self.ends = list(self.kept.values())
        self.wake(0)

    def is_kept(self, kept: KeptQuery) -> bool:
        """Whether a query still waits."""
        return self.kept.get(kept.query) is kept

    @property
    def next_end_ns(self) -> int | None:
        """When the wait of a query ends next, None if none waits."""
        return self.ends[0].until_ns if self.ends else None

    def answer_woken(self, found: Worked, time_slice: TimeSlice, applied: int, stale_ms: int) -> None:
        """Answer queries that waited, until the slice is over; those that have no answer go on waiting."""
        while self.woken:
            kept = self.woken.popleft()
            if self.is_kept(kept):
                if self.over_for(kept.read, time_slice.now_ns, found):
                    self.forget(kept)
                    continue
                found.asked += 1
                outcome = self.answer_kept(kept, time_slice.now_ns, applied)
                if outcome is None:
                    self.let_wait(kept)
                else:
                    self.forget(kept)
                    item = (kept.number, outcome.code, outcome.payload)
                    found.answers.append(Answers(kept.read, [item], applied, stale_ms))
            if time_slice.over():
                self.note_slow(found, time_slice, kept.data)
                return

    def answer_kept(self, kept: KeptQuery, now_ns: int, applied: int) -> Outcome | None:
        """Ask a query that waited once more; None if it goes on waiting."""
        try:
            answer = kept.query.answer(over=kept.until_ns <= now_ns)
            return None if answer is None else answer_of(answer, applied)
        except BaseException as error:
            return self.failed(error)

    def forget(self, kept: KeptQuery) -> None:
        """Let a query be one that does not wait."""
        del self.kept[kept.query]
        if self.applier.waiting is not None:
            self.applier.waiting.remove(kept.query)
        if len(self.ends) > 2 * len(self.kept) + ENDS_SPARE:
            self.ends = sorted(self.kept.values())

    # --- in steps ----------------------------------------------------------------------------------------------------

    def take_steps(self, found: Worked, time_slice: TimeSlice, applied: int, stale_ms: int) -> None:
        """Take steps of the queries that need several, each in turn, until the slice is over.

        They rest while a user's machine is handed a snapshot, because another thread uses the machine then.
        """
        if self.applier.is_handed_a_snapshot:
            return
        while self.long:
            query = self.long.popleft()
            if self.over_for(query.read, time_slice.now_ns, found):
                query.steps.close()
                continue
            if not query.began_ns:
                query.began_ns, query.applied, query.stale_ms = time_slice.now_ns, applied, stale_ms
            outcome = self.step(query)
            over = time_slice.over()
            if outcome is None:
                self.long.insert(LONG_OPEN_MAX - 1, query)  # behind those that are under way, before those that wait
            else:
                age = query.stale_ms + (time_slice.now_ns - query.began_ns) // 1_000_000
                item = (query.number, outcome.code, outcome.payload)
                found.answers.append(Answers(query.read, [item], query.applied, age if query.read.stale else 0))
            if over:
                self.note_slow(found, time_slice, query.data)
                return

    def step(self, query: LongQuery) -> Outcome | None:
        """Take one step; returns the outcome after the last one."""
        try:
            next(query.steps)
        except StopIteration as end:
            try:
                return answer_of(end.value, query.applied)
            except BaseException as error:
                return self.failed(error)
        except BaseException as error:
            return self.failed(error)
        return None

    def failed(self, error: BaseException) -> Outcome:
        """The answer to a query that ended in an exception. Raises `StorageError` if the node's own store failed."""
        if of_the_store(error, self.applier.machine):
            raise error
        if self.applier.replacing and isinstance(error, UnavailableError):  # raised by the node, not by the machine
            return refusal(error.code, type(error).__name__, str(error))
        return failed_query(error)

    def note_slow(self, found: Worked, time_slice: TimeSlice, data: bytes) -> None:
        """Note the last call of the machine, if it took too long."""
        if time_slice.step_was_slow:
            found.slow += 1
            if time_slice.step_seconds > found.slowest_seconds:
                found.slowest, found.slowest_seconds = name_of(data), time_slice.step_seconds


def name_of(data: bytes) -> str:
    """A query as a short text, for people."""
    try:
        return repr(unpack(data))[:NAME_CHARS_MAX] if data else "(a barrier)"
    except Exception:
        return "(a query that cannot be decoded)"
