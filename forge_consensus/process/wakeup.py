"""The wake-up of a thread that waits in a poller: others end its wait, with a system call only while it sleeps."""

from __future__ import annotations

import os


class Wakeup:
    """An eventfd, and whether a thread sleeps on it.

    The thread calls `doze`, looks once more for work, waits for `fd` and calls `awake`. Other threads add work and then
    call `rouse`. So no work is overlooked, and while the thread is busy `rouse` costs no system call.

    The descriptor lives exactly as long as this object. Hence `rouse` needs no lock: whoever is inside it holds the
    object, so its number cannot be another file's meanwhile. The owner lets go of the object instead of closing it.
    """

    __slots__ = ("fd", "sleeping")

    def __init__(self) -> None:
        self.fd = -1
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.sleeping = False

    def __del__(self) -> None:
        """Close the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)

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
        """Wake the thread if it sleeps; from any thread, and from a signal handler."""
        if self.sleeping:
            self.sleeping = False
            os.eventfd_write(self.fd, 1)


class NoWakeup(Wakeup):
    """The wake-up of a thread that does not run: nobody sleeps, so there is nothing to write to."""

    __slots__ = ()

    def __init__(self) -> None:
        self.fd = -1
        self.sleeping = False


NOBODY = NoWakeup()
