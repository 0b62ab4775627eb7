"""The room: what the store and its disk still take, and whether this node can append entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from forge_consensus.errors import StorageFullError
from forge_consensus.storage.backends.tables import Space, Tables

MARGIN: Final = 16
"""The margin is this part of the reserve."""
WANTED_SECONDS: Final = 60.0
"""For how long a node counts as full because of a refused entry of this size, unless more are refused."""
UNITS: Final = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


class Room:
    """Refuses what does not fit beside the reserve, and knows for how long the node has been full.

    The reserve keeps votes, compaction and copy-on-write possible when entries are refused. A node is *full* from a
    refusal, or from the moment that its room reaches the reserve, until what it refused would fit. `pending` returns
    the bytes that are in memory and will need room: entries and applied state that are not on disk yet.
    """

    def __init__(self, tables: Tables, reserve_bytes: int, pending: Callable[[], int]) -> None:
        self.tables = tables
        self.pending = pending
        self.take_reserve(reserve_bytes)
        self.full = ""
        """Why this node takes no entries, for people; empty if it does."""
        self.full_since = 0.0
        """When it became full, in seconds of the running clock."""
        self.wanted_bytes = 0
        """The largest that was refused since the node is full."""
        self.wanted_at = 0.0
        self.now = 0.0
        """The running clock when the turn began."""

    def take_reserve(self, reserve_bytes: int) -> None:
        """Keep so many bytes in reserve from now on."""
        self.reserve_bytes = reserve_bytes
        self.margin_bytes = reserve_bytes // MARGIN
        """A node with less than this beyond the reserve counts as full before it refuses anything."""

    def left(self, space: Space) -> int:
        """The bytes that are left for entries, below zero if the reserve is in use."""
        free_bytes = space.disk_free_bytes + self.reusable(space)
        return min(space.quota_bytes - space.used_bytes, free_bytes) - self.pending() - self.reserve_bytes

    def reusable(self, space: Space) -> int:
        """The bytes of the tables' file that are free, as far as to rely on them.

        Large values need pages in a row, so the file may have to grow although much of it is free. When the disk has
        little for that, only a third counts.
        """
        scarce = 2 * space.disk_free_bytes < self.reserve_bytes
        return space.reusable_bytes // 3 if scarce else space.reusable_bytes

    def disk_is_short(self, space: Space) -> bool:
        """Whether the disk bounds what is left, and not the quota."""
        return space.disk_free_bytes + self.reusable(space) <= space.quota_bytes - space.used_bytes

    def check(self, extra_bytes: int) -> None:
        """Raise `StorageFullError` unless there is room for this much, for unsaved state, and for the reserve.

        A page that changes is copied before the old one is free, so twice the bytes are needed.
        """
        space = self.tables.space()
        if self.left(space) < 2 * extra_bytes:
            raise StorageFullError(self.text(space))

    def check_file(self, size_bytes: int, *, beside_bytes: int = 0) -> None:
        """Raise `StorageFullError` unless the disk takes a file of this size, and the store `beside_bytes` besides."""
        space = self.tables.space()
        self.check(beside_bytes)
        needed = size_bytes + 2 * beside_bytes + self.pending() + self.reserve_bytes
        if space.disk_free_bytes < needed:
            raise StorageFullError(f"{self.text(space)}; {size_text(needed)} are needed")

    def check_entries(self, size_bytes: int) -> None:
        """As `check`, for entries of the log: a node that must refuse some is full."""
        try:
            self.check(size_bytes)
        except StorageFullError as error:
            self.wanted_bytes, self.wanted_at = max(self.wanted_bytes, size_bytes), self.now
            self.become_full(str(error))
            raise

    def look(self) -> str:
        """Find out whether the node is full; returns why, or "". Call it once in a while, and before `full` is told."""
        if self.full and self.now - self.wanted_at > WANTED_SECONDS:
            self.wanted_bytes = 0
        space = self.tables.space()
        margin_bytes = 2 * self.margin_bytes if self.full else self.margin_bytes
        if self.left(space) < max(2 * self.wanted_bytes, margin_bytes):
            self.become_full(self.text(space))
        else:
            self.full, self.wanted_bytes = "", 0
        return self.full

    def become_full(self, text: str) -> None:
        """Note that the node is full. The text stays the same while it is, so that it is told once."""
        if not self.full:
            self.full, self.full_since = text, self.now

    def text(self, space: Space) -> str:
        """Say what is free, what is kept in reserve, and what to do."""
        free_bytes = space.disk_free_bytes + self.reusable(space)
        if self.disk_is_short(space):
            what = f"the disk is full: {size_text(free_bytes)} are free"
            remedy = "make room on the disk"
        else:
            used, quota = size_text(space.used_bytes), size_text(space.quota_bytes)
            what = f"the store is full: it uses {used} of the {quota} of storage.quota_bytes"
            remedy = "raise storage.quota_bytes, or remove data"
        pending = self.pending()
        waiting = f", {size_text(pending)} wait to be written" if pending else ""
        reserve = size_text(self.reserve_bytes)
        return f"{what}, {reserve} are kept in reserve (storage.reserve_bytes){waiting}: {remedy}; nothing was lost"


def size_text(size_bytes: int) -> str:
    """Return a size for people, such as ``16.0 MiB``."""
    for factor, unit in UNITS:
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} bytes"
