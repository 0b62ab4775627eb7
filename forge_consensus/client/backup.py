"""Backups as a client takes them: the steps of taking, listing and saving snapshots (see `client.steps`)."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

from forge_consensus.actors.messages import (
    GetStatus,
    ListSnapshots,
    Locate,
    MakeSnapshot,
    ReadSnapshot,
    SnapshotList,
    SnapshotMade,
    SnapshotPart,
)
from forge_consensus.client.pending import BARRIER, PendingNodeQuery, PendingRead
from forge_consensus.client.steps import Steps
from forge_consensus.errors import AlreadyExistsError, ConsensusTimeoutError, OperationFailedError, StorageError
from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.storage.backends.encrypted_file import key_id_of
from forge_consensus.storage.backends.folder import TEMPORARY_SUFFIX, explain, fsync_directory
from forge_consensus.storage.restoring import SnapshotReport, inspect_snapshot

SAVE_SECONDS: Final = 600.0
"""How long making a snapshot and fetching it may take, by default."""
FIND_SECONDS: Final = 5.0
"""How long it may take to find the leader, and how long a part of a file may be on the way."""
BEGIN_SECONDS: Final = 0.5
"""How long is waited for a snapshot that shall only begin, so that a node which cannot take one says so."""
PART_BYTES: Final = 1 << 20
Progress = Callable[[int, int], None]
"""Is told how many bytes of a snapshot have arrived, and how many it has."""
FLUSH_BYTES: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class SnapshotTaken:
    """A snapshot file of a node."""

    node: str
    index: int
    term: int
    """The last entry that its state has applied."""
    size_bytes: int


class Backup:
    """Asks for snapshots; `deadline(seconds)` returns the monotonic time so many seconds from now."""

    def __init__(self, deadline: Callable[[float | None], float], timeout: float | None) -> None:
        self.deadline = deadline
        self.seconds = SAVE_SECONDS if timeout is None else timeout
        self.until = deadline(self.seconds)

    def soon(self) -> float:
        """The deadline of a step that should not take long."""
        return min(self.until, self.deadline(min(FIND_SECONDS, self.seconds)))

    def snapshot(self, endpoint: str) -> Steps[SnapshotTaken]:
        """Have a node take a snapshot of what it has applied now; an empty endpoint is the leader, or any node."""
        made, _ = yield from self.take(endpoint)
        return SnapshotTaken(made.node, made.index, made.term, made.size)

    def begin(self, endpoint: str) -> Steps[tuple[str, int]]:
        """Have a node begin a snapshot, and wait for its end no longer than `BEGIN_SECONDS`.

        Returns the node's id and the entry that its state has applied at least. A snapshot that was begun goes on,
        although nobody waits for it.
        """
        status = PendingNodeQuery[dict[str, Any]](GetStatus(), endpoint, self.soon())
        told = yield status
        min_index = int(told["last_applied"])
        with suppress(ConsensusTimeoutError):
            yield PendingNodeQuery(MakeSnapshot(min_index), endpoint or status.asked, self.deadline(BEGIN_SECONDS))
        return str(told["node_id"]), min_index

    def list(self, endpoint: str) -> Steps[list[SnapshotTaken]]:
        """Return the snapshot files of a node, the newest first."""
        told = yield PendingNodeQuery[SnapshotList](ListSnapshots(), endpoint, self.until)
        return [SnapshotTaken(told.node, index, term, size) for index, term, size in told.snapshots]

    def take(self, endpoint: str, min_index: int | None = None) -> Steps[tuple[SnapshotMade, str]]:
        """Have a node take a snapshot unless its newest one is as new; returns what it told, and its endpoint.

        It has applied at least `min_index`; None for what the node has applied now. An empty endpoint is any node.
        """
        if min_index is None:
            status = PendingNodeQuery[dict[str, Any]](GetStatus(), endpoint, self.soon())
            told = yield status
            min_index, endpoint = int(told["last_applied"]), endpoint or status.asked
        query = PendingNodeQuery[SnapshotMade](MakeSnapshot(min_index), endpoint, self.until)
        made = yield query
        return made, query.asked

    def ready(self, endpoint: str, *, stale: bool) -> Steps[tuple[SnapshotMade, str]]:
        """Have a node take a snapshot that has everything the leader has committed; stale: that the node itself has.

        Returns what it told, and its endpoint.
        """
        min_index = None
        if not stale:
            yield PendingNodeQuery(Locate(0, 500), "", self.soon())  # says within seconds that nobody leads
            confirmed = PendingRead[None](BARRIER, self.soon())  # at the leader, which asks a majority whether it leads
            yield confirmed
            min_index = confirmed.applied
        return (yield from self.take(endpoint, min_index))

    def save(
        self,
        file: Path,
        endpoint: str,
        *,
        stale: bool,
        force: bool,
        progress: Progress | None = None,
        key: EncryptionKey | None = None,
    ) -> Steps[SnapshotReport]:
        """Save a snapshot to a file; the arguments are those of `Client.save_snapshot`.

        A node that encrypts its disk gives the file as it is; with its `key` what is in it is checked.
        """
        yield lambda: check_free(file, force=force)
        made, source = yield from self.ready(endpoint, stale=stale)
        beside = file.with_name(f"{file.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
        target: BinaryIO = yield lambda: begun(beside)
        try:
            with target:
                yield from self.fetch(target, made, source, progress)
            report: SnapshotReport = yield lambda: finish(beside, file, made, key, force=force)
            return report
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)

    def fetch(self, target: BinaryIO, made: SnapshotMade, source: str, progress: Progress | None) -> Steps[None]:
        """Fetch the parts of a node's file, one after the other, and write them."""
        offset = 0
        while offset < made.size:
            request = ReadSnapshot(made.index, made.term, offset, PART_BYTES)
            part = yield PendingNodeQuery[SnapshotPart](request, source, self.soon())
            if (part.index, part.entry_term, part.offset) != (made.index, made.term, offset) or not part.data:
                raise OperationFailedError(
                    f"the snapshot of {made.node} ended after {offset} of {made.size} bytes: save it again"
                )
            yield partial(write, target, part)
            offset += len(part.data)
            if progress is not None:
                progress(offset, made.size)


def report_of(made: SnapshotMade, key_id: str) -> SnapshotReport:
    """What is known of a file that only the holder of a key can read."""
    return SnapshotReport(
        file="",
        index=made.index,
        term=made.term,
        time_ms=0,
        elapsed_ms=0,
        cluster=made.cluster,
        machine="",
        machine_version=0,
        in_ledger=False,
        members={},
        configuration="",
        level=0,
        sessions=0,
        chunks=0,
        size_bytes=made.size,
        sha256="",
        key_id=key_id,
    )


def check_free(file: Path, *, force: bool) -> None:
    """Raise `AlreadyExistsError` for a file that is there and not to be replaced, `StorageError` without a folder."""
    if file.is_dir():
        raise AlreadyExistsError(f"{file} is a folder: name a file")
    if not file.parent.is_dir():
        raise StorageError(f"there is no folder {file.parent}: make it first")
    if file.exists() and not force:
        raise AlreadyExistsError(f"{file} is there already: name another file, or replace it with --force (force=True)")


def begun(beside: Path) -> BinaryIO:
    """Create the file that only its owner may read. Raises `StorageError`."""
    try:
        return os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=0)
    except OSError as error:
        raise StorageError(f"cannot write {beside}: {explain(error)}") from error


def write(target: BinaryIO, part: SnapshotPart) -> None:
    """Write a part, and flush now and then so that the last flush is not a long one. Raises `StorageError`."""
    left = memoryview(part.data)
    try:
        while left:
            left = left[target.write(left) :]
        if (part.offset + len(part.data)) // FLUSH_BYTES > part.offset // FLUSH_BYTES:
            os.fsync(target.fileno())
    except OSError as error:
        raise StorageError(f"cannot write the backup: {explain(error)}") from error


def finish(beside: Path, file: Path, made: SnapshotMade, key: EncryptionKey | None, *, force: bool) -> SnapshotReport:
    """Check the whole file, make it durable and give it its name. Raises `CorruptionError`, `StorageError`.

    Of an encrypted file whose key is not given nothing is known but what the node told; whoever restores it checks it.
    """
    key_id = key_id_of(beside)
    report = report_of(made, key_id) if key_id and key is None else inspect_snapshot(beside, key)
    if (report.index, report.term) != (made.index, made.term):
        raise OperationFailedError(f"{made.node} sent the snapshot of entry {report.index} for that of {made.index}")
    check_free(file, force=force)
    try:
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        beside.replace(file)
        fsync_directory(file.parent)
    except OSError as error:
        raise StorageError(f"cannot keep {file}: {explain(error)}") from error
    return replace(report, file=str(file))
