"""The commands and queries of the built-in key-value machine, made of what callers give; nothing here waits."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Any, Final

from forge_consensus.client.compare import Compare
from forge_consensus.client.key_records import LeaseRef, lease_id_of
from forge_consensus.errors import InvalidConfigError
from forge_consensus.storage.machines.machine import Command

SCAN_LIMIT: Final = 1000
TTL_SECONDS_MIN: Final = 0.1
TTL_SECONDS_MAX: Final = 365 * 86_400.0


def ttl_ms_of(ttl: object) -> int:
    """The milliseconds of a time to live in seconds. Raises `InvalidConfigError` for what is none."""
    fits = isinstance(ttl, int | float) and not isinstance(ttl, bool) and isfinite(ttl)
    if not fits or not TTL_SECONDS_MIN <= ttl <= TTL_SECONDS_MAX:  # type: ignore[operator]
        raise InvalidConfigError(
            f"ttl is {ttl!r:.99}: expected seconds from {TTL_SECONDS_MIN:g} to {TTL_SECONDS_MAX:.0f} (a year), such as "
            "10.0"
        )
    return round(ttl * 1000)  # type: ignore[operator]


def living(fields: dict[str, Any], ttl: float | None, lease: LeaseRef | None) -> dict[str, Any]:
    """The fields of a write, with those that say how long its key lives. Raises `InvalidConfigError`."""
    if ttl is not None and lease is not None:
        raise InvalidConfigError(
            "ttl and lease are both given: a key has a time of its own, or goes with a lease; leave one out"
        )
    if ttl is not None:
        fields["ttl_ms"] = ttl_ms_of(ttl)
    if lease is not None and (number := lease_id_of(lease)):
        fields["lease"] = number
    return fields


def set_command(key: str, value: Any, correlation_id: str | None, ttl: float | None, lease: LeaseRef | None) -> Command:
    """The command that sets a key. Raises `InvalidConfigError` for a wrong `ttl` or `lease`."""
    fields = {"key": key, "value": value}
    return Command("set", fields if ttl is lease is None else living(fields, ttl, lease), correlation_id)


def cas_command(
    key: str, expected: Any, value: Any, correlation_id: str | None, ttl: float | None, lease: LeaseRef | None
) -> Command:
    """The command that sets a key if it holds what is expected. Raises as `set_command`."""
    return Command("cas", living({"key": key, "expected": expected, "value": value}, ttl, lease), correlation_id)


def append_command(
    prefix: str, value: Any, correlation_id: str | None, ttl: float | None, lease: LeaseRef | None
) -> Command:
    """The command that sets a new key, which the cluster names. Raises as `set_command`."""
    return Command("append", living({"prefix": prefix, "value": value}, ttl, lease), correlation_id)


def ops_of(commands: Iterable[Command]) -> list[dict[str, Any]]:
    """Commands as the parts of another one. Raises ValueError for what is no command."""
    ops = []
    for command in commands:
        if not isinstance(command, Command):
            raise ValueError(f'{command!r} is no command: make one, such as Command("set", {{"key": "k", "value": 1}})')
        ops.append({**command.payload, "type": command.type})
    return ops


def batch_command(commands: Iterable[Command], correlation_id: str | None) -> Command:
    """The one command that carries out these commands of the key-value machine, all or none.

    Raises ValueError for what is no command.
    """
    return Command("batch", {"ops": ops_of(commands)}, correlation_id)


def transaction_command(
    when: Iterable[Compare] | Compare, then: Iterable[Command], otherwise: Iterable[Command], correlation_id: str | None
) -> Command:
    """The command that compares, and then carries out one of two lists of commands.

    Raises ValueError for what is no comparison or no command.
    """
    conditions = [when] if isinstance(when, Compare) else list(when)
    for each in conditions:
        if not isinstance(each, Compare):
            raise ValueError(f'{each!r} is no comparison: make one, such as Compare.value("k") == 1')
    fields: dict[str, Any] = {"if": [each.row() for each in conditions], "then": ops_of(then)}
    if other := ops_of(otherwise):
        fields["else"] = other
    return Command("transaction", fields, correlation_id)


def scan_query(prefix: str, limit: int) -> dict[str, Any]:
    """The query for keys and values in order."""
    return {"scan": prefix, "limit": limit}


def entries_query(
    prefix: str, limit: int, after: str | None, start: str | None, end: str | None, reverse: bool
) -> dict[str, Any]:
    """The query for entries in order."""
    query: dict[str, Any] = {"entries": prefix, "limit": limit}
    query |= {name: text for name, text in (("after", after), ("start", start), ("end", end)) if text is not None}
    if reverse:
        query["reverse"] = True
    return query
