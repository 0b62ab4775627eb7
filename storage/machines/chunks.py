"""Chunks: rows packed into pieces of bounded size, the form in which state travels in a snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar, cast

import msgpack

from forge_consensus.errors import CorruptionError

CHUNK_BYTES: Final = 256 << 10
"""A chunk is closed once its rows have this many bytes."""

Key = TypeVar("Key", bytes, int)


def chunks_of(rows: Iterable[tuple[Key, bytes]]) -> Iterator[bytes]:
    """Yield the rows in order, packed as msgpack [[key, value], ...] in chunks of about `CHUNK_BYTES`."""
    chunk: list[tuple[Key, bytes]] = []
    size = 0
    for row in rows:
        key, value = row
        chunk.append(row)
        size += len(value) + (len(key) if isinstance(key, bytes) else 0)
        if size >= CHUNK_BYTES:
            yield cast("bytes", msgpack.packb(chunk))
            chunk, size = [], 0
    if chunk:
        yield cast("bytes", msgpack.packb(chunk))


def rows_of(
    chunk: bytes,
    what: str,
    check_key: Callable[[Any], object],
    check_row: Callable[[Any, bytes], object] | None = None,
) -> list[tuple[Any, bytes]]:
    """The rows in a chunk.

    `check_key` raises ValueError, TypeError or AttributeError for a key that cannot be one, and `check_row` for a value
    that cannot be that of its key. `what` names the rows in the `CorruptionError` that is raised if the bytes are
    malformed.
    """
    try:
        rows = [(key, value) for key, value in msgpack.unpackb(chunk)]
        for key, value in rows:
            if type(value) is not bytes:
                raise TypeError("a value that is not packed")
            check_key(key)
            if check_row is not None:
                check_row(key, value)
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
        raise CorruptionError(f"a chunk of {what} does not decode: {error}") from error
    return rows
