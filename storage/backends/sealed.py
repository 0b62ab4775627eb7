"""Sealed rows: a value and its checksum under one key, so that a bit that flips on the disk is noticed when it is read.

LMDB checks nothing that it reads back. A row that is not sealed would be an answer, whatever the disk made of it, and
would travel to other nodes within a snapshot.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

from forge_consensus.errors import CorruptionError

CRC_BYTES: Final = 4
RESIDUE: Final = 0x2144DF1C
"""The crc32 of any bytes that are followed by their own crc32, whatever start value was used. With it a row is checked
without copying a part of it."""
BEGIN_ANEW: Final = (
    "remove the member, start the node on an empty folder with --join, and add it again: forge-consensus members "
    "remove ID, then members add ID=HOST:PORT"
)
"""How a member comes back whose folder is lost."""
REJOIN: Final = (
    "Leave this node switched off and keep its folder: the others go on while they are a majority of the members. Then "
    + BEGIN_ANEW
    + ". If no majority is left: forge-consensus recover, on the best folder that is whole"
)
"""What to do about a folder that does not hold what was written."""


def seal(key: bytes, value: bytes) -> bytes:
    """Return the row of a value: the value, then the crc32 of key and value (4 bytes, little-endian).

    The checksum covers the key, so that a row under a wrong key is noticed too.
    """
    return value + crc32(value, crc32(key)).to_bytes(CRC_BYTES, "little")


def is_sealed(key: bytes, row: bytes) -> bool:
    """Whether a row is whole and belongs to that key."""
    return crc32(row, crc32(key)) == RESIDUE and len(row) >= CRC_BYTES


def unseal(key: bytes, row: bytes, what: str) -> bytes:
    """Return the value in a row. Raises `CorruptionError`, which names the row by `what`, if it is damaged."""
    if crc32(row, crc32(key)) != RESIDUE or len(row) < CRC_BYTES:
        raise CorruptionError(f"{what} fails its checksum: the node does not run. {REJOIN}")
    return row[:-CRC_BYTES]
