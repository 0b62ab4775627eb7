"""The commands of the key-value machine: their effects, their results, and the errors with which they fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import msgpack

from forge_consensus.storage.machines.kv_draft import READ_BYTES_MAX, Draft
from forge_consensus.storage.machines.kv_overlay import Span
from forge_consensus.storage.machines.kv_rows import value_of, value_size
from forge_consensus.storage.machines.leases import KEYS_MAX, check_ttl
from forge_consensus.storage.machines.machine import PLAIN, check_command

KEY_BYTES_MAX: Final = 400
"""LMDB's keys have at most 511 bytes, and the machine puts the number of a generation before each key."""
VALUE_BYTES_MAX: Final = 1 << 20
DELETED_MAX: Final = 10_000
"""How many keys one `delete_prefix` deletes at most, so that one command never takes longer than a turn may."""
INT_MIN: Final = -(1 << 63)
INT_MAX: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Operation:
    """A command's function, and the fields of its payload. Its draft is merged only if it succeeds."""

    run: Callable[[Draft, dict[str, Any]], Any]
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


def check_fields(name: str, operation: Operation, payload: dict[str, Any]) -> None:
    """Raise `ValueError` if a field of the payload is missing or unknown to the command."""
    if operation.fields <= payload.keys() <= operation.fields | operation.optional:
        return
    missing = sorted(operation.fields - payload.keys())
    if missing:
        raise ValueError(f"{name} needs {', '.join(missing)}")
    unknown = sorted(map(repr, payload.keys() - operation.fields - operation.optional))
    if unknown:
        raise ValueError(f"{name} knows no {', '.join(unknown)}")


def packed(pack: Callable[[Any], bytes], value: Any) -> bytes:
    """Return the value as it is stored. Raises `TypeError` if msgpack cannot encode it, `ValueError` if too large."""
    try:
        data = pack(value)
    except (TypeError, ValueError, OverflowError) as error:
        kind = type(value).__name__
        raise TypeError(f"msgpack cannot encode the value ({kind}) or something in it") from error
    if len(data) > VALUE_BYTES_MAX:
        raise ValueError(f"a value has at most {VALUE_BYTES_MAX} bytes, this one {len(data)}")
    return data


def plain_set(pack: Callable[[Any], bytes], command: bytes) -> tuple[str, bytes] | None:
    """Return the key and the encoded value of an encoded command that is a set without a lease and cannot fail.

    None for any other command, and wherever that takes a closer look: `Command.decode` and `apply_set` decide then.
    """
    try:
        name, payload, *correlation_id = msgpack.unpackb(command)
        key, value = payload["key"], payload["value"]
        if name != "set" or type(payload) is not dict or len(payload) != len(SET_FIELDS):
            return None
        if type(key) is not str or not key.isascii() or not 0 < len(key) <= KEY_BYTES_MAX:
            return None
        if type(value) not in PLAIN or correlation_id:
            check_command(name, payload, *correlation_id)
        data = pack(value)
    except Exception:  # whatever it is, it is found again and told where the command is looked at closely
        return None
    return (key, data) if len(data) <= VALUE_BYTES_MAX else None


def check_lease(draft: Draft, payload: dict[str, Any]) -> None:
    """Raise `TypeError` or `ValueError` if a write names a lease that does not exist, or a time that cannot be."""
    if "ttl_ms" in payload:
        if "lease" in payload:
            raise ValueError("a key has a lease or a ttl_ms of its own, not both")
        check_ttl(payload["ttl_ms"])
    elif "lease" in payload and payload["lease"] != 0:
        draft.leases.find(payload["lease"])


def write(draft: Draft, payload: dict[str, Any], key: str, value: bytes) -> None:
    """Write a key as a command says that writes: on a lease, with a time to live, or without either.

    Raises `TypeError` or `ValueError` if that cannot be.
    """
    lease = 0
    if "lease" in payload or "ttl_ms" in payload:
        check_lease(draft, payload)
        if "ttl_ms" in payload:
            lease = draft.own_lease
            draft.leases.grant(lease, payload["ttl_ms"], key)
        elif payload["lease"] != 0:
            lease = payload["lease"]
            draft.leases.check_free(lease, key)
    draft.put(key, value, lease)


def apply_set(draft: Draft, payload: dict[str, Any]) -> None:
    """{key, value, lease=0, ttl_ms=none}: set a key. The result is None.

    With `lease` the key goes when that lease ends; with `ttl_ms` it goes after so many milliseconds, unless it is
    written again before. Without either it is a key without a lease, whatever it was.
    """
    key = check_key(payload["key"])
    write(draft, payload, key, packed(draft.pack, payload["value"]))


def apply_append(draft: Draft, payload: dict[str, Any]) -> str:
    """{prefix, value, lease=0, ttl_ms=none}: set a new key, whose name is the result.

    It is the prefix and 16 digits, the index of the command's entry; in a batch or a transaction `-` and 5 digits more,
    the number of the op. So keys made with one prefix sort in the order in which they were made.
    """
    prefix = payload["prefix"]
    if not isinstance(prefix, str):
        raise TypeError(f"a prefix is a text, not {type(prefix).__name__}")
    key = check_key(f"{prefix}{draft.index:016}" + ("" if draft.number is None else f"-{draft.number:05}"))
    value = packed(draft.pack, payload["value"])
    if draft.row(key) is not None:
        raise ValueError(f"the key {key!r} exists: somebody wrote it by this name")
    write(draft, payload, key, value)
    return key


def apply_get(draft: Draft, payload: dict[str, Any]) -> Any:
    """{key}: the result is the value, or None. As a command, a get is executed in the order of the log."""
    row = draft.row(check_key(payload["key"]))
    return None if row is None else msgpack.unpackb(value_of(row))


def apply_delete(draft: Draft, payload: dict[str, Any]) -> bool:
    """{key}: delete a key. The result is whether the key existed."""
    key = check_key(payload["key"])
    if draft.row(key) is None:
        return False
    draft.delete(key)
    return True


def apply_delete_prefix(draft: Draft, payload: dict[str, Any]) -> int:
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
    for key, row in islice(draft.state.span_rows(Span(prefix)), limit):
        draft.delete(key)
        left -= value_size(row)
        if left < 0:
            break
    return len(draft.writes)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal in type and value; unlike with `==`, 1 equals neither True nor 1.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def matches(draft: Draft, row: bytes | None, expected: Any) -> bool:
    """Return whether a row has that value; None stands for an absent key, so a key whose value is None never matches.

    Raises `TypeError` or `ValueError` if nothing can have that value.
    """
    if row is None or expected is None:
        return row is None and expected is None
    wanted = packed(draft.pack, expected)
    # Equal values have encodings of one length, so a small command never has a large value decoded.
    if value_size(row) != len(wanted):
        return False
    data = value_of(row)
    return data == wanted or same(msgpack.unpackb(data), msgpack.unpackb(wanted))


def apply_cas(draft: Draft, payload: dict[str, Any]) -> bool:
    """{key, expected, value, lease=0, ttl_ms=none}: set a key if its value equals `expected`.

    The result is whether it was set. `expected` None means that the key must not exist, so a key whose value is None
    never matches. `lease` and `ttl_ms` are those of `set`.
    """
    key = check_key(payload["key"])
    value = packed(draft.pack, payload["value"])
    check_lease(draft, payload)
    if not matches(draft, draft.row(key), payload["expected"]):
        return False
    write(draft, payload, key, value)
    return True


def apply_increment(draft: Draft, payload: dict[str, Any]) -> int:
    """{key, by=1}: add `by` to a whole number, a missing key counting as 0. The result is the sum.

    The key stays on its lease.
    """
    key = check_key(payload["key"])
    by = payload.get("by", 1)
    if type(by) is not int:
        raise TypeError(f"increment by a whole number, not {type(by).__name__}")
    row = draft.row(key)
    number = 0 if row is None else msgpack.unpackb(value_of(row))
    if type(number) is not int:
        raise TypeError(f"the value of {key!r} is no whole number but {type(number).__name__}")
    total = number + by
    if not INT_MIN <= total <= INT_MAX:
        raise ValueError(f"the sum for {key!r} leaves the range of 64 bits")
    draft.put(key, packed(draft.pack, total), draft.leases.of_key.get(key, 0))
    return total


def apply_lease_grant(draft: Draft, payload: dict[str, Any]) -> int:
    """{ttl_ms}: make a lease that ends after so many milliseconds. The result is its id, the index of the entry.

    It is no part of a batch, because nothing in the batch could name it.
    """
    draft.leases.grant(draft.index, payload["ttl_ms"])
    return draft.index


def apply_lease_keep_alive(draft: Draft, payload: dict[str, Any]) -> int:
    """{lease}: let a lease end as long from now as it lives. The result is that time in milliseconds, its `ttl_ms`."""
    return draft.leases.keep_alive(payload["lease"])


def apply_lease_revoke(draft: Draft, payload: dict[str, Any]) -> int:
    """{lease}: end a lease and delete its keys. The result is the number of keys, 0 if there is no such lease.

    One command deletes at most `KEYS_MAX` keys so, as many as one lease holds.
    """
    lease = payload["lease"]
    if type(lease) is not int:
        raise TypeError(f"the id of a lease is a whole number, not {type(lease).__name__}")
    found = draft.leases.live.get(lease)
    if found is None:
        return 0
    keys = found.ordered_keys
    draft.revoked += len(keys)
    if draft.revoked > KEYS_MAX:
        raise ValueError(f"it deletes more than {KEYS_MAX} keys with their leases: split the {draft.whole}")
    draft.leases.remove(lease)
    for key in keys:
        draft.forget(key, lease)
    return len(keys)


def apply_expire(draft: Draft, payload: dict[str, Any]) -> None:
    """{}: do nothing. The result is None.

    Every command is preceded by the end of the leases that are due. A leader proposes this one when nothing else comes.
    """


LEASED: Final = frozenset({"lease", "ttl_ms"})
SET_FIELDS: Final = frozenset({"key", "value"})

OPERATIONS: Final = {
    "set": Operation(apply_set, SET_FIELDS, LEASED),
    "get": Operation(apply_get, frozenset({"key"})),
    "delete": Operation(apply_delete, frozenset({"key"})),
    "delete_prefix": Operation(apply_delete_prefix, frozenset({"prefix"}), frozenset({"limit"})),
    "cas": Operation(apply_cas, frozenset({"key", "expected", "value"}), LEASED),
    "increment": Operation(apply_increment, frozenset({"key"}), frozenset({"by"})),
    "append": Operation(apply_append, frozenset({"prefix", "value"}), LEASED),
    "lease_grant": Operation(apply_lease_grant, frozenset({"ttl_ms"})),
    "lease_keep_alive": Operation(apply_lease_keep_alive, frozenset({"lease"})),
    "lease_revoke": Operation(apply_lease_revoke, frozenset({"lease"})),
    "expire": Operation(apply_expire, frozenset()),
}
"""The commands that are no list of others; those and these are in `kv_batches`."""
