"""The folders of simulated clusters; none is left behind, not even by a process that was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

SHARED_MEMORY = Path("/dev/shm")
"""The parent of the folders, if it exists, because a flush costs nothing there."""
PREFIX = "forge-simulation-"
OWNED = re.compile(rf"{PREFIX}([1-9][0-9]{{0,8}})-")
"""The name of such a folder; it contains the id of its process."""


def folder_for(owner: object) -> tuple[Path, weakref.finalize[..., Any]]:
    """Make a new folder; return it and a finalizer that removes it.

    The finalizer also runs when `owner` is collected or the process ends by itself. Folders of processes that were
    killed are removed first, which costs one listing of the parent folder.
    """
    place = SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
    sweep(place)
    path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=place))
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    with contextlib.suppress(OSError):  # a file system without locks, where the process id alone must do
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return path, weakref.finalize(owner, remove, path, lock, os.getpid())


def remove(path: Path, lock: int, process: int) -> None:
    """Remove a folder; a forked child of the process that made it only closes the lock."""
    if os.getpid() == process:
        shutil.rmtree(path, ignore_errors=True)
    os.close(lock)


def sweep(place: Path) -> None:
    """Remove the folders of processes that have ended."""
    for name in os.listdir(place):
        owned = OWNED.match(name)
        if owned is not None and is_gone(int(owned[1])) and not is_held(place / name):
            shutil.rmtree(place / name, ignore_errors=True)


def is_gone(process: int) -> bool:
    """Return whether no process has this id here."""
    try:
        os.kill(process, 0)  # signal 0 only asks whether the process exists
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def is_held(path: Path) -> bool:
    """Return whether a process holds the folder: in another container its id may differ, but it holds the lock."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # it is gone, belongs to another user, or is no folder
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(lock)
    return False
