"""Bounds on what one command may cost, which must be the same on every node because they decide its outcome."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from threading import Lock
from typing import Any, Final, TypeVar

FRAMES_MAX: Final = 2000
"""How deep the calls of one command may nest in a state machine, twice Python's own default for the whole stack."""
CHANGING_LIMIT: Final = Lock()
"""Held while the recursion limit, which belongs to the whole process, is another one for one call."""

NESTED_MAX: Final = 512
"""msgpack encodes no value that nests deeper."""

R = TypeVar("R")


def frames_left() -> int:
    """How many calls can still be nested here."""
    count = 0

    def deeper() -> None:
        nonlocal count
        count += 1
        deeper()

    with suppress(RecursionError):
        deeper()
    return count


def with_known_frames(call: Callable[[], R]) -> R:
    """Call a function that raised RecursionError once more, with `FRAMES_MAX` frames for it.

    How many frames are left when a command is applied differs between nodes: one runs on a thread of its own, another
    deep in a test. So a node that fails for want of frames must ask again with a number of frames that is the same
    everywhere, and a node that does not fail had no more than that. The recursion limit is only ever raised, for the
    time of this call; a limit that leaves more than `FRAMES_MAX` frames is too large, and the call is not made.

    Raises RecursionError if that is not enough, and what the call raises.
    """
    with CHANGING_LIMIT:
        missing = FRAMES_MAX - frames_left()
        if missing < 0:
            raise RecursionError
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(limit + missing)
        try:
            return call()
        finally:
            sys.setrecursionlimit(limit)


def larger_than(value: Any, bytes_max: int) -> bool:
    """Whether the msgpack of a value certainly has more bytes than that; looks without recursion, and encodes nothing.

    One value may stand many times in a list, so a small result can have an encoding that takes all memory. False for
    what nests deeper than msgpack encodes: it meets that in the same order, before it has written as much.
    """
    kind = type(value)
    if kind is bytes or kind is str:
        return len(value) > bytes_max
    if kind is int or kind is float:
        return False
    size = 0
    path: list[Iterator[Any]] = [iter((value,))]
    while path and len(path) <= NESTED_MAX:
        for one in path[-1]:
            if isinstance(one, bytes | str | bytearray | memoryview):
                size += len(one)
                if size > bytes_max:
                    return True
            elif isinstance(one, dict | list | tuple):
                size += len(one)
                path.append(chain.from_iterable(dict.items(one)) if isinstance(one, dict) else iter(one))
                break
        else:
            path.pop()
        if size > bytes_max:
            return True
    return False
