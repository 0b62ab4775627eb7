"""A state machine of a user's own with a large state that streams its snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgpack

from forge_consensus.storage.machines.machine import Entry

PAGE_BYTES: Final = 64 << 10


class LargeMachine:
    """Pages of bytes by number, in memory; a page is replaced and never changed.

    So a snapshot is a list of references, made at once: the pages themselves are handed out one after another.
    """

    def __init__(self) -> None:
        self.pages: dict[int, bytes] = {}

    def apply(self, entry: Entry) -> Any:
        """Fill `count` pages from `first` on with what is made of their number, or set one page."""
        payload = entry.command.payload
        if entry.command.type == "fill":
            for number in range(payload["first"], payload["first"] + payload["count"]):
                self.pages[number] = number.to_bytes(8) * (PAGE_BYTES // 8)
        else:
            self.pages[payload["page"]] = payload["value"]
        return len(self.pages)

    def query(self, query: Any) -> Any:
        """Tell the number of pages."""
        return len(self.pages)

    def snapshot(self) -> Iterable[bytes]:
        """The pages, each as a chunk, while later commands replace them."""
        return streamed(list(self.pages.items()))

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Take the pages one after another."""
        self.pages = {}
        for chunk in chunks:
            number, page = msgpack.unpackb(chunk)
            self.pages[number] = page


def streamed(pages: list[tuple[int, bytes]]) -> Iterator[bytes]:
    """Pack pages one after another."""
    for page in pages:
        yield msgpack.packb(page)
