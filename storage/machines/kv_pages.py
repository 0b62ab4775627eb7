"""Pages of the key-value machine: the answer to a scan, made in steps."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Any, Final, cast

import msgpack

from forge_consensus.storage.machines.kv_overlay import Row, Span
from forge_consensus.storage.machines.kv_rows import birth_of, head_of, is_open, value_of, with_birth
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
QUINTUPLE: Final = b"\x95"
"""The first byte of a list of five."""
SCAN_FIELDS: Final = frozenset({"scan", "limit", "after"})
ENTRIES_FIELDS: Final = frozenset({"entries", "limit", "after", "start", "end", "reverse"})

first_of: Final[Callable[[Any], Any]] = itemgetter(0)


class Page:
    """One page of a scan while it is made. The stored values are msgpack, so they are copied and not decoded."""

    __slots__ = ("last", "limit", "pack", "parts", "size", "span", "whole")

    def __init__(self, span: Span, limit: int, after: str | None, *, whole: bool = False) -> None:
        self.span = span
        self.limit = limit
        self.last = after
        """The last key that was passed; the page goes on beyond it."""
        self.whole = whole
        """Whether its rows have what is known of the keys beside their values."""
        self.pack: Callable[[Any], bytes] = msgpack.Packer().pack
        self.parts: list[bytes] = []
        self.size = LIST_HEAD_BYTES

    @property
    def rest(self) -> Span:
        """The keys that were not passed yet."""
        return self.span.beyond(self.last)

    def add(self, key: str, row: bytes) -> bool:
        """Add a row; returns whether the page is full. Raises `ValueError` if it becomes too large."""
        part = (QUINTUPLE if self.whole else PAIR) + self.pack(key) + value_of(row)
        if self.whole:
            part += b"".join(map(self.pack, head_of(row)))
        self.size += len(part)
        if self.size > SCAN_BYTES_MAX:
            raise ValueError(f"{self.limit} rows have over {SCAN_BYTES_MAX} bytes: ask for at most {len(self.parts)}")
        self.parts.append(part)
        return len(self.parts) == self.limit

    def encoded(self) -> Encoded:
        """Return the page as the answer: [[key, value], ...], or [[key, value, created, modified, lease], ...]."""
        head = msgpack.Packer().pack_array_header(len(self.parts))
        return Encoded(b"".join((head, *self.parts)))


def page_of(query: dict[str, Any]) -> Page:
    """Return the empty page for a scan. Raises `TypeError` or `ValueError` for a field that cannot be."""
    whole = "entries" in query
    prefix = check_text("entries" if whole else "scan", query["entries" if whole else "scan"])
    start, end, after = (query.get(name) for name in ("start", "end", "after"))
    for name, text in (("start", start), ("end", end), ("after", after)):
        if text is not None:
            check_text(name, text)
    reverse, limit = query.get("reverse", False), query.get("limit", SCAN_ROWS)
    if type(reverse) is not bool:
        raise TypeError(f"reverse is True or False, not {type(reverse).__name__}")
    whole_number("limit", limit, 1, SCAN_ROWS_MAX)
    return Page(Span(prefix, start, end, reverse), limit, after, whole=whole)


def whole_number(name: str, value: Any, low: int, high: int) -> int:
    """Return a whole number within bounds. Raises `ValueError` for any other value."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} is a number from {low} to {high}")
    return value


def is_scan(query: dict[Any, Any]) -> bool:
    """Whether a query asks for a page of keys and values."""
    return ("scan" in query and query.keys() <= SCAN_FIELDS) or ("entries" in query and query.keys() <= ENTRIES_FIELDS)


def check_text(name: str, value: Any) -> str:
    """Return the value; raises TypeError when it is no text."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is a text, not {type(value).__name__}")
    return value


def fill(page: Page, rows: Iterator[Row]) -> bool:
    """Take one step: add the next rows to a page. Returns whether the page is complete."""
    passed = size = 0
    for key, row in islice(rows, STEP_ROWS):
        passed += 1
        page.last = key
        if row is None:
            continue
        if page.add(key, row):
            return True
        size += len(row)
        if size > STEP_BYTES:
            return False
    return passed < STEP_ROWS


def filling(page: Page, rows: Iterator[Row]) -> Generator[None, None, None]:
    """Take steps until a page is complete."""
    while not fill(page, rows):
        yield


def merged(*layers: Iterator[Row], reverse: bool = False) -> Iterator[Row]:
    """Yield the rows of several layers in order; of equal keys only that of the first layer, which may be open."""
    newest: str | None = None
    for key, row in merge(*layers, key=first_of, reverse=reverse):
        if key != newest:
            yield key, row
        newest = key


def closed(*layers: Iterator[Row], reverse: bool = False) -> Iterator[Row]:
    """As `merged`, with no row open: the row of the next layer that has the key says when it was created."""
    held: Row | None = None
    for key, row in merge(*layers, key=first_of, reverse=reverse):
        if held is not None and held[0] == key:
            if is_open(held[1]):
                held = key, close(cast("bytes", held[1]), row)
            continue
        if held is not None:
            yield held[0], held[1] if not is_open(held[1]) else close(cast("bytes", held[1]), None)
        held = key, row
    if held is not None:
        yield held[0], held[1] if not is_open(held[1]) else close(cast("bytes", held[1]), None)


def close(row: bytes, below: bytes | None) -> bytes:
    """Return an open row as the row of its key in the layer below decides; None if there is none."""
    return with_birth(row, None if below is None else birth_of(below))


def over(row: bytes | None, below: bytes | None) -> bytes | None:
    """Return a row as it is over the row of a layer below that has the key, None for a deleted one."""
    return close(row, below) if row is not None and is_open(row) else row
