"""Recipes on the built-in machine: locks, semaphores, elections, barriers, queues and counters of a whole cluster.

Those of `forge_consensus.recipes.aio` are the same for asyncio.
"""

from forge_consensus.recipes.barrier import Barrier
from forge_consensus.recipes.counter import Counter
from forge_consensus.recipes.election import Election, Leader, Leadership
from forge_consensus.recipes.lock import Lock, RLock
from forge_consensus.recipes.semaphore import Permit, Semaphore
from forge_consensus.recipes.work_queue import Item, Queue

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
