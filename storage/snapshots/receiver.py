"""The receiver: takes the pieces of a snapshot that another node sends."""

from __future__ import annotations

import itertools
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from forge_consensus.errors import CorruptionError, SnapshotFailedError
from forge_consensus.storage.backends.folder import TEMPORARY_SUFFIX
from forge_consensus.storage.snapshots.file import (
    DIGEST_BYTES,
    SnapshotInfo,
    SnapshotReader,
    SnapshotWriter,
    create,
    name_of,
    publish,
    remove_quietly,
    reporting,
)

RECEIVERS = itertools.count(1)


class SnapshotReceiver:
    """Writes the pieces of one snapshot into a temporary file, and checks the whole at the end.

    Abort it when the leader changes, because two nodes' files of one index may differ in their bytes. The checksum of
    the whole refuses a mixture.
    """

    def __init__(self, folder: Path, index: int, term: int, total_bytes: int) -> None:
        """Create the temporary file for a snapshot of `total_bytes` that ends with entry `index` of `term`.

        Raises `SnapshotFailedError`.
        """
        self.index = index
        self.term = term
        self.total_bytes = total_bytes
        self.next_offset = 0
        self.path = folder / name_of(index, term)
        # The number makes it unique, because an earlier receiver of the same snapshot may still be finishing elsewhere.
        self.temporary = folder / f"{self.path.name}.{next(RECEIVERS)}.receiving{TEMPORARY_SUFFIX}"
        self.digest = sha256()
        self.tail = b""  # the last bytes are the digest, which does not cover itself
        with reporting("cannot write", self.temporary):
            self.file = create(self.temporary)
        self.writer = SnapshotWriter(self.file, self.temporary)

    def write(self, offset: int, data: bytes) -> int:
        """Take the piece that begins at `offset`; returns the offset that is wanted next.

        A piece that is there already, and one behind a hole, is not taken; it only gets the answer. If the disk refuses
        or the file gets too long, the receiver aborts itself and raises `SnapshotFailedError`.
        """
        if self.file.closed:
            raise SnapshotFailedError(f"the transfer of {self.path.name} has ended")
        known = self.next_offset - offset
        if offset < 0 or known < 0 or known >= len(data):
            return self.next_offset
        fresh = data[known:]
        if self.next_offset + len(fresh) > self.total_bytes:
            self.abort()
            raise SnapshotFailedError(f"{self.path.name} is longer than was announced")
        with reporting("cannot write", self.temporary, self.abort):
            self.writer.write(fresh)
        self.next_offset += len(fresh)
        joined = self.tail + fresh
        self.digest.update(joined[:-DIGEST_BYTES])
        self.tail = joined[-DIGEST_BYTES:]
        return self.next_offset

    def finish(self) -> SnapshotInfo:
        """Check the whole file, make it durable and give it its name. It flushes a few MiB, so it runs off the thread.

        Raises `SnapshotFailedError` if pieces are missing or wrong; the receiver is then aborted.
        """
        if self.file.closed or self.next_offset != self.total_bytes:
            self.abort()
            raise SnapshotFailedError(f"{self.path.name} is not complete")
        try:
            self.writer.flush()
            if self.tail != self.digest.digest():
                raise SnapshotFailedError(f"{self.path.name} arrived with a wrong checksum")
            with self.temporary.open("rb") as file:
                found = SnapshotReader(self.temporary, file).shape()
            if (found.index, found.term) != (self.index, self.term):
                raise SnapshotFailedError(f"{self.path.name} arrived as index {found.index}")
            publish(self.temporary, self.path)
        except (OSError, CorruptionError) as error:
            raise SnapshotFailedError(f"cannot keep {self.path.name}: {error}") from error
        finally:
            self.abort()
        return SnapshotInfo(self.path, self.index, self.term, self.total_bytes)

    def abort(self) -> None:
        """Give up and remove the temporary file; do nothing after `finish`."""
        with suppress(OSError):
            self.file.close()
        remove_quietly(self.temporary)
