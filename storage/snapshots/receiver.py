"""The receiver: takes the pieces of a snapshot that another node sends, also over breaks and restarts."""

from __future__ import annotations

import itertools
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from forge_consensus.errors import ConsensusError, CorruptionError, SnapshotFailedError
from forge_consensus.storage.backends.encrypted_file import (
    BLOCK_BYTES,
    HEAD_BYTES,
    STORED_BYTES,
    FileKeys,
    read_head,
)
from forge_consensus.storage.backends.folder import TEMPORARY_SUFFIX, tell_step
from forge_consensus.storage.snapshots import file as snapshot_file
from forge_consensus.storage.snapshots.file import (
    DIGEST_BYTES,
    PieceWriter,
    SnapshotInfo,
    SnapshotReader,
    create,
    name_of,
    open_snapshot,
    publish,
    remove_quietly,
    reporting,
)

RECEIVERS = itertools.count(1)
PART_SUFFIX: Final = ".part"
"""The suffix of a file that is being received. Unlike `TEMPORARY_SUFFIX` it outlives a restart."""
PART_NAME: Final = re.compile(r"snapshot-([0-9a-f]{16})-([0-9a-f]{16})\.fcs\.([0-9a-f]+)-([0-9a-f]*)\.part")


class SnapshotReceiver:
    """Writes the pieces of one snapshot into a file of its own, and checks the whole at the end.

    The name of that file says what it is a part of: index, term, length and checksum of the whole. So whoever has a
    file with the same bytes may send the rest, and a process that starts finds it again. The checksum of the whole
    refuses a mixture.
    """

    def __init__(
        self,
        folder: Path,
        index: int,
        term: int,
        total_bytes: int,
        digest: bytes = b"",
        keys: FileKeys | None = None,
    ) -> None:
        """Open the part of a snapshot of `total_bytes` that ends with entry `index` of `term`, or begin one.

        `digest` is the checksum of the whole; a part without one is never continued. Parts of other snapshots are
        removed, because one snapshot is received at a time. With `keys` it is encrypted. Raises `SnapshotFailedError`.
        """
        self.keys = keys
        self.index = index
        self.term = term
        self.total_bytes = total_bytes
        self.digest = digest
        self.path = folder / name_of(index, term)
        self.temporary = folder / f"{self.path.name}.{total_bytes:x}-{digest.hex()}{PART_SUFFIX}"
        remove_parts(folder, spare=self.temporary if digest else None)
        self.next_offset = held_bytes(self.temporary, total_bytes, keys)
        blocks = 0 if keys is None else self.next_offset // BLOCK_BYTES
        with reporting("cannot write", self.temporary):
            self.file: BinaryIO
            if self.next_offset:
                self.file = self.temporary.open("r+b")
                self.file.truncate(HEAD_BYTES + blocks * STORED_BYTES if blocks else self.next_offset)
                self.file.seek(0, os.SEEK_END)
            else:
                self.file = create(self.temporary)
            self.writer = PieceWriter(self.file, self.temporary, keys, blocks)
        self.resumed_bytes = self.next_offset
        """How much of the file an earlier receiver had left."""

    def write(self, offset: int, data: bytes) -> int:
        """Take the piece that begins at `offset`; returns the offset that is wanted next.

        A piece that is there already, and one behind a hole, is not taken; it only gets the answer. After the last one
        only `finish` is left. If the disk refuses or the file gets too long, the receiver aborts itself and raises
        `SnapshotFailedError`.
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
        if self.next_offset == self.total_bytes:
            self.seal()
        return self.next_offset

    def seal(self) -> None:
        """Give the file a name that no receiver opens, because every piece is there and a helper checks it from now on.

        Raises `SnapshotFailedError`.
        """
        sealed = self.path.with_name(f"{self.path.name}.{next(RECEIVERS)}.checking{TEMPORARY_SUFFIX}")
        with reporting("cannot rename", self.temporary, self.abort):
            self.temporary.rename(sealed)
            tell_step(sealed.parent, "rename", sealed.name, self.temporary.name)
        self.temporary = self.writer.path = sealed

    def finish(self) -> SnapshotInfo:
        """Check the whole file, make it durable and give it its name. It reads all of it, so it runs off the thread.

        Raises `SnapshotFailedError` if pieces are missing or wrong; the receiver is then aborted.
        """
        if self.file.closed or self.next_offset != self.total_bytes:
            self.abort()
            raise SnapshotFailedError(f"{self.path.name} is not complete")
        try:
            self.writer.finish()
            with open_snapshot(self.temporary, self.keys) as file:
                found = SnapshotReader(self.temporary, file).shape()
            if (found.index, found.term) != (self.index, self.term):
                raise SnapshotFailedError(f"{self.path.name} arrived as index {found.index}")
            self.check_whole()
            publish(self.temporary, self.path)
        except (OSError, CorruptionError) as error:
            raise SnapshotFailedError(f"cannot keep {self.path.name}: {error}") from error
        finally:
            self.abort()
        return SnapshotInfo(self.path, self.index, self.term, self.total_bytes, self.keys)

    def check_whole(self) -> None:
        """Read all of the file. Raises `CorruptionError`, `SnapshotFailedError` for a whole that was not announced."""
        with open_snapshot(self.temporary, self.keys) as file:
            reader = SnapshotReader(self.temporary, file)
            reader.header()
            for _ in reader.chunks():
                pass
            file.seek(-DIGEST_BYTES, os.SEEK_END)
            if self.digest not in (b"", file.read(DIGEST_BYTES)):
                raise SnapshotFailedError(f"{self.path.name} arrived with another checksum than was announced")

    def close(self) -> None:
        """Stop receiving, and leave the part for whoever goes on with it."""
        with suppress(OSError):
            self.file.close()

    def abort(self) -> None:
        """Give up and remove the file; do nothing after `finish`."""
        self.close()
        remove_quietly(self.temporary)


def held_bytes(part: Path, total_bytes: int, keys: FileKeys | None = None) -> int:
    """How many bytes of a part that an earlier receiver left may be relied on; 0 if there is none.

    What it wrote after its last flush may be lost if the power failed meanwhile, while the length of the file is not.
    Of an encrypted part whole blocks are relied on, if the key that opens it is still there.
    """
    with suppress(OSError, ConsensusError):
        size_bytes = part.stat().st_size
        if keys is not None:
            with part.open("rb") as file:
                read_head(file.read(HEAD_BYTES), keys, part)
            size_bytes = max(0, size_bytes - HEAD_BYTES) // STORED_BYTES * BLOCK_BYTES
        held = max(0, min(size_bytes, total_bytes) - snapshot_file.FLUSH_BYTES)
        return held if keys is None else held // BLOCK_BYTES * BLOCK_BYTES
    return 0


def parts_in(folder: Path) -> list[tuple[Path, int]]:
    """The files that are being received, each with the index of its snapshot."""
    named = [(path, PART_NAME.fullmatch(path.name)) for path in folder.glob(f"*{PART_SUFFIX}")]
    return [(path, int(match[2], 16)) for path, match in named if match]


def remove_parts(folder: Path, spare: Path | None = None, index_max: int | None = None) -> None:
    """Remove the parts of snapshots up to an index, or of all, except one."""
    for path, index in parts_in(folder):
        if path != spare and (index_max is None or index <= index_max):
            remove_quietly(path)
