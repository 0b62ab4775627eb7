"""Counters for asyncio: a whole number of the cluster to which anybody adds."""

from __future__ import annotations

from forge_consensus.recipes.counter import CounterCore, check_number, swapped


class Counter(CounterCore):
    """A `forge_consensus.recipes.Counter` for asyncio; arguments, results and errors are the same, but it has no `+=`.

    Such as ``print(await hits.add(5), await hits.get())``.
    """

    blocking = False

    async def add(self, by: int = 1, timeout: float | None = None) -> int:
        """Add to the number and return the sum."""
        return int(await self.client.incr(self.key, check_number(by), timeout))

    async def get(self, timeout: float | None = None) -> int:
        """Return the number."""
        return self.number(await self.client.get(self.key, timeout=timeout))

    async def set(self, value: int, timeout: float | None = None) -> None:
        """Set the number, whatever it is."""
        await self.client.put(self.key, check_number(value), timeout)

    async def compare_and_set(self, expected: int, value: int, timeout: float | None = None) -> bool:
        """Set the number if it is the expected one, and return whether it was."""
        return swapped(await self.client.transaction(*self.swap(expected, value), timeout))
