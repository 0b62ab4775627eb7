"""The node's folder: its lock against other processes, and clear words when it cannot be used."""

import errno
import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from forge_consensus.errors import FolderLockedError, StorageError
from forge_consensus.storage.backends.folder import Folder, fsync_directory

HOLDER = """
    import sys
    from forge_consensus.storage.backends.folder import Folder
    folder = Folder(sys.argv[1])
    print("held", flush=True)
    sys.stdin.readline()
"""


def start_holder(path: Path) -> subprocess.Popen[str]:
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_new_folder_belongs_to_its_owner_alone(tmp_path: Path) -> None:
    with Folder(tmp_path / "deep" / "node") as folder:
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
        assert stat.S_IMODE(folder.snapshots_path.stat().st_mode) == 0o700
        assert folder.tables_path == folder.path / "tables"
        assert (folder.path / "LOCK").read_text() == f"{os.getpid()}\n"


def test_a_second_process_learns_the_holder_of_the_folder(tmp_path: Path) -> None:
    with start_holder(tmp_path) as holder:
        with pytest.raises(FolderLockedError, match=rf"process {holder.pid}\b.*[Ss]top that node"):
            Folder(tmp_path)
        holder.kill()


def test_a_killed_process_leaves_no_lock_behind(tmp_path: Path) -> None:
    with start_holder(tmp_path) as holder:
        holder.send_signal(signal.SIGKILL)
    assert (tmp_path / "LOCK").exists()
    with Folder(tmp_path):
        assert (tmp_path / "LOCK").read_text() == f"{os.getpid()}\n"


def test_one_process_cannot_take_a_folder_twice(tmp_path: Path) -> None:
    with Folder(tmp_path), pytest.raises(FolderLockedError, match="this process"):
        Folder(tmp_path)


def test_a_released_folder_can_be_taken_again(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.release()
    folder.release()
    assert (tmp_path / "LOCK").exists()
    with Folder(tmp_path):
        pass


def test_a_child_started_with_exec_does_not_keep_the_lock(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, close_fds=False) as child:
        folder.release()
        with Folder(tmp_path):
            pass
        child.kill()


def test_a_lock_file_deleted_under_a_waiting_node_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[Path] = []
    is_current = Folder.is_current

    def delete_first(folder: Folder, descriptor: int) -> bool:
        if not deleted:
            deleted.append(folder.lock_path)
            folder.lock_path.unlink()
        return is_current(folder, descriptor)

    monkeypatch.setattr(Folder, "is_current", delete_first)
    with Folder(tmp_path), pytest.raises(FolderLockedError):
        Folder(tmp_path)


def test_half_written_files_are_removed_at_start(tmp_path: Path) -> None:
    Folder(tmp_path).release()
    leftovers = [tmp_path / "a.tmp", tmp_path / "snapshots" / "snapshot-1-2.fcs.writing.tmp"]
    kept = [tmp_path / "node.toml", tmp_path / "snapshots" / "snapshot-1-2.fcs"]
    for path in [*leftovers, *kept]:
        path.write_text("x")
    with Folder(tmp_path):
        assert not any(path.exists() for path in leftovers)
        assert all(path.exists() for path in kept)


@pytest.mark.parametrize("below", ["", "node", "deep/node"])
def test_a_file_in_the_way_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file is where a folder should be"):
        Folder(tmp_path / "file" / below)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "may not write there"),
        (errno.EROFS, "read-only"),
        (errno.ENOSPC, "disk is full"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_folder_that_cannot_be_written_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    # The real refusals need another user or a mount; root may write everywhere.
    def refuse(path: object, flags: int, mode: int = 0o777) -> int:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match=advice):
        Folder(tmp_path)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_explained(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="may not write there"):
        Folder(tmp_path)


def test_a_failed_start_does_not_keep_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Folder) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "remove_temporary_files", refuse)
        with pytest.raises(StorageError):
            Folder(tmp_path)
    with Folder(tmp_path):
        pass


def test_flushing_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    fsync_directory(tmp_path)
    with pytest.raises(FileNotFoundError):
        fsync_directory(tmp_path / "missing")
