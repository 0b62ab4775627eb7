"""The package's own threads: of the operating system also under gevent, and joined without a lock."""

from __future__ import annotations

import threading
import time
from threading import get_native_id

from forge_consensus.errors import TransportUnavailableError
from forge_consensus.process.green import original_start, threads_replaced
from forge_consensus.process.waiters import Latch

TIDY_SECONDS = 0.1
"""How long `join` waits for the interpreter to forget a thread whose work is over."""


class ForgeThread(threading.Thread):
    """A daemon thread whose end can be awaited in a signal handler, whatever call the handler interrupted.

    `threading.Thread.join` holds a lock of the thread for a moment. A handler that interrupts it there and joins the
    same thread would wait for itself.
    """

    ended: Latch
    native = 0
    begun = False

    def start(self) -> None:
        """Start the thread. Raises `TransportUnavailableError` if the system has no more threads."""
        self.daemon = True
        self.ended = Latch()
        try:
            if threads_replaced():
                original_start()(self.work, ())
            else:
                super().start()
        except RuntimeError as error:
            raise TransportUnavailableError(
                f"no thread could be started ({error}): end some, or allow this process more of them"
            ) from error
        self.begun = True

    def run(self) -> None:
        """The body of the thread."""
        self.work()

    def work(self) -> None:
        """Call the target, and tell those who wait for the end."""
        self.native = get_native_id()
        try:
            super().run()
        finally:
            self.ended.set()

    def is_current(self) -> bool:
        """Whether the caller runs on this thread."""
        return self.native == get_native_id()

    def is_alive(self) -> bool:
        """Whether it was started and its work is not over."""
        return self.begun and not self.ended.is_set()

    def join(self, timeout: float | None = None) -> None:
        """Wait until its work is over, at most `timeout` seconds (None: without limit)."""
        if not self.begun or not self.ended.wait(timeout) or threads_replaced():
            return
        end = time.monotonic() + TIDY_SECONDS
        while super().is_alive() and time.monotonic() < end:
            time.sleep(0.0005)
