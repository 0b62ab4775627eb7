"""Counters: a whole number of the cluster to which anybody adds."""

from __future__ import annotations

from typing import Any, Self

from forge_consensus.client.compare import Compare
from forge_consensus.client.surface import PublicSurface
from forge_consensus.errors import CommandError, InvalidConfigError
from forge_consensus.recipes.names import check_name
from forge_consensus.recipes.steps import RecipeClient, check_client
from forge_consensus.storage.machines.kv_commands import INT_MAX, INT_MIN
from forge_consensus.storage.machines.machine import Command


class CounterCore(PublicSurface):
    """What the blocking counters and those of asyncio share."""

    blocking = True

    internal = frozenset({"internal", "blocking", "client", "number", "swap"})

    def __init__(self, client: RecipeClient, name: str) -> None:
        self.client = check_client("Counter", client, blocking=self.blocking)
        self.name = check_name("counter", name)
        self.key = f"counters/{name}"
        """The key in the cluster that holds the number."""

    def __repr__(self) -> str:
        """Its name."""
        return f"<{type(self).__name__} {self.name!r}>"

    def number(self, value: Any) -> int:
        """The number that a value of the key stands for. Raises `CommandError` if it is none."""
        if value is None:
            return 0
        if type(value) is not int:
            raise CommandError(
                "TypeError", f"the value of {self.key!r} is no whole number but {type(value).__name__}: somebody set it"
            )
        return value

    def swap(self, expected: int, value: int) -> tuple[list[Compare], list[Command], list[Command]]:
        """The transaction that sets the number if it is the expected one; a counter without a key is at 0."""
        wanted, new = check_number(expected), check_number(value)
        if wanted:
            return [Compare.value(self.key) == wanted], [Command("set", {"key": self.key, "value": new})], []
        otherwise = Command("cas", {"key": self.key, "expected": 0, "value": new})
        return [Compare.missing(self.key)], [Command("set", {"key": self.key, "value": new})], [otherwise]


def check_number(number: object) -> int:
    """A number that a counter can hold. Raises `InvalidConfigError`."""
    if type(number) is not int or not INT_MIN <= number <= INT_MAX:
        raise InvalidConfigError(f"{number!r:.99} is no whole number of 64 bits, and a counter holds nothing else")
    return number


def swapped(result: Any) -> bool:
    """Whether a transaction of `CounterCore.swap` has set the number."""
    return bool(result.succeeded or result.results == [True])


class Counter(CounterCore):
    """A whole number of the cluster, 0 until somebody changes it. Adding is atomic, however many add at once.

        hits = Counter(client, "hits")
        hits += 1
        print(hits.add(5), hits.get())

    If nobody can know whether an addition was carried out, it raises `OutcomeUnknownError`: adding again may count
    twice. Any number of threads may share one object; `+=` changes the cluster's number and not the object.

    Args:
        client: a `Client` or `ConsensusService` with the built-in machine.
        name: the counter's name, without ``#``; its key is ``counters/NAME``.

    Raises `InvalidConfigError` for an argument that cannot be. Calls raise what the client's calls raise, and
    `CommandError` if the sum leaves the range of 64 bits, or somebody has set the key to something else.

    """

    def add(self, by: int = 1, timeout: float | None = None) -> int:
        """Add to the number and return the sum.

        Args:
            by: how much to add; may be negative.
            timeout: how many seconds the command tries; None for the client's timeout.

        """
        return int(self.client.incr(self.key, check_number(by), timeout))

    def get(self, timeout: float | None = None) -> int:
        """Return the number.

        Args:
            timeout: how many seconds the query tries; None for the client's timeout.

        """
        return self.number(self.client.get(self.key, timeout=timeout))

    @property
    def value(self) -> int:
        """The number, as `get` gives it: each look asks the cluster."""
        return self.get()

    def set(self, value: int, timeout: float | None = None) -> None:
        """Set the number, whatever it is.

        Args:
            value: the new number.
            timeout: how many seconds the command tries; None for the client's timeout.

        """
        self.client.put(self.key, check_number(value), timeout)

    def compare_and_set(self, expected: int, value: int, timeout: float | None = None) -> bool:
        """Set the number if it is the expected one, and return whether it was.

        Args:
            expected: what the number must be.
            value: the new number.
            timeout: how many seconds the command tries; None for the client's timeout.

        """
        return swapped(self.client.transaction(*self.swap(expected, value), timeout))

    def __iadd__(self, by: int) -> Self:
        """Add to the number."""
        self.add(by)
        return self

    def __isub__(self, by: int) -> Self:
        """Take from the number."""
        self.add(-check_number(by))
        return self
