"""The tables in memory: the faults that a test can order, and the state after a crash."""

from collections.abc import Callable

import pytest

from forge_consensus.errors import StorageError
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.tables import TABLES, Batch, KeyValue, Tables


def key(number: int) -> bytes:
    return number.to_bytes(8, "big")


def numbered(first: int, last: int) -> list[KeyValue]:
    return [(key(n), b"value %d" % n) for n in range(first, last + 1)]


def commit(tables: Tables, build: Callable[[Batch], None]) -> None:
    batch = Batch()
    build(batch)
    tables.commit(batch)


def assert_poisoned(tables: Tables) -> None:
    for call in (lambda: tables.get("kv", b"a"), lambda: tables.commit(Batch()), tables.space):
        with pytest.raises(StorageError):
            call()


def test_memory_fails_a_commit_on_request() -> None:
    tables = MemoryTables()
    commit(tables, lambda batch: batch.put("kv", b"a", b"1"))
    tables.fail_next_commit(OSError(5, "Input/output error"))
    with pytest.raises(StorageError, match="Input/output error"):
        commit(tables, lambda batch: batch.put("kv", b"a", b"2"))
    assert_poisoned(tables)
    restarted = tables.clone_durable()
    assert restarted.get("kv", b"a") == b"1"
    commit(restarted, lambda batch: batch.put("kv", b"a", b"3"))


def test_memory_can_keep_a_batch_that_it_reported_as_failed() -> None:
    tables = MemoryTables()
    tables.fail_next_commit(OSError(5, "Input/output error"), written=True)
    with pytest.raises(StorageError):
        commit(tables, lambda batch: batch.put("kv", b"a", b"2"))
    assert tables.clone_durable().get("kv", b"a") == b"2"


def test_memory_undoes_a_batch_that_fails_in_its_middle() -> None:
    tables = MemoryTables()
    commit(tables, lambda batch: batch.append("log", numbered(1, 9)))
    before = {table: tables.scan(table) for table in TABLES}
    used_bytes = tables.space().used_bytes

    def build(batch: Batch) -> None:
        batch.put("log", key(3), b"changed")
        batch.put("log", key(3), b"changed again")
        batch.delete("log", key(3))
        batch.delete_range("log", key(2), key(7), limit=3)
        batch.put("kv", b"a", b"1")
        batch.append("log", numbered(10, 12))
        batch.append("log", numbered(12, 12))

    with pytest.raises(StorageError, match="out of order"):
        commit(tables, build)
    restarted = tables.clone_durable()
    assert {table: restarted.scan(table) for table in TABLES} == before
    assert restarted.space().used_bytes == used_bytes


def test_memory_shows_each_batch_before_it_is_committed() -> None:
    tables = MemoryTables()
    seen: list[int] = []
    tables.before_commit = lambda batch: seen.append(len(batch.operations))
    tables.commit(Batch())
    commit(tables, lambda batch: batch.put("kv", b"a", b"1"))
    assert seen == [1]

    def refuse(batch: Batch) -> None:
        raise OSError(28, "No space left on device")

    tables.before_commit = refuse
    with pytest.raises(StorageError, match="No space"):
        commit(tables, lambda batch: batch.put("kv", b"a", b"2"))
    assert tables.clone_durable().get("kv", b"a") == b"1"


def test_a_clone_shares_nothing_with_its_original() -> None:
    tables = MemoryTables()
    commit(tables, lambda batch: batch.put("kv", b"a", b"1"))
    clone = tables.clone_durable()
    commit(tables, lambda batch: batch.put("kv", b"b", b"2"))
    commit(clone, lambda batch: batch.delete("kv", b"a"))
    assert tables.count("kv") == 2
    assert clone.count("kv") == 0
