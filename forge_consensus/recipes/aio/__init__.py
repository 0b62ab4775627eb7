"""The recipes for asyncio: the same as those of `forge_consensus.recipes`, with coroutines, on an `AsyncClient`.

They belong to the event loop of their client. A task that is cancelled while it waits leaves the line before the
cancellation goes on, and its keys with it.
"""

from forge_consensus.recipes.aio.barrier import Barrier
from forge_consensus.recipes.aio.counter import Counter
from forge_consensus.recipes.aio.election import Election, Leadership
from forge_consensus.recipes.aio.lock import Lock, RLock
from forge_consensus.recipes.aio.semaphore import Permit, Semaphore
from forge_consensus.recipes.aio.work_queue import Item, Queue
from forge_consensus.recipes.election import Leader

__all__ = [
    "Barrier",
    "Counter",
    "Election",
    "Item",
    "Leader",
    "Leadership",
    "Lock",
    "Permit",
    "Queue",
    "RLock",
    "Semaphore",
]
