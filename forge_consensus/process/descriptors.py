"""File descriptors: whether there are enough for sockets, asked before they are opened.

ZeroMQ aborts the process where it finds none left at some steps, so this is asked beforehand.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress

from forge_consensus.errors import TransportUnavailableError

SPARE = 4
"""So many are left for whatever the application opens at the same moment."""


def require_descriptors(needed: int, what: str) -> None:
    """Raise `TransportUnavailableError` if this process may not open so many more files."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return
    try:
        used = len(os.listdir("/proc/self/fd")) - 1
    except OSError:  # there is not even one for the listing
        used = limit
    if used + needed + SPARE > limit:
        raise TransportUnavailableError(
            f"{what} needs about {needed} file descriptors, and {used} of the {limit} that this process may open are "
            "in use: close some, or allow more (ulimit -n, LimitNOFILE)"
        )


def raise_descriptor_limit() -> None:
    """Allow this process as many descriptors as its administrator does; for programs, not for libraries."""
    with suppress(OSError, ValueError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
