"""Barriers for asyncio: all wait until one of them, or anybody else, opens the way."""

from __future__ import annotations

from forge_consensus.recipes.aio.steps import carry_out
from forge_consensus.recipes.barrier import BarrierCore


class Barrier(BarrierCore):
    """A `forge_consensus.recipes.Barrier` for asyncio; arguments, results and errors are the same."""

    blocking = False

    async def create(self, ttl: float | None = None, timeout: float | None = None) -> bool:
        """Bar the way, and return whether this call did it; False if it was barred before."""
        return bool(await self.raising(ttl, timeout)())

    async def remove(self, timeout: float | None = None) -> bool:
        """Open the way for all who wait, and return whether it was barred."""
        return bool(await self.client.delete(self.key, timeout))

    async def exists(self, timeout: float | None = None) -> bool:
        """Return whether the way is barred."""
        return await self.client.entry(self.key, timeout=timeout) is not None

    async def wait(self, timeout: float | None = None) -> None:
        """Return as soon as the way is open. Raises `ConsensusTimeoutError` when the time is over."""
        await carry_out(self.waiting(timeout))
