"""No command of a client stops a node, whatever the machine raises or returns and whatever the bytes hold."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Any

import msgpack
import pytest

from forge_consensus import Command
from forge_consensus.actors.messages import Read, ReadResults
from forge_consensus.errors import CommandError, CorruptionError, StaleTermError, StorageError
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.kv_batches import BATCH_OPS_MAX, COMMANDS
from forge_consensus.storage.machines.machine import Entry
from forge_consensus.testing import Simulation
from tests.worlds.effort import effort
from tests.worlds.one_node import OneNode

NODES = ("n1", "n2", "n3")


class OddError(BaseException):
    """No `Exception`, and without a text."""

    def __str__(self) -> str:
        raise SystemExit


def endless(depth: int = 0) -> int:
    """Recurse without an end."""
    return endless(depth + 1)


def raised(error: BaseException) -> Callable[[], Any]:
    """A deed that raises."""

    def act() -> Any:
        raise error

    return act


def grown() -> Any:
    """A small result whose encoding takes all memory."""
    value: Any = [bytes(1 << 20)]
    for _ in range(30):
        value = [value] * 10
    return value


def cyclic() -> Any:
    """A result that holds itself."""
    value: dict[str, Any] = {}
    value["self"] = value
    return value


ERRORS = [
    PermissionError("not the owner"),
    TimeoutError("too late"),
    FileExistsError("twice"),
    ConnectionResetError("gone"),
    BrokenPipeError("gone"),
    OSError("anything"),
    StopIteration(),
    StopAsyncIteration(),
    GeneratorExit(),
    SystemExit(2),
    asyncio.CancelledError(),
    asyncio.InvalidStateError(),
    OddError(),
    StorageError("mine"),
    CorruptionError("mine"),
    StaleTermError(1, 2),
    ExceptionGroup("many", [OSError("a"), ValueError("b")]),
    BaseExceptionGroup("many", [SystemExit(), OddError()]),
    UnicodeEncodeError("utf-8", "\ud800", 0, 1, "no"),
    Exception("\ud800" * 5000),
    KeyError({"a": 1}),
    AssertionError(),
    NotImplementedError(),
]
DEEDS: list[Callable[[], Any]] = [
    *map(raised, ERRORS),
    endless,
    grown,
    cyclic,
    object,
    lambda: {1, 2},
    lambda: 1 << 70,
    lambda: "\ud800",
    lambda: float("nan"),
    lambda: (yield),
    lambda: [[]] * 1000,
    lambda: {b"a": 1, 2: 3},
]


class Odd:
    """A user's machine: counts what it has done, and then does something odd."""

    query_elsewhere = False

    def __init__(self) -> None:
        self.done: list[int] = []

    def apply(self, entry: Entry) -> Any:
        if entry.command.type == "add":
            self.done.append(entry.command.payload["n"])
            return len(self.done)
        return DEEDS[entry.command.payload["n"]]()

    def query(self, query: Any) -> Any:
        return self.done if query is None else DEEDS[query]()

    def snapshot(self) -> Iterable[bytes]:
        return [msgpack.packb(self.done)]

    def restore(self, chunks: Iterable[bytes]) -> None:
        (chunk,) = chunks
        self.done = msgpack.unpackb(chunk)


def answer(simulation: Simulation, command: Command) -> Any:
    """The result of a command, or the error that its client gets."""
    try:
        return simulation.submit(command, timeout=5)
    except CommandError as error:
        return error.kind, error.text


def restart_all(simulation: Simulation) -> None:
    """End every process and start it again, so that each replays its log."""
    for name in NODES:
        simulation.crash(name)
    for name in NODES:
        simulation.restart(name)
    simulation.wait_for_leader()
    simulation.advance(3)


def test_no_deed_of_a_users_machine_ends_a_node() -> None:
    with Simulation(nodes=3, seed=4, state_machine=Odd, faults=False, twin=False) as simulation:
        simulation.start()
        simulation.wait_for_leader()
        for n in range(len(DEEDS)):
            answer(simulation, Command("odd", {"n": n}))
            assert answer(simulation, Command("add", {"n": n})) == n + 1
            for name in NODES:
                simulation.query(name, None)
        restart_all(simulation)
        assert answer(simulation, Command("add", {"n": -1})) == len(DEEDS) + 1
        simulation.advance(1)
        assert [simulation.query(name, None) for name in NODES] == [[*range(len(DEEDS)), -1]] * 3


def test_no_query_of_a_users_machine_ends_a_node() -> None:
    node = OneNode(1, machine=Odd)
    for n in range(len(DEEDS)):
        node.request("", "gateway", Read("linearizable", ((n, msgpack.packb(n)),)))
        ((number, code, _),) = node.last(ReadResults).items
        assert number == n
        assert code == "CONSENSUS_COMMAND_FAILED" or n >= len(ERRORS)


def shape(chance: random.Random, depth: int = 0) -> Any:
    """Any value that a payload can hold."""

    def operation() -> dict[str, Any]:
        name = chance.choice(sorted(COMMANDS))
        fields = ["key", "value", "expected", "by", "ops", "prefix", "limit", "lease", "ttl_ms", "if", "then", "else"]
        known = sorted(COMMANDS[name].fields | set(chance.sample(fields, chance.randrange(2))))
        return {"type": name, **{field: chance.choice(["k1", 1, shape(chance, depth + 2)]) for field in known}}

    kinds: list[Callable[[], Any]] = [
        lambda: None,
        lambda: chance.choice([0, -1, 1 << 63, -(1 << 63), 1.5, float("inf"), True]),
        lambda: chance.choice(["", "a", "k1", "\0", "é" * 300, "x" * 3000]),
        lambda: chance.randbytes(chance.choice([0, 3, 70_000])),
        lambda: msgpack.ExtType(5, b"x"),
        lambda: msgpack.Timestamp(1, 2),
    ]
    if depth < 4:
        kinds += [
            lambda: [shape(chance, depth + 1) for _ in range(chance.randrange(4))],
            lambda: {chance.choice(["key", "type", "a", b"b"]): shape(chance, depth + 1) for _ in range(3)},
            lambda: [shape(chance, 4)] * chance.choice([2, BATCH_OPS_MAX + 1]),
            operation,
        ]

    return chance.choice(kinds)()


BYTES_MAX = 1 << 20
"""No node takes a larger command."""


def commands(chance: random.Random, count: int) -> Iterable[Command]:
    """Commands of the key-value machine with payloads of any shape."""
    while count:
        name = chance.choice([*sorted(COMMANDS), "batch", "unknown"])
        fields = COMMANDS[name].fields if name in COMMANDS else ["x"]
        payload = {field: chance.choice(["k1", shape(chance)]) for field in sorted(fields)}
        if name == "batch":
            payload["ops"] = [shape(chance) for _ in range(chance.randrange(5))] + [{"type": "get", "key": "k1"}]
        command = Command(name, payload)
        try:
            if len(command.encode()) > BYTES_MAX:
                continue
        except ValueError:
            continue
        count -= 1
        yield command


@pytest.mark.parametrize("seed", range(1, 1 + effort(1, 3)))
def test_no_payload_of_a_key_value_command_ends_a_node(seed: int) -> None:
    chance = random.Random(seed)
    with Simulation(nodes=3, seed=seed, state_machine=KeyValueMachine, faults=False, twin=False) as simulation:
        simulation.start()
        simulation.wait_for_leader()
        for command in commands(chance, 150):
            answer(simulation, command)
        restart_all(simulation)
        assert answer(simulation, Command("set", {"key": "last", "value": seed})) is None
        simulation.advance(1)
        states = [simulation.query(name, {"scan": "", "limit": 1000}) for name in NODES]
        assert states[0] == states[1] == states[2]
        assert ["last", seed] in states[0]
