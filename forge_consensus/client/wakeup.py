"""The wake-up of a driver: other threads end its wait, with a system call only while it sleeps."""

from __future__ import annotations

import os


class Wakeup:
    """An eventfd, and whether a thread sleeps on it.

    The driver's thread calls `doze`, looks once more for work, waits for `fd` and calls `awake`. Other threads add work
    and then call `rouse`. So no work is overlooked, and while the driver is busy `rouse` costs no system call.
    """

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.sleeping = False

    def doze(self) -> None:
        """Announce the sleep: from now on `rouse` writes. Look for work once more after this."""
        self.sleeping = True

    def awake(self) -> None:
        """End the announcement, and read what `rouse` wrote."""
        self.sleeping = False
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return

    def rouse(self) -> None:
        """Wake the driver's thread if it sleeps."""
        if self.sleeping:
            self.sleeping = False
            os.eventfd_write(self.fd, 1)

    def close(self) -> None:
        """Close the descriptor; nobody may call `rouse` afterwards."""
        self.sleeping = False
        os.close(self.fd)
