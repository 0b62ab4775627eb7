"""A command of a session is applied at most once, and every retry gets its first outcome."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_consensus.errors import CorruptionError
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.tables import Batch, PutRun
from forge_consensus.storage.machines import sessions as sessions_module
from forge_consensus.storage.machines.chunks import CHUNK_BYTES
from forge_consensus.storage.machines.machine import RESULT_BYTES_MAX, Outcome
from forge_consensus.storage.machines.session_import import SessionImport
from forge_consensus.storage.machines.session_owner import NO_OWNER, opened, opening, owner_of
from forge_consensus.storage.machines.sessions import (
    BUSY,
    EXPIRED,
    IN_PROGRESS,
    OUTCOME_BYTES_MAX,
    OUTCOME_OVERHEAD_BYTES,
    STALE,
    TTL_MS_MAX,
    Captured,
    Session,
    Sessions,
    export_rows,
    packed,
)
from tests.worlds.effort import effort

SESSIONS_MAX = 3
OUTCOMES_MAX = 4


def result(number: int) -> Outcome:
    return Outcome("", msgpack.packb(number))


def save(sessions: Sessions, tables: MemoryTables, generation: int = 1) -> None:
    """Make a checkpoint whose transaction succeeds."""
    batch = Batch()
    sessions.checkpoint(batch, generation)
    tables.commit(batch)
    sessions.checkpointed()


def loaded(tables: MemoryTables, generation: int = 1, **bounds: int) -> Sessions:
    sessions = Sessions(**bounds)
    sessions.load(tables, generation)
    return sessions


def imported(chunks: list[bytes], tables: MemoryTables, generation: int = 1) -> Sessions:
    """Take the sessions of a snapshot into the tables, a slice in each transaction."""
    importing, more = SessionImport(chunks, generation), True
    while more:
        batch = Batch()
        more = importing.step(batch, lambda: True)
        tables.commit(batch)
    return importing.sessions()


def perform(sessions: Sessions, session: int, seq: int, done_below: int, time_ms: int) -> Outcome:
    """Begin and finish, as applying one entry does; the outcome tells which time it was applied."""
    known = sessions.begin(session, seq, done_below, time_ms)
    if known is None:
        known = result(time_ms)
        sessions.finish(session, seq, known)
    return known


class Naive:
    """The same rules with no care for speed: lists, looked through each time."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def alive(self, row: dict[str, Any], time_ms: int) -> bool:
        alive: bool = time_ms <= row["last"] + row["ttl"]
        return alive

    def open(self, index: int, time_ms: int, ttl_ms: int) -> None:
        self.rows = [row for row in self.rows if self.alive(row, time_ms)]
        if len(self.rows) == SESSIONS_MAX:
            self.rows.sort(key=lambda row: (row["last"], row["id"]))
            self.rows.pop(0)
        self.rows.append({"id": index, "last": time_ms, "ttl": ttl_ms, "mark": 0, "kept": []})

    def perform(self, session: int, seq: int, done_below: int, time_ms: int) -> Outcome:
        for row in self.rows:
            if row["id"] == session and not self.alive(row, time_ms):
                self.rows.remove(row)
                return EXPIRED
            if row["id"] == session:
                row["last"] = time_ms
                row["mark"] = max(row["mark"], done_below)
                row["kept"] = [pair for pair in row["kept"] if pair[0] >= row["mark"]]
                return self.numbered(row, seq, time_ms)
        return EXPIRED

    def numbered(self, row: dict[str, Any], seq: int, time_ms: int) -> Outcome:
        if seq < row["mark"]:
            return STALE
        for number, outcome in row["kept"]:
            if number == seq:
                found: Outcome = outcome
                return found
        if len(row["kept"]) == OUTCOMES_MAX:
            return BUSY
        row["kept"].append((seq, result(time_ms)))
        return result(time_ms)

    def state(self) -> dict[int, Any]:
        return {row["id"]: (row["last"], row["ttl"], row["mark"], dict(row["kept"])) for row in self.rows}


def state_of(sessions: Sessions) -> dict[int, Any]:
    return {
        session: (state.last_ms, state.ttl_ms, state.done_below, state.outcomes)
        for session, state in sessions.live.items()
    }


COMMANDS = st.tuples(st.just("command"), st.integers(0, 5), st.integers(0, 9), st.integers(0, 9), st.integers(0, 8))
STEPS = st.one_of(
    COMMANDS,
    st.tuples(st.just("open"), st.integers(1, 20), st.integers(0, 8)),
    st.tuples(st.sampled_from(["save", "reload", "failed save"])),
    st.tuples(st.just("snapshot"), st.booleans()),
)


@settings(deadline=None, max_examples=effort(100, 300))
@given(st.lists(STEPS, max_size=50))
def test_sessions_and_their_naive_twin_agree_after_any_steps(steps: list[tuple[Any, ...]]) -> None:
    sessions, twin, tables = Sessions(SESSIONS_MAX, OUTCOMES_MAX), Naive(), MemoryTables()
    opened, time_ms, generation = [0], 0, 1
    captures: list[tuple[list[Captured], list[bytes]]] = []
    for index, (kind, *rest) in enumerate(steps, start=1):
        if kind == "open":
            time_ms += rest[1]
            assert sessions.open(index, time_ms, rest[0]) == index
            twin.open(index, time_ms, rest[0])
            opened.append(index)
        elif kind == "command":
            which, seq, done_below, later = rest
            time_ms += later
            session = opened[-1 - which % len(opened)]
            told = perform(sessions, session, seq, done_below, time_ms)
            assert told == twin.perform(session, seq, done_below, time_ms)
        elif kind == "failed save":
            sessions.checkpoint(Batch(), generation)
        elif kind == "snapshot":
            before = sessions.export()
            captures.append((sessions.capture(), before))
            if rest[0]:
                generation += 1
                sessions = imported(before, tables, generation)
                sessions.sessions_max, sessions.outcomes_max = SESSIONS_MAX, OUTCOMES_MAX
                assert sessions.export() == before
        else:
            save(sessions, tables, generation)
            if kind == "reload":
                sessions = loaded(tables, generation, sessions_max=SESSIONS_MAX, outcomes_max=OUTCOMES_MAX)
        assert state_of(sessions) == twin.state()
    save(sessions, tables, generation)
    assert state_of(loaded(tables, generation)) == twin.state()
    assert [packed(captured) for captured, _ in captures] == [before for _, before in captures]


@settings(deadline=None, max_examples=effort(70, 200))
@given(st.lists(COMMANDS, max_size=40), st.integers(1, 10))
def test_the_size_of_batches_changes_no_session(steps: list[tuple[Any, ...]], run_count: int) -> None:
    single, batched = Sessions(10, OUTCOMES_MAX), Sessions(10, OUTCOMES_MAX)
    for sessions in (single, batched):
        for index in (1, 2, 3):
            sessions.open(index, 0, 20)
    one: list[Outcome] = []
    other: list[Outcome] = []
    run: list[tuple[int, int, int, int]] = []
    time_ms = 0
    for _, which, seq, done_below, later in steps:
        time_ms += later
        command = (which, seq, done_below, time_ms)
        one.append(perform(single, *command))
        known = batched.begin(*command)
        if known is IN_PROGRESS or len(run) == run_count:
            finish(batched, run)
            known = batched.begin(*command) if known is IN_PROGRESS else known
        if known is None:
            run.append(command)
        other.append(result(time_ms) if known is None else known)
    finish(batched, run)
    assert one == other
    assert single.export() == batched.export()


def sized(seq: int, time_ms: int) -> Outcome:
    """An outcome whose size depends on the command."""
    return Outcome("", bytes(seq * 13 % 101) + bytes([time_ms % 256]))


def cost(outcome: Outcome) -> int:
    """What a kept outcome counts."""
    return len(outcome.payload) + 256


def naive_bytes_rule(steps: list[tuple[Any, ...]], bytes_max: int) -> list[Outcome]:
    """The outcomes of one session's commands, with no care for speed."""
    kept: dict[int, Outcome] = {}
    mark = 0
    told = []
    for number, (_, _, seq, done_below, _) in enumerate(steps):
        mark = max(mark, done_below)
        kept = {known: outcome for known, outcome in kept.items() if known >= mark}
        if seq < mark:
            told.append(STALE)
        elif seq in kept:
            told.append(kept[seq])
        elif sum(map(cost, kept.values())) >= bytes_max:
            told.append(BUSY)
        else:
            kept[seq] = sized(seq, number)
            told.append(kept[seq])
    return told


@settings(deadline=None, max_examples=effort(100, 300))
@given(st.lists(COMMANDS, max_size=40), st.integers(1, 10), st.sampled_from([1, 300, 700, 3000]))
def test_a_session_that_keeps_too_many_bytes_is_busy_whatever_the_size_of_batches(
    steps: list[tuple[Any, ...]], run_count: int, bytes_max: int
) -> None:
    expected = naive_bytes_rule(steps, bytes_max)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions_module, "OUTCOME_COST_MAX", 366)
        sessions = Sessions(outcome_bytes_max=bytes_max)
        sessions.open(1, 0, 1000)
        run: dict[int, Outcome] = {}

        def finish_run() -> None:
            for seq, outcome in run.items():
                sessions.finish(1, seq, outcome)
            run.clear()

        told = []
        for number, (_, _, seq, done_below, _) in enumerate(steps):
            known = sessions.begin(1, seq, done_below, 0)
            if known is IN_PROGRESS or len(run) == run_count:
                finish_run()
                known = sessions.begin(1, seq, done_below, 0) if known is IN_PROGRESS else known
            if known is None:
                known = run[seq] = sized(seq, number)
            told.append(known)
        finish_run()
    assert told == expected
    state = sessions.live[1]
    assert state.kept_bytes == sum(map(cost, state.outcomes.values()))
    assert state.pending == 0


def test_what_a_session_keeps_is_bounded_in_bytes_and_freed_by_its_client() -> None:
    sessions, large = Sessions(), Outcome("", bytes(RESULT_BYTES_MAX))
    sessions.open(1, 0, 60_000)
    told = []
    for seq in range(1, 100):
        known = sessions.begin(1, seq, 1, 1)
        told.append(known)
        if known is None:
            sessions.finish(1, seq, large)
    accepted = OUTCOME_BYTES_MAX // RESULT_BYTES_MAX
    assert told == [None] * accepted + [BUSY] * (99 - accepted)
    assert sessions.begin(1, 100, 2, 1) is None


def finish(sessions: Sessions, run: list[tuple[int, int, int, int]]) -> None:
    """Finish what was begun in one run."""
    for session, seq, _, time_ms in run:
        sessions.finish(session, seq, result(time_ms))
    run.clear()


def test_a_retry_gets_the_first_outcome_also_after_a_restart() -> None:
    sessions, tables = Sessions(), MemoryTables()
    sessions.open(5, 0, 1000)
    first = perform(sessions, 5, 1, 0, 10)
    assert perform(sessions, 5, 1, 0, 20) is first
    failed = Outcome("CONSENSUS_COMMAND_FAILED", b"\xc0")
    assert sessions.begin(5, 2, 0, 20) is None
    sessions.finish(5, 2, failed)
    save(sessions, tables)
    again = loaded(tables)
    assert again.begin(5, 1, 0, 30) == first
    assert again.begin(5, 2, 0, 30) == failed


def test_the_owner_of_a_session_is_kept_on_disk_and_in_snapshots() -> None:
    sessions, tables = Sessions(), MemoryTables()
    sessions.open(1, 0, 60_000, 1, owner_of("shop"))
    sessions.open(2, 0, 60_000, 2)
    save(sessions, tables)
    for found in (loaded(tables), imported(sessions.export(), MemoryTables())):
        assert {session: state.owner for session, state in found.live.items()} == {1: owner_of("shop"), 2: NO_OWNER}
    assert Session.of(sessions.live[1].head[:4]).owner == NO_OWNER, "as an earlier program wrote it"
    assert len(sessions.live[2].head) == 4, "without an owner the row is that of an earlier program"


def test_the_owner_is_read_from_the_entry_that_opens_the_session_if_it_has_one() -> None:
    assert opened(opening(60_000, owner_of("shop"))) == (60_000, owner_of("shop"))
    assert opened((60_000).to_bytes(8)) == (60_000, NO_OWNER)
    assert len({owner_of(name) for name in ("", "shop", "shop2", "Shop")}) == 4


def test_a_skipped_number_is_new_when_it_arrives() -> None:
    sessions = Sessions()
    sessions.open(5, 0, 1000)
    for seq in (1, 4, 3):
        assert perform(sessions, 5, seq, 1, seq) == result(seq)
    assert perform(sessions, 5, 2, 1, 9) == result(9)


def test_the_mark_never_moves_back() -> None:
    sessions = Sessions()
    sessions.open(5, 0, 1000)
    perform(sessions, 5, 7, 7, 1)
    assert sessions.begin(5, 6, 0, 2) == STALE
    assert sessions.live[5].done_below == 7


def test_a_far_jump_of_the_mark_costs_no_walk() -> None:
    sessions = Sessions()
    sessions.open(5, 0, 1000)
    perform(sessions, 5, 1, 0, 1)
    perform(sessions, 5, 100, 0, 1)
    assert perform(sessions, 5, 100, 100, 2) == result(1)
    assert perform(sessions, 5, 2**64 - 1, 2**64 - 1, 2) == result(2)
    assert list(sessions.live[5].outcomes) == [2**64 - 1]
    tables = MemoryTables()
    save(sessions, tables)
    assert state_of(loaded(tables)) == state_of(sessions)


def test_a_busy_session_takes_the_same_number_once_it_has_capacity() -> None:
    sessions = Sessions(outcomes_max=2)
    sessions.open(5, 0, 1000)
    perform(sessions, 5, 1, 1, 1)
    perform(sessions, 5, 2, 1, 2)
    assert perform(sessions, 5, 3, 1, 3) == BUSY
    assert perform(sessions, 5, 2, 1, 4) == result(2)
    assert perform(sessions, 5, 3, 2, 5) == result(5)


def test_a_session_lives_until_its_time_to_live_has_passed_in_silence() -> None:
    sessions = Sessions()
    sessions.open(5, 0, 100)
    assert perform(sessions, 5, 1, 1, 100) == result(100)
    assert perform(sessions, 5, 2, 1, 200) == result(200)
    assert perform(sessions, 5, 3, 1, 301) == EXPIRED
    assert not sessions.live


def test_a_busy_session_is_never_evicted_before_silent_ones_although_no_time_passes() -> None:
    sessions = Sessions(sessions_max=100)
    busy = sessions.open(1, 5_000, 60_000, 1)
    for index in range(2, 101):
        sessions.open(index, 5_000, 60_000, index)
    for index in range(101, 1000):
        assert sessions.begin(busy, index, index, 5_000, index) is None
    for index in range(1000, 1099):
        sessions.open(index, 5_000, 60_000, index)
    assert set(sessions.live) == {busy, *range(1000, 1099)}


def test_sessions_of_format_2_are_evicted_by_their_time_and_before_those_that_were_used_since() -> None:
    rows = {1: 900, 2: 700, 3: 800}
    sessions = Sessions(sessions_max=3)
    for session, last_ms in rows.items():
        sessions.live[session] = Session.of([last_ms, 60_000, 0])
    assert sessions.begin(2, 1, 0, 900, 50) is None
    sessions.open(60, 900, 60_000, 60)
    assert set(sessions.live) == {1, 2, 60}
    sessions.open(61, 900, 60_000, 61)
    assert set(sessions.live) == {2, 60, 61}


def test_the_longest_silent_session_is_closed_when_there_are_too_many() -> None:
    sessions = Sessions(sessions_max=2)
    sessions.open(1, 0, 1000)
    sessions.open(2, 0, 1000)
    perform(sessions, 1, 1, 1, 5)
    sessions.open(3, 10, 1000)
    assert sorted(sessions.live) == [1, 3]


@settings(deadline=None, max_examples=effort(30, 100))
@given(st.lists(st.integers(0, 6), max_size=60))
def test_too_many_sessions_close_the_longest_silent_one_each_time(steps: list[int]) -> None:
    sessions, last = Sessions(sessions_max=4), dict[int, int]()
    for index, step in enumerate(steps, start=1):
        time_ms = index // 2
        if step < 4 and last:
            session = sorted(last)[step % len(last)]
            perform(sessions, session, index, index, time_ms)
            last[session] = time_ms
        else:
            if len(last) == 4:
                del last[min(last, key=lambda session: (last[session], session))]
            last[sessions.open(index, time_ms, TTL_MS_MAX)] = time_ms
        assert {session: state.last_ms for session, state in sessions.live.items()} == last
        assert len(sessions.silent) <= 2 * 4 + 1


def many(sessions_count: int, outcomes: int) -> Sessions:
    """So many sessions, each with so many outcomes."""
    sessions = Sessions()
    for session in range(1, sessions_count + 1):
        sessions.open(session, 0, TTL_MS_MAX, session)
        for seq in range(outcomes):
            perform(sessions, session, seq, 0, seq)
    return sessions


def test_a_capture_copies_no_outcome_and_keeps_what_was_there() -> None:
    sessions = many(3, 200)
    sessions.live[3].forget_below(100)
    before = sessions.export()
    captured = sessions.capture()
    assert all(outcomes is sessions.live[session].outcomes for session, _, outcomes in captured)
    perform(sessions, 1, 500, 0, 500)  # a new outcome
    perform(sessions, 2, 500, 150, 500)  # the first ones forgotten
    perform(sessions, 3, 5000, 4000, 500)  # all forgotten, in the other way
    sessions.remove(3)
    assert packed(captured) == before
    assert not any(sessions.live[session].shared for session in (1, 2))
    assert len(sessions.live[1].outcomes) == 201


def test_a_time_to_live_is_bounded() -> None:
    sessions = Sessions()
    sessions.open(1, 0, 2**63)
    sessions.open(2, 0, 0)
    assert (sessions.live[1].ttl_ms, sessions.live[2].ttl_ms) == (TTL_MS_MAX, 1)


def test_changes_between_checkpoint_and_commit_are_staged_next_time() -> None:
    sessions, tables = Sessions(), MemoryTables()
    sessions.open(5, 0, 1000)
    batch = Batch()
    sessions.checkpoint(batch, 1)
    perform(sessions, 5, 1, 0, 10)
    tables.commit(batch)
    sessions.checkpointed()
    save(sessions, tables)
    assert state_of(loaded(tables)) == state_of(sessions)


def test_sessions_are_not_saved_within_a_command() -> None:
    sessions = Sessions()
    sessions.open(5, 0, 1000)
    sessions.begin(5, 1, 0, 1)
    with pytest.raises(RuntimeError, match="between two commands"):
        sessions.checkpoint(Batch(), 1)


def test_an_export_of_memory_and_of_disk_are_the_same_bytes() -> None:
    sessions, tables = Sessions(), MemoryTables()
    for index in range(1, 40):
        sessions.open(index, 0, 1000)
        sessions.begin(index, 1, 0, 0)
        sessions.finish(index, 1, Outcome("", msgpack.packb(b"x" * (CHUNK_BYTES // 20))))
    save(sessions, tables)
    chunks = export_rows(tables, 1)
    assert len(chunks) > 1
    assert chunks == sessions.export()
    imported(chunks, tables, 2)
    batch = Batch()
    batch.delete_range("sessions", (1).to_bytes(4), (2).to_bytes(4))
    tables.commit(batch)
    assert export_rows(tables, 1) == []
    assert loaded(tables, 2).export() == chunks


@pytest.mark.parametrize(
    "chunk",
    [b"", b"\xc1", b"\x01", b"\x91\x01", msgpack.packb([[1, 2]]), msgpack.packb([[1, b"\x90"]])],
)
def test_an_invalid_chunk_is_corruption_and_changes_nothing(chunk: bytes) -> None:
    importing, batch = SessionImport([chunk], 1), Batch()
    with pytest.raises(CorruptionError):
        importing.step(batch, lambda: False)
    assert not batch
    assert not importing.done


def rows(tables: MemoryTables) -> dict[bytes, bytes]:
    return dict(tables.scan("sessions"))


def test_a_checkpoint_writes_the_new_outcomes_only() -> None:
    sessions, tables = Sessions(), MemoryTables()
    sessions.open(5, 0, 1000)
    for seq in range(1, 5):
        perform(sessions, 5, seq, 1, 10)
    save(sessions, tables)
    perform(sessions, 5, 7, 3, 11)
    batch = Batch()
    sessions.checkpoint(batch, 1)
    written = [row for operation in batch.operations if isinstance(operation, PutRun) for row in operation.items]
    assert len(written) == 2  # the session and the outcome of command 7
    tables.commit(batch)
    sessions.checkpointed()
    assert len(rows(tables)) == 1 + 3
    assert state_of(loaded(tables)) == state_of(sessions)
    sessions.remove(5)
    save(sessions, tables)
    assert not rows(tables)


def test_a_flipped_bit_in_any_row_is_corruption_when_it_is_read_and_when_it_is_exported() -> None:
    sessions, tables = Sessions(), MemoryTables()
    sessions.open(5, 0, 1000)
    perform(sessions, 5, 1, 1, 10)
    save(sessions, tables)
    for key, row in rows(tables).items():
        for at in range(8 * len(row)):
            damaged = bytearray(row)
            damaged[at // 8] ^= 1 << at % 8
            batch = Batch()
            batch.put("sessions", key, bytes(damaged))
            tables.commit(batch)
            with pytest.raises(CorruptionError):
                loaded(tables)
            with pytest.raises(CorruptionError):
                export_rows(tables, 1)
        batch = Batch()
        batch.put("sessions", key, row)
        tables.commit(batch)
    assert state_of(loaded(tables)) == state_of(sessions)


OLD_ROW = msgpack.packb((70, 1000, 2, {3: ("", b"\x03"), 4: ("CONSENSUS_COMMAND_FAILED", b"x")}))
"""The row of a session as format 2 wrote it."""


@pytest.mark.parametrize("by", ["tables", "snapshot", "import"])
def test_sessions_of_format_2_are_taken_over_and_written_anew(by: str) -> None:
    tables, batch = MemoryTables(), Batch()
    if by == "import":
        imported([msgpack.packb([(5, OLD_ROW)])], tables)
    else:
        batch.put("sessions", (1).to_bytes(4) + (5).to_bytes(8), OLD_ROW)
    tables.commit(batch)
    sessions = imported(export_rows(tables, 1), tables) if by == "snapshot" else loaded(tables)
    state = sessions.live[5]
    assert (state.last_ms, state.ttl_ms, state.done_below) == (70, 1000, 2)
    assert state.outcomes == {3: Outcome("", b"\x03"), 4: Outcome("CONSENSUS_COMMAND_FAILED", b"x")}
    assert state.kept_bytes == 2 + 2 * OUTCOME_OVERHEAD_BYTES
    save(sessions, tables)
    assert OLD_ROW not in rows(tables).values()
    assert len(rows(tables)) == 3
    assert state_of(loaded(tables)) == state_of(sessions)


def test_an_undecodable_row_is_corruption() -> None:
    tables, batch = MemoryTables(), Batch()
    batch.put("sessions", bytes(12), b"\xc0")
    tables.commit(batch)
    with pytest.raises(CorruptionError):
        loaded(tables, 0)
