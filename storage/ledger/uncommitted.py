"""The uncommitted: how much a leader has proposed that a majority does not have yet, so that it can be bounded."""

from __future__ import annotations

from collections import deque


class Uncommitted:
    """The leader's proposals behind the commit index, a run counting until its last entry is committed."""

    __slots__ = ("runs", "size_bytes")

    def __init__(self) -> None:
        self.runs: deque[tuple[int, int]] = deque()
        self.size_bytes = 0

    def proposed(self, last: int, size_bytes: int) -> None:
        """A run of entries up to `last` was appended."""
        self.runs.append((last, size_bytes))
        self.size_bytes += size_bytes

    def committed(self, index: int) -> None:
        """The entries up to `index` are committed."""
        while self.runs and self.runs[0][0] <= index:
            self.size_bytes -= self.runs.popleft()[1]

    def clear(self) -> None:
        """Nothing is waited for: leading began or ended."""
        self.runs.clear()
        self.size_bytes = 0
