"""Checks of a node's folder: whether a node can use it, who uses it, and what it lies on."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from pathlib import Path
from typing import Final, NamedTuple

from forge_consensus.checks.file_system import NETWORKED, VOLATILE, file_system_of
from forge_consensus.checks.finding import Finding, ok, problem, warning
from forge_consensus.checks.listening import Holder, process
from forge_consensus.errors import ConsensusError
from forge_consensus.output import bytes_text
from forge_consensus.storage.backends.folder import LOCK_NAME, explain
from forge_consensus.storage.stopped import is_folder

FOLDER: Final = "folder"
FREE_BYTES_FEW: Final = 1 << 30
"""Less free space than this is told of: a log and two snapshots of a small state take about so much."""


class Lock(NamedTuple):
    """Whether a process uses a folder."""

    is_held: bool
    holder: Holder | None = None
    """Which one, as the lock's file says."""


def folder_findings(folder: Path, reserve_bytes: int) -> list[Finding]:
    """Check a node's folder, which need not be there yet; `reserve_bytes` of its disk are never taken by proposals."""
    try:
        if folder.is_dir():
            return [access(folder), use(folder), *room(folder, reserve_bytes)]
        if folder.exists() or folder.is_symlink():
            return [problem(FOLDER, f"{folder} is no folder", "name another one, or move what is there away")]
        parent = nearest(folder)
        if os.access(parent, os.W_OK | os.X_OK):
            made = ok(FOLDER, f"{folder} is not there: the first start of a node makes it")
        else:
            made = problem(FOLDER, f"{folder} is not there, and this user may not write to {parent}", explained(parent))
        return [made, *room(parent, reserve_bytes)]
    except OSError as error:
        return [problem(FOLDER, f"{folder} cannot be looked at: {explain(error)}")]


def nearest(folder: Path) -> Path:
    """Return the folder itself, or the nearest one above it that is there."""
    return next((path for path in (folder, *folder.absolute().parents) if path.is_dir()), Path("/"))


def explained(folder: Path) -> str:
    """Return what to do about a folder that this user may not write to."""
    return f"change the owner of {folder}, run this as the node's user, or name another folder"


def access(folder: Path) -> Finding:
    """Check who may read and write."""
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return problem(FOLDER, f"this user may not read and write {folder}", explained(folder))
    kind = "a node's folder" if is_folder(folder) else "empty" if not any(folder.iterdir()) else "no node's folder yet"
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        text = f"{folder} ({kind}) can be entered by other users (mode {mode:o})"
        return warning(FOLDER, text, f"chmod 700 {folder}: it holds all data of the cluster")
    return ok(FOLDER, f"{folder} ({kind}) can be read and written by this user only")


def lock_of(folder: Path) -> Lock:
    """Return whether a process has locked a folder; looking takes a shared lock for a moment. Raises `OSError`."""
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDONLY)
    except FileNotFoundError:
        return Lock(False)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        return Lock(True, process(int(text)) if text.isdigit() else None)
    finally:
        os.close(descriptor)
    return Lock(False)


def use(folder: Path) -> Finding:
    """Check who uses the folder."""
    try:
        lock = lock_of(folder)
    except OSError as error:
        return problem("lock", f"whether a node runs on {folder} cannot be seen: {explain(error)}")
    if lock.is_held:
        return ok("lock", f"{lock.holder.text if lock.holder else 'a process'} runs on {folder}")
    return ok("lock", f"no process runs on {folder}")


def room(folder: Path, reserve_bytes: int) -> list[Finding]:
    """Check the disk below a folder that is there: its free space and its file system. Raises `OSError`."""
    disk = shutil.disk_usage(folder)
    check, text = "free space", f"{bytes_text(disk.free)} of {bytes_text(disk.total)} are free"
    if disk.free <= reserve_bytes:
        reserve = f"the reserve of {bytes_text(reserve_bytes)} (storage.reserve_bytes)"
        space = problem(check, f"{text}, no more than {reserve}: a node takes no entries", "make room on this disk")
    elif disk.free < FREE_BYTES_FEW:
        space = warning(check, f"{text}: a log and its snapshots fill that soon", "make room on this disk")
    else:
        space = ok(check, text)
    return [space, medium(file_system_of(folder))]


def medium(kind: str) -> Finding:
    """Check the type of a file system."""
    check = "file system"
    if kind in NETWORKED:
        advice = "use a disk of this machine"
        return problem(check, f"{kind} is another machine's, where the locks of the store do not work", advice)
    if kind in VOLATILE:
        text = f"{kind} keeps everything in memory: a machine that stops loses what its node acknowledged"
        return warning(check, text, "use a disk, unless this is a test")
    return ok(check, kind)


def disk_findings(folder: Path, seconds: float, election_timeout_min: float) -> list[Finding]:
    """Measure how long commits take in a folder, or in the nearest one above it that is there.

    Nothing is measured on a file system of another machine, where a store may hang or end the process.
    """
    from forge_consensus.checks.disk import measure_disk

    place = nearest(folder)
    if file_system_of(place) in NETWORKED:
        return []
    try:
        report = measure_disk(place, seconds, election_timeout_min)
    except ConsensusError as error:
        return [problem("disk", f"commits cannot be measured: {error}")]
    return [ok("disk", report.text) if report.is_ok else warning("disk", report.text)]
