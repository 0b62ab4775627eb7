"""gevent: whether it has replaced the threads of this process, and how greenlets wait for real threads.

The threads of clients and feeds wait inside ZeroMQ. As a greenlet such a thread would stop all greenlets of the
process. So they are started by the original function, and a greenlet that waits for one of them waits on its own hub.
"""

from __future__ import annotations

import _thread
import select
import socket
import sys
from _thread import allocate_lock
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any, Protocol, cast

from forge_consensus.errors import InvalidConfigError

FOREVER_SECONDS = -1.0
"""The value that a lock takes for no timeout."""


class Lock(Protocol):
    """What is needed of a lock that one thread has taken and waits for, until another one releases it."""

    def acquire(self, blocking: bool = True, timeout: float = FOREVER_SECONDS) -> bool:
        """Wait for the release, at most `timeout` seconds; return whether it came."""

    def release(self) -> None:
        """Let the waiting thread go on."""


def threads_replaced() -> bool:
    """Whether a library has replaced the threads of this process by something of its own."""
    return type(_thread.start_new_thread) is not BuiltinFunctionType


def refuse_replaced_threads(what: str, advice: str) -> None:
    """Raise `InvalidConfigError` where threads are not threads, because `what` would stop the whole process."""
    if threads_replaced():
        raise InvalidConfigError(
            f"{what} cannot run here, because gevent or a library like it has replaced the threads of this process "
            f"(monkey.patch_all), and one call that waits would stop all of them: {advice}"
        )


def original_start() -> Callable[..., int]:
    """The function that starts a thread of the operating system. Raises `InvalidConfigError` if nobody knows it."""
    if not threads_replaced():
        return _thread.start_new_thread
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is None:
        refuse_replaced_threads("a client or feed", "use gevent, asyncio or plain threads")
    return cast("Callable[..., int]", monkey.get_original("_thread", "start_new_thread"))


def original_getaddrinfo() -> Callable[..., Any]:
    """The function that resolves names on the thread that calls it."""
    monkey: Any = sys.modules.get("gevent.monkey") if threads_replaced() else None
    return (
        socket.getaddrinfo
        if monkey is None
        else cast("Callable[..., Any]", monkey.get_original("socket", "getaddrinfo"))
    )


def original_epoll() -> select.epoll:
    """A poller of files on which the thread that waits is a real one; gevent takes the class out of its module.

    It does so whether or not it replaces threads too. Raises `InvalidConfigError` where another library did.
    """
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is not None:
        return cast("select.epoll", monkey.get_original("select", "epoll")())
    if not hasattr(select, "epoll"):
        refuse_replaced_threads("a client or feed", "use gevent, asyncio or plain threads")
        raise InvalidConfigError(
            "nothing can wait for sockets in this process, because a library has taken epoll out of the module select: "
            "have it leave that module as it is, or use gevent, asyncio or plain threads"
        )
    return select.epoll()


def taken_lock() -> Lock:
    """A lock that is taken; whoever takes it once more waits for its release."""
    if "gevent.monkey" in sys.modules and threads_replaced():
        return GreenLock()
    lock = allocate_lock()
    lock.acquire()
    return lock


class GreenLock:
    """A taken lock for a greenlet; any thread can release it, and the other greenlets go on meanwhile."""

    def __init__(self) -> None:
        from gevent import get_hub  # the process has it, as `threads_replaced` says
        from gevent.event import Event

        self.released = Event()
        self.watcher: Any = get_hub().loop.async_()
        self.watcher.start(self.released.set)  # on the hub of this greenlet, after `send`

    def acquire(self, blocking: bool = True, timeout: float = FOREVER_SECONDS) -> bool:
        """Wait for the release, at most `timeout` seconds; return whether it came."""
        try:
            return bool(self.released.wait(None if timeout < 0 else timeout))
        finally:
            self.watcher.stop()

    def release(self) -> None:
        """Let the greenlet go on; from any thread."""
        self.watcher.send()
