"""The owner of a session: whoever opened it, as a number in the entry that opens it and in the session's row.

Only a node with keys knows who opens a session; elsewhere a session has no owner. The number is a part of the SHA-256
of the name in the list of access, so it stays the same while that name exchanges its keys.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from typing import Final

TTL_BYTES: Final = 8
"""The data of the entry that opens a session begins with the time to live in milliseconds, in this many bytes."""
OWNER_BYTES: Final = 8
"""In so many bytes the number of the owner follows, unless there is none. Earlier programs do not look at them."""
NO_OWNER: Final = 0
"""The session was opened where nobody is asked who they are, or by an earlier program."""
NAMES_KEPT: Final = 1024


@lru_cache(NAMES_KEPT)
def owner_of(name: str) -> int:
    """Return the number that stands for a name in the list of access; `NO_OWNER` for no name."""
    return int.from_bytes(sha256(name.encode()).digest()[:OWNER_BYTES]) or 1 if name else NO_OWNER


def opening(ttl_ms: int, owner: int) -> bytes:
    """Return the data of the entry that opens a session.

    Args:
        ttl_ms: for how many milliseconds without a command it lives.
        owner: the number of whoever opens it.

    """
    return ttl_ms.to_bytes(TTL_BYTES) + (owner.to_bytes(OWNER_BYTES) if owner else b"")


def opened(data: bytes) -> tuple[int, int]:
    """Return time to live and owner in the data of an entry that opens a session."""
    return int.from_bytes(data[:TTL_BYTES]), int.from_bytes(data[TTL_BYTES : TTL_BYTES + OWNER_BYTES])
