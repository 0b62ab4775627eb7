"""A node's folder: the paths in it, and the lock that keeps a second node out."""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from forge_consensus.errors import FolderLockedError, StorageError
from forge_consensus.process.fork import close_descriptor, tell_of_forks

LOCK_NAME: Final = "LOCK"
SNAPSHOTS: Final = "snapshots"
"""The folder of the snapshot files, within that of the node."""
TEMPORARY_SUFFIX: Final = ".tmp"
"""The suffix of a file that is still being written; at start every file with it is a leftover of a crash."""

STEP_WATCHERS: Final[dict[Path, Callable[[str, str, str], None]]] = {}
"""For tests: a function by folder, called with (step, name, earlier name) for each change of a file in it. A simulated
disk uses it to know which data was flushed, and may raise in it to end the process. Empty in production."""


class Folder:
    """The folder of one node, locked for as long as this object holds it.

    The lock is `flock` on a file that is never removed: the kernel releases it when the process ends, whatever ends it.
    A lock by the mere existence of a file would refuse every restart after a crash. A forked child
    shares the lock until it closes its copy of the descriptor, which `forked` does.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Create the folder if it is missing (mode 0700), lock it, and remove temporary files.

        Raises `FolderLockedError` if another process holds it, `StorageError` if it cannot be used.
        """
        self.path = Path(path).absolute()
        self.lock_path = self.path / LOCK_NAME
        self.lock_fd: int | None = None
        try:
            make_directory(self.path)
            self.lock_fd = self.take_lock()
            tell_of_forks(self)
            make_directory(self.snapshots_path)
            self.remove_temporary_files()
        except OSError as error:
            self.release()
            raise StorageError(f"cannot use {self.path}: {explain(error)}") from error
        except BaseException:
            self.release()
            raise

    @property
    def tables_path(self) -> Path:
        """The folder of the tables; their backend creates it."""
        return self.path / "tables"

    @property
    def snapshots_path(self) -> Path:
        """The folder of the snapshot files; it exists."""
        return self.path / SNAPSHOTS

    def take_lock(self) -> int:
        """Lock the file, write this process' id into it, and return its descriptor.

        Raises `FolderLockedError` if another process holds the lock, `OSError` if the file cannot be opened.
        """
        while True:
            descriptor = os.open(self.lock_path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self.is_current(descriptor):
                    self.sign(descriptor)
                    return descriptor
            except BlockingIOError:
                holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
                os.close(descriptor)
                raise self.locked_error(holder) from None
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def sign(self, descriptor: int) -> None:
        """Write this process' id into the locked file, for whoever finds it locked. Raises `OSError`."""
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def is_current(self, descriptor: int) -> bool:
        """Return whether the path still names the file that was locked.

        Somebody may have deleted the file between our open and our lock: two nodes would then hold locks on two
        different files of the same name.
        """
        try:
            return os.path.samestat(os.fstat(descriptor), self.lock_path.stat())
        except FileNotFoundError:
            return False

    def locked_error(self, holder: str) -> FolderLockedError:
        """Return the error that says which process holds the folder and what to do."""
        who = f"process {holder}" if holder else "another process"
        if holder == str(os.getpid()):
            who = f"this process ({holder})"
        return FolderLockedError(
            f"{self.path} is in use by {who}. Stop that node, or give this one a folder of its "
            f"own. Deleting {LOCK_NAME} does not help and would let two nodes write one folder.",
            process=holder,
        )

    def remove_temporary_files(self) -> None:
        """Remove the files that a crash left half-written; nothing refers to them."""
        for folder in (self.path, self.snapshots_path):
            remove_temporary_files(folder)

    def release(self) -> None:
        """Unlock the folder; the lock file stays. A second call does nothing."""
        if self.lock_fd is not None:
            descriptor, self.lock_fd = self.lock_fd, None
            # Closing is not enough: a child between fork and exec still has the descriptor, and the lock with it.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def forked(self) -> None:
        """In a child process: close the copy of the lock's descriptor; the lock itself stays with the parent."""
        if self.lock_fd is not None:
            descriptor, self.lock_fd = self.lock_fd, None
            close_descriptor(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()


def make_directory(path: Path) -> None:
    """Create `path` and its missing parents, and make each name durable in its parent. Raises `OSError`."""
    missing = [path, *path.parents]
    missing = missing[: next(n for n, folder in enumerate(missing) if folder.exists())]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        fsync_directory(folder.parent)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def fsync_directory(path: Path) -> None:
    """Make names created, renamed or removed in `path` durable. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    tell_step(path, "flush folder")


def remove_temporary_files(path: Path) -> None:
    """Remove the files that a crash left half-written in `path`. Raises `OSError`."""
    for leftover in path.glob(f"*{TEMPORARY_SUFFIX}"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)
        tell_step(path, "remove", leftover.name)


def tell_step(folder: Path, step: str, name: str = "", earlier: str = "") -> None:
    """Report a created, written, flushed, renamed or removed file to the folder's watcher; see `STEP_WATCHERS`."""
    if STEP_WATCHERS and (watcher := STEP_WATCHERS.get(folder)) is not None:
        watcher(step, name, earlier)


def explain(error: OSError) -> str:
    """Return the error's text and, for common errors, what the operator can do about it."""
    advice = {
        errno.ENOTDIR: "a file is where a folder should be; choose another path or move it away",
        errno.EEXIST: "a file is where a folder should be; choose another path or move it away",
        errno.EACCES: "this user may not write there; change its owner or choose another path",
        errno.EPERM: "this user may not write there; change its owner or choose another path",
        errno.EROFS: "the file system is read-only; mount it for writing or choose another path",
        errno.ENOSPC: "the disk is full; make room and start again",
        errno.ENOLCK: "this file system has no locks; choose a local one",
    }.get(error.errno or 0)
    return f"{error} ({advice})" if advice else str(error)
