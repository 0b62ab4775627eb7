"""The folders of simulated clusters, which leave nothing behind: neither unclosed nor when their process is killed."""

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
"""Where snapshots lie, if there is such a place: a flush costs nothing there."""
PREFIX = "forge-simulation-"
OWNED = re.compile(rf"{PREFIX}([1-9][0-9]{{0,8}})-")
"""What such a folder is called, with the id of its process."""


def folder_for(owner: object) -> tuple[Path, weakref.finalize[..., Any]]:
    """A new folder, and what removes it; that happens too when its owner is gone or the process ends by itself.

    Folders of processes that were killed are removed first: a look at some names, no more.
    """
    place = SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
    sweep(place)
    path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=place))
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    with contextlib.suppress(OSError):  # a file system without locks; the process id alone must do there
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return path, weakref.finalize(owner, remove, path, lock, os.getpid())


def remove(path: Path, lock: int, process: int) -> None:
    """Remove a folder; a process that was forked from its own only lets go of it."""
    if os.getpid() == process:
        shutil.rmtree(path, ignore_errors=True)
    os.close(lock)


def sweep(place: Path) -> None:
    """Remove the folders of processes that are gone."""
    for name in os.listdir(place):
        owned = OWNED.match(name)
        if owned is not None and is_gone(int(owned[1])) and not is_held(place / name):
            shutil.rmtree(place / name, ignore_errors=True)


def is_gone(process: int) -> bool:
    """Whether no process has that id here."""
    try:
        os.kill(process, 0)  # no signal, only the question
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def is_held(path: Path) -> bool:
    """Whether a process has the folder: one in another container that shares this place has another id there."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # it is gone, another user's, or no folder
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
