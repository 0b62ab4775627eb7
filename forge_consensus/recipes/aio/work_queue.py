"""Queues for asyncio: each item goes to one consumer, in the order in which the items were put."""

from __future__ import annotations

from functools import partial
from typing import Any, Self

from forge_consensus.errors import ConsensusError
from forge_consensus.recipes.aio.steps import carry_out
from forge_consensus.recipes.patience import NotYetError
from forge_consensus.recipes.work_queue import PAGE_MIN, ItemCore, QueueCore


class Item(ItemCore):
    """An item that was taken: acknowledge it when its work is done; in an ``async with`` statement at its end.

    Its lease is kept alive until then. If the body of the statement raises, the item is given back.
    """

    async def ack(self) -> None:
        """Remove the item for good; errors as those of the blocking `Item.ack`."""
        await carry_out(self.acknowledging())

    async def release(self) -> None:
        """Give the item back, at its old place; the next consumer has it at once. Raises `NotHeldError`."""
        await carry_out(self.giving_back())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Acknowledge the item, or give it back if the body raised; does nothing if the body did one of them."""
        if not self.open:
            return
        if error is None:
            await self.ack()
            return
        try:
            await self.release()
        except ConsensusError as failed:
            error.add_note(f"{type(failed).__name__}: {failed}")


class Queue(QueueCore):
    """A `forge_consensus.recipes.Queue` for asyncio; arguments, results and errors are the same.

        async with await queue.take(timeout=5) as item:  # acknowledged at the end, given back if this raises
            await send(item.value)

    Any number of tasks may share one object. If a task is cancelled in `get` as the item is removed, the item is lost,
    and in `take` it is given to others.
    """

    blocking = False

    async def put(self, value: Any, timeout: float | None = None) -> str:
        """Put an item at the end, and return its key."""
        return str(await self.client.append(self.items, value, timeout))

    async def get(self, timeout: float | None = None) -> Any:
        """Remove the first item that nobody has taken, and return its value."""
        return (await carry_out(self.getting(self.patience(timeout), self.getting_one))).value

    async def try_get(self, default: Any = None) -> Any:
        """Remove the first item that nobody has taken, and return its value; `default` if there is none."""
        try:
            return await self.get(0)
        except NotYetError:
            return default

    async def take(self, timeout: float | None = None) -> Item:
        """Claim the first item that nobody has taken, and return it; it stays until it is acknowledged."""
        return await carry_out(self.taking(self.patience(timeout), partial(Item, self)))

    async def peek(self, default: Any = None, timeout: float | None = None) -> Any:
        """Return the value of the first item that nobody has taken, and leave it; `default` if there is none."""
        free, _ = await carry_out(self.first_free(self.patience(timeout), PAGE_MIN))
        return free[0].value if free else default

    async def size(self, timeout: float | None = None) -> int:
        """Return how many items there are, with those that were taken and not acknowledged."""
        return int(await self.client.read({"count": self.items}, timeout=timeout))
