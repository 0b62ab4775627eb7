"""The calls of the built-in key-value machine: its commands and queries as methods."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from forge_consensus.storage.machines.machine import Command

SCAN_LIMIT = 1000


def batch_command(commands: Iterable[Command], correlation_id: str | None) -> Command:
    """The one command that carries out these commands of the key-value machine, all or none.

    Raises ValueError for what is no command.
    """
    ops = []
    for command in commands:
        if not isinstance(command, Command):
            raise ValueError(f'{command!r} is no command: make one, such as Command("set", {{"key": "k", "value": 1}})')
        ops.append({**command.payload, "type": command.type})
    return Command("batch", {"ops": ops}, correlation_id)


class KeyCalls:
    """The commands and queries of the built-in key-value machine as methods, for a class that has `apply` and `read`.

    In all of them `key` is a text, `value` anything that msgpack encodes, `timeout` the seconds that the call tries
    (None for the client's), and `correlation_id` a text that travels with the command and its events (see `Command`).
    They raise what `apply` and `read` raise.
    """

    def apply(self, command: Command, timeout: float | None = None) -> Any:
        """Have a command applied and return the machine's result."""
        raise NotImplementedError

    def read(
        self,
        query: Any,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        read_from: str | None = None,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> Any:
        """Return the machine's answer to a query, of that consistency."""
        raise NotImplementedError

    def put(self, key: str, value: Any, timeout: float | None = None, correlation_id: str | None = None) -> Any:
        """Set a key to a value.

        None is a value like any other: `scan` lists the key and `delete` finds it. But `get` returns None for it as for
        a key without value, and `cas` with ``expected=None`` succeeds only where there is none.
        """
        return self.apply(Command("set", {"key": key, "value": value}, correlation_id), timeout)

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
        self, key: str, *, expected: Any, value: Any, timeout: float | None = None, correlation_id: str | None = None
    ) -> bool:
        """Set a key if it holds the `expected` value (None: if it has none); return whether it was set."""
        payload = {"key": key, "expected": expected, "value": value}
        return bool(self.apply(Command("cas", payload, correlation_id), timeout))

    def incr(self, key: str, by: int = 1, timeout: float | None = None, correlation_id: str | None = None) -> int:
        """Add `by` to the number at a key and return the sum; a missing key counts as 0.

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
        query = {"scan": prefix, "limit": limit}
        pairs = self.read(
            query, consistency, timeout, read_from=read_from, max_staleness=max_staleness, after_index=after_index
        )
        return [(key, value) for key, value in pairs]
