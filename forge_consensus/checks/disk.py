"""How long a disk takes until something is durable: a small record of a file, and a commit of the store of a node."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from forge_consensus.checks.file_system import VOLATILE, file_system_of
from forge_consensus.checks.latencies import Latencies
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import WAL_BYTES
from forge_consensus.errors import FolderNotFoundError, StorageError
from forge_consensus.events.text import seconds_text
from forge_consensus.storage.backends.folder import TEMPORARY_SUFFIX, explain
from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.backends.lmdb_environment import MAP_BYTES_MIN
from forge_consensus.storage.backends.tables import Batch

RECORD_BYTES: Final = 512
RECORDS: Final = 1024
"""So many records are written again and again, so that a check never takes more than half a megabyte of a disk."""
SAMPLES_MAX: Final = 100_000
"""No more operations of one kind are made, however fast they are."""
DEGRADED_SHARE: Final = 0.5
"""A node whose slowest commit takes longer than this part of the shortest election timeout counts as degraded."""
HANDS_OVER_SHARE: Final = 0.25
"""A leader whose every commit takes longer than this part of it hands over to another node."""
ELECTION_TIMEOUT_MIN: Final = RaftSettings().election_timeout_min


@dataclass(frozen=True, slots=True)
class DiskReport:
    """How long a disk took, and whether that is good enough for a node."""

    folder: str
    file_system: str
    election_timeout_min: float
    """The setting that the disk is judged by, in seconds."""
    flushes: Latencies
    """Of a record that is written to a file and flushed."""
    commits: Latencies
    """Of a durable transaction of the store."""
    is_ok: bool
    text: str
    """The judgement as a sentence for people."""
    note: str = ""
    """What else somebody should know of this disk; empty if nothing."""


def measure_disk(folder: Path, seconds: float, election_timeout_min: float = ELECTION_TIMEOUT_MIN) -> DiskReport:
    """Write to a folder for so many seconds, and judge how long it took; what was written is removed.

    Half of the time goes to records of a file, half to commits of a store. What a killed check leaves behind has a
    name that the next start of a node in this folder removes.

    Raises `FolderNotFoundError` if the folder is not there, and `StorageError` if it cannot be written to.
    """
    try:
        if not folder.is_dir():
            raise FolderNotFoundError(
                f"there is no folder {folder}: name one on the disk that is to be measured, such as that of the node"
            )
        place = Path(tempfile.mkdtemp(prefix="check-", suffix=TEMPORARY_SUFFIX, dir=folder))
    except OSError as error:
        raise unusable(folder, error) from error
    try:
        flushes = measure_flushes(place / "records", seconds / 2)
        commits = measure_commits(place / "tables", seconds / 2)
    except OSError as error:
        raise unusable(folder, error) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
    is_ok, text = judged(commits, election_timeout_min)
    kind = file_system_of(folder)
    note = f"{kind} keeps everything in memory, so nothing here survives the end of the machine"
    return DiskReport(
        str(folder), kind, election_timeout_min, flushes, commits, is_ok, text, note if kind in VOLATILE else ""
    )


def unusable(folder: Path, error: OSError) -> StorageError:
    """Return the error for a folder that cannot be written to."""
    return StorageError(f"cannot measure {folder}: {explain(error)}")


def timed(operation: Callable[[int], object], seconds: float) -> Latencies:
    """Carry out an operation again and again, at least once, and return how long each took; it gets its number."""
    took: list[float] = []
    now = began = time.perf_counter()
    while not took or (now - began < seconds and len(took) < SAMPLES_MAX):
        operation(len(took))
        before, now = now, time.perf_counter()
        took.append(now - before)
    return Latencies.of(took)


def measure_flushes(file: Path, seconds: float) -> Latencies:
    """Write records to a file, and flush each. Raises `OSError`."""
    record = os.urandom(RECORD_BYTES)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)

    def flush(number: int) -> None:
        os.pwrite(descriptor, record, number % RECORDS * RECORD_BYTES)
        os.fdatasync(descriptor)

    try:
        return timed(flush, seconds)
    finally:
        os.close(descriptor)


def measure_commits(folder: Path, seconds: float) -> Latencies:
    """Commit records to a store of LMDB, as a node does. Raises `StorageError`."""
    record = os.urandom(RECORD_BYTES)
    tables = LmdbTables(folder, map_bytes=MAP_BYTES_MIN, wal_bytes=WAL_BYTES)

    def commit(number: int) -> None:
        batch = Batch()
        batch.put("log", (number % RECORDS).to_bytes(8), record)
        tables.commit(batch)

    try:
        return timed(commit, seconds)
    finally:
        with suppress(StorageError):
            tables.close()


def judged(commits: Latencies, election_timeout_min: float) -> tuple[bool, str]:
    """Return whether commits are fast enough for elections, and the sentence that says so."""
    degraded, hands_over = election_timeout_min * DEGRADED_SHARE, election_timeout_min * HANDS_OVER_SHARE
    slowest, usual = seconds_text(commits.max_seconds), seconds_text(commits.p99_seconds)
    setting = f"raft.election_timeout_min ({seconds_text(election_timeout_min)})"
    if commits.p99_seconds > hands_over:
        needed = seconds_text(commits.p99_seconds / HANDS_OVER_SHARE)
        return False, (
            f"too slow: one of a hundred commits takes {usual} or longer, and a leader whose commits take longer than "
            f"{seconds_text(hands_over)}, a quarter of {setting}, hands over; take a faster disk, or raise that "
            f"setting to {needed} or more"
        )
    if commits.max_seconds > degraded:
        needed = seconds_text(commits.max_seconds / DEGRADED_SHARE)
        return False, (
            f"too uneven: the slowest commit took {slowest}, and a node counts as degraded above "
            f"{seconds_text(degraded)}, half of {setting}; see what else uses the disk, or raise that setting to "
            f"{needed} or more"
        )
    return True, (
        f"good enough: 99 of 100 commits took at most {usual}, the slowest {slowest}, and up to "
        f"{seconds_text(hands_over)} do no harm, a quarter of {setting}"
    )
