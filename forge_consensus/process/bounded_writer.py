"""A bounded queue before something slow: who puts an item in never waits, and what does not fit is dropped and counted.

A log whose reader stands still (a full pipe, a full disk, a handler that hangs) must not hold up a node.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

from forge_consensus.process.fork import tell_of_forks
from forge_consensus.process.threads import ForgeThread
from forge_consensus.process.waiters import Latch

T = TypeVar("T")

ITEMS_MAX = 10_000
FLUSH_SECONDS = 1.0
"""How long the end of the process waits for what is in the queue."""


class BoundedWriter(Generic[T]):
    """Calls `write(item, dropped)` for each item on a thread of its own, which the first item starts.

    Args:
        write: writes one item; `dropped` is how many were dropped since the last one. What it raises is ignored.
        name: the name of the thread.
        items_max: how many items can wait.

    """

    def __init__(self, write: Callable[[T, int], object], name: str, items_max: int = ITEMS_MAX) -> None:
        self.write = write
        self.name = name
        self.items_max = items_max
        self.dropped = 0
        """How many items were dropped in all."""
        self.set_up()
        tell_of_forks(self)
        atexit.register(self.flush, FLUSH_SECONDS)

    def set_up(self) -> None:
        """Begin with an empty queue and without a thread."""
        self.items: SimpleQueue[T | Latch] = SimpleQueue()
        self.unbegun = [True]
        """Who takes the one element out starts the thread."""
        self.told = self.dropped

    def put(self, item: T) -> None:
        """Queue an item, or drop and count it; from any thread and from a signal handler."""
        if self.items.qsize() >= self.items_max:
            self.dropped += 1
            return
        self.items.put(item)
        if self.unbegun:
            self.begin()

    def begin(self) -> None:
        """Start the thread, unless it was started; without one the items wait for the next."""
        try:
            self.unbegun.pop()
        except IndexError:
            return
        try:
            ForgeThread(target=self.run, name=self.name).start()
        except Exception:  # the process has no more threads
            self.unbegun.append(True)

    def run(self) -> None:
        """Write the items; the body of the thread."""
        while True:
            item = self.items.get()
            if isinstance(item, Latch):
                item.set()
                continue
            dropped = self.dropped
            self.write_one(item, dropped - self.told)
            self.told = dropped

    def write_one(self, item: T, dropped: int) -> None:
        """Write one item, whatever that raises."""
        try:
            self.write(item, dropped)
        except Exception:  # nobody can be told, because this is how one is told
            self.dropped += 1

    def flush(self, timeout: float) -> bool:
        """Wait until what is in the queue is written, at most `timeout` seconds; return whether it is."""
        if self.unbegun:
            return self.items.empty()
        written = Latch()
        self.items.put(written)
        return written.wait(timeout)

    def forked(self) -> None:
        """In a child process: what waits is written by the parent."""
        self.set_up()
