"""The bandwidth: a bound of the bytes that leave in a second. Pure logic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Bandwidth:
    """`bytes_per_second` leave at most, on the average; 0 is no bound. Moments are seconds of one clock."""

    bytes_per_second: int
    free_at: float = 0.0
    """When what was sent so far has had its time."""

    def wait(self, now: float) -> float:
        """For how many seconds nothing may leave."""
        return max(0.0, self.free_at - now) if self.bytes_per_second else 0.0

    def spend(self, size_bytes: int, now: float) -> None:
        """Note that so many bytes leave now. Time in which nothing left is not made up for."""
        if self.bytes_per_second:
            self.free_at = max(self.free_at, now) + size_bytes / self.bytes_per_second
