"""The calls of the built-in key-value machine as coroutines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from forge_consensus.client.aio_lease_calls import AsyncLeaseCalls
from forge_consensus.client.aio_watch import AsyncWatchCalls
from forge_consensus.client.compare import Compare
from forge_consensus.client.key_commands import (
    SCAN_LIMIT,
    append_command,
    batch_command,
    cas_command,
    entries_query,
    scan_query,
    set_command,
    transaction_command,
)
from forge_consensus.client.key_records import KeyEntry, LeaseRef, TransactionResult
from forge_consensus.storage.machines.machine import Command


class AsyncKeyCalls(AsyncLeaseCalls, AsyncWatchCalls):
    """The methods of `KeyCalls` as coroutines, with the same arguments, results and errors."""

    async def put(
        self,
        key: str,
        value: Any,
        timeout: float | None = None,
        correlation_id: str | None = None,
        *,
        ttl: float | None = None,
        lease: LeaseRef | None = None,
    ) -> Any:
        """Set a key to a value."""
        return await self.apply(set_command(key, value, correlation_id, ttl, lease), timeout)

    async def get(
        self,
        key: str,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        read_from: str | None = None,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> Any:
        """Return the value of a key, None if it has none."""
        return await self.read(
            key, consistency, timeout, read_from=read_from, max_staleness=max_staleness, after_index=after_index
        )

    async def delete(self, key: str, timeout: float | None = None, correlation_id: str | None = None) -> bool:
        """Remove a key; return whether it was there."""
        return bool(await self.apply(Command("delete", {"key": key}, correlation_id), timeout))

    async def cas(
        self,
        key: str,
        *,
        expected: Any,
        value: Any,
        timeout: float | None = None,
        correlation_id: str | None = None,
        ttl: float | None = None,
        lease: LeaseRef | None = None,
    ) -> bool:
        """Set a key if it holds the `expected` value (None: if it has none); return whether it was set."""
        return bool(await self.apply(cas_command(key, expected, value, correlation_id, ttl, lease), timeout))

    async def append(
        self,
        prefix: str,
        value: Any,
        timeout: float | None = None,
        correlation_id: str | None = None,
        *,
        ttl: float | None = None,
        lease: LeaseRef | None = None,
    ) -> str:
        """Set a new key that begins with `prefix`, and return it; as `KeyCalls.append`."""
        return str(await self.apply(append_command(prefix, value, correlation_id, ttl, lease), timeout))

    async def incr(self, key: str, by: int = 1, timeout: float | None = None, correlation_id: str | None = None) -> int:
        """Add `by` to the number at a key and return the sum; a missing key counts as 0."""
        return cast("int", await self.apply(Command("increment", {"key": key, "by": by}, correlation_id), timeout))

    async def delete_prefix(self, prefix: str, timeout: float | None = None, correlation_id: str | None = None) -> int:
        """Remove all keys that begin with `prefix` ("" for all keys) and return how many there were.

        At most 10,000 keys or 8 MiB of values go at once; it takes commands until none is left, between which others
        may write. `timeout` is that of each command.
        """
        total = 0
        while True:
            gone = cast("int", await self.apply(Command("delete_prefix", {"prefix": prefix}, correlation_id), timeout))
            total += gone
            if not gone:
                return total

    async def batch(
        self, commands: Iterable[Command], timeout: float | None = None, correlation_id: str | None = None
    ) -> list[Any]:
        """Carry out several commands of the machine as one, all or none, and return the list of their results.

        Nothing is changed if one of them fails (`CommandError`). A cas that does not match has not failed: its result
        is False, and the others are carried out.
        """
        return cast("list[Any]", await self.apply(batch_command(commands, correlation_id), timeout))

    async def scan(
        self,
        prefix: str = "",
        limit: int = SCAN_LIMIT,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        read_from: str | None = None,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> list[tuple[str, Any]]:
        """Return at most `limit` pairs (key, value) of the keys that begin with `prefix`, in the order of the keys."""
        pairs = await self.read(
            scan_query(prefix, limit),
            consistency,
            timeout,
            read_from=read_from,
            max_staleness=max_staleness,
            after_index=after_index,
        )
        return [(key, value) for key, value in pairs]

    async def entry(
        self,
        key: str,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        read_from: str | None = None,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> KeyEntry | None:
        """Return a key with its value, revisions and lease; None if it is absent."""
        row = await self.read(
            {"entry": key},
            consistency,
            timeout,
            read_from=read_from,
            max_staleness=max_staleness,
            after_index=after_index,
        )
        return None if row is None else KeyEntry.of_row(row)

    async def entries(
        self,
        prefix: str = "",
        limit: int = SCAN_LIMIT,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        read_from: str | None = None,
        max_staleness: float | None = None,
        after_index: int = 0,
        after: str | None = None,
        start: str | None = None,
        end: str | None = None,
        reverse: bool = False,
    ) -> list[KeyEntry]:
        """Return at most `limit` keys with their values, revisions and leases; arguments as `KeyCalls.entries`."""
        rows = await self.read(
            entries_query(prefix, limit, after, start, end, reverse),
            consistency,
            timeout,
            read_from=read_from,
            max_staleness=max_staleness,
            after_index=after_index,
        )
        return [KeyEntry.of_row(row) for row in rows]

    async def transaction(
        self,
        when: Iterable[Compare] | Compare,
        then: Iterable[Command],
        otherwise: Iterable[Command] = (),
        timeout: float | None = None,
        correlation_id: str | None = None,
    ) -> TransactionResult:
        """Carry out commands if all comparisons hold, and others if not; arguments as `KeyCalls.transaction`."""
        outcome = await self.apply(transaction_command(when, then, otherwise, correlation_id), timeout)
        return TransactionResult(outcome["succeeded"], outcome["results"])
