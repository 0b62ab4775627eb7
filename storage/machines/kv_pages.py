"""Pages of the key-value machine: the answer to a scan, made in steps."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Any, Final

import msgpack

from forge_consensus.storage.machines.machine import RESULT_BYTES_MAX
from forge_consensus.storage.machines.steps import Encoded

SCAN_ROWS: Final = 1000
SCAN_ROWS_MAX: Final = 10_000
SCAN_BYTES_MAX: Final = RESULT_BYTES_MAX
"""A larger answer is refused and not cut, because a short page would be taken for the last one."""
STEP_ROWS: Final = 500
"""How many keys one step of a scan passes, deleted ones too: about a millisecond."""
STEP_BYTES: Final = 512 << 10
"""A step of a scan ends beyond so many bytes of values."""
LIST_HEAD_BYTES: Final = 5
PAIR: Final = b"\x92"
"""The first byte of a list of two."""

Row = tuple[str, bytes | None]
"""A key and its packed value; None for a deleted key."""

first_of: Final[Callable[[Any], Any]] = itemgetter(0)


class Page:
    """One page of a scan while it is made. The stored values are msgpack, so they are copied and not decoded."""

    __slots__ = ("last", "limit", "pack", "parts", "prefix", "size")

    def __init__(self, prefix: str, limit: int, after: str | None) -> None:
        self.prefix = prefix
        self.limit = limit
        self.last = after
        """The last key that was passed; the page goes on beyond it."""
        self.pack: Callable[[Any], bytes] = msgpack.Packer().pack
        self.parts: list[bytes] = []
        self.size = LIST_HEAD_BYTES

    def add(self, key: str, value: bytes) -> bool:
        """Add a row; returns whether the page is full. Raises `ValueError` if it becomes too large."""
        part = PAIR + self.pack(key) + value
        self.size += len(part)
        if self.size > SCAN_BYTES_MAX:
            raise ValueError(f"{self.limit} rows have over {SCAN_BYTES_MAX} bytes: ask for at most {len(self.parts)}")
        self.parts.append(part)
        return len(self.parts) == self.limit

    def encoded(self) -> Encoded:
        """Return the page as the answer: [[key, value], ...]."""
        head = msgpack.Packer().pack_array_header(len(self.parts))
        return Encoded(b"".join((head, *self.parts)))


def page_of(query: dict[str, Any]) -> Page:
    """Return the empty page for a scan. Raises `TypeError` or `ValueError` for a field that cannot be."""
    prefix, limit, after = query["scan"], query.get("limit", SCAN_ROWS), query.get("after")
    check_text("scan", prefix)
    if after is not None:
        check_text("after", after)
    if type(limit) is not int or not 0 < limit <= SCAN_ROWS_MAX:
        raise ValueError(f"limit is a number from 1 to {SCAN_ROWS_MAX}")
    return Page(prefix, limit, after)


def check_text(name: str, value: Any) -> str:
    """Return the value; raises TypeError when it is no text."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is a text, not {type(value).__name__}")
    return value


def fill(page: Page, rows: Iterator[Row]) -> bool:
    """Take one step: add the next rows to a page. Returns whether the page is complete."""
    passed = size = 0
    for key, value in islice(rows, STEP_ROWS):
        passed += 1
        page.last = key
        if value is None:
            continue
        if page.add(key, value):
            return True
        size += len(value)
        if size > STEP_BYTES:
            return False
    return passed < STEP_ROWS


def filling(page: Page, rows: Iterator[Row]) -> Generator[None, None, None]:
    """Take steps until a page is complete."""
    while not fill(page, rows):
        yield


def merged(*layers: Iterator[Row]) -> Iterator[Row]:
    """Yield the rows of several layers in key order; of equal keys only that of the first layer."""
    newest: str | None = None
    for key, value in merge(*layers, key=first_of):
        if key != newest:
            yield key, value
        newest = key
