"""The uncommitted: how many bytes a leader has proposed that are not committed, so that they can be bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import accumulate


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

    def room_for(self, sizes: Sequence[int], size_bytes_max: int) -> int:
        """How many of the first entries of these sizes fit, if at most `size_bytes_max` may be uncommitted."""
        left = size_bytes_max - self.size_bytes
        return sum(total <= left for total in accumulate(sizes))

    def clear(self) -> None:
        """Forget all proposals, because a leadership began or ended."""
        self.batches.clear()
        self.size_bytes = 0
