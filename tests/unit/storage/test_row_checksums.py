"""Checksums of keys, sessions and events: a flipped bit is damage, no answer; and rows of format 2 are taken over."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest

from forge_consensus.actors.messages import Read
from forge_consensus.errors import CorruptionError
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.sealed import CRC_BYTES, is_sealed
from forge_consensus.storage.backends.tables import Batch, Tables
from forge_consensus.storage.ledger.identity import FORMAT
from forge_consensus.storage.ledger.journal import Journal
from forge_consensus.storage.ledger.numbers import EventNumbers
from forge_consensus.storage.ledger.transaction import get_meta
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import Command, Entry
from forge_consensus.storage.snapshots.export import export_state
from forge_consensus.storage.takeover import PLACE, SEALED_TABLES, take_over
from tests.worlds.backends import BACKENDS, new_tables
from tests.worlds.ledger_world import World, put
from tests.worlds.one_node import OneNode


def flip(tables: Tables, table: str, key: bytes, at: int) -> None:
    """Flip a bit of a stored row."""
    row = bytearray(tables.get(table, key) or b"")
    row[at] ^= 1
    batch = Batch()
    batch.put(table, key, bytes(row))
    tables.commit(batch)


def stored(path: Path) -> World:
    """A world with keys and a session on its disk, and nothing of it in memory only."""
    world = World("memory", path)
    world.lead()
    world.do(put("a", "answer"), put("b", "other"))
    world.checkpoint()
    return world


@pytest.mark.parametrize("at", [0, 3, -1])
@pytest.mark.parametrize(
    "read",
    [
        lambda world: world.ledger.applier.query("a"),
        lambda world: world.ledger.applier.query({"scan": ""}),
        lambda world: world.do(put("b", 1)) and world.ledger.applier.machine.read("a"),
        lambda world: export_state(world.tables, world.folder, KeyValueMachine),
    ],
)
def test_a_damaged_key_is_found_by_whatever_reads_it(tmp_path: Path, at: int, read: Callable[[World], object]) -> None:
    world = stored(tmp_path)
    key, _ = world.tables.scan("kv")[0]
    assert key.endswith(b"a")
    flip(world.tables, "kv", key, at)
    with pytest.raises(CorruptionError, match="a stored key or its value fails its checksum"):
        read(world)


def test_a_row_under_another_key_is_found(tmp_path: Path) -> None:
    world = stored(tmp_path)
    (first, _), (_, second) = world.tables.scan("kv")[:2]
    world.write(lambda batch: batch.put("kv", first, second))
    with pytest.raises(CorruptionError):
        world.ledger.applier.query("a")


def test_a_damaged_session_stops_the_start_and_a_snapshot(tmp_path: Path) -> None:
    world = World("memory", tmp_path)
    world.lead()
    with world.turn():
        world.ledger.applier.sessions.open(7, 0, 60_000)
        world.ledger.request_checkpoint()
    world.do(put("a", 1))
    world.checkpoint()
    (key, _) = world.tables.scan("sessions")[0]
    flip(world.tables, "sessions", key, 2)
    with pytest.raises(CorruptionError, match="a stored client session"):
        export_state(world.tables, world.folder, KeyValueMachine)
    with pytest.raises(CorruptionError, match="a stored client session"):
        world.crash()


def test_a_damaged_event_is_a_gap() -> None:
    tables = MemoryTables()
    numbers = EventNumbers(tables)
    journal = Journal(tables, numbers, 100, 3600.0)
    for number in (1, 2, 3):
        journal.append(numbers.next(), float(number), b"event %d" % number)
    journal.seal()
    flip(tables, "events", (2).to_bytes(8), 10)
    page = journal.read(1, 10)
    assert page.rows == [(1, b"event 1"), (3, b"event 3")]
    assert [tuple(gap) for gap in page.gaps] == [(2, 2, "lost")]


def test_a_leader_that_reads_a_damaged_key_ends_and_answers_nothing() -> None:
    """Its followers have the data; one of them leads."""
    node = OneNode(1)
    assert node.ledger.leading_term is not None
    node.ledger.applier.machine.apply(Entry(1, 1, 0, Command("set", {"key": "a", "value": 1})))
    node.ledger.request_checkpoint()
    node.turn()
    node.wait(0.1)
    node.ledger.applier.machine.frozen.cells.clear()  # type: ignore[attr-defined]
    key = node.tables.tables["kv"].keys[0]
    flip(node.tables, "kv", key, 0)
    with pytest.raises(CorruptionError):
        for _ in range(3):
            node.request("", "gateway", Read("linearizable", ((1, b"\xa1a"),)))
            node.wait(0.1)


# --- format 2 ---------------------------------------------------------------------------------------------------------


def format_2(backend: str, path: Path) -> Tables:
    """Tables as the program of format 2 wrote them."""
    written = json.loads((Path(__file__).parent / "folder_format_2.json").read_text())["tables"]
    tables = new_tables(backend, path)
    batch = Batch()
    for table, rows in written.items():
        for key, value in rows:
            batch.put(table, bytes.fromhex(key), bytes.fromhex(value))
    for number in range(30):
        batch.put("events", (10_000 + number).to_bytes(8), (5).to_bytes(8) + b"event")
        batch.put("kv", (9).to_bytes(4) + b"%d" % number, b"\xc0" * 300)
    tables.commit(batch)
    return tables


def rows_of(tables: Tables) -> dict[tuple[str, bytes], bytes]:
    return {(table, key): row for table in SEALED_TABLES for key, row in tables.scan(table)}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("slice_bytes", [1, 500, 4 << 20])
def test_every_row_of_format_2_is_sealed_once(
    backend: str, slice_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forge_consensus.storage.takeover.SLICE_BYTES", slice_bytes)
    with format_2(backend, tmp_path) as tables:
        before = rows_of(tables)
        assert len(before) > 60
        for _ in range(2):
            take_over(tables)
            after = rows_of(tables)
            assert {place: row[:-CRC_BYTES] for place, row in after.items()} == before
            assert all(is_sealed(key, row) for (_, key), row in after.items())
            assert get_meta(tables, PLACE) is None


@pytest.mark.parametrize("commit", range(1, 12))
def test_a_takeover_that_was_interrupted_goes_on(commit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge_consensus.storage.takeover.SLICE_ROWS", 10)
    tables = format_2("memory", tmp_path)
    assert isinstance(tables, MemoryTables)
    before, commits = rows_of(tables), tables.commits

    def interrupt(batch: Batch) -> None:
        if tables.commits - commits == commit:
            raise KeyboardInterrupt

    tables.before_commit = interrupt
    try:
        take_over(tables)
    except KeyboardInterrupt:
        tables = tables.clone_durable()
        take_over(tables)
    after = rows_of(tables)
    assert {place: row[:-CRC_BYTES] for place, row in after.items()} == before
    assert all(is_sealed(key, row) for (_, key), row in after.items())


def test_a_folder_that_is_being_taken_over_is_refused_by_the_earlier_version(tmp_path: Path) -> None:
    tables = format_2("memory", tmp_path)
    assert isinstance(tables, MemoryTables)
    tables.fail_next_commit(OSError(5, "ordered"), written=True)
    with pytest.raises(Exception, match="ordered"):
        take_over(tables)
    identity = get_meta(tables.clone_durable(), b"identity")
    assert identity is not None
    assert msgpack.unpackb(identity)[0] == FORMAT
