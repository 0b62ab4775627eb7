"""Unpacking: turns msgpack bytes that others made into values, at a cost that the bytes cannot multiply.

msgpack is dense: one byte can stand for an object of 60 bytes, and a map may have keys that all share one hash, so that
making it takes the square of its size. Therefore keys are scalars, and containers are counted before they are made
where their number matters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgpack

SCALARS: Final = frozenset({str, bytes, int, float, bool, type(None)})
"""The types of keys. The hash of a tuple of numbers can be chosen by whoever sends it; those of texts and bytes cannot,
and of a number only few others share the hash."""
ARRAYS: Final = frozenset([*range(0x90, 0xA0), 0xDC, 0xDD])
"""The first bytes of arrays."""


def unpack(data: bytes | memoryview) -> Any:
    """Return the value in those bytes, in which the keys of maps are scalars.

    Raises ValueError, TypeError, OverflowError or `msgpack.UnpackException` for other bytes.
    """
    try:
        return msgpack.unpackb(data)  # takes only texts and bytes as keys, and makes the maps in C
    except ValueError as error:
        if "map key" not in str(error):
            raise
    return msgpack.unpackb(data, strict_map_key=False, object_pairs_hook=scalar_keyed)


def scalar_keyed(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """Make a map of these pairs. Raises ValueError for a key that is no scalar."""
    made: dict[Any, Any] = {}
    for key, value in pairs:
        if type(key) not in SCALARS:
            raise ValueError(f"a {type(key).__name__} as the key of a map")
        made[key] = value
    return made


def no_maps(pairs: Iterable[tuple[Any, Any]]) -> Any:
    """Raise ValueError: the hook for bytes in which no map may be."""
    raise ValueError("a map where none may be")


def check_count(data: bytes | memoryview, count_max: int) -> None:
    """Raise ValueError if the arrays in those bytes have more than `count_max` elements together; nothing is made.

    What lies in maps is not counted. Raises the errors of `unpack` too.
    """
    unpacker = msgpack.Unpacker(max_buffer_size=len(data))
    unpacker.feed(data)
    left = made = 1
    while left:
        left -= 1
        if data[unpacker.tell()] not in ARRAYS:
            unpacker.skip()
            continue
        count = unpacker.read_array_header()
        left += count
        made += count
        if made > count_max:
            raise ValueError(f"more than {count_max} elements")
