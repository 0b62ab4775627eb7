"""The names of recipes: which keys each uses, and which names, times and owners it takes."""

from __future__ import annotations

import os
import socket
from math import isfinite
from typing import Any, Final

from forge_consensus.errors import InvalidConfigError
from forge_consensus.storage.machines.kv_commands import KEY_BYTES_MAX

MARK: Final = "#"
"""It ends a name within a key. No name has it, so the keys of one name never begin with those of another."""
NAME_BYTES_MAX: Final = KEY_BYTES_MAX - 60
"""What a key needs beside the name: the kind of the recipe, and the number that the cluster gives."""
TTL_SECONDS: Final = 10.0
TTL_SECONDS_MIN: Final = 1.0
"""A lease must outlive an election, in which nobody keeps it alive."""
TTL_SECONDS_MAX: Final = 86_400.0
TIMEOUT_SECONDS_MAX: Final = 1e9
OWNER_BYTES_MAX: Final = 1000
"""Many keys of a line are read at once."""


def check_name(kind: str, name: object) -> str:
    """The name of a recipe of that kind, such as "lock". Raises `InvalidConfigError` for what is none."""
    if not isinstance(name, str):
        raise InvalidConfigError(f"the name of a {kind} is a text, and this is {name!r:.99}")
    if not is_unicode(name):
        raise InvalidConfigError(f"the name of a {kind} is valid Unicode, and {name!r:.99} is not")
    if not name or MARK in name:
        raise InvalidConfigError(
            f"a {kind} needs a name of at least one character and without {MARK!r}, which ends the name in its keys; "
            f"this is {name!r:.99}"
        )
    size = len(name.encode())
    if size > NAME_BYTES_MAX:
        raise InvalidConfigError(f"the name of a {kind} has at most {NAME_BYTES_MAX} bytes, this one {size}")
    return name


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded; one with half a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_ttl(ttl: object) -> float:
    """The time to live of a recipe's lease, in seconds. Raises `InvalidConfigError` for what is none."""
    fits = isinstance(ttl, int | float) and not isinstance(ttl, bool) and isfinite(ttl)
    if not fits or not TTL_SECONDS_MIN <= ttl <= TTL_SECONDS_MAX:  # type: ignore[operator]
        raise InvalidConfigError(
            f"ttl is {ttl!r:.99}: expected seconds from {TTL_SECONDS_MIN:g} to {TTL_SECONDS_MAX:g}, such as 10.0; it "
            "must be longer than an election takes, and a holder that died keeps others waiting for so long"
        )
    return float(ttl)  # type: ignore[arg-type]


def check_timeout(timeout: object) -> float | None:
    """How many seconds a call waits, None for no limit. Raises `InvalidConfigError` for what is no time."""
    if timeout is None:
        return None
    fits = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not fits or not 0 <= timeout <= TIMEOUT_SECONDS_MAX:  # type: ignore[operator]
        raise InvalidConfigError(
            f"timeout is {timeout!r:.99}: expected seconds from 0, or None to wait without limit; to look once and not "
            "wait there are calls that begin with try_"
        )
    return float(timeout)  # type: ignore[arg-type]


def check_count(what: str, number: object, largest: int) -> int:
    """A whole number from 1 on. Raises `InvalidConfigError` for what is none, or too large."""
    if type(number) is not int or not 1 <= number <= largest:
        raise InvalidConfigError(f"{what} is {number!r:.99}: expected a whole number from 1 to {largest:,}")
    return number


def check_owner(owner: object) -> str:
    """What others are told of a holder; "" stands for host and process. Raises `InvalidConfigError` for no text."""
    if not isinstance(owner, str) or not is_unicode(owner):
        raise InvalidConfigError(f"owner is {owner!r:.99}: expected a text that tells people who holds it")
    if len(owner.encode()) > OWNER_BYTES_MAX:
        raise InvalidConfigError(f"owner has at most {OWNER_BYTES_MAX:,} bytes, this one {len(owner.encode()):,}")
    return owner or f"{socket.gethostname()}:{os.getpid()}"


def told(owner: Any) -> str:
    """An owner in a sentence."""
    return f"{owner!r:.99}"
