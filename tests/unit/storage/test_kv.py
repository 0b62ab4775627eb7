"""The key-value machine answers as a dict would, wherever its overlay and table hold a value."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_consensus.errors import CorruptionError
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.machines.chunks import CHUNK_BYTES
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.kv_pages import SCAN_BYTES_MAX
from forge_consensus.storage.machines.machine import Command, Entry, LedgerMachine
from tests.worlds.effort import effort

KEYS = st.text(alphabet="ab/\x00\x7fé\uffff\U00010000", min_size=1, max_size=3)
STEPS = st.one_of(
    st.tuples(st.just("set"), KEYS, st.integers(0, 9)),
    st.tuples(st.just("delete"), KEYS),
    st.tuples(st.sampled_from(["checkpoint", "committed", "failed", "scan"])),
)


def bound(generation: int = 3) -> KeyValueMachine:
    machine = KeyValueMachine()
    machine.bind(MemoryTables(), generation)
    return machine


def do(machine: KeyValueMachine, kind: str, **payload: Any) -> Any:
    return machine.apply(Entry(1, 1, 0, Command(kind, payload)))


def save(machine: KeyValueMachine) -> None:
    """Make a checkpoint whose transaction succeeds."""
    assert isinstance(machine.tables, MemoryTables)
    batch = Batch()
    machine.checkpoint(batch)
    machine.tables.commit(batch)
    machine.checkpointed()


def everything(machine: KeyValueMachine) -> list[list[Any]]:
    page: list[list[Any]] = machine.query({"scan": "", "limit": 10_000})
    return page


class Pair:
    """The machine and a dict, taken through the same steps."""

    def __init__(self) -> None:
        self.machine = bound(255)
        self.twin: dict[str, Any] = {}
        self.batch: Batch | None = None

    def step(self, kind: str, *arguments: Any) -> None:
        if kind == "set":
            key, value = arguments
            do(self.machine, "set", key=key, value=value)
            self.twin[key] = value
        elif kind == "delete":
            existed = do(self.machine, "delete", key=arguments[0])
            assert existed is (self.twin.pop(arguments[0], None) is not None)
        elif kind == "checkpoint":
            self.batch = Batch()
            self.machine.checkpoint(self.batch)
        elif kind == "failed":
            self.batch = None
        elif kind == "committed" and self.batch is not None:
            assert self.machine.tables is not None
            self.machine.tables.commit(self.batch)  # type: ignore[attr-defined, unused-ignore]
            self.machine.checkpointed()
            self.batch = None
        else:
            self.compare()

    def compare(self) -> None:
        expected = [[key, self.twin[key]] for key in sorted(self.twin)]
        assert everything(self.machine) == expected
        for prefix in ("a", "é", "b/", "\U00010000"):
            found = [row for row in expected if row[0].startswith(prefix)]
            assert self.machine.query({"scan": prefix}) == found
            assert self.machine.query({"scan": prefix, "limit": 2}) == found[:2]
            assert self.machine.query({"count": prefix}) == len(found)
        for after in ("a", "aé", "/"):
            beyond = [row for row in expected if row[0] > after]
            assert self.machine.query({"scan": "", "after": after, "limit": 3}) == beyond[:3]
        for key in ("a", "é", "b"):
            assert self.machine.query({"get": key}) == self.twin.get(key)


@settings(deadline=None, max_examples=effort(50, 150))
@given(st.lists(STEPS, max_size=40))
def test_machine_and_dict_agree_after_any_steps(steps: list[tuple[Any, ...]]) -> None:
    pair = Pair()
    for step in steps:
        pair.step(*step)
    pair.compare()
    save(pair.machine)
    assert pair.machine.dirty == (0, 0)
    pair.compare()
    fresh = KeyValueMachine()
    assert pair.machine.tables is not None
    fresh.bind(pair.machine.tables, 255)
    pair.machine = fresh
    pair.compare()


@settings(deadline=None, max_examples=60)
@given(st.lists(STEPS, max_size=30))
def test_a_snapshot_restores_to_the_same_state(steps: list[tuple[Any, ...]]) -> None:
    pair = Pair()
    for step in steps:
        pair.step(*step)
    chunks = pair.machine.snapshot()
    before = everything(pair.machine)
    do(pair.machine, "set", key="later", value=1)
    other = bound()
    do(other, "set", key="replaced", value=1)
    save(other)
    do(other, "set", key="replaced too", value=1)
    other.restore(chunks)
    assert everything(other) == before
    save(other)
    assert everything(other) == before


def test_writes_between_checkpoint_and_commit_are_not_lost() -> None:
    machine = bound()
    do(machine, "set", key="k", value="old")
    batch = Batch()
    machine.checkpoint(batch)
    do(machine, "set", key="k", value="new")
    assert machine.dirty[0] == 2
    assert isinstance(machine.tables, MemoryTables)
    machine.tables.commit(batch)
    machine.checkpointed()
    assert machine.query("k") == "new"
    assert machine.dirty[0] == 1


def test_binding_a_machine_again_discards_changes_not_on_disk() -> None:
    machine = bound()
    do(machine, "set", key="kept", value=1)
    save(machine)
    do(machine, "set", key="lost", value=2)
    assert machine.tables is not None
    machine.bind(machine.tables, 3)
    assert everything(machine) == [["kept", 1]]


def test_the_size_of_the_overlay_is_that_of_its_newest_values() -> None:
    machine = bound()
    do(machine, "set", key="k", value=b"x" * 1000)
    once = machine.dirty[1]
    for _ in range(5):
        do(machine, "set", key="k", value=b"y" * 1000)
    assert machine.dirty == (1, once)
    do(machine, "delete", key="k")
    assert 0 < machine.dirty[1] < once - 1000


def test_applying_touches_no_table() -> None:
    machine = bound()
    assert isinstance(machine.tables, MemoryTables)
    for number in range(100):
        do(machine, "set", key=f"k{number}", value=number)
    assert machine.tables.commits == 0


def test_an_export_becomes_the_same_state_in_another_generation() -> None:
    machine = bound(1)
    for number in range(2000):
        do(machine, "set", key=f"k{number:05}", value=b"x" * 500)
    save(machine)
    assert isinstance(machine.tables, MemoryTables)
    chunks = list(KeyValueMachine.export(machine.tables, 1))
    assert len(chunks) > 2
    assert all(len(chunk) < 2 * CHUNK_BYTES for chunk in chunks)
    batch = Batch()
    for chunk in chunks:
        KeyValueMachine.import_chunk(batch, 2, chunk)
    machine.tables.commit(batch)
    before = everything(machine)
    machine.bind(machine.tables, 2)
    assert everything(machine) == before
    assert list(KeyValueMachine.export(machine.tables, 2)) == chunks


@pytest.mark.parametrize("chunk", [b"", b"\xc1", b"\x01", b"\x91\x01", b"\x91\x92\x01\x02", b"\x91\x92\xc4\x01a\x01"])
def test_an_invalid_chunk_is_corruption_and_changes_nothing(chunk: bytes) -> None:
    batch = Batch()
    with pytest.raises(CorruptionError):
        KeyValueMachine.import_chunk(batch, 1, chunk)
    assert not batch
    machine = KeyValueMachine()
    do(machine, "set", key="k", value=1)
    with pytest.raises(CorruptionError):
        machine.restore([*machine.snapshot(), chunk])
    assert everything(machine) == [["k", 1]]


def test_a_scan_pages_through_many_keys() -> None:
    machine = bound()
    for number in range(3000):
        do(machine, "set", key=f"k{number:04}", value=number)
        if number == 2000:
            save(machine)
    do(machine, "delete", key="k0001")
    found: list[int] = []
    after = None
    while True:
        page = machine.query({"scan": "k", "limit": 700, "after": after})
        found += [value for _, value in page]
        if len(page) < 700:
            break
        after = page[-1][0]
    assert found == [0, *range(2, 3000)]


def test_the_refusal_of_an_oversized_page_names_an_allowed_limit() -> None:
    machine = bound()
    for number in range(6):
        do(machine, "set", key=f"k{number}", value=b"x" * (SCAN_BYTES_MAX // 5))
    with pytest.raises(ValueError, match="ask for at most 4"):
        machine.query({"scan": "k"})
    assert len(machine.query({"scan": "k", "limit": 4})) == 4


@pytest.mark.parametrize(
    "query",
    [
        5,
        None,
        "",
        {},
        {"get": 5},
        {"scan": b"a"},
        {"scan": "", "limit": 0},
        {"scan": "", "limit": True},
        {"scan": "", "limit": 10**6},
        {"scan": "", "after": 1},
        {"scan": "", "order": "up"},
        {"count": None},
        {"get": "a", "scan": "b"},
    ],
)
def test_a_query_that_makes_no_sense_is_refused(query: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        bound().query(query)


def test_the_machine_lives_in_the_ledger() -> None:
    assert isinstance(KeyValueMachine(), LedgerMachine)
