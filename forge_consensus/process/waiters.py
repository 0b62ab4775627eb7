"""Waiting without a lock, so that a signal handler may interrupt any call and make any other.

A handler runs on the main thread between two instructions of whatever call it interrupted, and that call goes on only
when the handler has returned. If the interrupted call held a lock, no thread could take it meanwhile: neither the
handler, if it is the same plain lock, nor a thread for which the handler waits. So a waiter puts a lock of its own into
a queue and looks once more; whoever brings the condition about takes the locks out and releases them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from forge_consensus.process.green import Lock, taken_lock

T = TypeVar("T")

WAIT_SECONDS_MAX = 1e6
"""A lock takes no longer timeout than some years; this one is long enough."""


class Waiters:
    """The threads that wait for a condition which other threads bring about and then call `wake`."""

    __slots__ = ("locks",)

    def __init__(self) -> None:
        self.locks: deque[Lock] = deque()

    def wait_for(self, condition: Callable[[], T], timeout: float | None = None) -> T:
        """Wait until the condition is true, at most `timeout` seconds (None: without limit); return its last value."""
        end = None if timeout is None else time.monotonic() + min(timeout, WAIT_SECONDS_MAX)
        while not (value := condition()):
            left = -1.0 if end is None else end - time.monotonic()
            if end is not None and left <= 0:
                break
            lock = taken_lock()
            self.locks.append(lock)
            try:
                if value := condition():  # it came about before the lock was in the queue
                    break
                lock.acquire(timeout=left)
            finally:
                with suppress(ValueError, IndexError):  # it was taken out, or others take some out at this moment
                    self.locks.remove(lock)
        return value

    def wake(self) -> None:
        """Have all who wait look at their condition."""
        for _ in range(len(self.locks)):
            try:
                lock = self.locks.popleft()
            except IndexError:  # another thread wakes them too
                return
            lock.release()


class Latch:
    """A flag for which threads can wait: `threading.Event`, without its lock."""

    __slots__ = ("flag", "waiters")

    def __init__(self) -> None:
        self.flag = False
        self.waiters = Waiters()

    def set(self) -> None:
        """Set the flag, and wake all who wait for it."""
        self.flag = True
        self.waiters.wake()

    def clear(self) -> None:
        """Set the flag to false, so that the next who wait do wait."""
        self.flag = False

    def is_set(self) -> bool:
        """Whether the flag is set."""
        return self.flag

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is set, at most `timeout` seconds (None: without limit); return whether it is."""
        return self.flag or self.waiters.wait_for(self.is_set, timeout)
