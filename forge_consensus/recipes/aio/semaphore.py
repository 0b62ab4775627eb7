"""Semaphores for asyncio: some holders at a time, in the order in which they came."""

from __future__ import annotations

import asyncio
from typing import Self

from forge_consensus.errors import ConsensusError
from forge_consensus.recipes.aio.steps import carry_out
from forge_consensus.recipes.hold import HoldCore
from forge_consensus.recipes.patience import NotYetError
from forge_consensus.recipes.semaphore import SemaphoreCore, owner_of


class Permit(HoldCore):
    """One permit of a semaphore, held until it is released; in an ``async with`` statement until its end."""

    async def release(self) -> None:
        """Release it, so that the next one has it at once; errors as those of the blocking `Permit.release`."""
        await carry_out(self.letting_go(self.withdrawn()))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Release it. An error of the body stays the one that is raised, with a note of what went wrong here."""
        try:
            await self.release()
        except ConsensusError as failed:
            if error is None:
                raise
            error.add_note(f"{type(failed).__name__}: {failed}")


class Semaphore(SemaphoreCore[Permit]):
    """A `forge_consensus.recipes.Semaphore` for asyncio; arguments, results and errors are the same.

        semaphore = Semaphore(client, "licences", 3)
        async with semaphore as permit:
            await work(permit.token)

    Any number of tasks may share one object, and each may hold permits. `on_lost` is called on the event loop.
    """

    blocking = False

    async def acquire(self, timeout: float | None = None) -> Permit:
        """Wait for a permit and return it; arguments and errors as those of the blocking `Semaphore.acquire`."""
        permit = Permit(self.line, self.on_lost, self.forgetting)
        await carry_out(permit.taking(self.value, self.patience(timeout)))
        self.permits[permit] = asyncio.current_task()
        return permit

    async def try_acquire(self) -> Permit | None:
        """Look once whether a permit is free, and return it; None if there is none."""
        try:
            return await self.acquire(0)
        except NotYetError:
            return None

    async def release(self) -> None:
        """Release the permit that this task acquired last; errors are those of `Permit.release`."""
        await self.mine(asyncio.current_task()).release()

    async def holders(self, timeout: float | None = None) -> list[str]:
        """Return the owners of the permits that are held."""
        return [owner_of(entry.value) for entry in await carry_out(self.line.standing(self.limit, timeout))]

    async def __aenter__(self) -> Permit:
        """Wait for a permit, at most for the timeout that the semaphore was made with."""
        permit = await self.acquire()
        self.entered.setdefault(asyncio.current_task(), []).append(permit)
        return permit

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Release the permit of this ``async with`` statement, as its own would."""
        await self.left_by(asyncio.current_task()).__aexit__(kind, error, traceback)
