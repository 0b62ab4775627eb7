"""Which keys a command or a query of the key-value machine reads and writes, before it is carried out.

The gate asks it for clients whose rules allow them a part of the keys. It sees what is asked and not the state, so what
reaches keys that only the state names, such as the end of a lease, reaches all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

from forge_consensus.storage.machines.kv_batches import COMPARE_PARTS


class Reach(NamedTuple):
    """Keys, or beginnings of keys, and what is done with them."""

    kind: Literal["read", "write"]
    prefixes: tuple[str, ...] | None
    """None for all keys there may be; an empty tuple for none of them."""


Reaches = list[Reach]
ALL_READ: Final = Reach("read", None)
ALL_WRITTEN: Final = Reach("write", None)
NO_KEY: Final = Reach("write", ())
"""A command that touches no key, but makes the log grow."""


def at(kind: Literal["read", "write"], value: Any) -> Reaches:
    """The reach of one key or one beginning; of what is no text nobody can say."""
    return [Reach(kind, (value,) if type(value) is str else None)]


def of_key(payload: dict[str, Any]) -> Reaches:
    """A command that writes one key; whoever may write it may read it too."""
    return at("write", payload.get("key"))


def of_prefix(payload: dict[str, Any]) -> Reaches:
    """A command that writes keys with a prefix."""
    return at("write", payload.get("prefix"))


def of_ops(ops: Any) -> Reaches:
    """The commands in a batch or a transaction."""
    if not isinstance(ops, list):
        return [ALL_WRITTEN]
    found: Reaches = []
    for op in ops:
        found += reach_of_command(op.get("type"), op) if isinstance(op, dict) else [ALL_WRITTEN]
    return found


def of_transaction(payload: dict[str, Any]) -> Reaches:
    """What a transaction compares, and both lists of its commands."""
    compares = payload.get("if")
    if not isinstance(compares, list):
        return [ALL_WRITTEN]
    found: Reaches = [NO_KEY]
    for compare in compares:
        fits = isinstance(compare, list) and len(compare) == COMPARE_PARTS
        found += at("read", compare[1] if fits else None)
    return found + of_ops(payload.get("then")) + of_ops(payload.get("else", []))


COMMANDS: Final[dict[str, Callable[[dict[str, Any]], Reaches]]] = {
    "set": of_key,
    "get": lambda payload: [NO_KEY, *at("read", payload.get("key"))],
    "delete": of_key,
    "delete_prefix": of_prefix,
    "cas": of_key,
    "increment": of_key,
    "append": of_prefix,
    "lease_grant": lambda payload: [NO_KEY],
    "lease_keep_alive": lambda payload: [NO_KEY],
    "lease_revoke": lambda payload: [ALL_WRITTEN],
    "expire": lambda payload: [ALL_WRITTEN],
    "batch": lambda payload: [NO_KEY, *of_ops(payload.get("ops"))],
    "transaction": of_transaction,
}
"""The reach of each command, by its payload; a test finds one that is missing."""
QUERIES: Final = ("get", "count", "scan", "entry", "entries", "changes")
"""The fields of a query that hold a key, or the beginning of those that are asked for."""


def reach_of_command(name: Any, payload: dict[str, Any]) -> Reaches:
    """Return which keys a command reads and writes; all of them for one that is not known."""
    found = COMMANDS.get(name) if isinstance(name, str) else None
    return [ALL_WRITTEN] if found is None else found(payload)


def reach_of_query(query: Any) -> Reaches:
    """Return which keys a query reads; all of them for one that is not known, as that for a lease."""
    if isinstance(query, str):
        return at("read", query)
    named = [name for name in QUERIES if name in query] if isinstance(query, dict) else []
    return at("read", query[named[0]]) if len(named) == 1 else [ALL_READ]
