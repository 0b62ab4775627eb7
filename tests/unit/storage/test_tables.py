"""The tables' contract, kept by both backends."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forge_consensus.errors import StorageError
from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.tables import TABLES, Batch, KeyValue, Space, Tables
from tests.worlds.backends import BACKENDS, new_tables

MIB = 1 << 20


@pytest.fixture(params=BACKENDS)
def tables(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tables]:
    opened: Tables
    opened = new_tables(request.param, tmp_path)
    yield opened
    opened.close()


def key(number: int) -> bytes:
    return number.to_bytes(8, "big")


def numbered(first: int, last: int) -> list[KeyValue]:
    return [(key(n), b"value %d" % n) for n in range(first, last + 1)]


def commit(tables: Tables, build: Callable[[Batch], None]) -> None:
    batch = Batch()
    build(batch)
    tables.commit(batch)


def test_values_are_looked_at_without_being_copied(tables: Tables) -> None:
    commit(tables, lambda batch: batch.put_all("kv", [(b"a", b"12"), (b"b", b"345")]))

    def size(key: bytes, value: bytes | memoryview) -> tuple[bytes, int]:
        return key, len(value)

    keys = [b"b", b"none", b"a"]
    assert tables.look("kv", keys, size) == [(b"b", 3), None, (b"a", 2)]
    with tables.view() as view:
        assert view.look("kv", keys, size) == [(b"b", 3), None, (b"a", 2)]
    assert tables.look("kv", [], size) == []
    tables.close()
    with pytest.raises(StorageError):
        tables.look("kv", keys, size)


def test_a_committed_value_is_read_back(tables: Tables) -> None:
    commit(tables, lambda batch: batch.put("meta", b"term", b"7"))
    assert tables.get("meta", b"term") == b"7"
    assert tables.get("meta", b"vote") is None
    assert tables.get("kv", b"term") is None


def test_an_empty_value_is_a_value_and_an_empty_key_is_never_present(tables: Tables) -> None:
    commit(tables, lambda batch: batch.put("meta", b"empty", b""))
    assert tables.get("meta", b"empty") == b""
    assert tables.get("meta", b"") is None


def test_operations_of_a_batch_happen_in_their_order(tables: Tables) -> None:
    def build(batch: Batch) -> None:
        batch.put("kv", b"a", b"1")
        batch.put("kv", b"b", b"1")
        batch.delete("kv", b"a")
        batch.put("kv", b"b", b"2")
        batch.put("kv", b"b", b"3")
        batch.put("meta", b"m", b"1")
        batch.delete_range("kv", b"", None)
        batch.put("kv", b"c", b"4")

    commit(tables, build)
    assert tables.scan("kv") == [(b"c", b"4")]
    assert tables.get("meta", b"m") == b"1"


def test_a_batch_can_cut_the_tail_and_append_another_one(tables: Tables) -> None:
    commit(tables, lambda batch: batch.append("log", numbered(1, 10)))

    def replace_tail(batch: Batch) -> None:
        batch.delete_range("log", key(6), None)
        batch.append("log", [(key(6), b"new")])

    commit(tables, replace_tail)
    assert tables.last("log") == (key(6), b"new")
    assert tables.count("log") == 6


def test_scan_returns_the_half_open_range_in_order(tables: Tables) -> None:
    commit(tables, lambda batch: batch.append("log", numbered(1, 20)))
    assert tables.scan("log") == numbered(1, 20)
    assert tables.scan("log", key(5), key(8)) == numbered(5, 7)
    assert tables.scan("log", key(19)) == numbered(19, 20)
    assert tables.scan("log", key(5), limit=2) == numbered(5, 6)
    assert tables.scan("log", key(5), key(6), limit=9) == numbered(5, 5)
    assert tables.scan("log", limit=0) == []
    assert tables.scan("log", key(8), key(5)) == []
    assert tables.scan("log", key(21)) == []
    assert tables.scan("kv") == []


def test_scan_reverse_descends_from_below_its_bound(tables: Tables) -> None:
    commit(tables, lambda batch: batch.append("log", numbered(1, 5)))
    assert tables.scan_reverse("log", 2) == numbered(4, 5)[::-1]
    assert tables.scan_reverse("log", 2, key(4)) == numbered(2, 3)[::-1]
    assert tables.scan_reverse("log", 9, key(99)) == numbered(1, 5)[::-1]
    assert tables.scan_reverse("log", 9, key(1)) == []
    assert tables.scan_reverse("log", 9, b"") == []
    assert tables.scan_reverse("log", 0) == []
    assert tables.scan_reverse("kv", 9) == []


def test_first_last_and_count_describe_a_table(tables: Tables) -> None:
    assert tables.first("log") is None
    assert tables.last("log") is None
    assert tables.count("log") == 0
    commit(tables, lambda batch: batch.append("log", numbered(3, 9)))
    assert tables.first("log") == (key(3), b"value 3")
    assert tables.last("log") == (key(9), b"value 9")
    assert tables.count("log") == 7


def test_the_size_of_a_table_counts_as_used_space(tables: Tables) -> None:
    batch = Batch()
    batch.put("log", b"k", b"v" * 100)
    tables.commit(batch)
    assert tables.size_bytes("kv") == 0
    assert 100 < tables.size_bytes("log") <= tables.space().used_bytes


def test_delete_range_removes_the_lowest_first_up_to_its_limit(tables: Tables) -> None:
    commit(tables, lambda batch: batch.append("log", numbered(1, 10)))
    commit(tables, lambda batch: batch.delete_range("log", b"", key(9), limit=3))
    assert tables.scan("log") == numbered(4, 10)
    commit(tables, lambda batch: batch.delete_range("log", key(5), key(7)))
    assert tables.scan("log") == [*numbered(4, 4), *numbered(7, 10)]
    commit(tables, lambda batch: batch.delete_range("log", key(10), None, limit=99))
    assert tables.scan("log") == [*numbered(4, 4), *numbered(7, 9)]
    commit(tables, lambda batch: batch.delete_range("log", b"", None, limit=0))
    assert tables.count("log") == 4


def test_deleting_a_missing_key_is_no_error(tables: Tables) -> None:
    commit(tables, lambda batch: batch.delete("kv", b"missing"))
    commit(tables, lambda batch: batch.delete_range("kv", b"a", b"z"))
    assert tables.count("kv") == 0


def test_an_empty_batch_is_no_transaction(tables: Tables) -> None:
    tables.commit(Batch())
    commit(tables, lambda batch: batch.append("log", []))
    assert tables.commits == 0
    commit(tables, lambda batch: batch.put("meta", b"a", b"b"))
    assert tables.commits == 1


@pytest.mark.parametrize(
    "items",
    [
        [(b"b", b""), (b"a", b"")],
        [(b"c", b""), (b"c", b"")],
        [(b"a", b"")],
        [(b"b", b"")],
    ],
)
def test_appending_out_of_order_fails_the_whole_batch(tables: Tables, items: list[KeyValue]) -> None:
    commit(tables, lambda batch: batch.put("log", b"b", b"old"))

    def build(batch: Batch) -> None:
        batch.put("meta", b"before", b"1")
        batch.append("log", items)

    with pytest.raises(StorageError, match="out of order"):
        commit(tables, build)


def test_after_a_failed_commit_every_call_is_a_storage_error(tables: Tables) -> None:
    commit(tables, lambda batch: batch.put("log", b"b", b"old"))
    with pytest.raises(StorageError):
        commit(tables, lambda batch: batch.append("log", [(b"a", b"")]))
    assert_poisoned(tables)


def test_after_close_every_call_is_a_storage_error(tables: Tables) -> None:
    tables.close()
    tables.close()
    assert_poisoned(tables)


def assert_poisoned(tables: Tables) -> None:
    calls: list[Callable[[], object]] = [
        lambda: tables.get("log", b"b"),
        lambda: tables.scan("log"),
        lambda: tables.scan_reverse("log", 1),
        lambda: tables.first("log"),
        lambda: tables.last("log"),
        lambda: tables.count("log"),
        lambda: tables.commit(Batch()),
        lambda: commit(tables, lambda batch: batch.put("kv", b"a", b"b")),
        tables.space,
    ]
    for call in calls:
        with pytest.raises(StorageError):
            call()


def test_unknown_tables_and_impossible_keys_are_refused_before_a_commit(tables: Tables) -> None:
    batch = Batch()
    with pytest.raises(KeyError):
        batch.put("no such table", b"a", b"b")
    for wrong in (b"", b"k" * 512):
        with pytest.raises(ValueError, match="bytes"):
            batch.put("kv", wrong, b"")
        with pytest.raises(ValueError, match="bytes"):
            batch.append("kv", [(wrong, b"")])
        with pytest.raises(ValueError, match="bytes"):
            batch.delete("kv", wrong)
    assert not batch
    with pytest.raises(KeyError):
        tables.get("no such table", b"a")
    commit(tables, lambda batch: batch.put("kv", b"k" * 511, b"longest"))
    assert tables.get("kv", b"k" * 511) == b"longest"
    assert tables.scan("kv", b"l" * 600) == []


def test_a_batch_knows_about_how_much_it_writes() -> None:
    batch = Batch()
    assert (bool(batch), batch.size_bytes) == (False, 0)
    batch.put("kv", b"key", b"v" * 1000)
    batch.append("log", [(b"key", b"v" * 1000)])
    assert bool(batch)
    assert 2006 <= batch.size_bytes <= 2100
    batch.clear()
    assert (bool(batch), batch.size_bytes) == (False, 0)


def test_used_space_follows_writes_and_deletes(tables: Tables) -> None:
    before = tables.space()
    assert before.disk_free_bytes > 0
    commit(tables, lambda batch: batch.append("log", [(key(n), b"x" * 1000) for n in range(4096)]))
    full = tables.space().used_bytes
    assert 4 * MIB <= full - before.used_bytes < 8 * MIB
    commit(tables, lambda batch: batch.delete_range("log", b"", key(4000)))
    assert tables.space().used_bytes - before.used_bytes < MIB // 2


def test_free_space_is_the_smaller_rest_of_quota_and_disk() -> None:
    assert Space(10, 30, 100).room_bytes == 20
    assert Space(10, 200, 100).room_bytes == 100
    assert Space(40, 30, 100).room_bytes == 0


def test_both_backends_agree_on_random_batches(tmp_path: Path) -> None:
    chance = random.Random(20260725)
    memory = MemoryTables()

    def build(batch: Batch) -> None:
        for _ in range(chance.randrange(1, 6)):
            table = chance.choice(TABLES)
            low, high = sorted(key(chance.randrange(60)) for _ in range(2))
            match chance.randrange(5):
                case 0 | 1:
                    batch.put(table, low, chance.randbytes(9))
                case 2:
                    batch.delete(table, low)
                case 3:
                    limit = chance.choice([None, 0, 1, 5])
                    batch.delete_range(table, low, chance.choice([high, None]), limit)
                case _:
                    batch.delete_range(table, key(40), None)
                    batch.append(table, numbered(40, 40 + chance.randrange(9)))

    with LmdbTables(tmp_path / "tables") as lmdb:
        for _ in range(150):
            batch = Batch()
            build(batch)
            lmdb.commit(batch)
            memory.commit(batch)
            low, high = sorted(key(chance.randrange(60)) for _ in range(2))
            for table in TABLES:
                assert lmdb.scan(table) == memory.scan(table)
                assert lmdb.scan(table, low, high, 4) == memory.scan(table, low, high, 4)
                assert lmdb.scan_reverse(table, 4, high) == memory.scan_reverse(table, 4, high)
                assert lmdb.count(table) == memory.count(table)
