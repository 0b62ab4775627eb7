"""The uncommitted: how many bytes a leader has proposed that are not committed, so that they can be bounded."""

from __future__ import annotations

from collections import deque


class Uncommitted:
    """The leader's proposals behind the commit index. A batch counts until its last entry is committed."""

    __slots__ = ("batches", "size_bytes")

    def __init__(self) -> None:
        self.batches: deque[tuple[int, int]] = deque()
        self.size_bytes = 0

    def proposed(self, last: int, size_bytes: int) -> None:
        """Note that a batch of entries, `last` the last of them, was appended."""
        self.batches.append((last, size_bytes))
        self.size_bytes += size_bytes

    def committed(self, index: int) -> None:
        """Note that the entries up to `index` are committed."""
        while self.batches and self.batches[0][0] <= index:
            self.size_bytes -= self.batches.popleft()[1]

    def clear(self) -> None:
        """Forget all proposals, because a leadership began or ended."""
        self.batches.clear()
        self.size_bytes = 0
