"""The record: one log entry as the bytes that are stored, sent and checked, the same everywhere."""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import NamedTuple
from zlib import crc32

from forge_consensus.errors import CorruptionError

FIXED = Struct(">QBQQQQ")
HEAD_BYTES = 4 + FIXED.size
PACK = FIXED.pack
UNPACK = FIXED.unpack_from
CRC_BYTES = 4


class Kind(IntEnum):
    """What an entry is for (the seed's EntryType, with its numbers where it has one)."""

    COMMAND = 0
    CONFIGURATION = 1
    NOOP = 3
    SESSION = 4


class Record(NamedTuple):
    """One entry, taken apart.

    `time_ms` is the leader's wall clock, made non-decreasing; `session` and `seq` are 0 for what no client sent.
    """

    index: int  # type: ignore[assignment]  # tuple.index is not needed here
    term: int
    kind: int
    time_ms: int
    session: int
    seq: int
    done_below: int
    data: bytes


def encode(
    index: int,
    term: int,
    kind: int,
    time_ms: int,
    session: int = 0,
    seq: int = 0,
    done_below: int = 0,
    data: bytes = b"",
) -> bytes:
    """The bytes of an entry. The checksum covers the index too, so that a record under a wrong key is noticed."""
    body = PACK(term, kind, time_ms, session, seq, done_below) + data
    return crc32(body, index & 0xFFFFFFFF).to_bytes(4) + body


def term_of(record: bytes) -> int:
    """The term of an encoded entry."""
    return int.from_bytes(record[4:12])


def kind_of(record: bytes) -> int:
    """The kind of an encoded entry."""
    return record[12]


def intact(index: int, record: bytes) -> bool:
    """Whether the record is whole and belongs to that index."""
    return (
        len(record) >= HEAD_BYTES
        and crc32(memoryview(record)[4:], index & 0xFFFFFFFF) == int.from_bytes(record[:4])
    )


def decode(index: int, record: bytes) -> Record:
    """The entry in an encoded record.

    Raises `CorruptionError` when the checksum does not fit: LMDB commits whole transactions, so a record that fails
    is damage to something that may have been acknowledged, wherever it lies.
    """
    if not intact(index, record):
        raise CorruptionError(
            f"log entry {index} fails its checksum: what this node acknowledged may be damaged, so it does not "
            "run. Move its folder away and bring the node back as a new member of the cluster"
        )
    return Record(index, *UNPACK(record, CRC_BYTES), record[HEAD_BYTES:])


def key_of(index: int) -> bytes:
    """The key of an entry in the log table; keys order as indexes do."""
    return index.to_bytes(8)


def index_of(key: bytes) -> int:
    """The index that a key of the log table stands for."""
    return int.from_bytes(key)
