"""A folder whose node was killed: every command for a stopped node finds what the write-ahead log has, too."""

from __future__ import annotations

import shutil
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from forge_consensus.errors import CorruptionError
from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.storage.backends.folder import STEP_WATCHERS, Folder
from forge_consensus.storage.backends.folder_tables import open_tables
from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.backends.write_ahead import FIRST_AT, NAME
from forge_consensus.storage.inspecting import inspect_log
from forge_consensus.storage.recovery import recover_folder
from forge_consensus.storage.rekeying import rekey_folder
from forge_consensus.storage.shrinking import compact_folder
from forge_consensus.storage.stopped import stored_cluster
from forge_consensus.storage.verify import verify_folder
from tests.worlds.backends import KEY
from tests.worlds.ledger_world import World, put

OTHER = EncryptionKey(bytes(range(1, 33)))
LAST = 42
"""The index of the newest entry."""


@pytest.fixture(params=["logged", "encrypted"])
def killed(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, EncryptionKey | None]:
    """The folder, and its key: the tables' own file has the first commit only."""
    world = World(request.param, tmp_path / "n1")
    world.lead()
    for n in range(40):
        world.do(put(f"k{n}", f"planted {n}"))
    shutil.copytree(tmp_path / "n1", tmp_path / "killed")
    world.close()
    return tmp_path / "killed", KEY if request.param == "encrypted" else None


def state(path: Path, key: EncryptionKey | None) -> object:
    """What the node finds when it starts."""
    with Folder(path) as folder:
        world = World("logged", path, tables=open_tables(folder, key, wal_bytes=1 << 20))
        world.lead()
        world.settle()
        found = world.state
        world.close()
    return found


def files(path: Path) -> dict[str, bytes]:
    """Everything in a folder but the lock of LMDB, which whoever opens the tables to write to them makes anew."""
    return {file.name: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name != "lock.mdb"}


EXPECTED = {f"k{n}": f"planted {n}" for n in range(40)}


def test_looking_shows_what_was_acknowledged_and_changes_nothing(killed: tuple[Path, EncryptionKey | None]) -> None:
    path, key = killed
    before = files(path)
    assert (path / "tables" / NAME).is_file()
    assert inspect_log(path, key=key).last_index == LAST
    report = verify_folder(path, key)
    assert report.whole
    assert (report.last_index, report.format) == (LAST, 4)
    assert stored_cluster(path) == report.cluster_id != ""
    assert files(path) == before
    assert state(path, key) == EXPECTED


def test_a_compacted_folder_still_has_it(killed: tuple[Path, EncryptionKey | None]) -> None:
    path, key = killed
    compact_folder(path, key)
    assert verify_folder(path, key).last_index == LAST
    assert state(path, key) == EXPECTED


def test_a_folder_under_another_key_has_it_under_that_key_only(killed: tuple[Path, EncryptionKey | None]) -> None:
    path, key = killed
    rekey_folder(path, key, OTHER)
    assert NAME not in files(path)
    assert not [name for name, data in files(path).items() if b"planted" in data]
    assert verify_folder(path, OTHER).last_index == LAST
    assert state(path, OTHER) == EXPECTED


def test_a_recovered_folder_has_it(killed: tuple[Path, EncryptionKey | None]) -> None:
    path, key = killed
    texts = (f"{n:016x}" for n in count())
    plan = recover_folder(path, lambda plan: True, new_text=lambda: next(texts), key=key)
    assert plan is not None
    report = verify_folder(path, key)
    assert report.whole
    assert report.last_index >= LAST


def test_a_damaged_log_is_told_by_each(killed: tuple[Path, EncryptionKey | None]) -> None:
    path, key = killed
    with (path / "tables" / NAME).open("r+b") as file:
        file.seek(FIRST_AT + 20)
        file.write(b"damage")
    before = files(path)
    for call in (inspect_log, compact_folder):
        with pytest.raises(CorruptionError, match=r"is damaged: record 1 is not whole, and record \d behind it is"):
            call(path, key=key)
    with pytest.raises(CorruptionError, match="record 1 is not whole"):
        LmdbTables(path / "tables")
    try:
        faults = verify_folder(path, key).faults
    except CorruptionError as error:  # of an encrypted folder, whose snapshots cannot be read without it
        faults = [str(error)]
    assert "record 1 is not whole" in faults[0]
    assert files(path) == before


@pytest.mark.parametrize("step", range(1, 10))
def test_a_new_key_that_was_interrupted_leaves_nothing_readable(
    killed: tuple[Path, EncryptionKey | None], step: int
) -> None:
    """The tables had their new key, and the log of before lay beside them, when the call was made again."""
    path, key = killed
    left = [step]

    class CrashError(BaseException):
        pass

    def watch(name: str, *_: str) -> None:
        left[0] -= 1
        if left[0] == 0 and name != "create":  # a crash then would leave an open file to this process
            raise CrashError

    with pytest.MonkeyPatch.context() as patch:
        for folder in (path, path / "tables"):
            patch.setitem(STEP_WATCHERS, folder, watch)
        with suppress(CrashError):
            rekey_folder(path, key, OTHER)
    rekey_folder(path, key, OTHER)
    assert NAME not in files(path)
    assert not [name for name, data in files(path).items() if b"planted" in data]
    assert verify_folder(path, OTHER).last_index == LAST


def test_a_folder_that_has_the_key_already_keeps_what_its_log_has(killed: tuple[Path, EncryptionKey | None]) -> None:
    path, key = killed
    if key is None:
        rekey_folder(path, OTHER, None)
    else:
        rekey_folder(path, OTHER, key)
    assert verify_folder(path, key).last_index == LAST
    assert state(path, key) == EXPECTED
