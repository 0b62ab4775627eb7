"""The file of the tables before LMDB maps it: whether it is LMDB's, and whether it holds all that was committed.

LMDB maps the file and trusts it: reading a page beyond its end ends the process with SIGBUS, and a page of zeros with
an assertion. So a file that is shorter than its last commit says is read here first.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from forge_consensus.errors import CorruptionError
from forge_consensus.storage.backends.sealed import REJOIN

NAME: Final = "data.mdb"
LOCK_NAME: Final = "lock.mdb"
LOCK_BYTES: Final = 8192
"""What LMDB's own lock takes for 64 readers, in whole pages."""
MAGIC: Final = 0xBEEFC0DE
META: Final = struct.Struct("<16x II 16x I 36x Q 40x Q QQ")
"""A meta page: header, magic, version, address and size of the map, page size, the root of the table of free pages, the
root of the table of tables, last page, transaction."""
PAGE: Final = struct.Struct("<10x H H 2x")
"""The header of a page: flags, end of the pointers to its nodes."""
NODE: Final = struct.Struct("<HHHH")
"""A node: two halves of its data's size, flags, size of its key. In a branch the first three are a page number."""
ROOT_AT: Final = 40
"""Where the record of a table has the number of its root page."""
BRANCH, LEAF = 1, 2
LARGE, TABLE = 1, 2
"""Flags of a node: its data is in pages of its own; its data is the record of a table."""
NO_PAGE: Final = (1 << 64) - 1
PAGE_BYTES: Final = frozenset(1 << bits for bits in range(9, 17))


class Meta(NamedTuple):
    """The newest commit of a file."""

    page_bytes: int
    roots: tuple[int, int]
    last_page: int


def check_file(folder: Path) -> None:
    """Check the file in that folder before it is opened; a missing one is new.

    A file may be shorter than its last commit says and yet be whole, because LMDB does not write pages that a
    transaction took and gave back; then every page that is in use is looked for. Raises `CorruptionError` for a file
    that is empty, not LMDB's, or lacks a page, `OSError` if it cannot be read.
    """
    path = folder / NAME
    try:
        size_bytes = path.stat().st_size
    except FileNotFoundError:
        return
    if size_bytes == 0:
        raise CorruptionError(f"{path} is empty, so what this node acknowledged is lost: it does not run. {REJOIN}")
    with path.open("rb") as file:
        meta = newest_meta(file)
        if meta is None:
            raise CorruptionError(f"{path} does not begin like a store of this program: it does not run. {REJOIN}")
        if size_bytes < (meta.last_page + 1) * meta.page_bytes and not is_whole(file, meta, size_bytes):
            raise CorruptionError(f"{path} was cut to {size_bytes} bytes, and pages that are in use lack. {REJOIN}")


def make_lock_file(folder: Path) -> None:
    """Write LMDB's own lock full of zeros if it is not there.

    LMDB would make it with a length and no blocks, and map it: on a full disk the first change of it is SIGBUS. Raises
    `OSError` if the disk has no room.
    """
    path = folder / LOCK_NAME
    # One that is there is not even opened, because to close it would drop the locks that this process has on it.
    if path.exists() and path.stat().st_size:
        return
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(bytes(LOCK_BYTES))
        file.flush()
        os.fsync(file.fileno())  # on some file systems blocks are taken only here


@contextmanager
def no_empty_file(folder: Path) -> Iterator[None]:
    """Let LMDB make its file, and remove what it could not write to.

    A new folder on a full disk would be refused for ever, as one that was emptied. Raises what is raised within.
    """
    path = folder / NAME
    was_there = path.exists()
    try:
        yield
    except BaseException:
        if not was_there:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        raise


def newest_meta(file: BinaryIO) -> Meta | None:
    """The newest commit according to the two meta pages; None if the file is not LMDB's."""
    first = file.read(META.size)
    if len(first) < META.size:
        return None
    kind = META.unpack(first)[:3]
    if kind[:2] != (MAGIC, 1) or kind[2] not in PAGE_BYTES:
        return None
    file.seek(kind[2])
    second = file.read(META.size)
    if len(second) < META.size or META.unpack(second)[:3] != kind:
        return None
    _, _, page_bytes, free, tables, last_page, _ = max(META.unpack(first), META.unpack(second), key=lambda row: row[6])
    return Meta(page_bytes, (free, tables), last_page)


def is_whole(file: BinaryIO, meta: Meta, size_bytes: int) -> bool:
    """Whether the file has every page that the commit uses."""
    pages = size_bytes // meta.page_bytes
    waiting = [root for root in meta.roots if root != NO_PAGE]
    seen = 0
    while waiting:
        number = waiting.pop()
        seen += 1
        if number >= pages or seen > pages:
            return False
        file.seek(number * meta.page_bytes)
        for page, count in pages_behind(file.read(meta.page_bytes), meta.page_bytes):
            if page + count > pages:
                return False
            if not count:
                waiting.append(page)
    return True


def pages_behind(page: bytes, page_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield the pages that a page refers to: (number, 0) of one with nodes, (first, count) of a large value."""
    flags, lower = PAGE.unpack_from(page)
    if not flags & (BRANCH | LEAF):
        yield NO_PAGE, 1  # no page of a tree stands here
        return
    for (place,) in struct.iter_unpack("<H", page[PAGE.size : min(lower, page_bytes) // 2 * 2]):
        if place + NODE.size > page_bytes:
            yield NO_PAGE, 1
            return
        low, high, kind, key_bytes = NODE.unpack_from(page, place)
        if flags & BRANCH:
            yield low | high << 16 | kind << 32, 0
            continue
        data = page[place + NODE.size + key_bytes :]
        if kind & LARGE:
            size = PAGE.size + (low | high << 16)
            yield int.from_bytes(data[:8], "little"), -(-size // page_bytes)
        elif kind & TABLE:
            root = int.from_bytes(data[ROOT_AT : ROOT_AT + 8], "little")
            if root != NO_PAGE:
                yield root, 0
