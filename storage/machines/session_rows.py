"""The rows of client sessions: one for each session, and one for each outcome that it keeps, each with a checksum.

An outcome has a row of its own, so that a checkpoint writes what is new, and not again all that a session keeps. The
key of a session's row is its id; the key of an outcome is that id and the number of the command. In the tables the
generation stands before both, and is no part of the checksum, so that rows move between generations as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

import msgpack

from forge_consensus.errors import CorruptionError
from forge_consensus.storage.backends.sealed import seal, unseal
from forge_consensus.storage.backends.tables import Batch, TablesView
from forge_consensus.storage.machines.chunks import rows_of
from forge_consensus.storage.machines.machine import Outcome

TABLE: Final = "sessions"
ID_BYTES: Final = 8
SEQ_BYTES: Final = 8
PAGE_ROWS: Final = 64
"""Rows are read in pages of this many, because one may have megabytes."""
WHAT: Final = "a stored client session"

Row = tuple[bytes, bytes]
"""Key, without the generation, and value."""
Head = list[int]
"""The numbers of a session; `Session` knows their order."""


def prefix_of(generation: int) -> bytes:
    """Return what stands before the keys of a generation."""
    return generation.to_bytes(4)


def head_key(session: int) -> bytes:
    """Return the key of a session's row."""
    return session.to_bytes(ID_BYTES)


def outcome_key(session: int, seq: int) -> bytes:
    """Return the key of the row of a command's outcome."""
    return session.to_bytes(ID_BYTES) + seq.to_bytes(SEQ_BYTES)


def head_row(session: int, head: Head) -> Row:
    """Return the row of a session: sealed msgpack of its numbers."""
    key = head_key(session)
    return key, seal(key, cast("bytes", msgpack.packb(head)))


def outcome_row(session: int, seq: int, outcome: Outcome) -> Row:
    """Return the row of an outcome: sealed msgpack [code, payload]."""
    key = outcome_key(session, seq)
    return key, seal(key, cast("bytes", msgpack.packb((outcome.code, outcome.payload))))


def read_row(key: bytes, row: bytes) -> tuple[int, int | None, Any]:
    """Return (session, number of the command or None, value) of a row; the value is a `Head` or an `Outcome`.

    Raises `CorruptionError` if the row is damaged or holds neither.
    """
    session = int.from_bytes(key[:ID_BYTES])
    try:
        value = msgpack.unpackb(unseal(key, row, WHAT))
        if len(key) == ID_BYTES:
            return session, None, [int(each) for each in value]
        code, payload = value
        return session, int.from_bytes(key[ID_BYTES:]), Outcome(str(code), bytes(payload))
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
        raise CorruptionError(f"{WHAT} does not decode: {error}") from error


def read_row_of_format_2(key: bytes, row: bytes) -> tuple[Head, dict[int, Outcome]] | None:
    """Return the numbers of a session and its outcomes, which format 2 kept in one row; None for any other row.

    A row of today that is damaged is not taken for one, because its checksum follows its last part.
    """
    try:
        unseal(key, row, WHAT)
        return None
    except CorruptionError:
        pass
    try:
        last_ms, ttl_ms, done_below, outcomes, *later = msgpack.unpackb(row, strict_map_key=False)
        kept = {int(seq): Outcome(str(code), bytes(payload)) for seq, (code, payload) in outcomes.items()}
        return [int(each) for each in (last_ms, ttl_ms, done_below, *later)], kept
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException):
        return None


def rows_in(tables: TablesView, generation: int) -> Iterator[Row]:
    """Yield the rows of a generation in order: each session before its outcomes."""
    prefix = prefix_of(generation)
    start, stop = prefix, prefix_of(generation + 1)
    while True:
        page = tables.scan(TABLE, start, stop, PAGE_ROWS)
        for key, row in page:
            yield key[len(prefix) :], row
        if len(page) < PAGE_ROWS:
            return
        start = page[-1][0] + b"\0"


def delete_rows(batch: Batch, generation: int, session: int) -> None:
    """Stage the removal of all rows of a session."""
    prefix = prefix_of(generation)
    batch.delete_range(TABLE, prefix + head_key(session), prefix + head_key(session + 1))


def check_chunk_key(key: Any) -> None:
    """Raise TypeError or ValueError unless this is a key in a chunk; in chunks of format 2 it is a session's id."""
    if type(key) is int:
        head_key(key)
    elif type(key) is not bytes or len(key) not in (ID_BYTES, ID_BYTES + SEQ_BYTES):
        raise TypeError("a key is the id of a session, or that and the number of a command")


def rows_in_chunk(chunk: bytes) -> list[Row]:
    """Return the rows in an exported chunk, as they are stored. Raises `CorruptionError` if it is none."""
    try:
        rows = rows_of(chunk, "sessions", check_chunk_key)
    except OverflowError as error:
        raise CorruptionError(f"a chunk of sessions does not decode: {error}") from error
    return [(head_key(key) if type(key) is int else key, row) for key, row in rows]
