"""Workloads: the calls of a simulation's clients, and the model by which the answers are judged."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.histories.linearizability import REGISTER, Model

CALLS_A_KEY = 150
"""The number of calls of a key before a new one replaces it, because a check takes more than linear time per key."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a client: a command, which goes through the log, or, if there is none, a query.

    The history records `kind`, `key` and `argument` for the model, see `history.Operation`. Calls of different keys are
    judged apart, so give one key to all calls that depend on each other.
    """

    kind: str
    key: str = ""
    argument: Any = None
    command: Command | None = None
    query: Any = None
    data: bytes = b""
    """The bytes that are sent for a command instead of an encoded one; they may be none."""


class Workload(Protocol):
    """The calls of clients. Inherit from it and define `command` and `query`; the rest has defaults.

    A run must replay from its random seed, so draw only from the `chance` that is passed. An example with a bank::

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
    """The model by which the history is judged; None to record the answers only."""
    may_fail: bool = True
    """Whether the machine may refuse a command or a query by raising. If False, a refusal is a violation."""

    def command(self, chance: random.Random, client: str) -> Call:
        """Return the next call of `client` that changes the state, drawn from `chance`."""
        raise NotImplementedError

    def query(self, chance: random.Random, client: str) -> Call:
        """Return the next call of `client` that reads, drawn from `chance`."""
        raise NotImplementedError

    def at_the_end(self) -> Iterable[Call]:
        """Return queries that cover all written data; every node must answer them at the end."""
        return ()


class Keys:
    """Some keys at a time, each used a number of times and then replaced by a new one."""

    def __init__(self, name: str, count: int, calls_a_key: int) -> None:
        self.name = name
        self.calls_a_key = calls_a_key
        self.made = 0
        self.slots = [[self.new(), calls_a_key * (slot + 1) // count] for slot in range(count)]

    def new(self) -> Any:
        """Return a key that was never used."""
        self.made += 1
        return f"{self.name}{self.made}"

    def draw(self, chance: random.Random) -> str:
        """Return one of the present keys."""
        slot = chance.choice(self.slots)
        key: str = slot[0]
        slot[1] -= 1
        if not slot[1]:
            slot[:] = [self.new(), self.calls_a_key]
        return key

    def all(self) -> list[str]:
        """Return all keys so far."""
        return [f"{self.name}{number}" for number in range(1, self.made + 1)]


class CountingWorkload(Workload):
    """Counts keys and reads the counts: for a `CountingMachine`."""

    model = REGISTER
    may_fail = False

    def __init__(self, keys: int = 3, calls_a_key: int = CALLS_A_KEY) -> None:
        self.keys = Keys("count", keys, calls_a_key)

    def command(self, chance: random.Random, client: str) -> Call:
        """Increment one of the keys by one, so that a command applied twice shows."""
        key = self.keys.draw(chance)
        return Call("increment", key, 1, Command("increment", {"key": key}))

    def query(self, chance: random.Random, client: str) -> Call:
        """Read one of the keys; the answer must fit a linear order of all calls."""
        return get(self.keys.draw(chance))

    def at_the_end(self) -> Iterable[Call]:
        """Read every key, so that the judge knows the state in which the run ended."""
        return [get(key) for key in self.keys.all()]


class KeyValueWorkload(Workload):
    """All commands of the built-in machine: some keys are only counted, the others get every kind of command.

    No value is set twice, so a value that was read shows which call wrote it. About half of all compare-and-set
    commands expect the right value: what the key would hold if all calls took effect in the order in which they began.
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
        """Return a key, and whether it is only counted."""
        counter = chance.random() < 0.25
        return (self.counters if counter else self.registers).draw(chance), counter

    def command(self, chance: random.Random, client: str) -> Call:
        """Increment a counter, or give a register a command of a random kind."""
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
        """Read one of the keys; the answer must fit a linear order of all calls."""
        return get(self.draw(chance)[0])

    def at_the_end(self) -> Iterable[Call]:
        """Read every key, so that the judge knows the state in which the run ended."""
        return [get(key) for keys in (self.counters, self.registers) for key in keys.all()]


def get(key: str) -> Call:
    """Return the call that reads a key."""
    return Call("get", key, query={"get": key})
