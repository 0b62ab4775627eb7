"""Client sessions: a command is applied at most once, and a retry gets the first result (I14)."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush, heapreplace
from typing import Any, Final, cast

import msgpack

from forge_consensus.errors import CorruptionError
from forge_consensus.storage.backends.sealed import seal, unseal
from forge_consensus.storage.backends.tables import Batch, TablesView
from forge_consensus.storage.machines.chunks import chunks_of, rows_of
from forge_consensus.storage.machines.machine import Outcome, refusal

TABLE: Final = "sessions"
SESSIONS_MAX: Final = 10_000
OUTCOMES_MAX: Final = 16_384
TTL_MS_MAX: Final = 24 * 3600 * 1000
"""The longest time without a command after which a session still lives; a client that asks for more gets this."""
TTL_BYTES: Final = 8
"""The data of the entry that opens a session is its time to live in milliseconds, in this many bytes."""

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
    "the session has too many commands outstanding: this one was not applied",
)
IN_PROGRESS: Final = refusal(
    "CONSENSUS_IN_PROGRESS",
    "BusyError",
    "an earlier copy of this command is in the run that is being applied",
)
"""Never an answer to a client: `Applier` ends its run of commands when `begin` returns it, and asks again."""


class Session:
    """The machine's record of one client.

    `outcomes` has the outcome of every applied number at or above `done_below`. So a number that is not in it is new,
    whatever its order: frames of a pipeline can be lost in the middle.
    """

    __slots__ = ("done_below", "last_index", "last_ms", "outcomes", "ttl_ms")

    def __init__(self, last_ms: int, ttl_ms: int, done_below: int = 0, last_index: int = 0) -> None:
        self.last_ms = last_ms
        self.last_index = last_index
        self.ttl_ms = ttl_ms
        self.done_below = done_below
        self.outcomes: dict[int, Outcome] = {}

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
        outcomes = self.outcomes
        if mark - self.done_below <= len(outcomes):
            for seq in range(self.done_below, mark):
                outcomes.pop(seq, None)
        else:
            self.outcomes = {seq: outcome for seq, outcome in outcomes.items() if seq >= mark}
        self.done_below = mark

    def encode(self) -> bytes:
        """Return the row: msgpack [last_ms, ttl_ms, done_below, {seq: [code, payload]}, last_index]."""
        if any(outcome is IN_PROGRESS for outcome in self.outcomes.values()):
            raise RuntimeError("sessions are saved between two commands, not within one")
        outcomes = {seq: (outcome.code, outcome.payload) for seq, outcome in sorted(self.outcomes.items())}
        row = (self.last_ms, self.ttl_ms, self.done_below, outcomes, self.last_index)
        return cast("bytes", msgpack.packb(row))

    @classmethod
    def decode(cls, row: bytes) -> Session:
        """Return the session in a row.

        Raises `CorruptionError` if the row holds no session.
        """
        try:
            last_ms, ttl_ms, done_below, outcomes, *rest = msgpack.unpackb(row, strict_map_key=False)
            session = cls(int(last_ms), int(ttl_ms), int(done_below), int(rest[0]) if rest else 0)
            for seq, (code, payload) in outcomes.items():
                session.outcomes[int(seq)] = Outcome(str(code), bytes(payload))
        except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
            raise CorruptionError(f"a stored client session does not decode: {error}") from error
        return session


class Sessions:
    """All sessions of the cluster, in memory; a checkpoint writes the changed ones.

    The state depends on nothing but the calls and their order, so it is the same on every node; therefore both bounds
    must be the same on every node too. Times are elapsed times of entries, in milliseconds, and never fall. `used` is
    the index of the entry, 0 for one of format 2. Not thread-safe.
    """

    def __init__(self, sessions_max: int = SESSIONS_MAX, outcomes_max: int = OUTCOMES_MAX) -> None:
        self.sessions_max = sessions_max
        self.outcomes_max = outcomes_max
        self.live: dict[int, Session] = {}
        self.dirty: set[int] = set()
        self.staged: set[int] = set()
        self.silent: list[tuple[tuple[int, int], int]] = []
        self.sweep_ms = 0
        """Before this time no session can have expired, so opening many need not look at all of them."""

    def open(self, index: int, elapsed_ms: int, ttl_ms: int, used: int = 0) -> int:
        """Open a session by the log entry at `index`; returns its id, which is that index.

        Expired sessions are removed; if there are still too many, so is the one whose last use is the oldest.
        """
        ttl_ms = max(1, min(ttl_ms, TTL_MS_MAX))
        if self.sweep_ms < elapsed_ms:
            self.sweep(elapsed_ms)
        live = self.live
        while len(live) >= self.sessions_max:
            self.remove(self.most_silent())
        state = live[index] = Session(elapsed_ms, ttl_ms, last_index=used)
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
        """Forget a session."""
        del self.live[session]
        self.dirty.add(session)

    def begin(self, session: int, seq: int, done_below: int, elapsed_ms: int, used: int = 0) -> Outcome | None:
        """Begin a command: None if it is to be applied, else the outcome that its client gets.

        That is the first outcome of a number that was applied before, `EXPIRED`, `STALE` or `BUSY`; or `IN_PROGRESS`
        between `begin` and `finish`. A new number takes its place among the outcomes here, so that commands which are
        begun together leave the same state as commands that are begun one after the other.
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
            state.forget_below(done_below)
        if seq < state.done_below:
            return STALE
        outcomes = state.outcomes
        known = outcomes.get(seq)
        if known is not None:
            return known
        if len(outcomes) >= self.outcomes_max:
            return BUSY
        outcomes[seq] = IN_PROGRESS
        return None

    def finish(self, session: int, seq: int, outcome: Outcome) -> None:
        """Note the outcome of a command, unless its client no longer needs it."""
        state = self.live.get(session)
        if state is not None and seq in state.outcomes:
            state.outcomes[seq] = outcome

    # --- to disk and back ---

    def checkpoint(self, batch: Batch, generation: int) -> None:
        """Stage the changes since the last checkpoint that is known to be on disk."""
        self.staged |= self.dirty
        self.dirty = set()
        for session in sorted(self.staged):
            state = self.live.get(session)
            if state is None:
                batch.delete(TABLE, key_of(generation, session))
            else:
                put_row(batch, generation, session, state.encode())

    def checkpointed(self) -> None:
        """Note that the last checkpoint is on disk.

        Without this call, the next one stages it again.
        """
        self.staged = set()

    def load(self, tables: TablesView, generation: int) -> None:
        """Take the sessions that the tables hold under a generation; all others are forgotten.

        Raises `CorruptionError` for a row that does not decode.
        """
        rows = rows_in(tables, generation)
        self.live = {session: Session.decode(row) for session, row in rows}
        self.dirty, self.staged, self.silent, self.sweep_ms = set(), set(), [], 0

    def export(self) -> list[bytes]:
        """Return all sessions in chunks, for snapshots of a machine outside the ledger."""
        live = sorted(self.live.items())
        return list(chunks_of((session, state.encode()) for session, state in live))

    def import_(self, chunks: Iterable[bytes]) -> None:
        """Take the sessions of a snapshot and forget all others, also at the next checkpoint.

        Raises `CorruptionError`, with nothing changed, for a chunk that does not decode.
        """
        rows = [row for chunk in chunks for row in stored_rows(chunk)]
        live = {session: Session.decode(row) for session, row in rows}
        self.dirty |= self.live.keys() | live.keys()
        self.live, self.silent, self.sweep_ms = live, [], 0


def key_of(generation: int, session: int) -> bytes:
    """Return the key of a session's row."""
    return generation.to_bytes(4) + session.to_bytes(8)


def rows_in(tables: TablesView, generation: int) -> list[tuple[int, bytes]]:
    """Return (session, row) of a generation, in order. Raises `CorruptionError` for a damaged one."""
    found = tables.scan(TABLE, generation.to_bytes(4), (generation + 1).to_bytes(4))
    return [(int.from_bytes(key[4:]), unseal(key, row, "a stored client session")) for key, row in found]


def put_row(batch: Batch, generation: int, session: int, row: bytes) -> None:
    """Stage a session's row, sealed."""
    key = key_of(generation, session)
    batch.put(TABLE, key, seal(key, row))


def export_rows(tables: TablesView, generation: int) -> list[bytes]:
    """Return the result of `Sessions.export`, read from a view of the tables."""
    return list(chunks_of(rows_in(tables, generation)))


def import_rows(batch: Batch, generation: int, chunk: bytes) -> None:
    """Stage one exported chunk under a generation.

    Raises `CorruptionError`, with nothing staged, for a chunk that does not decode.
    """
    rows = stored_rows(chunk)
    for _, row in rows:
        Session.decode(row)
    for session, row in rows:
        put_row(batch, generation, session, row)


def check_id(session: Any) -> None:
    """Raise TypeError unless this is a session's id."""
    if type(session) is not int or not 0 <= session < 1 << 64:
        raise TypeError("a session id is a whole number from 0 to 2**64 - 1")


def stored_rows(chunk: bytes) -> list[tuple[int, bytes]]:
    """The (session, row) pairs in an exported chunk. Raises `CorruptionError` if it is none."""
    return rows_of(chunk, "sessions", check_id)
