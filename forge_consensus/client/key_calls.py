"""The calls of the built-in key-value machine: its commands and queries as methods."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

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
from forge_consensus.client.lease_calls import LeaseCalls
from forge_consensus.client.watch import WatchCalls
from forge_consensus.storage.machines.machine import Command


class KeyCalls(LeaseCalls, WatchCalls):
    """The commands and queries of the built-in key-value machine as methods, for a class that has `apply` and `read`.

    In all of them `key` is a text, `value` anything that msgpack encodes, `timeout` the seconds that the call tries
    (None for the client's), and `correlation_id` a text that travels with the command and its events (see `Command`).
    `ttl` is the seconds after which the key goes by itself, 0.1 to a year, and `lease` the lease with which it goes;
    without both it stays, also if it had one before. They raise what `apply` and `read` raise, and `InvalidConfigError`
    for a `ttl` or `lease` that cannot be.
    """

    def put(
        self,
        key: str,
        value: Any,
        timeout: float | None = None,
        correlation_id: str | None = None,
        *,
        ttl: float | None = None,
        lease: LeaseRef | None = None,
    ) -> Any:
        """Set a key to a value.

        None is a value like any other: `scan` lists the key and `delete` finds it. But `get` returns None for it as for
        a key without value, and `cas` with ``expected=None`` succeeds only where there is none.

        With `ttl` the key goes by itself after so many seconds, 0.1 to a year; with `lease`, a `Lease` or its id, it
        goes when that ends. Without both it stays, also if it had one before. Raises `CommandError` if the lease does
        not exist, and `InvalidConfigError` for a `ttl` or `lease` that cannot be.
        """
        return self.apply(set_command(key, value, correlation_id, ttl, lease), timeout)

    def get(
        self,
        key: str,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        read_from: str | None = None,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> Any:
        """Return the value of a key; None if it has none, and if its value is None (see `put`)."""
        return self.read(
            key, consistency, timeout, read_from=read_from, max_staleness=max_staleness, after_index=after_index
        )

    def delete(self, key: str, timeout: float | None = None, correlation_id: str | None = None) -> bool:
        """Remove a key; return whether it was there."""
        return bool(self.apply(Command("delete", {"key": key}, correlation_id), timeout))

    def cas(
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
        return bool(self.apply(cas_command(key, expected, value, correlation_id, ttl, lease), timeout))

    def append(
        self,
        prefix: str,
        value: Any,
        timeout: float | None = None,
        correlation_id: str | None = None,
        *,
        ttl: float | None = None,
        lease: LeaseRef | None = None,
    ) -> str:
        """Set a new key that begins with `prefix`, and return it.

        The cluster numbers it, so that keys made with one prefix sort in the order in which they were made.
        """
        return str(self.apply(append_command(prefix, value, correlation_id, ttl, lease), timeout))

    def incr(self, key: str, by: int = 1, timeout: float | None = None, correlation_id: str | None = None) -> int:
        """Add `by` to the number at a key and return the sum; a missing key counts as 0, and a lease stays.

        Raises `CommandError` if the key holds no number.
        """
        return cast("int", self.apply(Command("increment", {"key": key, "by": by}, correlation_id), timeout))

    def delete_prefix(self, prefix: str, timeout: float | None = None, correlation_id: str | None = None) -> int:
        """Remove all keys that begin with `prefix` ("" for all keys) and return how many there were.

        At most 10,000 keys or 8 MiB of values go at once; it takes commands until none is left, between which others
        may write. `timeout` is that of each command.
        """
        total = 0
        while True:
            gone = cast("int", self.apply(Command("delete_prefix", {"prefix": prefix}, correlation_id), timeout))
            total += gone
            if not gone:
                return total

    def batch(
        self, commands: Iterable[Command], timeout: float | None = None, correlation_id: str | None = None
    ) -> list[Any]:
        """Carry out several commands of the machine as one, all or none, and return the list of their results.

        Nothing is changed if one of them fails (`CommandError`). A cas that does not match has not failed: its result
        is False, and the others are carried out.
        """
        return cast("list[Any]", self.apply(batch_command(commands, correlation_id), timeout))

    def scan(
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
        pairs = self.read(
            scan_query(prefix, limit),
            consistency,
            timeout,
            read_from=read_from,
            max_staleness=max_staleness,
            after_index=after_index,
        )
        return [(key, value) for key, value in pairs]

    def entry(
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
        row = self.read(
            {"entry": key},
            consistency,
            timeout,
            read_from=read_from,
            max_staleness=max_staleness,
            after_index=after_index,
        )
        return None if row is None else KeyEntry.of_row(row)

    def entries(
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
        """Return at most `limit` keys with their values, revisions and leases, in the order of the keys.

        Args:
            prefix: what the keys begin with.
            limit: how many keys at most; fewer come only if there are no more.
            consistency: how new the answer is, as the other arguments of reads say it; see `Client.read`.
            timeout: how many seconds the query tries; None for the client's timeout.
            read_from: which node answers.
            max_staleness: how many seconds old a ``stale`` answer may be.
            after_index: the log entry that the answer must reflect.
            after: the last key of the page before, so that the next page comes.
            start: the first key that may come, with that prefix.
            end: the first key that may come no more.
            reverse: whether the keys come in descending order; `after` then means below it.

        """
        rows = self.read(
            entries_query(prefix, limit, after, start, end, reverse),
            consistency,
            timeout,
            read_from=read_from,
            max_staleness=max_staleness,
            after_index=after_index,
        )
        return [KeyEntry.of_row(row) for row in rows]

    def transaction(
        self,
        when: Iterable[Compare] | Compare,
        then: Iterable[Command],
        otherwise: Iterable[Command] = (),
        timeout: float | None = None,
        correlation_id: str | None = None,
    ) -> TransactionResult:
        """Carry out commands if all comparisons hold, and others if not, as one and all or none.

        Args:
            when: what must hold, such as ``[Compare.value("k") == 1, Compare.missing("other")]``, or
                one comparison; none always holds.
            then: the commands for that case, as in `batch`.
            otherwise: the commands for the other case.
            timeout: how many seconds the command tries; None for the client's timeout.
            correlation_id: a text that travels with the command and its events.

        Nothing is changed if one of the commands fails (`CommandError`). Raises ValueError for what is no comparison
        or no command.

        """
        outcome = self.apply(transaction_command(when, then, otherwise, correlation_id), timeout)
        return TransactionResult(outcome["succeeded"], outcome["results"])
