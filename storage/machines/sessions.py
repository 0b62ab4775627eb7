"""Client sessions: a command is applied at most once, and a retry gets the first result (I14)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush, heapreplace
from operator import itemgetter
from typing import Final

from forge_consensus.errors import CorruptionError
from forge_consensus.storage.backends.tables import Batch, TablesView
from forge_consensus.storage.machines.chunks import chunks_of
from forge_consensus.storage.machines.machine import RESULT_BYTES_MAX, Outcome, refusal
from forge_consensus.storage.machines.session_owner import NO_OWNER
from forge_consensus.storage.machines.session_rows import (
    TABLE,
    WHAT,
    Head,
    Row,
    delete_rows,
    head_row,
    outcome_key,
    outcome_row,
    prefix_of,
    read_row,
    read_row_of_format_2,
    rows_in,
)

SESSIONS_MAX: Final = 10_000
OUTCOMES_MAX: Final = 16_384
OUTCOME_BYTES_MAX: Final = 64 << 20
"""A session with more bytes of results that its client has not confirmed gets no further ones. Like the other bounds,
and what a result counts, it decides outcomes, so it is the same on every node and no setting."""
KEPT_BYTES_MAX: Final = 512 << 20
"""If all sessions together keep more bytes of results, some are forgotten: every node has them in memory, also at each
start, and the bound of one session times the number of sessions is more than any node has."""
OUTCOME_OVERHEAD_BYTES: Final = 256
"""What a kept result counts besides its payload: about what its object and its places in maps take in memory. Without
it a client that is gone could leave 16,384 results of a byte each, which take megabytes and would count as nothing."""
OUTCOME_COST_MAX: Final = RESULT_BYTES_MAX + OUTCOME_OVERHEAD_BYTES
"""No result counts more."""
TTL_MS_MAX: Final = 24 * 3600 * 1000
"""The longest time without a command after which a session still lives; a client that asks for more gets this."""

EXPIRED: Final = refusal(
    "CONSENSUS_SESSION_EXPIRED",
    "SessionExpiredError",
    "the session is unknown or expired: the command was not applied now, perhaps it was before",
)
STALE: Final = refusal(
    "CONSENSUS_SESSION_STALE",
    "OutcomeUnknownError",
    "the client has said that it knows the result of this command: it was not applied now",
)
BUSY: Final = refusal(
    "CONSENSUS_BUSY",
    "BusyError",
    "the session keeps too many results, or too large ones, that its client has not confirmed: this command was not "
    "applied",
)
IN_PROGRESS: Final = refusal(
    "CONSENSUS_IN_PROGRESS",
    "BusyError",
    "an earlier copy of this command is in the run that is being applied",
)
"""Never an answer to a client: `Applier` ends its run of commands when `begin` returns it, and asks again."""


Captured = tuple[int, Head, dict[int, Outcome]]
"""A session as it was when it was captured: its id, its numbers and the outcomes that it kept."""


class Session:
    """The machine's record of one client.

    `outcomes` has the outcome of every applied number at or above `done_below`. So a number that is not in it is new,
    whatever its order: frames of a pipeline can be lost in the middle.
    """

    __slots__ = (
        "done_below",
        "kept_bytes",
        "last_index",
        "last_ms",
        "outcomes",
        "owner",
        "pending",
        "shared",
        "staged",
        "stored",
        "swept_below",
        "ttl_ms",
    )

    def __init__(
        self, last_ms: int, ttl_ms: int, done_below: int = 0, last_index: int = 0, owner: int = NO_OWNER
    ) -> None:
        self.last_ms = last_ms
        self.last_index = last_index
        self.ttl_ms = ttl_ms
        self.done_below = done_below
        self.owner = owner
        """Who may use it, see `forge_consensus.storage.machines.session_owner`. It decides what enters a leader's log,
        never what becomes of an entry, so nodes that know less of it have the same state otherwise."""
        self.outcomes: dict[int, Outcome] = {}
        self.kept_bytes = 0
        """What all kept outcomes count."""
        self.pending = 0
        """How many commands are between `begin` and `finish`; their outcomes are `IN_PROGRESS`."""
        self.shared = False
        """Whether a capture uses `outcomes` too: then they are copied before they change."""
        self.stored: set[int] | None = set()
        """The numbers whose outcomes are on disk; None if it is not known what is there."""
        self.staged: tuple[set[int], int] = set(), 0
        """`stored` and `swept_below` as the checkpoint in progress makes them."""
        self.swept_below = 0
        """Below this number no outcome is on disk."""

    @property
    def last_use(self) -> tuple[int, int]:
        """When the session was used last; the index decides, because time may stand still and the log does not.

        The index is 0 if that was by an entry of format 2: then the time decides.
        """
        return self.last_index, self.last_ms

    def forget_below(self, mark: int) -> None:
        """Forget the outcomes that the client has seen.

        The cost is the smaller of the move and the number of outcomes.
        """
        outcomes = self.own_outcomes() if self.shared else self.outcomes
        if mark - self.done_below <= len(outcomes):
            for seq in range(self.done_below, mark):
                outcome = outcomes.pop(seq, None)
                if outcome is not None:
                    self.forgotten(outcome)
        else:
            for seq in [seq for seq in outcomes if seq < mark]:
                self.forgotten(outcomes.pop(seq))
        self.done_below = mark

    def forgotten(self, outcome: Outcome) -> None:
        """Count an outcome that is kept no longer."""
        if outcome is IN_PROGRESS:
            self.pending -= 1
        else:
            self.kept_bytes -= len(outcome.payload) + OUTCOME_OVERHEAD_BYTES

    def own_outcomes(self) -> dict[int, Outcome]:
        """Copy the outcomes, because a capture reads those that were there; returns the copy, which may change."""
        self.outcomes, self.shared = dict(self.outcomes), False
        return self.outcomes

    def keep(self, seq: int, outcome: Outcome) -> None:
        """Keep the outcome of a command."""
        self.outcomes[seq] = outcome
        self.kept_bytes += len(outcome.payload) + OUTCOME_OVERHEAD_BYTES

    @property
    def head(self) -> Head:
        """The numbers of the session as its row has them; that of the owner only if there is one."""
        head = [self.last_ms, self.ttl_ms, self.done_below, self.last_index]
        return [*head, self.owner] if self.owner else head

    @classmethod
    def of(cls, head: Head) -> Session:
        """Return a session with these numbers and no outcomes. Raises `CorruptionError` if they are too few."""
        if len(head) < 3:
            raise CorruptionError(f"{WHAT} does not decode: {len(head)} numbers")
        return cls(*head[:5])

    def checkpoint(self, batch: Batch, generation: int, session: int) -> None:
        """Stage what is not on disk."""
        if self.pending:
            raise RuntimeError("sessions are saved between two commands, not within one")
        if self.stored is None:
            delete_rows(batch, generation, session)
        prefix, stored, swept = prefix_of(generation), self.stored or set(), self.swept_below
        if self.done_below > swept:
            below = prefix + outcome_key(session, self.done_below)
            batch.delete_range(TABLE, prefix + outcome_key(session, swept), below)
        rows = [head_row(session, self.head)]
        rows += [outcome_row(session, seq, self.outcomes[seq]) for seq in sorted(self.outcomes.keys() - stored)]
        for key, row in rows:
            batch.put(TABLE, prefix + key, row)
        self.staged = set(self.outcomes), self.done_below


class Sessions:
    """All sessions of the cluster, in memory; a checkpoint writes the changed ones.

    The state depends on nothing but the calls and their order, so it is the same on every node; therefore all bounds
    must be the same on every node too. Times are elapsed times of entries, in milliseconds, and never fall. `used` is
    the index of the entry, 0 for one of format 2. Not thread-safe.
    """

    def __init__(
        self,
        sessions_max: int = SESSIONS_MAX,
        outcomes_max: int = OUTCOMES_MAX,
        outcome_bytes_max: int = OUTCOME_BYTES_MAX,
        kept_bytes_max: int = KEPT_BYTES_MAX,
    ) -> None:
        self.sessions_max = sessions_max
        self.outcomes_max = outcomes_max
        self.outcome_bytes_max = outcome_bytes_max
        self.kept_bytes_max = kept_bytes_max
        self.kept_bytes = 0
        """What all outcomes that all sessions keep count."""
        self.pending = 0
        """How many commands of all sessions are between `begin` and `finish`."""
        self.live: dict[int, Session] = {}
        self.dirty: set[int] = set()
        self.staged: set[int] = set()
        self.silent: list[tuple[tuple[int, int], int]] = []
        self.sweep_ms = 0
        """Before this time no session can have expired, so opening many need not look at all of them."""

    def open(self, index: int, elapsed_ms: int, ttl_ms: int, used: int = 0, owner: int = NO_OWNER) -> int:
        """Open a session of `owner` by the log entry at `index`; returns its id, which is that index.

        Expired sessions are removed; if there are still too many, so is the one whose last use is the oldest.
        """
        ttl_ms = max(1, min(ttl_ms, TTL_MS_MAX))
        if self.sweep_ms < elapsed_ms:
            self.sweep(elapsed_ms)
        live = self.live
        while len(live) >= self.sessions_max:
            self.remove(self.most_silent())
        state = live[index] = Session(elapsed_ms, ttl_ms, last_index=used, owner=owner)
        if len(self.silent) > 2 * self.sessions_max:
            self.silent.clear()
        if self.silent:
            heappush(self.silent, (state.last_use, index))
        self.dirty.add(index)
        self.sweep_ms = min(self.sweep_ms, elapsed_ms + ttl_ms) if len(live) > 1 else elapsed_ms + ttl_ms
        return index

    def most_silent(self) -> int:
        """Return the session with the least last use, then the least id; there must be one.

        `silent` is empty, or a heap with one entry for each live session. The use in an entry may be too early, never
        too late, so the top of the heap is the longest silent session if its use is the session's own.
        """
        live, heap = self.live, self.silent
        if not heap:
            heap.extend((state.last_use, session) for session, state in live.items())
            heapify(heap)
        while True:
            last_use, session = heap[0]
            state = live.get(session)
            if state is None:
                heappop(heap)
            elif state.last_use != last_use:
                heapreplace(heap, (state.last_use, session))
            else:
                return session

    def sweep(self, elapsed_ms: int) -> None:
        """Remove the expired sessions, and note when the next one can expire."""
        expired = [session for session, state in self.live.items() if state.last_ms + state.ttl_ms < elapsed_ms]
        for session in expired:
            self.remove(session)
        self.sweep_ms = min((state.last_ms + state.ttl_ms for state in self.live.values()), default=elapsed_ms)

    def remove(self, session: int) -> None:
        """Forget a session and its outcomes; the next checkpoint removes its rows."""
        state = self.live.pop(session)
        self.kept_bytes -= state.kept_bytes
        self.pending -= state.pending
        self.dirty.add(session)

    def forget_below(self, state: Session, mark: int) -> None:
        """Forget the outcomes that the client of a session has seen."""
        kept_bytes, pending = state.kept_bytes, state.pending
        state.forget_below(mark)
        self.kept_bytes += state.kept_bytes - kept_bytes
        self.pending += state.pending - pending

    def make_room(self) -> None:
        """Remove sessions until what the others keep is within the bound.

        Each time it is the longest silent one of those that keep at least the mean. So a client that keeps little loses
        nothing to those that keep much, and of these the ones go first whose clients are gone.
        """
        while self.kept_bytes >= self.kept_bytes_max:
            live, mean = self.live, self.kept_bytes / len(self.live)
            heavy = ((state.last_use, session) for session, state in live.items() if state.kept_bytes >= mean)
            self.remove(min(heavy)[1])

    def beyond_bounds(self, session: int, state: Session) -> Outcome | None:
        """Return the outcome of a new command of a session for which a bound leaves no room; None if there is room.

        `IN_PROGRESS` says that it depends on the results of commands that were begun and are not finished.
        """
        if len(state.outcomes) >= self.outcomes_max or state.kept_bytes >= self.outcome_bytes_max:
            return BUSY
        if state.pending and state.kept_bytes + state.pending * OUTCOME_COST_MAX >= self.outcome_bytes_max:
            return IN_PROGRESS
        if self.kept_bytes + self.pending * OUTCOME_COST_MAX >= self.kept_bytes_max:
            if self.pending:
                return IN_PROGRESS
            self.make_room()
            if session not in self.live:
                return EXPIRED
        return None

    def begin(self, session: int, seq: int, done_below: int, elapsed_ms: int, used: int = 0) -> Outcome | None:
        """Begin a command: None if it is to be applied, else the outcome that its client gets.

        That is the first outcome of a number that was applied before, `EXPIRED`, `STALE` or `BUSY`. `IN_PROGRESS` says
        that the commands which were begun must be finished first: an earlier copy is among them, or their results
        decide whether the session is busy. A new number takes its place among the outcomes here, so that commands which
        are begun together leave the same state as commands that are begun one after the other.
        """
        state = self.live.get(session)
        if state is None:
            return EXPIRED
        self.dirty.add(session)
        if state.last_ms + state.ttl_ms < elapsed_ms:
            self.remove(session)
            return EXPIRED
        if elapsed_ms > state.last_ms:  # noqa: PLR1730 - twice as fast as max()
            state.last_ms = elapsed_ms
        state.last_index = used
        if done_below > state.done_below:
            self.forget_below(state, done_below)
        if seq < state.done_below:
            return STALE
        outcomes = state.outcomes
        known = outcomes.get(seq)
        if known is not None:
            return known
        if (outcome := self.beyond_bounds(session, state)) is not None:
            return outcome
        if state.shared:
            outcomes = state.own_outcomes()
        state.pending += 1
        self.pending += 1
        outcomes[seq] = IN_PROGRESS
        return None

    def finish(self, session: int, seq: int, outcome: Outcome) -> None:
        """Note the outcome of a command, unless its client no longer needs it."""
        state = self.live.get(session)
        if state is not None and state.outcomes.get(seq) is IN_PROGRESS:
            state.pending -= 1
            self.pending -= 1
            state.outcomes[seq] = outcome
            size = len(outcome.payload) + OUTCOME_OVERHEAD_BYTES
            state.kept_bytes += size
            self.kept_bytes += size

    # --- many commands of one session at once ---

    def are_new(self, session: int, seqs: list[int], done_below: int, elapsed_ms: int, size: int) -> bool:
        """Whether `begin` would say of each of these commands, one after the other, that it is to be applied.

        Each keeps a result of `size` bytes. It changes nothing, and says no wherever a bound is near.
        """
        state = self.live.get(session)
        if state is None or self.pending or state.last_ms + state.ttl_ms < elapsed_ms:
            return False
        outcomes, count = state.outcomes, len(seqs)
        kept_bytes = count * (size + OUTCOME_OVERHEAD_BYTES)
        return (
            min(seqs) >= max(done_below, state.done_below)
            and len(set(seqs)) == count
            and outcomes.keys().isdisjoint(seqs)
            and len(outcomes) + count <= self.outcomes_max
            and state.kept_bytes + kept_bytes < self.outcome_bytes_max
            and self.kept_bytes + kept_bytes < self.kept_bytes_max
        )

    def note_all(
        self, session: int, seqs: list[int], done_below: int, elapsed_ms: int, used: int, outcome: Outcome
    ) -> None:
        """Note commands that `are_new` and are applied, as `begin` and `finish` do for one after the other.

        `used` is the index of the last one. All have the same outcome.
        """
        state = self.live[session]
        self.dirty.add(session)
        state.last_ms = max(state.last_ms, elapsed_ms)
        state.last_index = used
        if done_below > state.done_below:
            self.forget_below(state, done_below)
        outcomes = state.own_outcomes() if state.shared else state.outcomes
        outcomes.update(dict.fromkeys(seqs, outcome))
        kept_bytes = len(seqs) * (len(outcome.payload) + OUTCOME_OVERHEAD_BYTES)
        state.kept_bytes += kept_bytes
        self.kept_bytes += kept_bytes

    def bounded_like(self, other: Sessions) -> Sessions:
        """Take the bounds of other sessions, and return these."""
        self.sessions_max, self.outcomes_max = other.sessions_max, other.outcomes_max
        self.outcome_bytes_max, self.kept_bytes_max = other.outcome_bytes_max, other.kept_bytes_max
        return self

    # --- to disk and back ---

    def checkpoint(self, batch: Batch, generation: int) -> None:
        """Stage the changes since the last checkpoint that is known to be on disk."""
        self.staged |= self.dirty
        self.dirty = set()
        for session in sorted(self.staged):
            state = self.live.get(session)
            if state is None:
                delete_rows(batch, generation, session)
            else:
                state.checkpoint(batch, generation, session)

    def checkpointed(self) -> None:
        """Note that the last checkpoint is on disk.

        Without this call, the next one stages it again.
        """
        for session in self.staged:
            state = self.live.get(session)
            if state is not None:
                state.stored, state.swept_below = state.staged
        self.staged = set()

    def load(self, tables: TablesView, generation: int) -> None:
        """Take the sessions that the tables hold under a generation; all others are forgotten.

        Raises `CorruptionError` for a row that is damaged.
        """
        gathered = Gathered(stored=True)
        for key, row in rows_in(tables, generation):
            gathered.take(key, row)
        self.put(gathered)

    def put(self, gathered: Gathered) -> None:
        """Put these sessions in the place of all others. They are on disk, but those of format 2 are written anew."""
        self.live, self.dirty, self.staged = gathered.live, set(gathered.old), set()
        self.silent, self.sweep_ms = [], 0
        self.kept_bytes, self.pending = sum(state.kept_bytes for state in self.live.values()), 0

    def capture(self) -> list[Captured]:
        """Return all sessions as they are now, in no order, for `packed`.

        The outcomes are not copied here, but when a session's next command changes them: so this takes a few
        milliseconds, however many outcomes are kept. `packed` may therefore run on any thread.
        """
        for state in self.live.values():
            state.shared = True
        return [(session, state.head, state.outcomes) for session, state in self.live.items()]

    def export(self) -> list[bytes]:
        """Return all sessions in chunks, in the form in which they are part of a snapshot."""
        return packed(self.capture())


def rows_of_session(session: int, head: Head, outcomes: dict[int, Outcome]) -> Iterator[Row]:
    """Yield the rows of a session."""
    yield head_row(session, head)
    for seq in sorted(outcomes):
        yield outcome_row(session, seq, outcomes[seq])


def packed(captured: Iterable[Captured]) -> list[bytes]:
    """Return captured sessions in chunks, for the snapshot of a machine outside the ledger."""
    return list(chunks_of(row for each in sorted(captured, key=itemgetter(0)) for row in rows_of_session(*each)))


class Gathered:
    """Sessions that are made of their rows, one after another; each session stands before its outcomes."""

    def __init__(self, *, stored: bool) -> None:
        self.live: dict[int, Session] = {}
        self.old: list[int] = []
        """The sessions whose rows are of format 2."""
        self.stored = stored
        """Whether the rows are on disk, so that no checkpoint need write them."""

    def take(self, key: bytes, row: bytes) -> None:
        """Take one row. Raises `CorruptionError` if it is damaged."""
        found = read_row_of_format_2(key, row)
        if found is not None:
            state = self.live[int.from_bytes(key)] = Session.of(found[0])
            for seq, outcome in found[1].items():
                state.keep(seq, outcome)
            state.stored = None
            self.old.append(int.from_bytes(key))
            return
        session, number, value = read_row(key, row)
        if number is None:
            state = self.live[session] = Session.of(value)
            state.swept_below = state.done_below
            return
        known = self.live.get(session)
        if known is None:
            raise CorruptionError(f"{WHAT} is missing, and outcomes of its commands are there")
        if number >= known.done_below:
            known.keep(number, value)
            if self.stored and known.stored is not None:
                known.stored.add(number)


def export_rows(tables: TablesView, generation: int) -> list[bytes]:
    """Return the result of `Sessions.export`, read from a view of the tables. Raises `CorruptionError`."""
    return list(chunks_of(whole_rows(rows_in(tables, generation))))


def whole_rows(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield rows, each one checked, so that damage does not travel to other nodes. Raises `CorruptionError`."""
    for key, row in rows:
        if read_row_of_format_2(key, row) is None:
            read_row(key, row)
        yield key, row
