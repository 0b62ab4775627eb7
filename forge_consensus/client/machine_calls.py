"""The two calls on which all calls of a machine's commands and queries stand."""

from __future__ import annotations

from typing import Any

from forge_consensus.storage.machines.machine import Command


class MachineCalls:
    """What a class must have whose calls are made of commands and queries."""

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


class AsyncMachineCalls:
    """The same as coroutines."""

    async def apply(self, command: Command, timeout: float | None = None) -> Any:
        """Have a command applied and return the machine's result."""
        raise NotImplementedError

    async def read(
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
