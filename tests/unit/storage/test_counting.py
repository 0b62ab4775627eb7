"""Counting keys in steps: the state of the first step counts, whatever is applied or checkpointed meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.errors import StorageError
from forge_consensus.storage.backends.folder_tables import lmdb_of
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.tables import Batch, Tables
from forge_consensus.storage.machines import kv_queries
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.kv_tables import prefix_of
from forge_consensus.storage.machines.machine import Command, Entry
from forge_consensus.storage.machines.steps import finished
from tests.worlds.backends import BACKENDS, new_tables


@pytest.fixture(params=BACKENDS)
def tables(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tables]:
    opened: Tables
    opened = new_tables(request.param, tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def machine(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> KeyValueMachine:
    """A machine with a0..a49 and b0..b9 on disk, and c0..c4 that are not; a step takes ten keys."""
    monkeypatch.setattr(kv_queries, "COUNT_ROWS", 10)
    made = KeyValueMachine()
    made.bind(tables, 3)
    for name, count in (("a", 50), ("b", 10)):
        for number in range(count):
            do(made, "set", key=f"{name}{number}", value=number)
    save(made, tables)
    for number in range(5):
        do(made, "set", key=f"c{number}", value=number)
    return made


def do(machine: KeyValueMachine, kind: str, **payload: Any) -> Any:
    return machine.apply(Entry(1, 1, 0, Command(kind, payload)))


def save(machine: KeyValueMachine, tables: Tables) -> None:
    batch = Batch()
    machine.checkpoint(batch)
    tables.commit(batch)
    machine.checkpointed()


def test_a_count_is_that_of_the_first_step_whatever_happens_between_the_steps(
    machine: KeyValueMachine, tables: Tables
) -> None:
    do(machine, "delete", key="a0")
    do(machine, "set", key="a1", value="another")
    do(machine, "delete", key="c0")
    for prefix, expected in (("", 63), ("a", 49), ("a1", 11), ("c", 4), ("x", 0)):
        assert machine.query({"count": prefix}) == expected
    under_way = {prefix: machine.query_steps({"count": prefix}) for prefix in ("", "a", "a1", "c", "x")}
    found: dict[str, int] = {}
    for turn in range(100):
        for prefix, steps in list(under_way.items()):
            try:
                next(steps)
            except StopIteration as end:
                found[prefix] = end.value
                del under_way[prefix]
        do(machine, "set", key=f"a/new{turn}", value=turn)
        do(machine, "delete", key=f"a{turn % 50}")
        do(machine, "delete", key=f"c{turn % 5}")
        if turn % 3 == 0:
            save(machine, tables)
    assert found == {"": 63, "a": 49, "a1": 11, "c": 4, "x": 0}
    assert machine.query({"count": ""}) == len(machine.query({"scan": ""}))


def test_all_keys_are_counted_without_passing_them_unless_another_generation_lies_beside(
    machine: KeyValueMachine, tables: Tables
) -> None:
    def steps() -> int:
        taken, counting = 0, machine.query_steps({"count": ""})
        for _ in counting:
            taken += 1
        return taken

    assert steps() == 0
    for generation in (2, 4):
        batch = Batch()
        batch.put("kv", prefix_of(generation) + b"other", b"\x01")
        tables.commit(batch)
        assert machine.query({"count": ""}) == 65
        assert steps() >= 6
        batch = Batch()
        batch.delete("kv", prefix_of(generation) + b"other")
        tables.commit(batch)


def test_what_is_given_up_or_ended_leaves_no_view_open(machine: KeyValueMachine, tables: Tables) -> None:
    if isinstance(tables, MemoryTables):
        pytest.skip("a view of memory holds nothing")
    readers = lmdb_of(tables).environment.readers
    quiet = readers()
    steps = machine.query_steps({"count": "a"})
    next(steps)
    assert readers() != quiet
    steps.close()
    finished(machine.query_steps({"count": "a"}))
    save(machine, tables)
    view = tables.view()
    view.close()
    view.close()
    with pytest.raises(StorageError, match="closed"):
        view.get("kv", b"a")
    assert len(readers().splitlines()) <= len(quiet.splitlines()) + 1


def test_a_view_does_not_change_while_commits_go_on(tables: Tables) -> None:
    def put(key: bytes, value: bytes) -> None:
        batch = Batch()
        batch.put("kv", key, value)
        tables.commit(batch)

    put(b"a", b"1")
    with tables.view() as view:
        put(b"a", b"2")
        put(b"b", b"2")
        assert (view.get("kv", b"a"), view.get("kv", b"b"), view.count("kv")) == (b"1", None, 1)
        with tables.view() as later:
            assert (later.get("kv", b"a"), later.count("kv")) == (b"2", 2)
    assert tables.get("kv", b"a") == b"2"


def test_a_range_is_counted_in_pieces(tables: Tables) -> None:
    batch = Batch()
    for number in range(25):
        batch.put("kv", b"k%02d" % number, b"x")
    tables.commit(batch)
    assert tables.count_range("kv", b"", None, 10) == (10, b"k09")
    assert tables.count_range("kv", b"k09\0", b"k15", 10) == (5, b"k14")
    assert tables.count_range("kv", b"k20", b"l", 5) == (5, b"k24")
    assert tables.count_range("kv", b"k24\0", b"l", 5)[0] == 0
    assert tables.count_range("kv", b"a", b"b", 5)[0] == 0
