"""A stopped node's folder gets another key, one for the first time, or none; a crash at any step loses nothing."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from forge_consensus.errors import AlreadyExistsError, CorruptionError, InvalidConfigError
from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.storage.backends.encrypted_file import OneKey, key_id_of
from forge_consensus.storage.backends.folder import STEP_WATCHERS, Folder
from forge_consensus.storage.backends.folder_tables import open_tables
from forge_consensus.storage.backends.guard import NAME as GUARD
from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.inspecting import inspect_log
from forge_consensus.storage.recovery import recover_folder
from forge_consensus.storage.rekeying import COPY, reencrypt_snapshot, rekey_folder
from forge_consensus.storage.restoring import inspect_snapshot, restore_snapshot
from forge_consensus.storage.shrinking import compact_folder
from forge_consensus.storage.skipping import skip_entry
from forge_consensus.storage.snapshots.file import list_snapshots, verify
from forge_consensus.storage.verify import verify_folder
from tests.worlds.backends import KEY
from tests.worlds.ledger_world import World, put

OTHER = EncryptionKey(bytes(range(1, 33)))
THIRD = EncryptionKey(bytes(range(2, 34)))
PLANTED = b"planted"


def made(path: Path, backend: str = "lmdb") -> None:
    """Leave a folder with a log, a state, a session and a snapshot."""
    world = World(backend, path)
    world.lead()
    world.do(*[put(f"k{n}", f"planted {n}" * 20) for n in range(60)])
    world.checkpoint()
    world.snapshot()
    world.do(put("last", "planted last"))
    world.close()


def state(path: Path, key: EncryptionKey | None) -> object:
    """What a node finds in the folder; it is started twice, because the first start may change something."""
    found = []
    for _ in range(2):
        with Folder(path) as folder:
            world = World("lmdb", path, tables=open_tables(folder, key))
            world.lead()
            world.settle()
            assert world.snapshots.newest is not None
            assert not world.snapshots.damaged
            found.append(world.state)
            world.close()
    assert found[0] == found[1]
    return found[0]


def planted(path: Path) -> set[str]:
    return {file.name for file in path.rglob("*") if file.is_file() and PLANTED in file.read_bytes()}


def test_a_folder_goes_through_all_kinds_of_keys_and_holds_the_same(tmp_path: Path) -> None:
    made(tmp_path)
    before = state(tmp_path, None)
    assert len(planted(tmp_path)) >= 2
    keys = [None, KEY, OTHER, THIRD, None, KEY]
    for key, new in pairwise(keys):
        report = rekey_folder(tmp_path, key, new)
        assert (report.key_before, report.key) == (key.id if key else "", new.id if new else "")
        assert report.snapshots >= 1
        assert not (tmp_path / COPY).exists()
        assert bool(planted(tmp_path)) == (new is None)
        assert (tmp_path / GUARD).exists() == (new is not None)
        assert {key_id_of(file) for file in list_snapshots(tmp_path / "snapshots")} == {report.key}
        assert verify_folder(tmp_path, new).whole
        assert state(tmp_path, new) == before
        for wrong in {None, KEY, OTHER, THIRD} - {new}:
            with pytest.raises(InvalidConfigError):
                state(tmp_path, wrong)


@pytest.mark.parametrize(("key", "new"), [(None, KEY), (KEY, OTHER), (KEY, None)], ids=["encrypt", "rotate", "decrypt"])
def test_a_crash_at_any_step_is_brought_to_its_end_by_the_same_call(
    tmp_path: Path, key: EncryptionKey | None, new: EncryptionKey | None
) -> None:
    class CrashError(BaseException):
        pass

    step = 0
    while True:
        step += 1
        path = tmp_path / str(step)
        made(path, "lmdb" if key is None else "encrypted")
        expected = {f"k{n}": f"planted {n}" * 20 for n in range(60)} | {"last": "planted last"}
        left = [step]

        def watch(name: str, *_: str, left: list[int] = left) -> None:
            left[0] -= name != "create"  # a crash then would leave an open file to this process
            if left[0] == 0:
                raise CrashError

        watched = [path, path / "tables", path / "snapshots"]
        STEP_WATCHERS.update(dict.fromkeys(watched, watch))
        try:
            rekey_folder(path, key, new)
            break
        except CrashError:
            pass
        finally:
            for folder in watched:
                STEP_WATCHERS.pop(folder, None)
        rekey_folder(path, key, new)
        assert state(path, new) == expected, f"after a crash at step {step}"
        assert bool(planted(path)) == (new is None)
    assert step > 5


def test_what_is_no_change_or_no_right_key_changes_nothing(tmp_path: Path) -> None:
    made(tmp_path, "encrypted")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.name != "LOCK" and file.is_file()}
    for key, new in ((KEY, KEY), (None, None), (OTHER, THIRD), (None, OTHER)):
        with pytest.raises(InvalidConfigError):
            rekey_folder(tmp_path, key, new)
    assert {file: file.read_bytes() for file in before} == before


def test_a_damaged_folder_is_not_written_anew(tmp_path: Path) -> None:
    made(tmp_path, "encrypted")
    file, row = tmp_path / "tables" / "data.mdb", newest_entry(tmp_path)
    file.write_bytes(file.read_bytes().replace(row, bytes((row[0] ^ 1,)) + row[1:]))
    with pytest.raises(CorruptionError, match="faults in"):
        rekey_folder(tmp_path, KEY, OTHER)


def newest_entry(path: Path) -> bytes:
    """The encrypted bytes of the newest entry of the log, without its nonce."""
    with LmdbTables(path / "tables") as raw:
        row = raw.last("log")
        assert row is not None
        return row[1][16:]


def test_the_commands_for_a_stopped_node_take_its_key(tmp_path: Path) -> None:
    path = tmp_path / "n1"
    made(path, "encrypted")
    assert inspect_log(path, key=KEY).last_index == 63
    assert compact_folder(path, KEY).node_id == "n1"
    texts = iter(f"{n:016x}" for n in range(9))
    plan = recover_folder(path, lambda plan: True, new_text=lambda: next(texts), key=KEY)
    assert plan is not None
    report = verify_folder(path, KEY)
    assert report.whole
    assert report.cluster_id == plan.cluster
    with pytest.raises(Exception, match="is not known to end a node"):
        skip_entry(5, [path], key=KEY)
    for call in (inspect_log, compact_folder, verify_folder):
        with pytest.raises(InvalidConfigError, match="no key was given"):
            call(path)
    assert planted(path) == set()


def test_a_backup_is_written_anew_under_another_key_and_restored(tmp_path: Path) -> None:
    path = tmp_path / "n1"
    made(path, "encrypted")
    own = list_snapshots(path / "snapshots")[0]
    sent, plain = tmp_path / "sent.snap", tmp_path / "plain.snap"
    reencrypt_snapshot(own, sent, KEY, OTHER)
    reencrypt_snapshot(sent, plain, OTHER, None)
    with pytest.raises(AlreadyExistsError):
        reencrypt_snapshot(own, plain, KEY, OTHER)
    assert PLANTED not in sent.read_bytes()
    reports = [inspect_snapshot(file, key) for file, key in ((own, KEY), (sent, OTHER), (plain, None), (plain, KEY))]
    assert {report.sha256 for report in reports} == {reports[0].sha256}
    assert [report.key_id for report in reports] == [KEY.id, OTHER.id, "", ""]
    with pytest.raises(InvalidConfigError, match=f"{OTHER.id}, and the key given is {KEY.id}"):
        inspect_snapshot(sent, KEY)
    for name, key, file_key in (("same", OTHER, None), ("other", KEY, OTHER), ("open", None, OTHER)):
        data = tmp_path / name
        restore_snapshot(
            sent, data, "n1", {"n1": "a:1"}, new_text=lambda: "0123456789abcdef", key=key, file_key=file_key
        )
        assert verify_folder(data, key).whole
        assert bool(planted(data)) == (key is None)
        newest = list_snapshots(data / "snapshots")[0]
        assert verify(newest, None if key is None else OneKey(key)).index == reports[0].index
    assert os.stat(sent).st_mode & 0o777 == 0o600
