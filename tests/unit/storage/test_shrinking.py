"""The tables' file becomes as small as what is in it, and a crash at any step leaves a folder that opens."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from forge_consensus.errors import StorageError, StorageFullError
from forge_consensus.storage.backends.folder import STEP_WATCHERS, Folder
from forge_consensus.storage.shrinking import COPY, compact_folder
from forge_consensus.storage.verify import verify_folder
from tests.worlds.ledger_world import World, put

KEYS = 300


def grown(path: Path) -> int:
    """Leave a folder whose file has mostly free pages; returns its length."""
    world = World("lmdb", path)
    world.lead()
    world.do(*[put(f"k{n}", "x" * 4_000) for n in range(KEYS)])
    world.checkpoint()
    world.do(*[put(f"k{n}", "small") for n in range(KEYS)])
    world.snapshot()
    world.compact()
    for _ in range(5):
        with world.turn():
            world.snapshots.sweep()
    world.close()
    return (path / "tables" / "data.mdb").stat().st_size


def state(path: Path) -> dict[str, object]:
    world = World("lmdb", path)
    world.lead()
    world.settle()
    found = world.state
    world.close()
    return found


def test_the_file_shrinks_and_holds_the_same(tmp_path: Path) -> None:
    before = grown(tmp_path)
    mode = (tmp_path / "tables" / "data.mdb").stat().st_mode
    report = compact_folder(tmp_path)
    file = tmp_path / "tables" / "data.mdb"
    assert (report.bytes_before, report.bytes_after) == (before, file.stat().st_size)
    assert report.bytes_after < before / 4
    assert (report.node_id, report.cluster_id) == ("n1", "c")
    assert file.stat().st_mode == mode
    assert not (tmp_path / COPY).exists()
    assert verify_folder(tmp_path).whole
    assert state(tmp_path) == {f"k{n}": "small" for n in range(KEYS)}


def test_a_crash_at_any_step_leaves_a_folder_that_opens_with_the_same_state(tmp_path: Path) -> None:
    steps = 0
    while True:
        path = tmp_path / str(steps)
        grown(path)
        left = steps

        def step(what: str, name: str, earlier: str) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1

        places = (path, path / "tables", path / COPY)
        STEP_WATCHERS.update(dict.fromkeys(places, step))
        try:
            compact_folder(path)
            break
        except KeyboardInterrupt:
            steps += 1
        finally:
            for place in places:
                del STEP_WATCHERS[place]
        with Folder(path):
            assert not (path / COPY).exists()
        assert state(path)["k0"] == "small"
    assert steps == 5


def test_without_room_for_a_copy_nothing_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = grown(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=1, f_frsize=4096))
    with pytest.raises(StorageFullError, match="4,096 are free"):
        compact_folder(tmp_path)
    assert (tmp_path / "tables" / "data.mdb").stat().st_size == before


def test_a_copy_that_fails_leaves_the_tables_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = grown(tmp_path)

    def refuse(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="as they were"):
        compact_folder(tmp_path)
    monkeypatch.undo()
    assert (tmp_path / "tables" / "data.mdb").stat().st_size == before
    assert state(tmp_path)["k0"] == "small"
