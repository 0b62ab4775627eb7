"""What all sessions keep together is bounded in bytes, on every node alike."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.machines import sessions as sessions_module
from forge_consensus.storage.machines.machine import RESULT_BYTES_MAX, Outcome
from forge_consensus.storage.machines.sessions import BUSY, EXPIRED, IN_PROGRESS, OUTCOME_OVERHEAD_BYTES, Sessions
from tests.unit.storage.test_sessions import COMMANDS, imported, loaded, result, save, sized
from tests.worlds.effort import effort


@settings(deadline=None, max_examples=effort(100, 300))
@given(st.lists(COMMANDS, max_size=40), st.integers(1, 10), st.sampled_from([1, 400, 1000, 3000]))
def test_what_all_sessions_keep_is_bounded_in_bytes_whatever_the_size_of_batches(
    steps: list[tuple[Any, ...]], run_count: int, bytes_max: int
) -> None:
    def outcomes_of(count: int) -> tuple[list[Outcome], Sessions]:
        sessions = Sessions(kept_bytes_max=bytes_max)
        for session in (1, 2, 3):
            sessions.open(session, 0, 1000, session)
        told: list[Outcome] = []
        run: list[tuple[int, int, Outcome]] = []

        def finish_run() -> None:
            for begun in run:
                sessions.finish(*begun)
            run.clear()

        for number, (_, which, seq, done_below, _) in enumerate(steps):
            command = (1 + which % 3, seq, done_below, 0, 4 + number)
            known = sessions.begin(*command)
            if known is IN_PROGRESS or len(run) == count:
                finish_run()
                known = sessions.begin(*command) if known is IN_PROGRESS else known
            if known is None:
                known = sized(seq, number)
                run.append((command[0], seq, known))
            told.append(known)
        finish_run()
        return told, sessions

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions_module, "OUTCOME_COST_MAX", 366)
        (one, single), (other, batched) = outcomes_of(1), outcomes_of(run_count)
    assert one == other
    assert single.export() == batched.export()
    for sessions in (single, batched):
        assert sessions.pending == 0
        assert sessions.kept_bytes == sum(state.kept_bytes for state in sessions.live.values()) < bytes_max + 366


def test_sessions_of_clients_that_are_gone_do_not_fill_the_memory_of_every_node() -> None:
    sessions, tables = Sessions(kept_bytes_max=20 * RESULT_BYTES_MAX), MemoryTables()
    large = Outcome("", bytes(RESULT_BYTES_MAX))
    modest = sessions.open(1, 0, 60_000, 1)
    assert sessions.begin(modest, 1, 1, 1, 2) is None
    sessions.finish(modest, 1, result(1))
    index = 2
    for number in range(50):
        index += 1
        session = sessions.open(index, 1, 60_000, index)
        for seq in range(1, 4):
            index += 1
            assert sessions.begin(session, seq, 1, 1, index) is None
            sessions.finish(session, seq, large)
        assert sessions.kept_bytes <= 21 * RESULT_BYTES_MAX
        if number == 30:
            save(sessions, tables)
            kept = sessions.kept_bytes
            sessions = loaded(tables, kept_bytes_max=20 * RESULT_BYTES_MAX)
            assert sessions.kept_bytes == kept
    assert modest in sessions.live, "a session that keeps little loses nothing to those that keep much"
    assert session in sessions.live, "those whose clients were silent for longest went first"
    assert len(sessions.live) < 10
    assert sessions.begin(3, 1, 1, 1, index) is EXPIRED


def test_many_tiny_results_of_clients_that_are_gone_are_bounded_too() -> None:
    """Each result is a byte, so that its payload alone would count as next to nothing."""
    sessions, tables = Sessions(kept_bytes_max=1000 * (1 + OUTCOME_OVERHEAD_BYTES)), MemoryTables()
    for index in range(1, 31):
        sessions.open(index, 1, 60_000, index)
        for seq in range(1, 101):
            assert sessions.begin(index, seq, 1, 1, index) is None
            sessions.finish(index, seq, Outcome("", b"\x01"))
        assert sum(len(state.outcomes) for state in sessions.live.values()) <= 1000
    assert sorted(sessions.live) == list(range(21, 31)), "those whose clients were silent for longest went first"
    save(sessions, tables)
    again = [loaded(tables), imported(sessions.export(), MemoryTables())]
    assert [each.kept_bytes for each in again] == [sessions.kept_bytes] * 2, "it counts the same behind every way"
    sessions.forget_below(sessions.live[21], 101)
    assert sessions.kept_bytes == 900 * (1 + OUTCOME_OVERHEAD_BYTES)


def test_a_session_of_many_tiny_results_is_busy_at_its_bound() -> None:
    sessions = Sessions(outcome_bytes_max=10 * OUTCOME_OVERHEAD_BYTES)
    sessions.open(1, 0, 60_000)
    told = []
    for seq in range(1, 15):
        told.append(sessions.begin(1, seq, 1, 1))
        sessions.finish(1, seq, Outcome("", b""))
    assert told == [None] * 10 + [BUSY] * 4


def test_sessions_that_take_the_place_of_others_keep_every_bound() -> None:
    small = Sessions(sessions_max=2, outcomes_max=3, outcome_bytes_max=4, kept_bytes_max=5)
    heir = Sessions().bounded_like(small)
    bounds = ("sessions_max", "outcomes_max", "outcome_bytes_max", "kept_bytes_max")
    assert [getattr(heir, name) for name in bounds] == [2, 3, 4, 5]
