"""The overlay: applied rows in memory that are not on disk yet, as a layer over the table."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

CELL_BYTES: Final = 120
"""About how much memory a key in the overlay takes beside its own text and row."""

Row = tuple[str, bytes | None]
"""A key and its row; None for a deleted key."""


@dataclass(frozen=True, slots=True)
class Span:
    """The keys with a prefix, from `start` on, below `end`; in descending order with `reverse`."""

    prefix: str = ""
    start: str | None = None
    end: str | None = None
    reverse: bool = False

    def beyond(self, key: str | None) -> Span:
        """Return what is left of it beyond a key; all of it for None."""
        if key is None:
            return self
        if self.reverse:
            return Span(self.prefix, self.start, key if self.end is None else min(key, self.end), reverse=True)
        first = key + "\0"
        return Span(self.prefix, first if self.start is None else max(first, self.start), self.end)

    @property
    def low(self) -> str:
        """The lowest key that may be in it."""
        return self.prefix if self.start is None else max(self.prefix, self.start)

    def places(self, keys: list[str]) -> tuple[int, int]:
        """Return where it begins and ends among sorted keys."""
        first = bisect_left(keys, self.low)
        prefix = self.prefix
        stop = len(keys)
        if prefix:
            # Keys below `low` are none of its own either, so what has the prefix from `first` on is one piece.
            stop = bisect_left(keys, True, first, key=lambda key: not key.startswith(prefix))
        if self.end is not None:
            stop = bisect_left(keys, self.end, first, max(first, stop))
        return first, max(first, stop)


class Overlay:
    """Rows by key, None for a deleted one; knows its size and gives ranges in key order.

    A key is never removed, so `order` stays sorted by adding only what came since it was last asked for.
    """

    __slots__ = ("bytes", "cells", "lost", "order")

    def __init__(self) -> None:
        self.cells: dict[str, bytes | None] = {}
        self.bytes = 0
        self.order: list[str] = []
        self.lost: set[str] = set()
        """The keys whose row was open and is replaced by another one: the history of changes still has it."""

    def put(self, key: str, row: bytes | None) -> None:
        """Note a row, or None for a deleted key."""
        cells = self.cells
        if key in cells:
            old = cells[key]
            self.bytes -= len(old) if old else 0
        else:
            self.bytes += len(key) + CELL_BYTES
        self.bytes += len(row) if row else 0
        cells[key] = row

    def sorted_keys(self) -> list[str]:
        """All keys in order, which for str is the order of their UTF-8 bytes in the table."""
        if len(self.order) != len(self.cells):
            self.order.extend(islice(self.cells, len(self.order), None))
            self.order.sort()
        return self.order

    def range(self, span: Span) -> Iterator[Row]:
        """Keys of a span, in its order, one after another; keys that come meanwhile may be left out."""
        keys = self.sorted_keys()
        first, stop = span.places(keys)
        for place in range(stop - 1, first - 1, -1) if span.reverse else range(first, stop):
            yield keys[place], self.cells[keys[place]]

    def taken(self, span: Span) -> Iterator[Row]:
        """As `range`, but all are taken at once, at less than 0.1 us each, so that later changes do not matter."""
        keys = self.sorted_keys()
        first, stop = span.places(keys)
        found = keys[first:stop]
        return zip(found, list(map(self.cells.__getitem__, found)), strict=True)
