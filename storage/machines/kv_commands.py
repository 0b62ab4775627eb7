"""The commands of the key-value machine: their effects, their results, and the errors with which they fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Protocol

import msgpack

from forge_consensus.storage.machines.machine import RESULT_BYTES_MAX

KEY_BYTES_MAX: Final = 400
"""LMDB's keys have at most 511 bytes, and the machine puts the number of a generation before each key."""
VALUE_BYTES_MAX: Final = 1 << 20
BATCH_OPS_MAX: Final = 10_000
"""The most commands in a batch; they are carried out in one piece, at a few microseconds each."""
READ_BYTES_MAX: Final = 8 << 20
"""The most bytes of stored values that one command reads: a few bytes of a batch or a prefix can name large values.
Nothing else happens on the node meanwhile, for up to 10 ms a MiB when its machine is busy, so it is far below an
election timeout. Like the bound of results this one decides the outcome, so it is no setting."""
OP_BYTES_MIN: Final = 16
"""No command that can be carried out has fewer bytes in a batch."""
DELETED_MAX: Final = 10_000
"""How many keys one `delete_prefix` deletes at most, so that one command never takes longer than a turn may."""
INT_MIN: Final = -(1 << 63)
INT_MAX: Final = (1 << 64) - 1

SMALL: Final = frozenset({bool, int, type(None)})
SMALL_BYTES: Final = 9
"""The most bytes that a result of these types takes."""
LIST_HEAD_BYTES: Final = 5

Writes = dict[str, bytes | None]
"""Packed values by key; None for a deleted key."""


class Reader(Protocol):
    """The state that a command reads. `pack` is a msgpack packer that keeps its buffer between calls."""

    pack: Callable[[Any], bytes]

    def read(self, key: str) -> bytes | None:
        """Return the packed value of a key, or None."""

    def rows(self, prefix: str, after: str | None) -> Iterator[tuple[str, bytes]]:
        """Yield the keys with that prefix, beyond `after`, and their packed values, in order."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A command's function, and the fields of its payload. Its writes are merged only if it succeeds."""

    run: Callable[[Reader, dict[str, Any], Writes], Any]
    fields: frozenset[str]
    optional: frozenset[str] = frozenset()


def check_key(key: Any) -> str:
    """Return the key. Raises `TypeError` if it is no text, `ValueError` if it is empty or too long."""
    if not isinstance(key, str):
        raise TypeError(f"a key is a text, not {type(key).__name__}")
    if not key:
        raise ValueError("a key has at least one character")
    size = len(key) if key.isascii() else len(key.encode())
    if size > KEY_BYTES_MAX:
        raise ValueError(f"a key has at most {KEY_BYTES_MAX} bytes, this one {size}")
    return key


def check_fields(name: str, payload: dict[str, Any]) -> None:
    """Raise `ValueError` if a field of the payload is missing or unknown to the command."""
    operation = OPERATIONS[name]
    if operation.fields <= payload.keys() <= operation.fields | operation.optional:
        return
    missing = sorted(operation.fields - payload.keys())
    if missing:
        raise ValueError(f"{name} needs {', '.join(missing)}")
    unknown = sorted(map(repr, payload.keys() - operation.fields - operation.optional))
    if unknown:
        raise ValueError(f"{name} knows no {', '.join(unknown)}")


def packed(reader: Reader, value: Any) -> bytes:
    """Return the value as it is stored. Raises `TypeError` if msgpack cannot encode it, `ValueError` if too large."""
    try:
        data = reader.pack(value)
    except (TypeError, ValueError, OverflowError) as error:
        kind = type(value).__name__
        raise TypeError(f"msgpack cannot encode the value ({kind}) or something in it") from error
    if len(data) > VALUE_BYTES_MAX:
        raise ValueError(f"a value has at most {VALUE_BYTES_MAX} bytes, this one {len(data)}")
    return data


def current(reader: Reader, key: str, writes: Writes) -> bytes | None:
    """Return the packed value of a key as the command sees it: after its own writes."""
    return writes[key] if key in writes else reader.read(key)


def apply_set(reader: Reader, payload: dict[str, Any], writes: Writes) -> None:
    """{key, value}: set a key. The result is None."""
    writes[check_key(payload["key"])] = packed(reader, payload["value"])


def apply_get(reader: Reader, payload: dict[str, Any], writes: Writes) -> Any:
    """{key}: the result is the value, or None. As a command, a get is executed in the order of the log."""
    data = current(reader, check_key(payload["key"]), writes)
    return None if data is None else msgpack.unpackb(data)


def apply_delete(reader: Reader, payload: dict[str, Any], writes: Writes) -> bool:
    """{key}: delete a key. The result is whether the key existed."""
    key = check_key(payload["key"])
    if current(reader, key, writes) is None:
        return False
    writes[key] = None
    return True


def apply_delete_prefix(reader: Reader, payload: dict[str, Any], writes: Writes) -> int:
    """{prefix, limit=10,000}: delete the first keys with that prefix, at most `limit`. The result is their number.

    They are fewer than `limit` too if their values have more than `READ_BYTES_MAX` bytes, because those are read; only
    0 says that no key with that prefix is left. It is no part of a batch, because it would have to see the batch's own
    writes in order.
    """
    prefix, limit = payload["prefix"], payload.get("limit", DELETED_MAX)
    if not isinstance(prefix, str):
        raise TypeError(f"a prefix is a text, not {type(prefix).__name__}")
    if type(limit) is not int or not 0 < limit <= DELETED_MAX:
        raise ValueError(f"limit is a whole number from 1 to {DELETED_MAX}")
    left = READ_BYTES_MAX
    for key, value in islice(reader.rows(prefix, None), limit):
        writes[key] = None
        left -= len(value)
        if left < 0:
            break
    return len(writes)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal in type and value; unlike with `==`, 1 equals neither True nor 1.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def apply_cas(reader: Reader, payload: dict[str, Any], writes: Writes) -> bool:
    """{key, expected, value}: set a key if its value equals `expected`. The result is whether it was set.

    `expected` None means that the key must not exist, so a key whose value is None never matches.
    """
    key = check_key(payload["key"])
    value, expected = packed(reader, payload["value"]), payload["expected"]
    data = current(reader, key, writes)
    if data is None or expected is None:
        matches = data is None and expected is None
    else:
        wanted = packed(reader, expected)
        # Equal values have encodings of one length, so a small command never has a large value decoded.
        matches = data == wanted or (len(data) == len(wanted) and same(msgpack.unpackb(data), msgpack.unpackb(wanted)))
    if matches:
        writes[key] = value
    return matches


def apply_increment(reader: Reader, payload: dict[str, Any], writes: Writes) -> int:
    """{key, by=1}: add `by` to a whole number, a missing key counting as 0. The result is the sum."""
    key = check_key(payload["key"])
    by = payload.get("by", 1)
    if type(by) is not int:
        raise TypeError(f"increment by a whole number, not {type(by).__name__}")
    data = current(reader, key, writes)
    number = 0 if data is None else msgpack.unpackb(data)
    if type(number) is not int:
        raise TypeError(f"the value of {key!r} is no whole number but {type(number).__name__}")
    total = number + by
    if not INT_MIN <= total <= INT_MAX:
        raise ValueError(f"the sum for {key!r} leaves the range of 64 bits")
    writes[key] = packed(reader, total)
    return total


class BoundedReader:
    """The state as the commands of one batch read it: at most `READ_BYTES_MAX` bytes of values."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.pack = reader.pack
        self.rows = reader.rows
        self.left = READ_BYTES_MAX

    def read(self, key: str) -> bytes | None:
        """Return the packed value of a key, or None. Raises `ValueError` for too many bytes in all."""
        value = self.reader.read(key)
        if value is not None:
            self.left -= len(value)
            if self.left < 0:
                raise ValueError(f"it reads more than {READ_BYTES_MAX} bytes of values: split the batch")
        return value


def check_batch(ops: Any) -> list[Any]:
    """Return the commands of a batch. Raises `TypeError` if they are no list, `ValueError` if there are too many."""
    if not isinstance(ops, list):
        raise TypeError(f"ops is a list, not {type(ops).__name__}")
    if len(ops) > BATCH_OPS_MAX:
        raise ValueError(f"a batch has at most {BATCH_OPS_MAX} commands, this one {len(ops)}: split it")
    return ops


def apply_batch(reader: Reader, payload: dict[str, Any], writes: Writes) -> list[Any]:
    """{ops: [{type, ...}, ...]}: execute several commands as one. The result is the list of their results.

    If one of them fails, nothing is written. A cas that does not match has not failed: its result is False. A batch
    fails too if its results have more than `RESULT_BYTES_MAX` bytes, or if it reads more than `READ_BYTES_MAX`.
    """
    results: list[Any] = []
    ops = check_batch(payload["ops"])
    size = LIST_HEAD_BYTES + SMALL_BYTES * len(ops)
    bounded = BoundedReader(reader)
    for number, op in enumerate(ops):
        try:
            result = apply_part(bounded, op, writes)
            if type(result) not in SMALL:
                size += len(reader.pack(result))
                if size > RESULT_BYTES_MAX:
                    raise ValueError(f"the results have more than {RESULT_BYTES_MAX} bytes: split the batch")
            results.append(result)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"op {number} of the batch: {error}") from error
    return results


def apply_part(reader: Reader, op: Any, writes: Writes) -> Any:
    """Execute one command of a batch. Raises `TypeError` or `ValueError` if it is no command or fails."""
    if not isinstance(op, dict) or not isinstance(op.get("type"), str):
        raise TypeError("an op is a map with a type")
    name = op["type"]
    if name not in OPERATIONS:
        raise ValueError(f"unknown command {name!r}")
    if name in ALONE:
        raise ValueError(f"{name} cannot be a part of a batch")
    fields = {key: value for key, value in op.items() if key != "type"}
    check_fields(name, fields)
    return OPERATIONS[name].run(reader, fields, writes)


OPERATIONS: Final = {
    "set": Operation(apply_set, frozenset({"key", "value"})),
    "get": Operation(apply_get, frozenset({"key"})),
    "delete": Operation(apply_delete, frozenset({"key"})),
    "delete_prefix": Operation(apply_delete_prefix, frozenset({"prefix"}), frozenset({"limit"})),
    "cas": Operation(apply_cas, frozenset({"key", "expected", "value"})),
    "increment": Operation(apply_increment, frozenset({"key"}), frozenset({"by"})),
    "batch": Operation(apply_batch, frozenset({"ops"})),
}

ALONE: Final = frozenset({"batch", "delete_prefix"})
"""The commands that cannot be a part of a batch."""
