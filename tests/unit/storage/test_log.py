"""The log: entries by index over disk and memory, with every damage noticed where it is met."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_consensus.errors import CorruptionError
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.tables import Batch, KeyValue, Tables
from forge_consensus.storage.ledger.log import TABLE, Log
from forge_consensus.storage.ledger.record import encode, key_of
from tests.worlds.backends import BACKENDS, new_tables

SIZE = len(encode(1, 1, 0, 0))


@pytest.fixture(params=BACKENDS)
def tables(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tables]:
    opened: Tables = new_tables(request.param, tmp_path)
    yield opened
    opened.close()


def run(first: int, last: int, term: int = 1, data: bytes = b"") -> list[bytes]:
    return [encode(index, term, 0, 0, data=data) for index in range(first, last + 1)]


def commit(log: Log) -> bool:
    batch = Batch()
    wrote = log.stage(batch)
    log.tables.commit(batch)
    log.committed()
    return wrote


def change(tables: Tables, key: bytes, record: bytes | None) -> None:
    batch = Batch()
    if record is None:
        batch.delete(TABLE, key)
    else:
        batch.put(TABLE, key, record)
    tables.commit(batch)


def filled(tables: Tables, last: int, tail_bytes_max: int = 1 << 20) -> Log:
    log = Log(tables, tail_bytes_max)
    log.append(run(1, last))
    commit(log)
    return log


def reloaded(tables: Tables, last: int, base: int = 0) -> Log:
    log = Log(tables, 1 << 20)
    log.reload(base, 1 if base else 0, last)
    return log


def test_appended_entries_are_durable_after_the_commit_and_forgotten_before(tables: Tables) -> None:
    log = filled(tables, 5)
    log.append(run(6, 8))
    assert (log.last, log.durable) == (8, 5)
    log.reload(0, 0, 5)
    assert (log.last, log.durable) == (5, 5)
    assert log.read(1, 9, 10_000) == run(1, 5)
    assert not commit(log)


def test_another_entry_at_the_same_index_in_one_turn_is_not_durable_before_its_commit(tables: Tables) -> None:
    log = filled(tables, 5)
    assert log.truncate(4) == 2
    log.append(run(4, 5, term=2))
    assert (log.last, log.durable) == (5, 3)
    assert log.term_at(5) == 2
    log.truncate(5)
    log.append(run(5, 6, term=3))
    assert [log.term_at(index) for index in range(1, 8)] == [1, 1, 1, 2, 3, 3, None]
    assert commit(log)
    assert reloaded(tables, 6).read(1, 6, 10_000) == run(1, 3) + run(4, 4, 2) + run(5, 6, 3)


def test_a_truncation_alone_reaches_the_disk(tables: Tables) -> None:
    log = filled(tables, 5)
    log.truncate(3)
    assert commit(log)
    assert reloaded(tables, 2).last == 2
    log.append(run(3, 3, term=2))
    assert commit(log)
    assert reloaded(tables, 3).last_term == 2


def test_the_tail_is_bounded_and_reading_crosses_its_border(tables: Tables) -> None:
    log = Log(tables, 10 * SIZE)
    for first in range(1, 100, 7):
        log.append(run(first, first + 6))
        commit(log)
        assert log.tail_bytes == sum(map(len, log.tail)) <= 10 * SIZE
        assert log.tail_base + len(log.tail) == log.last
    assert 0 < log.tail_base < log.last
    for first in range(1, log.last + 1, 3):
        assert log.read(first, log.last, 1 << 20) == run(first, log.last)
    log.truncate(log.tail_base - 3)
    assert log.read(1, log.last, 1 << 20) == run(1, log.last)


def test_a_record_larger_than_the_tail_is_not_kept_in_memory(tables: Tables) -> None:
    log = Log(tables, 100)
    log.append(run(1, 1, data=b"x" * 1000))
    commit(log)
    assert log.tail_bytes == 0
    assert log.last_term == 1
    assert len(log.read(1, 1, 10)) == 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=60), st.data())
def test_reading_gives_as_much_as_fits_and_at_least_one(sizes: list[int], data: st.DataObject) -> None:
    log = Log(MemoryTables(), 2_000)
    records = [encode(index, 1, 0, 0, data=b"x" * size) for index, size in enumerate(sizes, 1)]
    log.append(records)
    commit(log)
    first = data.draw(st.integers(1, len(records)))
    last = data.draw(st.integers(first, len(records) + 3))
    room = data.draw(st.integers(0, 4_000))
    found = log.read(first, last, room)
    assert found == records[first - 1 : first - 1 + len(found)]
    assert 1 <= len(found) <= last - first + 1
    assert sum(map(len, found)) <= room or len(found) == 1
    behind = first + len(found)
    if behind <= min(last, len(records)):
        assert sum(map(len, found)) + len(records[behind - 1]) > room


def test_large_records_are_not_fetched_by_the_thousand() -> None:
    class Counting(MemoryTables):
        fetched_bytes = 0

        def scan(
            self, table: str, start: bytes = b"", stop: bytes | None = None, limit: int | None = None
        ) -> list[KeyValue]:
            found = super().scan(table, start, stop, limit)
            self.fetched_bytes += sum(len(record) for _, record in found)
            return found

    tables = Counting()
    log = Log(tables, 0)
    log.append(run(1, 200, data=b"x" * 100_000))
    commit(log)
    assert len(log.read(1, 200, 500_000)) == 4
    assert tables.fetched_bytes < 1_000_000


@settings(max_examples=60)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 50), st.integers(0, 60))
def test_the_hint_is_the_last_entry_whose_term_is_not_above(steps: list[int], index: int, term: int) -> None:
    log = Log(MemoryTables(), 200)
    terms = [sum(steps[: place + 1]) for place in range(len(steps))]
    log.append([encode(place, each, 0, 0) for place, each in enumerate(terms, 1)])
    commit(log)
    candidates = [place for place, each in enumerate(terms, 1) if place <= index and each <= term]
    assert log.last_at_most(index, term) == max(candidates, default=0)


# --- compaction ------------------------------------------------------------------------------------------------------


def test_a_new_base_hides_the_entries_before_it_and_sweeping_deletes_them_in_slices(tables: Tables) -> None:
    log = filled(tables, 50, tail_bytes_max=20 * SIZE)
    log.rebase(42, 1)
    assert (log.term_at(41), log.term_at(42), log.term_at(43)) == (None, 1, 1)
    assert log.read(43, 50, 1 << 20) == run(43, 50)
    slices = 0
    while True:
        batch = Batch()
        if not log.sweep(batch, 10):
            break
        before = tables.count(TABLE)
        tables.commit(batch)
        assert 0 < before - tables.count(TABLE) <= 10
        slices += 1
    assert slices == 5
    assert reloaded(tables, 50, base=42).read(43, 50, 1 << 20) == run(43, 50)


def test_a_base_beyond_the_last_entry_begins_the_log_anew(tables: Tables) -> None:
    log = filled(tables, 5)
    log.rebase(100, 7)
    assert (log.last, log.durable, log.last_term, log.tail) == (100, 100, 7, [])
    assert not commit(log)
    log.append(run(101, 103, term=8))
    commit(log)
    again = Log(tables, 1000)
    again.reload(100, 7, 103)
    assert again.read(101, 103, 10_000) == run(101, 103, term=8)
    batch = Batch()
    assert again.sweep(batch, 1000)
    tables.commit(batch)
    assert tables.count(TABLE) == 3


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [1, 50, 2000])
def test_every_read_of_a_damaged_record_names_it(tables: Tables, index: int) -> None:
    filled(tables, 2000)
    record = encode(index, 1, 0, 0)
    change(tables, key_of(index), record[:-1] + b"?")
    log = reloaded(tables, 2000)
    for meet in (lambda: log.get(index), lambda: log.verify(1), lambda: log.read(1, 2000, 1 << 20)):
        with pytest.raises(CorruptionError, match=f"log entry {index} fails its checksum.*majority of the members"):
            meet()
    if index > 1:
        assert log.read(1, index - 1, 1 << 20) == run(1, index - 1)


@pytest.mark.parametrize("index", [1, 50])
def test_a_hole_is_named(tables: Tables, index: int) -> None:
    filled(tables, 100)
    change(tables, key_of(index), None)
    log = reloaded(tables, 100)
    for meet in (lambda: log.get(index), lambda: log.verify(1), lambda: log.read(1, 100, 1 << 20)):
        with pytest.raises(CorruptionError, match=f"log entry {index} is missing"):
            meet()


def test_a_cut_tail_and_a_tail_that_has_grown_are_noticed(tables: Tables) -> None:
    filled(tables, 100)
    change(tables, key_of(100), None)
    with pytest.raises(CorruptionError, match="must end with entry 100 and ends with 99"):
        reloaded(tables, 100)
    change(tables, key_of(101), encode(101, 1, 0, 0))
    with pytest.raises(CorruptionError, match="must end with entry 100 and ends with 101"):
        reloaded(tables, 100)


def test_a_good_record_under_a_wrong_key_is_noticed(tables: Tables) -> None:
    filled(tables, 100)
    change(tables, key_of(60), encode(61, 1, 0, 0))
    with pytest.raises(CorruptionError, match="log entry 60 fails"):
        reloaded(tables, 100).verify(1)
    change(tables, key_of(60), None)
    change(tables, key_of(60) + b"\0", encode(60, 1, 0, 0))
    with pytest.raises(CorruptionError, match="log entry 60 is missing"):
        reloaded(tables, 100).verify(1)


def test_terms_that_fall_are_noticed(tables: Tables) -> None:
    log = Log(tables, 1000)
    log.append([*run(1, 5, term=3), *run(6, 8, term=2)])
    commit(log)
    with pytest.raises(CorruptionError, match="log entry 6 has term 2, its predecessor 3"):
        reloaded(tables, 8).verify(1)
    with pytest.raises(CorruptionError, match="log entry 6"):
        reloaded(tables, 8).verify(6)
    reloaded(tables, 8).verify(7)
