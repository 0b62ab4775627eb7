"""The record: one log entry as bytes. The same bytes are stored, sent to followers and checked."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from itertools import islice
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

from forge_consensus.errors import CorruptionError
from forge_consensus.storage.backends.sealed import CRC_BYTES, REJOIN, RESIDUE

HEAD: Final = Struct(">QBQQQQQ")
HEAD_BYTES: Final = HEAD.size
PACK = HEAD.pack
UNPACK = HEAD.unpack_from
TIMED: Final = 0x80
"""Set in the byte of the kind: the head carries the elapsed time. Folders of format 2 hold entries without it."""
UNTIMED_HEAD: Final = Struct(">QBQQQQ")
UNTIMED_HEAD_BYTES: Final = UNTIMED_HEAD.size
SEQ: Final = slice(25, 33)
"""Where the head has the sequence number."""
BEFORE_SEQ: Final = slice(0, 25)
AFTER_SEQ: Final = slice(33, HEAD_BYTES)
UNTIMED: Final = -1
"""The elapsed time of an entry that carries none."""


class Kind(IntEnum):
    """The kinds of entries. The numbers are those of the Go original's EntryType, where it has one."""

    COMMAND = 0
    CONFIGURATION = 1
    NOOP = 3
    SESSION = 4


class Record(NamedTuple):
    """One entry, decoded.

    `time_ms` is the wall time, `elapsed_ms` the cluster's running time, as the leader knew them; see `LogTime`.
    `session` and `seq` are 0 for an entry that no client sent; `done_below` is the number below which the client has
    seen all results.
    """

    index: int  # type: ignore[assignment]  # tuple.index is not needed here
    term: int
    kind: int
    time_ms: int
    session: int
    seq: int
    done_below: int
    data: bytes
    elapsed_ms: int
    """`UNTIMED` in an entry that was written before entries carried it."""


def encode(
    index: int,
    term: int,
    kind: int,
    time_ms: int,
    session: int = 0,
    seq: int = 0,
    done_below: int = 0,
    data: bytes = b"",
    elapsed_ms: int = 0,
) -> bytes:
    """The bytes of an entry: head, data, checksum. The parameters are the fields of `Record`.

    The checksum starts from the index (its low 32 bits), so that a record under a wrong key is noticed.
    """
    body = PACK(term, kind | TIMED, time_ms, session, seq, done_below, elapsed_ms) + data
    return body + crc32(body, index).to_bytes(CRC_BYTES, "little")


def encode_untimed(index: int, term: int, kind: int, time_ms: int, data: bytes) -> bytes:
    """The bytes of an entry as they were before entries carried the elapsed time.

    The first entry of every cluster is written so, because it must have the same bytes whichever version wrote it.
    """
    body = UNTIMED_HEAD.pack(term, kind, time_ms, 0, 0, 0) + data
    return body + crc32(body, index).to_bytes(CRC_BYTES, "little")


def term_of(record: bytes) -> int:
    """The term of an encoded entry."""
    return int.from_bytes(record[:8])


def kind_of(record: bytes) -> int:
    """The kind of an encoded entry."""
    return record[8] & ~TIMED


def head_bytes(record: bytes) -> int:
    """How long the head of an encoded entry is, so where its data begins."""
    return HEAD_BYTES if record[8] & TIMED else UNTIMED_HEAD_BYTES


def data_of(record: bytes) -> bytes:
    """The data of an encoded entry."""
    return record[head_bytes(record) : -CRC_BYTES]


def intact(index: int, record: bytes) -> bool:
    """Whether the record is whole and belongs to that index."""
    return (
        crc32(record, index) == RESIDUE
        and len(record) >= UNTIMED_HEAD_BYTES + CRC_BYTES
        and len(record) >= head_bytes(record) + CRC_BYTES
    )


def count_alike(records: Sequence[bytes], place: int) -> int:
    """How many records from `place` on have the same head but for the number: those of one frame of a client.

    They are records that carry the elapsed time; one that does not is like no other.
    """
    first = records[place]
    before, after = first[BEFORE_SEQ], first[AFTER_SEQ]
    if not first[8] & TIMED:
        return 1
    count = 1
    for record in islice(records, place + 1, None):
        if record[AFTER_SEQ] != after or record[BEFORE_SEQ] != before:
            break
        count += 1
    return count


def damaged(index: int) -> CorruptionError:
    """The error for an entry that fails its checksum.

    It is damage to something that may have been acknowledged, wherever it lies, because LMDB commits whole
    transactions.
    """
    return CorruptionError(
        f"log entry {index} fails its checksum: what this node acknowledged may be damaged, so it does not run. "
        f"{REJOIN}"
    )


def parse(index: int, record: bytes) -> Record:
    """The entry in an encoded record that is known to be intact."""
    if record[8] & TIMED:
        term, kind, time_ms, session, seq, done_below, elapsed_ms = UNPACK(record)
        data = record[HEAD_BYTES:-CRC_BYTES]
        return Record(index, term, kind & ~TIMED, time_ms, session, seq, done_below, data, elapsed_ms)
    term, kind, time_ms, session, seq, done_below = UNTIMED_HEAD.unpack_from(record)
    data = record[UNTIMED_HEAD_BYTES:-CRC_BYTES]
    return Record(index, term, kind, time_ms, session, seq, done_below, data, UNTIMED)


def decode(index: int, record: bytes) -> Record:
    """The entry in an encoded record. Raises `CorruptionError` when the checksum does not fit."""
    if not intact(index, record):
        raise damaged(index)
    return parse(index, record)


def key_of(index: int) -> bytes:
    """The key of an entry in the log table; keys order as indexes do."""
    return index.to_bytes(8)


def index_of(key: bytes) -> int:
    """The index that a key of the log table stands for."""
    return int.from_bytes(key)
