"""Unpacking bytes of others: scalar keys, no maps, and counting without making."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from forge_consensus.storage.unpacking import check_count, no_maps, scalar_keyed, unpack


@pytest.mark.parametrize("value", [{"a": {b"b": 1}}, {1: 2}, {None: 1, True: 2, 1.5: 3}, [1, [{}]], "x", None])
def test_values_with_scalar_keys_come_back(value: Any) -> None:
    assert unpack(msgpack.packb(value)) == value


@pytest.mark.parametrize("key", [(1, 2), msgpack.Timestamp(1), msgpack.ExtType(1, b"x")])
def test_other_keys_are_refused(key: Any) -> None:
    with pytest.raises(ValueError, match="as the key of a map"):
        scalar_keyed([(key, 1)])
    with pytest.raises((ValueError, TypeError)):
        unpack(msgpack.packb({key: 1}))


def test_what_may_hold_no_map_is_refused_with_the_first() -> None:
    values: list[Any] = [{}, [{}], [1, {"a": 1}]]
    for value in values:
        with pytest.raises(ValueError, match="a map where none may be"):
            msgpack.unpackb(msgpack.packb(value), object_pairs_hook=no_maps)


def test_elements_of_arrays_are_counted_at_every_depth() -> None:
    data = msgpack.packb([1, [2, [3, "four"]], b"five", [[]] * 20, list(range(20))])
    check_count(data, 50)
    with pytest.raises(ValueError, match="more than 49 elements"):
        check_count(data, 49)
    with pytest.raises((ValueError, msgpack.UnpackException)):
        check_count(b"\xdd\xff\xff\xff\xff", 50)
    for cut in range(len(data)):
        with pytest.raises((ValueError, IndexError, msgpack.UnpackException)):
            check_count(data[:cut], 100)
