"""Rows of the key-value machine: a packed value behind its head, which says since when it exists and on which lease.

The head is 0xc1, then `created`, `modified` and `lease` (8 bytes each, big-endian). No msgpack begins with 0xc1, so a
row without it is a bare value of an earlier version: it counts as created and modified by entry 1. In memory a row may
have `OPEN` in `created`: its command did not look whether the key existed, so that a plain set reads no table. Such a
key was created by that entry only if it was absent below; otherwise it was created when the row below says.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final, NamedTuple

import msgpack

HEAD: Final = Struct(">BQQQ")
HEAD_BYTES: Final = HEAD.size
MARK: Final = 0xC1
OPEN: Final = 1 << 63
"""Added to the index in `created` while it is not known whether the key existed before."""
OPEN_BYTE: Final = 0x80
BIRTH_BYTES: Final = 9
"""A row that has a head begins with its birth: the mark and `created`."""
WRITING: Final = Struct(">QQ")
"""What follows then: `modified` and `lease`."""
MODIFIED: Final = slice(9, 17)
UNSEEN: Final = b""
"""In the place of the row of a key that was not looked up; no row is empty."""
FIRST_INDEX: Final = 1
FIRST_BIRTH: Final = bytes((MARK,)) + FIRST_INDEX.to_bytes(8)


class KeyState(NamedTuple):
    """A key with its value and what is known of it, as the query {"entry": key} answers it."""

    key: str
    value: Any
    created: int
    """The index of the entry since which the key exists without a gap."""
    modified: int
    """The index of the entry that wrote it last."""
    lease: int
    """The id of its lease, 0 for none."""


def row_after(below: bytes | None, index: int, lease: int, value: bytes) -> bytes:
    """Return the row that the entry at `index` writes, over the row `below`: None for an absent key, or `UNSEEN`."""
    if below:
        return birth_of(below) + WRITING.pack(index, lease) + value
    return HEAD.pack(MARK, index if below is None else index | OPEN, index, lease) + value


def value_of(row: bytes) -> bytes:
    """Return the packed value in a row."""
    return row[HEAD_BYTES:] if row[0] == MARK else row


def value_size(row: bytes) -> int:
    """Return how many bytes the packed value in a row has."""
    return len(row) - HEAD_BYTES if row[0] == MARK else len(row)


def head_of(row: bytes) -> tuple[int, int, int]:
    """Return created, modified and lease; `created` may have `OPEN` in it if the row is in memory."""
    if row[0] != MARK:
        return FIRST_INDEX, FIRST_INDEX, 0
    _, created, modified, lease = HEAD.unpack_from(row)
    return created, modified, lease


def is_open(row: bytes | None) -> bool:
    """Whether it is not known yet when the key of a row was created; never of a row that is on disk."""
    return row is not None and row[0] == MARK and row[1] >= OPEN_BYTE


def birth_of(row: bytes) -> bytes:
    """Return the birth of a row."""
    return row[:BIRTH_BYTES] if row[0] == MARK else FIRST_BIRTH


def with_birth(row: bytes, birth: bytes | None) -> bytes:
    """Return an open row with that birth; None says that the key was absent below, so the row's own is right."""
    return (birth or own_birth(row)) + row[BIRTH_BYTES:]


def own_birth(row: bytes) -> bytes:
    """Return the birth of an open row whose key was absent below."""
    return b"".join((row[:1], bytes((row[1] - OPEN_BYTE,)), row[2:BIRTH_BYTES]))


def in_new_form(row: bytes) -> bytes:
    """Return a row with a head."""
    return row if row[0] == MARK else HEAD.pack(MARK, FIRST_INDEX, FIRST_INDEX, 0) + row


def check_row(row: bytes) -> None:
    """Raise `ValueError` unless this is a row that may be on disk."""
    if not row or (row[0] == MARK and (len(row) <= HEAD_BYTES or row[1] >= OPEN_BYTE)):
        raise ValueError("a row without a value")


def state_of(key: str, row: bytes) -> KeyState:
    """Return a key with the contents of its row."""
    return KeyState(key, msgpack.unpackb(value_of(row)), *head_of(row))
