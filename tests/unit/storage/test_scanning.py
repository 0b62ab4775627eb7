"""Scanning in steps: a page is of the state of the first step, whatever is applied or checkpointed meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_consensus.errors import CorruptionError
from forge_consensus.storage.backends.folder_tables import lmdb_of
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.tables import Batch, Tables
from forge_consensus.storage.machines import kv_pages
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.kv_commands import VALUE_BYTES_MAX
from forge_consensus.storage.machines.kv_pages import SCAN_BYTES_MAX, SCAN_ROWS_MAX, STEP_BYTES, STEP_ROWS
from forge_consensus.storage.machines.machine import Command, Entry, answer_of, outcome_of
from forge_consensus.storage.machines.steps import Encoded, finished
from tests.worlds.backends import BACKENDS, new_tables
from tests.worlds.effort import effort


@pytest.fixture(params=BACKENDS)
def tables(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tables]:
    opened: Tables
    opened = new_tables(request.param, tmp_path)
    yield opened
    opened.close()


def bound(tables: Tables) -> KeyValueMachine:
    machine = KeyValueMachine()
    machine.bind(tables, 3)
    return machine


def do(machine: KeyValueMachine, kind: str, **payload: Any) -> Any:
    return machine.apply(Entry(1, 1, 0, Command(kind, payload)))


def save(machine: KeyValueMachine, tables: Tables) -> None:
    batch = Batch()
    machine.checkpoint(batch)
    tables.commit(batch)
    machine.checkpointed()


def rows_in(answer: Any) -> list[list[Any]]:
    assert type(answer) is Encoded
    found: list[list[Any]] = msgpack.unpackb(answer.data)
    return found


def counted(steps: Iterator[None]) -> tuple[int, list[list[Any]]]:
    """How many steps a scan takes, and its rows."""
    taken = 1
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return taken, rows_in(end.value)
        taken += 1


@pytest.mark.parametrize("saved", [True, False])
def test_no_step_passes_more_than_some_hundred_rows(tables: Tables, saved: bool) -> None:
    machine = bound(tables)
    for number in range(SCAN_ROWS_MAX):
        do(machine, "set", key=f"k{number:05}", value=number)
    if saved:
        save(machine, tables)
    taken, rows = counted(machine.query_steps({"scan": "k", "limit": SCAN_ROWS_MAX}))
    assert rows == [[f"k{number:05}", number] for number in range(SCAN_ROWS_MAX)]
    assert taken == SCAN_ROWS_MAX // STEP_ROWS
    assert STEP_ROWS <= 500


def test_deleted_keys_take_steps_too(tables: Tables) -> None:
    machine = bound(tables)
    for number in range(4 * STEP_ROWS):
        do(machine, "set", key=f"k{number:05}", value=number)
    save(machine, tables)
    do(machine, "delete_prefix", prefix="k")
    do(machine, "set", key="k99999", value=1)
    taken, rows = counted(machine.query_steps({"scan": "k", "limit": 5}))
    assert rows == [["k99999", 1]]
    assert taken == 5


def test_large_values_take_steps_by_their_bytes(tables: Tables) -> None:
    machine = bound(tables)
    for number in range(8):
        do(machine, "set", key=f"k{number}", value=b"x" * (SCAN_BYTES_MAX // 9))
    save(machine, tables)
    taken, rows = counted(machine.query_steps({"scan": "k"}))
    assert len(rows) == 8
    assert taken > 3
    assert STEP_BYTES + VALUE_BYTES_MAX <= 2 << 20


def test_a_short_page_is_answered_at_once_and_opens_no_view(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = bound(tables)
    for number in range(20):
        do(machine, "set", key=f"k{number:02}", value=number)
    save(machine, tables)
    monkeypatch.setattr(tables, "view", lambda: pytest.fail("a view"))
    assert len(rows_in(machine.query_steps({"scan": "k"}))) == 20
    assert len(rows_in(machine.query_steps({"scan": "k", "limit": 7}))) == 7
    assert rows_in(machine.query_steps({"scan": "x"})) == []
    for query in ({"scan": "k", "limit": 0}, {"scan": 5}, {"scan": "k", "after": 5}):
        with pytest.raises((TypeError, ValueError)):
            machine.query_steps(query)


def test_what_is_applied_before_the_first_step_is_in_the_page(tables: Tables) -> None:
    """The node notes the state of the first step as that of the answer, so the page must not be of an older one."""
    machine = bound(tables)
    for number in range(2 * STEP_ROWS):
        do(machine, "set", key=f"k{number:05}", value="old")
    steps = machine.query_steps({"scan": "k", "limit": SCAN_ROWS_MAX})
    do(machine, "set", key="k00000", value="new")
    do(machine, "set", key="k99999", value="new")
    next(steps)
    do(machine, "set", key="k00000", value="late")
    do(machine, "set", key="k99999", value="late")
    rows = rows_in(finished(steps))
    assert (rows[0], rows[-1], len(rows)) == (["k00000", "new"], ["k99999", "new"], 2 * STEP_ROWS + 1)


KEYS = st.sampled_from([f"{prefix}{number}" for prefix in "ab" for number in range(12)])
ACTIONS = st.one_of(
    st.tuples(st.just("set"), KEYS, st.integers(0, 9)),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.sampled_from(["save", "stage", "scan", "step", "step", "new generation"])),
)


class Scanned:
    """A machine, a dict that takes the same commands, and scans under way with the rows of their first steps."""

    def __init__(self, prefix: str, limit: int) -> None:
        self.tables = MemoryTables()
        self.machine = bound(self.tables)
        self.twin: dict[str, int] = {}
        self.prefix, self.limit = prefix, limit
        self.under_way: list[tuple[Any, list[list[Any]]]] = []

    def act(self, name: str, key: str = "", value: int = 0) -> None:
        if name == "set":
            do(self.machine, "set", key=key, value=value)
            self.twin[key] = value
        elif name == "delete":
            do(self.machine, "delete", key=key)
            self.twin.pop(key, None)
        elif name == "save":
            save(self.machine, self.tables)
        elif name == "stage":
            self.machine.checkpoint(Batch())  # its transaction is not on disk yet
        elif name == "new generation":
            self.machine.bind(self.tables, self.machine.generation + 1)
            self.twin.clear()
        elif name == "scan":
            self.scan()
        elif self.under_way:
            self.step(*self.under_way.pop(0))

    def scan(self) -> None:
        twin, query = self.twin, {"scan": self.prefix, "limit": self.limit, "after": "a1"}
        found = [[key, twin[key]] for key in sorted(twin) if key.startswith(self.prefix) and key > "a1"][: self.limit]
        assert self.machine.query(query) == found
        steps = self.machine.query_steps(query)
        if type(steps) is Encoded:
            assert rows_in(steps) == found
        else:
            self.step(steps, found)

    def step(self, steps: Any, found: list[list[Any]]) -> None:
        try:
            next(steps)
            self.under_way.append((steps, found))
        except StopIteration as end:
            assert rows_in(end.value) == found


@settings(deadline=None, max_examples=effort(70, 200))
@given(st.lists(ACTIONS, max_size=60), st.sampled_from(["", "a", "b1"]), st.sampled_from([3, 100]))
def test_a_page_is_that_of_the_first_step_whatever_happens_between_the_steps(
    actions: list[tuple[Any, ...]], prefix: str, limit: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_pages, "STEP_ROWS", 2)
        scanned = Scanned(prefix, limit)
        for action in actions:
            scanned.act(*action)
        for steps, found in scanned.under_way:
            assert rows_in(finished(steps)) == found


class Listed(Scanned):
    """The same for entries in descending order, with what is known of the keys."""

    def __init__(self, prefix: str, limit: int) -> None:
        super().__init__(prefix, limit)
        self.index = 0
        self.known: dict[str, list[Any]] = {}

    def act(self, name: str, key: str = "", value: int = 0) -> None:
        if name in {"set", "delete"}:
            self.index += 1
            payload = {"key": key, "value": value} if name == "set" else {"key": key}
            self.machine.apply(Entry(self.index, 1, 0, Command(name, payload)))
            if name == "set":
                created = self.known[key][2] if key in self.known else self.index
                self.known[key] = [key, value, created, self.index, 0]
            else:
                self.known.pop(key, None)
            return
        if name == "new generation":
            self.known.clear()
        super().act(name, key, value)

    def scan(self) -> None:
        known, query = self.known, {"entries": self.prefix, "limit": self.limit, "after": "b3", "reverse": True}
        found = [known[key] for key in sorted(known, reverse=True) if key.startswith(self.prefix) and key < "b3"]
        found = found[: self.limit]
        assert self.machine.query(query) == found
        steps = self.machine.query_steps(query)
        if type(steps) is Encoded:
            assert rows_in(steps) == found
        else:
            self.step(steps, found)


@settings(deadline=None, max_examples=200)
@given(st.lists(ACTIONS, max_size=60), st.sampled_from(["", "a", "b1"]), st.sampled_from([3, 100]))
def test_a_page_of_entries_is_that_of_the_first_step_too(
    actions: list[tuple[Any, ...]], prefix: str, limit: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_pages, "STEP_ROWS", 2)
        listed = Listed(prefix, limit)
        for action in actions:
            listed.act(*action)
        for steps, found in listed.under_way:
            assert rows_in(finished(steps)) == found


@pytest.mark.parametrize("reverse", [False, True])
def test_no_step_of_entries_passes_more_than_some_hundred_rows(tables: Tables, reverse: bool) -> None:
    machine = bound(tables)
    for number in range(3000):
        do(machine, "set", key=f"k{number:05}", value=number)
    save(machine, tables)
    for number in range(0, 3000, 3):
        do(machine, "set", key=f"k{number:05}", value=-number)
    query = {"entries": "k", "limit": 3000, "reverse": reverse, "start": "k00100", "end": "k02900"}
    taken, rows = counted(machine.query_steps(query))
    assert taken >= 2800 // STEP_ROWS
    wanted = [[f"k{n:05}", -n if n % 3 == 0 else n, 1, 1, 0] for n in range(100, 2900)]
    assert rows == (wanted[::-1] if reverse else wanted)


def test_a_scan_that_is_given_up_or_fails_leaves_no_view_open(tables: Tables) -> None:
    if isinstance(tables, MemoryTables):
        pytest.skip("a view of memory holds nothing")
    machine = bound(tables)
    for number in range(9):
        do(machine, "set", key=f"k{number}", value=b"x" * (SCAN_BYTES_MAX // 8))
    save(machine, tables)
    readers = lmdb_of(tables).environment.readers
    quiet = readers()
    steps = machine.query_steps({"scan": "k"})
    next(steps)
    assert readers() != quiet
    steps.close()
    with pytest.raises(ValueError, match="ask for at most 7"):
        finished(machine.query_steps({"scan": "k"}))
    assert len(rows_in(finished(machine.query_steps({"scan": "k", "limit": 7})))) == 7
    save(machine, tables)
    assert len(readers().splitlines()) <= len(quiet.splitlines()) + 1


def test_damage_is_found_in_a_later_step_too() -> None:
    tables = MemoryTables()
    machine = bound(tables)
    for number in range(2 * STEP_ROWS):
        do(machine, "set", key=f"k{number:05}", value=number)
    save(machine, tables)
    batch = Batch()
    batch.put("kv", machine.prefix + b"k%05d" % (STEP_ROWS + 7), b"damaged")
    tables.commit(batch)
    steps = machine.query_steps({"scan": "k"})
    assert type(steps) is not Encoded
    next(steps)
    with pytest.raises(CorruptionError):
        finished(steps)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=40) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=80), VALUES, max_size=5))
def test_the_bytes_of_a_page_are_those_of_the_encoded_rows(values: dict[str, Any]) -> None:
    machine = KeyValueMachine()
    for key, value in values.items():
        do(machine, "set", key=key, value=value)
    answer = machine.query_steps({"scan": ""})
    assert answer_of(answer, 1) == outcome_of([[key, values[key]] for key in sorted(values)], 1)


def test_an_encoded_answer_has_the_bound_of_every_answer() -> None:
    assert answer_of(Encoded(bytes(SCAN_BYTES_MAX)), 1).code == ""
    refused = answer_of(Encoded(bytes(SCAN_BYTES_MAX + 1)), 1)
    assert refused.code
    assert b"more than" in refused.payload
