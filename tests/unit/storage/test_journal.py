"""The journal: published events can be read again, over both backends, and gaps name the missing ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.sealed import seal
from forge_consensus.storage.backends.tables import Batch, Tables
from forge_consensus.storage.ledger.journal import SCAN_MAX, WAITING_MAX, Gap, Journal, Page
from forge_consensus.storage.ledger.numbers import BLOCK, EventNumbers

START_MS = 1_700_000_000_000
YEAR_MS = 365 * 24 * 3600 * 1000
Open = Callable[[], Tables]


@pytest.fixture(params=["memory", "lmdb"])
def open_tables(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same store again and again, as a process that ends without a word does."""
    opened: list[Tables] = []

    def memory() -> Tables:
        last = opened[-1] if opened else MemoryTables()
        assert isinstance(last, MemoryTables)
        opened.append(last.clone_durable())
        return opened[-1]

    def lmdb() -> Tables:
        for tables in opened:
            tables.close()
        opened.append(LmdbTables(tmp_path, map_bytes=64 << 20, quota_bytes=32 << 20))
        return opened[-1]

    yield memory if request.param == "memory" else lmdb
    for tables in opened:
        tables.close()


class Teller:
    """A node's side of the journal: it tells, commits when told to, and may be started again."""

    def __init__(self, open_tables: Open, rows_max: int = 1000, seconds_max: float = 3600.0) -> None:
        self.open_tables = open_tables
        self.rows_max, self.seconds_max = rows_max, seconds_max
        self.now = 1000.0
        self.start()

    def start(self) -> None:
        self.tables = self.open_tables()
        self.numbers = EventNumbers(self.tables)
        self.numbers.load()
        self.journal = Journal(self.tables, self.numbers, self.rows_max, self.seconds_max)
        self.commit()

    def tell(self, count: int = 1) -> None:
        for _ in range(count):
            number = self.numbers.next()
            self.journal.append(number, self.now, b"event %d" % number)

    def commit(self) -> None:
        batch = Batch()
        mark = self.numbers.stage(batch)
        self.journal.stage(batch)
        self.tables.commit(batch)
        self.numbers.mark = mark
        self.journal.committed()

    def read(self, since: int = 0, limit: int = 10_000) -> Page:
        return self.journal.read(since, limit)

    def read_numbers(self, since: int = 0) -> list[int]:
        return [number for number, _ in self.read(since).rows]


def test_events_can_be_read_before_and_after_they_are_on_disk(open_tables: Open) -> None:
    node = Teller(open_tables)
    node.tell(3)
    node.commit()
    node.tell(2)
    page = node.read()
    assert page.rows == [(number, b"event %d" % number) for number in range(1, 6)]
    assert (page.first, page.next, page.end, page.gaps) == (1, 6, 5, [])
    assert node.read_numbers(since=4) == [4, 5]
    assert node.read(since=6) == Page([], 1, 6, 5, [])


def test_pages_follow_each_other(open_tables: Open) -> None:
    node = Teller(open_tables)
    node.tell(7)
    node.commit()
    node.tell(3)
    place, found = 1, []
    while place <= node.numbers.sequence:
        page = node.read(place, limit=2)
        assert len(page.rows) <= 2
        found += page.rows
        place = page.next
    assert [number for number, _ in found] == list(range(1, 11))


def test_a_page_of_selected_rows_says_how_far_it_was_searched(open_tables: Open) -> None:
    node = Teller(open_tables, rows_max=10 * SCAN_MAX)
    for _ in range(3):
        node.tell(1000)
        node.commit()
    page = node.journal.read(1, 10, lambda data: data in (b"event 5", b"event 2500"))
    assert [number for number, _ in page.rows] == [5]
    assert page.next == SCAN_MAX + 1
    page = node.journal.read(page.next, 10, lambda data: data in (b"event 5", b"event 2500"))
    assert ([number for number, _ in page.rows], page.next) == ([2500], 3001)


def test_a_turn_without_events_stages_no_journal_rows(open_tables: Open) -> None:
    node = Teller(open_tables)
    batch = Batch()
    node.journal.stage(batch)
    assert not batch


def test_a_crash_leaves_a_gap_up_to_the_mark_and_numbers_go_on_behind_it(open_tables: Open) -> None:
    node = Teller(open_tables)
    node.tell(3)
    node.commit()
    node.tell(2)  # told, and never written
    node.start()
    node.tell(1)
    page = node.read()
    assert [number for number, _ in page.rows] == [1, 2, 3, BLOCK + 1]
    assert page.gaps == [Gap(4, BLOCK, "lost")]
    assert node.read(since=5).gaps == [Gap(5, BLOCK, "lost")]


def test_a_crash_before_the_first_event_leaves_a_gap_too(open_tables: Open) -> None:
    node = Teller(open_tables)
    node.start()
    assert node.read(since=1) == Page([], 1, BLOCK + 1, BLOCK, [Gap(1, BLOCK, "lost")])


def test_an_orderly_end_leaves_no_gap(open_tables: Open) -> None:
    node = Teller(open_tables)
    node.tell(3)
    node.commit()
    node.tell(2)
    node.journal.seal()
    node.start()
    node.tell(1)
    assert node.read_numbers() == [1, 2, 3, 4, 5, 6]
    assert node.read().gaps == []


def test_rows_above_the_limit_are_discarded_in_slices_and_leave_a_gap(open_tables: Open) -> None:
    node = Teller(open_tables, rows_max=80)
    for _ in range(300):
        node.tell(1)
        node.commit()
        assert node.tables.count("events") <= 80 + node.journal.slice_rows
        assert node.journal.count == node.tables.count("events")
    page = node.read()
    first = page.rows[0][0]
    assert page.gaps == [Gap(1, first - 1, "discarded")]
    assert page.first == first > 200
    assert [number for number, _ in page.rows] == list(range(first, 301))
    node.start()
    assert node.read().gaps[0] == Gap(1, first - 1, "discarded")


def test_a_burst_is_discarded_in_bounded_slices(open_tables: Open) -> None:
    node = Teller(open_tables, rows_max=100)
    node.tell(1000)
    node.commit()
    counts = [node.tables.count("events")]
    for _ in range(100):
        node.tell(1)
        node.commit()
        counts.append(node.tables.count("events"))
    steps = [before - after for before, after in itertools.pairwise(counts)]
    assert max(steps) < node.journal.slice_rows
    assert counts[-1] <= 100 + node.journal.slice_rows


def test_old_rows_are_discarded_by_their_age(open_tables: Open) -> None:
    node = Teller(open_tables, seconds_max=600)
    node.tell(5)
    node.commit()
    node.now += 400
    node.tell(5)
    node.commit()
    node.now += 300
    node.tell(1)
    node.commit()  # finds the old ones
    assert node.read_numbers() == [6, 7, 8, 9, 10, 11]
    assert node.read().gaps == [Gap(1, 5, "discarded")]
    node.now += 10_000
    node.tell(1)
    node.commit()
    assert node.read_numbers() == [12]
    node.tell(1)
    assert node.read_numbers() == [12, 13]


def test_the_age_of_an_event_goes_on_over_restarts(open_tables: Open) -> None:
    """The clock of real time begins anew with the machine, and the time for which the node did not run is unknown."""
    node = Teller(open_tables, seconds_max=600)
    for now in (5_000.0, 3.0, 90_000.0):
        node.now = now
        node.start()
        node.tell()
        node.commit()
        node.now += 290
        node.tell()
        node.commit()
    assert node.journal.time_ms == 3 * 290_000
    assert node.read_numbers() == [BLOCK + 2, 2 * BLOCK + 1, 2 * BLOCK + 2, 3 * BLOCK + 1, 3 * BLOCK + 2]


def test_a_clock_that_goes_back_makes_no_event_older(open_tables: Open) -> None:
    node = Teller(open_tables, seconds_max=600)
    for now in (1_000.0, 10.0, 1_000.0, 10.0, 1_000.0):
        node.now = now
        node.tell()
        node.commit()
    assert node.journal.time_ms == 0
    assert node.read_numbers() == [1, 2, 3, 4, 5]


def test_rows_with_a_wall_time_count_from_the_first_start_with_this_format(open_tables: Open) -> None:
    """Format 2 wrote wall times, the last one perhaps ten years ahead."""
    node = Teller(open_tables, seconds_max=600)
    batch = Batch()
    for number, wall_ms in ((1, START_MS), (2, START_MS + 1), (3, START_MS + 10 * YEAR_MS)):
        key = number.to_bytes(8)
        batch.append("events", [(key, seal(key, wall_ms.to_bytes(8) + b"event %d" % number))])
    node.tables.commit(batch)
    node.start()
    first = node.numbers.sequence + 1
    node.tell()
    node.commit()
    node.now += 590
    node.tell()
    node.commit()
    assert node.read_numbers() == [1, 2, 3, first, first + 1]
    node.now += 100
    node.tell()
    node.commit()
    assert node.read_numbers() == [first + 1, first + 2]


def test_damage_of_the_newest_row_discards_nothing(open_tables: Open) -> None:
    node = Teller(open_tables, seconds_max=600)
    node.tell(3)
    node.commit()
    newest, row = node.tables.scan("events")[-1]
    batch = Batch()
    batch.put("events", newest, (10**11).to_bytes(8) + row[8:])
    node.tables.commit(batch)
    node.start()
    node.tell()
    node.commit()
    assert node.read_numbers()[:2] == [1, 2]


def test_events_in_memory_are_bounded(open_tables: Open) -> None:
    node = Teller(open_tables)
    node.tell(WAITING_MAX + 1)
    page = node.read()
    assert len(node.journal.waiting) <= WAITING_MAX
    assert page.gaps == [Gap(1, WAITING_MAX // 8, "lost")]
    assert page.rows[0][0] == WAITING_MAX // 8 + 1


def test_pages_are_bounded_in_bytes(open_tables: Open) -> None:
    node = Teller(open_tables)
    node.tell(10)
    page = node.journal.read(1, 10, bytes_max=20)
    assert len(page.rows) == 3
    assert page.next == 4


# --- rare and frequent events -----------------------------------------------------------------------------------------


def mixed(open_tables: Open, writes: int, rare_each: int = 50) -> Teller:
    """A journal of 400 rows under a load of frequent events, with a rare one now and then."""
    teller = Teller(open_tables, rows_max=400)
    for number in range(writes):
        frequent = number % rare_each != 0
        data = b"log" if frequent else b"leader %d" % number
        teller.journal.append(teller.numbers.next(), teller.now, data, frequent=frequent)
        if number % 7 == 0:
            teller.commit()
    teller.commit()
    return teller


def all_rows(teller: Teller, **how: Any) -> tuple[list[tuple[int, bytes]], list[Gap]]:
    rows, gaps, since = list[tuple[int, bytes]](), list[Gap](), 1
    while since <= teller.numbers.sequence:
        page = teller.journal.read(since, 1_000, **how)
        rows += page.rows
        gaps += page.gaps
        since = page.next
    return rows, gaps


def test_rare_events_survive_a_load_of_frequent_ones(open_tables: Open) -> None:
    teller = mixed(open_tables, 10_000)
    rows, gaps = all_rows(teller)
    rare = [data for _, data in rows if data != b"log"]
    assert rare == [b"leader %d" % number for number in range(0, 10_000, 50)]
    frequent = len(rows) - len(rare)
    assert 80 <= frequent <= 80 + 2 * teller.journal.slice_rows
    assert rows[-1][1] == b"log", "the newest ones are there"
    assert {gap.reason for gap in gaps} == {"discarded"}
    named = sum(gap.last - gap.first + 1 for gap in gaps)
    assert len(rows) + named == teller.numbers.sequence, "no number is skipped unknowingly"


def test_a_reader_of_rare_events_is_told_of_no_gaps_of_frequent_ones(open_tables: Open) -> None:
    teller = mixed(open_tables, 5_000)
    rows, gaps = all_rows(teller, wanted=lambda data: data != b"log", frequent=False)
    assert len(rows) == 100
    assert gaps == []


def test_rare_events_too_are_discarded_when_they_are_too_many(open_tables: Open) -> None:
    teller = mixed(open_tables, 5_000, rare_each=2)
    assert teller.journal.count <= 400 + 2 * teller.journal.slice_rows
    rows, gaps = all_rows(teller)
    assert gaps[0] == Gap(1, teller.journal.floor, "discarded")
    assert len(rows) == teller.journal.count


def test_frequent_rows_are_counted_again_after_a_restart(open_tables: Open) -> None:
    teller = mixed(open_tables, 3_000)
    counted, thinned, before = teller.journal.frequent, teller.journal.thinned, all_rows(teller)[0]
    teller.start()
    assert (teller.journal.frequent, teller.journal.thinned) == (counted, thinned)
    rows, gaps = all_rows(teller)
    assert rows == before
    assert gaps[-1].reason == "lost", "numbers that nobody used"
