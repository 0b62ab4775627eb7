"""Workloads: what the clients of a simulation ask of a machine, and the model by which the answers are judged."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.histories.linearizability import REGISTER, Model

CALLS_A_KEY = 150
"""A key is used so often and then left for a new one: what a check takes grows faster than the calls of one key."""


@dataclass(frozen=True, slots=True)
class Call:
    """One thing that a client does: a command, which goes through the log, or, where there is none, a query.

    `kind`, `key` and `argument` are what the history tells of it and the model knows, see `history.Operation`. Calls
    of different keys are judged apart, so whatever depends on each other has one key.
    """

    kind: str
    key: str = ""
    argument: Any = None
    command: Command | None = None
    query: Any = None


class Workload(Protocol):
    """What clients do. Inherit from it and write `command` and `query`; the rest has defaults.

    A seed must replay, so draw from the `chance` that is given and from nothing else. Of a bank::

        class Bank(Workload):
            model = Balance()  # step(10, Operation(kind="balance", ..., result=10)) is (True, 10)

            def command(self, chance: random.Random, client: str) -> Call:
                amount, name = chance.randint(1, 9), chance.choice(("ann", "bob"))
                return Call("deposit", name, amount, Command("deposit", {"to": name, "amount": amount}))

            def query(self, chance: random.Random, client: str) -> Call:
                name = chance.choice(("ann", "bob"))
                return Call("balance", name, query={"balance": name})
    """

    model: Model | None = None
    """By which histories are judged; without one the answers are recorded only."""
    may_fail: bool = True
    """Whether the machine may refuse a command or a query, by raising. If not, that is a violation."""

    def command(self, chance: random.Random, client: str) -> Call:
        """What the client is to change next."""
        raise NotImplementedError

    def query(self, chance: random.Random, client: str) -> Call:
        """What the client is to read next."""
        raise NotImplementedError

    def at_the_end(self) -> Iterable[Call]:
        """Queries that see everything that was written. They are asked of every node when all is over."""
        return ()


class Keys:
    """Some keys at a time, each to be used so often and then replaced by a new one."""

    def __init__(self, name: str, count: int, calls_a_key: int) -> None:
        self.name = name
        self.calls_a_key = calls_a_key
        self.made = 0
        self.slots = [[self.new(), calls_a_key * (slot + 1) // count] for slot in range(count)]

    def new(self) -> Any:
        """A key that was never used."""
        self.made += 1
        return f"{self.name}{self.made}"

    def draw(self, chance: random.Random) -> str:
        """One of the present keys."""
        slot = chance.choice(self.slots)
        key: str = slot[0]
        slot[1] -= 1
        if not slot[1]:
            slot[:] = [self.new(), self.calls_a_key]
        return key

    def all(self) -> list[str]:
        """All keys that ever were."""
        return [f"{self.name}{number}" for number in range(1, self.made + 1)]


class CountingWorkload(Workload):
    """Counts keys, and reads how often they were counted: for a `CountingMachine`."""

    model = REGISTER
    may_fail = False

    def __init__(self, keys: int = 3, calls_a_key: int = CALLS_A_KEY) -> None:
        self.keys = Keys("count", keys, calls_a_key)

    def command(self, chance: random.Random, client: str) -> Call:
        """Count."""
        key = self.keys.draw(chance)
        return Call("increment", key, 1, Command("increment", {"key": key}))

    def query(self, chance: random.Random, client: str) -> Call:
        """Read."""
        return get(self.keys.draw(chance))

    def at_the_end(self) -> Iterable[Call]:
        """Read all."""
        return [get(key) for key in self.keys.all()]


class KeyValueWorkload(Workload):
    """All commands of the built-in machine: some keys are only counted, with the others anything is done.

    Values that are set are never set twice, so that what was read tells who wrote it. What a compare-and-set expects
    is right about as often as not: it is what the key holds if all calls happened in the order in which they began.
    """

    model = REGISTER
    may_fail = False
    kinds = ("set", "cas", "delete", "increment", "get")
    weights = (5, 7, 3, 3, 1)

    def __init__(self, counters: int = 2, registers: int = 4, calls_a_key: int = CALLS_A_KEY) -> None:
        self.counters = Keys("count", counters, calls_a_key)
        self.registers = Keys("key", registers, calls_a_key)
        self.value = 0
        self.guess: dict[str, int | None] = {}

    def draw(self, chance: random.Random) -> tuple[str, bool]:
        """A key, and whether it is only counted."""
        counter = chance.random() < 0.25
        return (self.counters if counter else self.registers).draw(chance), counter

    def command(self, chance: random.Random, client: str) -> Call:
        """Some command."""
        key, counter = self.draw(chance)
        kind = "increment" if counter else chance.choices(self.kinds, self.weights)[0]
        if kind == "increment":
            by = 1 if counter else chance.randint(1, 3)
            self.guess[key] = (self.guess.get(key) or 0) + by
            return Call(kind, key, by, Command(kind, {"key": key, "by": by}))
        if kind == "get":
            return Call(kind, key, None, Command(kind, {"key": key}))
        expected = self.guess.get(key)
        if kind == "delete":
            self.guess[key] = None
            return Call(kind, key, None, Command(kind, {"key": key}))
        self.value += 1000
        self.guess[key] = self.value
        if kind == "set":
            return Call(kind, key, self.value, Command(kind, {"key": key, "value": self.value}))
        if chance.random() < 0.2:
            expected = chance.choice((None, self.value - 1000 * chance.randint(1, 9)))
        payload = {"key": key, "expected": expected, "value": self.value}
        return Call(kind, key, (expected, self.value), Command(kind, payload))

    def query(self, chance: random.Random, client: str) -> Call:
        """Read a key."""
        return get(self.draw(chance)[0])

    def at_the_end(self) -> Iterable[Call]:
        """Read all keys."""
        return [get(key) for keys in (self.counters, self.registers) for key in keys.all()]


def get(key: str) -> Call:
    """The call that reads a key."""
    return Call("get", key, query={"get": key})
