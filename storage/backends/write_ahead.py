"""The write-ahead log: a file of fixed size that makes a batch durable by one write and one flush.

A durable transaction of LMDB writes every page that it changed, and then flushes twice. So the tables of a running node
keep one transaction open, and append each batch that goes into it to this file. When the file is full, the transaction
is committed, which is one durable transaction for all of them, and the file begins anew. What a crash takes from the
open transaction is in the file: the next start, or a command that reads the stopped folder, repeats it.

    from 0     magic, version, epoch, length of the file, crc32; the rest of 4096 bytes is unused
    from 4096  records, without a gap: size of the payload, crc32 of epoch, number and payload; number; payload

The *epoch* is random bytes that file and tables share, so that a file of another folder, or of an earlier opening of
this one, is noticed. Records are numbered through within an epoch, so those of the round before, which still lie behind
the newest one, are known not to follow it. The file is written full of zeros first, because to flush bytes that the
file system has promised but not written, it has to flush records of its own.
"""

from __future__ import annotations

import os
import re
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, cast
from zlib import crc32

import msgpack

from forge_consensus.errors import CorruptionError
from forge_consensus.process.fork import close_descriptor
from forge_consensus.security.encryption import random_bytes
from forge_consensus.storage.backends.folder import TEMPORARY_SUFFIX, fsync_directory
from forge_consensus.storage.backends.sealed import REJOIN
from forge_consensus.storage.backends.tables import Batch, Delete, DeleteRange, Operation, PutRun

NAME: Final = "wal"
"""The name of the file, in the folder of the tables."""
MAGIC: Final = b"write-ahead log of forge-consensus\n"
VERSION: Final = 1
EPOCH_BYTES: Final = 16
SIZE_BYTES: Final = 8
HEADER_BYTES: Final = len(MAGIC) + 1 + EPOCH_BYTES + SIZE_BYTES + 4
FIRST_AT: Final = 4096
"""Where the first record begins."""
HEAD: Final = struct.Struct("<II")
NUMBER: Final = struct.Struct("<Q")
RECORD_BYTES: Final = HEAD.size + NUMBER.size
"""What a record has beside its payload."""
PIECE_BYTES: Final = 1 << 20
"""A new file is written in pieces of this length, because a long one would need as much memory."""
LARGE_SHARE: Final = 8
"""A batch of more than this part of the file is committed with the open transaction, instead of written twice."""


class Mark(NamedTuple):
    """What tables say of the write-ahead log beside them."""

    epoch: bytes
    number: int
    """The newest record that they hold; what the log has behind it is to be repeated."""

    def pack(self) -> bytes:
        """Return the mark as a row."""
        return self.epoch + NUMBER.pack(self.number)

    @classmethod
    def unpack(cls, row: bytes) -> Mark:
        """Return the mark in a row."""
        return cls(row[:EPOCH_BYTES], NUMBER.unpack_from(row, EPOCH_BYTES)[0])


class WriteAheadLog:
    """The file beside the tables of a running node. It belongs to the node's thread.

    Args:
        folder: the folder of the tables. A file that is there is replaced.
        size_bytes: how long the file is, from the beginning to the end.

    Raises `OSError` if the file cannot be made durable.

    """

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.epoch = random_bytes(EPOCH_BYTES)
        self.number = 0
        """The number of the newest record."""
        self.end = FIRST_AT
        """Where the next record will begin."""
        temporary = folder / f"{NAME}{TEMPORARY_SUFFIX}"
        self.descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(self.descriptor, header_of(self.epoch, size_bytes).ljust(min(PIECE_BYTES, size_bytes), b"\0"), 0)
            for place in range(PIECE_BYTES, size_bytes, PIECE_BYTES):
                write_all(self.descriptor, bytes(min(PIECE_BYTES, size_bytes - place)), place)
            os.fsync(self.descriptor)
            temporary.replace(folder / NAME)
            fsync_directory(folder)
        except BaseException:
            self.close()
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise

    @property
    def mark(self) -> Mark:
        """What the tables are to say once they hold everything up to now."""
        return Mark(self.epoch, self.number)

    def append(self, batch: Batch) -> bool:
        """Make a batch durable. Returns False, and does nothing, if there is no room for it. Raises `OSError`.

        After an error nobody knows whether the batch is durable, and nothing may be appended.
        """
        left_bytes = min(self.size_bytes - self.end, self.size_bytes // LARGE_SHARE) - RECORD_BYTES
        if batch.size_bytes > left_bytes or len(payload := encode(batch)) > left_bytes:
            return False
        record = record_of(self.epoch, self.number + 1, payload)
        write_all(self.descriptor, record, self.end)
        os.fdatasync(self.descriptor)
        self.number += 1
        self.end += len(record)
        return True

    def begin_anew(self) -> None:
        """Let the next record be the first one in the file, because the tables hold everything up to now."""
        self.end = FIRST_AT

    def close(self) -> None:
        """Close the file, which stays where it is. A second call does nothing."""
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            close_descriptor(descriptor)


def write_all(descriptor: int, data: bytes, place: int) -> None:
    """Write all of the bytes at that place. Raises `OSError`."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, place)
        view, place = view[written:], place + written


def header_of(epoch: bytes, size_bytes: int) -> bytes:
    """Return the first bytes of a file of that length."""
    head = MAGIC + bytes((VERSION,)) + epoch + size_bytes.to_bytes(SIZE_BYTES, "little")
    return head + crc32(head).to_bytes(4, "little")


def record_of(epoch: bytes, number: int, payload: bytes) -> bytes:
    """Return the bytes of a record: size and checksum, number, payload."""
    numbered = NUMBER.pack(number)
    return HEAD.pack(len(payload), checksum(epoch, numbered, payload)) + numbered + payload


def checksum(epoch: bytes, numbered: bytes, payload: bytes | memoryview) -> int:
    """Return the crc32 of a record."""
    return crc32(payload, crc32(numbered, crc32(epoch)))


def encode(batch: Batch) -> bytes:
    """Return a batch as bytes."""
    return cast("bytes", msgpack.packb([packed(operation) for operation in batch.operations]))


def packed(operation: Operation) -> tuple[Any, ...]:
    """Return the parts of an operation; how many they are says which one it is."""
    if isinstance(operation, PutRun):
        return operation.table, operation.append, operation.items
    if isinstance(operation, Delete):
        return operation.table, operation.key
    return operation.table, operation.start, operation.stop, operation.limit


def decode(payload: bytes | memoryview) -> Batch:
    """Return the batch that was encoded."""
    batch = Batch()
    for row in msgpack.unpackb(payload):
        if len(row) == 3:
            table, append, items = row
            batch.operations.append(PutRun(table, [(key, value) for key, value in items], append))
        else:
            batch.operations.append(Delete(*row) if len(row) == 2 else DeleteRange(*row))
    return batch


def read_batches(folder: Path, mark: Mark) -> list[Batch]:
    """Return the batches that are durable in the file and not in the tables yet, oldest first.

    A last record that a crash left unfinished is none: nobody was told that it is durable.

    Args:
        folder: the folder of the tables.
        mark: what the tables say of the file.

    Raises `CorruptionError` if the file is missing, belongs to other tables, or is damaged before its end, `OSError` if
    it cannot be read.

    """
    path = folder / NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    if data[:HEADER_BYTES] != header_of(mark.epoch, len(data)):
        what = "does not belong to the tables beside it, was cut, or is damaged" if data else "is missing or empty"
        raise CorruptionError(
            f"{path} {what}, so the newest of what this node acknowledged is lost: it does not run. {REJOIN}"
        )
    batches = []
    at, number = FIRST_AT, mark.number
    while (end := end_of(data, at, mark.epoch, number + 1)) is not None:
        batches.append(decode(memoryview(data)[at + RECORD_BYTES : end]))
        at, number = end, number + 1
    if (later := later_record(data, at, mark.epoch, number)) is not None:
        raise CorruptionError(
            f"{path} is damaged: record {number + 1} is not whole, and record {later} behind it is, so what this "
            f"node acknowledged is lost: it does not run. {REJOIN}"
        )
    return batches


def end_of(data: bytes, at: int, epoch: bytes, number: int) -> int | None:
    """Return where the record of that number ends which begins there; None if none does."""
    if at + RECORD_BYTES > len(data):
        return None
    size, expected = HEAD.unpack_from(data, at)
    end = at + RECORD_BYTES + size
    numbered = NUMBER.pack(number)
    if end > len(data) or data[at + HEAD.size : at + RECORD_BYTES] != numbered:
        return None
    whole = checksum(epoch, numbered, memoryview(data)[at + RECORD_BYTES : end]) == expected
    return end if whole else None


def later_record(data: bytes, start: int, epoch: bytes, number: int) -> int | None:
    """Return the number of a record from `start` on that is whole and does not follow `number`; None if there is none.

    It goes once through the file, from one run of zeros to the next, because the number of a record ends with some.
    """
    lengths = range(byte_length(number + 2), byte_length(number + 2 + len(data)) + 1)
    runs = re.compile(rb"\0{%d,}" % (NUMBER.size - lengths[-1]))
    for run in runs.finditer(data, start + HEAD.size):
        for length in lengths:
            at = run.start() - length - HEAD.size
            if at < start or at + RECORD_BYTES > len(data):
                continue
            (found,) = NUMBER.unpack_from(data, at + HEAD.size)
            if found > number + 1 and end_of(data, at, epoch, found) is not None:
                return int(found)
    return None


def byte_length(number: int) -> int:
    """Return in how many bytes a number is written."""
    return (number.bit_length() + 7) // 8
