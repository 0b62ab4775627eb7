"""The sessions of an installed snapshot: the old ones are in force until the switch, whatever happens before it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.errors import CorruptionError
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.machines import session_import
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import DONE, Command, Outcome
from forge_consensus.storage.machines.session_import import SessionImport
from forge_consensus.storage.machines.sessions import TTL_MS_MAX, Sessions
from forge_consensus.storage.snapshots.file import SnapshotInfo, read_chunks, read_header, write_snapshot
from forge_consensus.storage.snapshots.store import Installation
from tests.unit.storage.test_sessions import imported, loaded, many, perform, save
from tests.worlds.ledger_world import TallyMachine, World, put, received

MACHINES = pytest.mark.parametrize("machine", [KeyValueMachine, TallyMachine])
OUTCOMES = 20
SESSIONS = 5
ROWS = SESSIONS * (OUTCOMES + 1)


@pytest.fixture(autouse=True)
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that even few sessions take several turns."""
    monkeypatch.setattr(session_import, "SLICE_ROWS", 10)


def with_sessions(path: Path, machine: Callable[[], Any], node: str, first: int, commands: int) -> World:
    """A leader with so many applied commands and a few sessions, that of the least id being `first`."""
    world = World("memory", path, machine=machine, node=node)
    world.lead()
    world.do(*([put(f"k{n}", node) for n in range(commands)] if machine is KeyValueMachine else [ADD] * commands))
    for session in range(first, first + SESSIONS):
        world.ledger.applier.sessions.open(session, 0, TTL_MS_MAX)
        for seq in range(OUTCOMES):
            assert world.ledger.applier.sessions.begin(session, seq, 0, 0) is None
            world.ledger.applier.sessions.finish(session, seq, DONE)
    world.checkpoint()
    world.snapshot()
    return world


ADD = Command("add").encode()


def pair(path: Path, machine: Callable[[], Any]) -> tuple[World, World, SnapshotInfo]:
    """A leader, a follower with another state and other sessions, and the file that the follower received."""
    source = with_sessions(path / "source", machine, "n2", 100, 30)
    world = with_sessions(path / "target", machine, "n1", 200, 3)
    return source, world, received(source, world)


def step(world: World, installation: Installation) -> bool:
    with world.turn():
        return world.snapshots.install_step(installation)


def live(world: World) -> list[int]:
    return sorted(world.ledger.applier.sessions.live)


OLD, NEW = list(range(200, 200 + SESSIONS)), list(range(100, 100 + SESSIONS))


@MACHINES
def test_the_sessions_in_force_change_with_the_switch_and_not_before(
    tmp_path: Path, machine: Callable[[], Any]
) -> None:
    source, world, info = pair(tmp_path, machine)
    with world.turn():
        installation = world.snapshots.begin_install(info)
    slices = 0
    while not installation.sessions.done:
        assert step(world, installation) or installation.sessions.done
        slices += 1
        assert live(world) == OLD
        assert not world.ledger.applier.replacing
        world.do(put("x", slices) if machine is KeyValueMachine else ADD)  # entries are applied meanwhile
        assert world.ledger.applier.sessions.begin(200, 0, 0, 0) == DONE
    assert slices >= ROWS // 10
    while machine is KeyValueMachine and step(world, installation):
        pass
    if machine is TallyMachine:
        assert world.snapshots.hand_over(installation)
        world.snapshots.install_whole(installation)
    with world.turn():
        assert world.snapshots.finish_install(installation)
        assert live(world) == OLD
    for _ in range(2):
        assert live(world) == NEW
        assert world.ledger.applier.sessions.export() == source.ledger.applier.sessions.export()
        assert world.ledger.applied == info.index
        world.crash()


@MACHINES
@pytest.mark.parametrize("steps", range(0, ROWS // 10 + 2, 3))
def test_a_crash_between_two_slices_leaves_the_old_state(
    tmp_path: Path, machine: Callable[[], Any], steps: int
) -> None:
    _, world, info = pair(tmp_path, machine)
    before = world.ledger.applier.sessions.export(), world.ledger.applied
    with world.turn():
        installation = world.snapshots.begin_install(info)
    for _ in range(steps):
        step(world, installation)
    if machine is TallyMachine:
        info.path.unlink()  # the next start would restore it, because it is whole
    world.crash()
    assert (world.ledger.applier.sessions.export(), world.ledger.applied) == before
    while True:
        with world.turn():
            if not world.snapshots.sweep():
                break
    stored = world.tables.count("sessions")
    assert stored == (ROWS if machine is KeyValueMachine else 0), "nothing of the import is left"


def test_a_users_machine_that_has_applied_as_much_meanwhile_is_not_handed_the_snapshot(tmp_path: Path) -> None:
    _, world, info = pair(tmp_path, TallyMachine)
    with world.turn():
        installation = world.snapshots.begin_install(info)
    while step(world, installation):
        pass
    world.do(*[ADD] * 40)
    assert world.ledger.applied > info.index
    assert not world.snapshots.hand_over(installation)
    assert world.snapshots.installing is None
    assert not world.ledger.applier.replacing
    assert live(world) == OLD


@MACHINES
def test_a_damaged_session_is_found_before_anything_is_replaced(tmp_path: Path, machine: Callable[[], Any]) -> None:
    source, world, info = pair(tmp_path, machine)
    header = read_header(info.path)
    chunk = bytearray(header["sessions"][0])
    chunk[len(chunk) // 2] ^= 1
    info.path.unlink()
    info = write_snapshot(world.folder, header | {"sessions": [bytes(chunk)]}, read_chunks(source_path(source)))
    with world.turn():
        installation = world.snapshots.begin_install(info)
    with pytest.raises(CorruptionError):
        while step(world, installation):
            pass
    assert live(world) == OLD
    assert not world.ledger.applier.replacing


def source_path(source: World) -> Path:
    newest = source.snapshots.newest
    assert newest is not None
    return newest.path


def test_the_snapshot_of_a_users_machine_has_the_sessions_of_the_turn_that_captured(tmp_path: Path) -> None:
    """They are packed by the job, which runs later, while commands change them."""
    world = with_sessions(tmp_path, TallyMachine, "n1", 200, 3)
    before = world.ledger.applier.sessions.export()
    world.do(ADD)
    with world.turn():
        job = world.snapshots.capture()
    index = world.ledger.applied
    sessions = world.ledger.applier.sessions
    for session in OLD[1:]:
        assert sessions.begin(session, 500, 7, 9) is None
        sessions.finish(session, 500, DONE)
    sessions.remove(OLD[0])
    world.do(ADD)
    info = job()
    assert info.index == index
    assert read_header(info.path)["sessions"] == before


# --- the import alone -------------------------------------------------------------------------------------------------


def test_many_sessions_are_imported_in_slices_of_bounded_length() -> None:
    chunks, tables = many(40, 300).export(), MemoryTables()
    importing, counts, more = SessionImport(chunks, 1), [0], True
    while more:
        assert not importing.done
        batch = Batch()
        more = importing.step(batch, lambda: False)
        tables.commit(batch)
        counts.append(tables.count("sessions"))
    assert counts[-1] == 40 * 301
    assert max(after - before for before, after in pairwise(counts)) == session_import.SLICE_ROWS
    assert importing.sessions().export() == chunks == loaded(tables).export()
    assert SessionImport(chunks, 1).step(Batch(), lambda: True), "a slice of time ends with the first row"


def test_large_outcomes_make_slices_of_few_rows() -> None:
    sessions = Sessions()
    sessions.open(1, 0, TTL_MS_MAX)
    for seq in range(20):
        assert sessions.begin(1, seq, 0, 0) is None
        sessions.finish(1, seq, Outcome("", bytes(100_000)))
    importing, batch, tables = SessionImport(sessions.export(), 1), Batch(), MemoryTables()
    assert importing.step(batch, lambda: False)
    tables.commit(batch)
    assert tables.count("sessions") == 4


def test_imported_sessions_are_not_written_again_unless_they_change() -> None:
    tables, batch = MemoryTables(), Batch()
    sessions = imported(many(3, 5).export(), tables)
    sessions.checkpoint(batch, 1)
    assert not batch
    sessions.checkpointed()
    perform(sessions, 2, 9, 3, 9)
    save(sessions, tables)
    assert loaded(tables).export() == sessions.export()
    assert sorted(loaded(tables).live[2].outcomes) == [3, 4, 9]


def test_sessions_for_a_users_machine_are_imported_without_a_row() -> None:
    sessions, batch = many(3, 5), Batch()
    importing = SessionImport(sessions.export(), None)
    while importing.step(batch, lambda: False):
        pass
    assert not batch
    assert importing.sessions().export() == sessions.export()


def test_sessions_that_are_not_all_there_are_not_given() -> None:
    importing = SessionImport(many(3, 5).export(), None)
    assert importing.step(Batch(), lambda: True)
    with pytest.raises(AssertionError, match="every session"):
        importing.sessions()
