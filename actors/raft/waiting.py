"""Waiting requests: which client waits for which entries and reads, and how many each has in flight.

Pure bookkeeping. The gateway adds requests when it receives them, and removes them when they can be answered.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

from forge_consensus.actors.messages import NEVER_MS
from forge_consensus.actors.runtime.address import SenderAddress
from forge_consensus.storage.ledger.applying import Applied
from forge_consensus.storage.machines.machine import Outcome

IN_TIME: Final = 0.75
"""After so much of its client's time a read that waits for something is answered or refused, so that the client hears
of it."""

Result = tuple[int, str, bytes]
"""(sequence number, error code or "", encoded result) of one command."""


@dataclass(slots=True)
class WaitingBatch:
    """The entries `first` to `last`, proposed for one frame of a client; `session` is 0 if they open a session."""

    first: int
    last: int
    asker: SenderAddress
    session: int
    began: float = 0.0
    """When the turn that received the frame began, in seconds of `time.perf_counter`; 0 if nobody observes turns."""

    @property
    def count(self) -> int:
        """The number of entries in the batch."""
        return self.last - self.first + 1


@dataclass(slots=True, eq=False)
class PendingRead:
    """The queries of one frame; once they are confirmed they may be answered as soon as `index` is applied."""

    asker: SenderAddress
    queries: tuple[tuple[int, bytes], ...]
    stale: bool = False
    until_ns: int = 1 << 63
    """By CLOCK_BOOTTIME: its client does not wait longer."""
    index: int = 0
    stale_ms_max: int = NEVER_MS
    """They are not answered from an older state."""
    due: float = inf
    """By real time: if `index` is not applied by then, they are refused."""
    next: int = 0
    """The position of the first query that was not put to the machine yet."""
    left: int = 0
    """How many queries are not answered yet."""
    dropped: bool = False
    """Whether nobody waits for it any more, so that the rest of it is not answered."""


@dataclass(slots=True)
class Applications:
    """The consequences of applied entries for the clients that wait for them."""

    finished: list[WaitingBatch] = field(default_factory=list)
    """Every entry of these batches is applied."""
    opened: list[tuple[SenderAddress, int]] = field(default_factory=list)
    """Opened sessions, as (client, session id)."""
    results: dict[tuple[Any, int], tuple[SenderAddress, list[Result]]] = field(default_factory=dict)
    """Results by (connection, session), so that a client receives those of one turn in one frame."""
    failed: list[tuple[int, Outcome]] = field(default_factory=list)
    """The commands that the machine refused, as (index, outcome)."""


class WaitingRequests:
    """The requests of clients that a leader has accepted and not answered yet.

    A command waits in a batch until its entry is applied. A read waits for the leader to be confirmed (`unconfirmed`,
    by ticket), then for its index to be applied (`confirmed`); a stale one waits only for an index that it names.
    """

    def __init__(self) -> None:
        self.batches: deque[WaitingBatch] = deque()
        self.outstanding: defaultdict[Any, int] = defaultdict(int)
        """By connection: the number of entries that the client waits for."""
        self.unconfirmed: dict[int, PendingRead] = {}
        self.confirmed: list[PendingRead] = []
        self.reads: dict[PendingRead, None] = {}
        """Every read that is not answered, the stale ones too, in the order in which they came."""
        self.asked: dict[Any, set[int]] = {}
        """By connection: the numbers of the queries that are not answered."""
        self.queries = 0
        """How many queries are not answered."""
        self.kept = 0
        """How many of them wait for a change, and so are no work now."""

    # --- commands ----------------------------------------------------------------------------------------------------

    def add_batch(self, batch: WaitingBatch) -> None:
        """Add a client that waits for newly proposed entries; their indexes are above those of all other batches."""
        self.outstanding[batch.asker.connection] += batch.count
        self.batches.append(batch)

    def take_applied(self, entries: Sequence[Applied]) -> Applications:
        """Match applied entries with the batches that wait for them; both are in the order of the log."""
        batches, found = self.batches, Applications()
        results = found.results
        for index, _, _, seq, outcome in entries:
            while batches and batches[0].last < index:
                self.finish(found)
            if not batches:
                break
            batch = batches[0]
            if index < batch.first:
                continue
            if not batch.session:
                found.opened.append((batch.asker, index))
                continue
            key = (batch.asker.connection, batch.session)
            pack = results.get(key)
            if pack is None or pack[0] is not batch.asker:  # the frame echoes the number of its newest request
                pack = results[key] = (batch.asker, [] if pack is None else pack[1])
            pack[1].append((seq, outcome.code, outcome.payload))
            if outcome.code:
                found.failed.append((index, outcome))
        told = entries[-1].index if entries else 0  # the ledger may have applied more, which a later notice reports
        while batches and batches[0].last <= told:
            self.finish(found)
        return found

    def finish(self, found: Applications) -> None:
        """Remove the oldest batch, whose entries are all applied."""
        batch = self.batches.popleft()
        found.finished.append(batch)
        connection = batch.asker.connection
        left = self.outstanding[connection] - batch.count
        if left > 0:
            self.outstanding[connection] = left
        else:
            del self.outstanding[connection]

    # --- reads -------------------------------------------------------------------------------------------------------

    def fresh_queries(self, connection: Any, queries: tuple[tuple[int, bytes], ...]) -> tuple[tuple[int, bytes], ...]:
        """Return the queries that do not wait already, each number once; a client asks again when it waited for long.

        Each number of a connection then waits once, whatever a client sends, so what is answered can be taken off.
        """
        numbered = dict(queries)
        if len(numbered) < len(queries):
            queries = tuple(numbered.items())
        asked = self.asked.get(connection)
        return tuple(query for query in queries if query[0] not in asked) if asked else queries

    def waiting_queries(self, connection: Any) -> int:
        """How many queries of a client are not answered."""
        return len(self.asked.get(connection, ()))

    def add_read(self, read: PendingRead) -> None:
        """Add a client that waits for answers to queries."""
        read.left = len(read.queries)
        self.reads[read] = None
        self.queries += read.left
        self.asked.setdefault(read.asker.connection, set()).update([number for number, _ in read.queries])

    def answered(self, read: PendingRead, numbers: list[int]) -> bool:
        """Note answered queries of a read; returns whether none of it is left."""
        if read not in self.reads:
            return False
        asked = self.asked[read.asker.connection]
        asked.difference_update(numbers)
        self.queries -= len(numbers)
        read.left -= len(numbers)
        if not read.left:
            self.drop_read(read)
        return not read.left

    def left_of(self, read: PendingRead) -> tuple[int, ...]:
        """The numbers of the queries of a read that are not answered."""
        asked = self.asked[read.asker.connection]
        return tuple(number for number, _ in read.queries if number in asked)

    def drop_read(self, read: PendingRead) -> None:
        """Forget a read: it is answered, refused, or its client does not wait any more."""
        if read not in self.reads:
            return
        del self.reads[read]
        read.dropped = read.left > 0
        self.queries -= read.left
        connection = read.asker.connection
        asked = self.asked[connection]
        asked.difference_update([number for number, _ in read.queries])
        if not asked:
            del self.asked[connection]

    def confirm(self, ticket: int, index: int) -> None:
        """The leader is confirmed: the read now waits for `index` to be applied. Does nothing for a refused read."""
        read = self.unconfirmed.pop(ticket, None)
        if read is not None:
            read.index = max(read.index, index)
            self.confirmed.append(read)

    def take_readable(self, applied: int) -> list[PendingRead]:
        """Remove and return the confirmed reads that a state with the entries up to `applied` can answer."""
        readable: list[PendingRead] = []
        waiting: list[PendingRead] = []
        for read in self.confirmed:
            (readable if read.index <= applied else waiting).append(read)
        self.confirmed = waiting
        return readable

    def take_overdue(self, now: float) -> list[PendingRead]:
        """Remove and return the reads whose index was not applied in time."""
        overdue = [read for read in self.confirmed if read.due <= now]
        if overdue:
            self.confirmed = [read for read in self.confirmed if read.due > now]
        return overdue

    # --- the end -----------------------------------------------------------------------------------------------------

    def drop_batches(self) -> list[SenderAddress]:
        """Remove every batch; returns the clients, whose commands may still commit under another leader."""
        askers = [batch.asker for batch in self.batches]
        self.batches.clear()
        self.outstanding.clear()
        return askers

    def drop_reads(self) -> list[SenderAddress]:
        """Remove every read but the stale ones; returns the clients, whose reads were not carried out."""
        reads = [read for read in self.reads if not read.stale]
        for read in reads:
            self.drop_read(read)
        self.unconfirmed.clear()
        self.confirmed = [read for read in self.confirmed if read.stale]
        return [read.asker for read in reads]
