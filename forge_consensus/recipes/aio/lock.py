"""Locks for asyncio: one holder at a time, in the order in which they came."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any, Self

from forge_consensus.errors import AlreadyHeldError, ConsensusError, LeaseLostError, NotHeldError
from forge_consensus.recipes.aio.steps import carry_out
from forge_consensus.recipes.lock import CONTENDERS_MAX, LockCore
from forge_consensus.recipes.names import TTL_SECONDS, check_timeout
from forge_consensus.recipes.patience import NotYetError, Patience
from forge_consensus.recipes.steps import RecipeClient


class Lock(LockCore):
    """A `forge_consensus.recipes.Lock` for asyncio; arguments, results and errors are the same.

        async with Lock(client, "reports") as lock:
            await client.transaction(lock.guard(), [Command("set", {"key": "report", "value": 1})])

    Tasks that share one object wait for each other, in their order. A task that holds it and acquires it again gets an
    error; see `RLock`. `on_lost` is called on the event loop.
    """

    blocking = False

    internal = LockCore.internal | {"turnstile", "inside", "enter", "leave"}

    def __init__(
        self,
        client: RecipeClient,
        name: str,
        ttl: float = TTL_SECONDS,
        *,
        owner: str = "",
        timeout: float | None = None,
        on_lost: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(client, name, ttl, owner=owner, timeout=timeout, on_lost=on_lost)
        self.turnstile = asyncio.Lock()
        self.inside: asyncio.Task[Any] | None = None
        """The task that holds or awaits the lock through this object."""

    async def acquire(self, timeout: float | None = None) -> int:
        """Wait until the lock is held here, and return its fencing token; arguments and errors as `Lock.acquire`."""
        patience = self.patience(timeout)
        await self.enter(patience)
        try:
            self.hold = await carry_out(self.claiming(patience))
        except BaseException:
            self.leave()
            raise
        return self.hold.token

    async def try_acquire(self) -> int | None:
        """Look once whether the lock is free; return the token if it is held here now, None if others are ahead."""
        try:
            return await self.acquire(0)
        except NotYetError:
            return None

    async def enter(self, patience: Patience) -> None:
        """Keep other tasks out. Raises `AlreadyHeldError`, `ConsensusTimeoutError`."""
        if self.hold is not None and self.hold.is_foreign:
            self.hold, self.turnstile, self.inside = None, asyncio.Lock(), None  # a fork: the parent holds it
        if self.inside is not None and self.inside is asyncio.current_task():
            raise AlreadyHeldError(
                f"{self.kind} {self.name!r} is held or awaited by this very task, which would wait for itself: release "
                "it first, or take an RLock"
            )
        try:
            async with asyncio.timeout(None if patience.left == inf else patience.left):
                await self.turnstile.acquire()
        except TimeoutError:
            raise NotYetError(
                f"{self.kind} {self.name!r} was not to be had within {patience.timeout:g} s: another task of this "
                "process holds or awaits it through the same object"
            ) from None
        self.inside = asyncio.current_task()

    def leave(self) -> None:
        """Let other tasks in."""
        self.inside = None
        self.turnstile.release()

    async def release(self) -> None:
        """Release the lock, so that the next one has it at once; errors as `Lock.release`."""
        hold = self.held()
        claim = hold.withdrawn()
        self.hold = None
        try:
            await carry_out(hold.letting_go(claim))
        finally:
            self.leave()

    async def contenders(self, timeout: float | None = None) -> list[str]:
        """Return the owners of the holder and of those who wait, in their order; at most 1,000."""
        return [entry.value for entry in await carry_out(self.line.standing(CONTENDERS_MAX, timeout))]

    async def __aenter__(self) -> Self:
        """Wait until the lock is held, at most for the timeout that it was made with."""
        await self.acquire()
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Release the lock. An error of the body stays the one that is raised, with a note of what went wrong here."""
        try:
            await self.release()
        except ConsensusError as failed:
            if error is None:
                raise
            error.add_note(f"{type(failed).__name__}: {failed}")


class RLock(Lock):
    """A `forge_consensus.recipes.RLock` for asyncio: the task that holds it may acquire it again."""

    depth = 0

    async def acquire(self, timeout: float | None = None) -> int:
        """Wait until the lock is held here, and return its fencing token; at once if this task holds it."""
        if self.hold is None or self.hold.is_foreign or self.inside is not asyncio.current_task():
            token = await super().acquire(timeout)
            self.depth = 1
            return token
        check_timeout(timeout)
        if self.lost.is_set():
            raise LeaseLostError(
                f"lock {self.name!r} was lost while this task held it, so it cannot be acquired again inside: release "
                "it as often as it was acquired, then begin anew"
            )
        self.depth += 1
        return self.token

    async def release(self) -> None:
        """Release the lock once; the last time frees it. Raises `NotHeldError` also if another task holds it."""
        self.held()
        if self.inside is not asyncio.current_task():
            raise NotHeldError(f"lock {self.name!r} is held by another task, which must release it")
        self.depth -= 1
        if not self.depth:
            await super().release()
