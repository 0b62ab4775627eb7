"""A wake-up: other threads end the driver's wait, by a system call only while it sleeps."""

from __future__ import annotations

import os


class Wakeup:
    """An eventfd and the word whether anybody sleeps on it.

    The sleeper calls `doze`, looks once more for work, waits on `fd` and calls `awake`; the others
    add work and then call `rouse`. So work is never overlooked, and a busy sleeper costs them
    nothing.
    """

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.sleeping = False

    def doze(self) -> None:
        """From now on the others must write; look for work once more after this."""
        self.sleeping = True

    def awake(self) -> None:
        """Nobody sleeps; take back what was written."""
        self.sleeping = False
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return

    def rouse(self) -> None:
        """End the sleep, if there is one."""
        if self.sleeping:
            self.sleeping = False
            os.eventfd_write(self.fd, 1)

    def close(self) -> None:
        """Give the descriptor back; nobody may rouse afterwards."""
        self.sleeping = False
        os.close(self.fd)
