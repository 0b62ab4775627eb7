"""Which keys commands and queries reach: never fewer than the machine then reads and writes."""

from __future__ import annotations

import random
from typing import Any

import pytest

from forge_consensus.storage.machines import kv_reach
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.kv_batches import COMMANDS
from forge_consensus.storage.machines.kv_reach import ALL_READ, ALL_WRITTEN, Reach, reach_of_command, reach_of_query
from forge_consensus.storage.machines.machine import Command, Entry

KEYS = ("a/1", "a/2", "ab", "b/1", "b/2", "c")
PREFIXES = ("", "a", "a/", "b/", "z")


def drawn_op(dice: random.Random) -> dict[str, Any]:
    """A command that can be a part of another one."""
    key, prefix = dice.choice(KEYS), dice.choice(PREFIXES)
    return dice.choice(
        (
            {"type": "set", "key": key, "value": dice.randrange(9)},
            {"type": "set", "key": key, "value": 1, "ttl_ms": 50},
            {"type": "get", "key": key},
            {"type": "delete", "key": key},
            {"type": "cas", "key": key, "expected": None, "value": 7},
            {"type": "increment", "key": dice.choice(("n", "a/n"))},
            {"type": "append", "prefix": prefix, "value": 1},
        )
    )


def drawn_command(dice: random.Random) -> Command:
    """A command of any kind."""
    kind = dice.randrange(6)
    if kind == 0:
        return Command("delete_prefix", {"prefix": dice.choice(PREFIXES)})
    if kind == 1:
        return Command("batch", {"ops": [drawn_op(dice) for _ in range(3)]})
    if kind == 2:
        compare = ["exists", dice.choice(KEYS), "==", dice.random() < 0.5]
        return Command("transaction", {"if": [compare], "then": [drawn_op(dice)], "else": [drawn_op(dice)]})
    op = drawn_op(dice)
    return Command(op.pop("type"), op)


def contents(machine: KeyValueMachine) -> dict[str, Any]:
    """All keys with what is known of them."""
    return {row[0]: row for row in machine.query({"entries": "", "limit": 1000})}


def covers(reaches: list[Reach], kind: str, key: str) -> bool:
    """Whether a reach names this key."""
    return any(
        reach.kind == kind and (reach.prefixes is None or any(key.startswith(prefix) for prefix in reach.prefixes))
        for reach in reaches
    )


def test_each_command_has_a_row() -> None:
    """One without could be carried out by a client whose rules do not allow it."""
    assert kv_reach.COMMANDS.keys() == COMMANDS.keys()


@pytest.mark.parametrize("seed", range(20))
def test_a_command_writes_no_key_that_its_reach_does_not_name(seed: int) -> None:
    """Compared with what really changed, over 200 random commands."""
    dice, machine = random.Random(seed), KeyValueMachine()
    for index in range(1, 201):
        command = drawn_command(dice)
        before = contents(machine)
        try:
            machine.apply(Entry(index, 1, 0, command, 0))
        except (ValueError, TypeError):
            continue
        after = contents(machine)
        reaches = reach_of_command(command.type, command.payload)
        for key in before.keys() | after.keys():
            if before.get(key) != after.get(key):
                assert covers(reaches, "write", key), (command, key)


@pytest.mark.parametrize(
    "query",
    [
        "a/1",
        {"get": "a/1"},
        {"entry": "a/1"},
        {"scan": "a/", "limit": 10},
        {"scan": "a/", "limit": 10, "after": "a"},
        {"entries": "a/", "start": "", "end": "z"},
        {"entries": "a/", "reverse": True},
        {"changes": "a/", "since": 1},
        {"changes": "a/1", "since": 1, "key": True},
        {"count": "a/"},
    ],
)
def test_a_query_answers_with_no_key_that_its_reach_does_not_name(query: Any) -> None:
    """Each names the beginning of its keys, and what it answers has keys below it only."""
    machine = KeyValueMachine()
    for index, key in enumerate(KEYS, 1):
        machine.apply(Entry(index, 1, 0, Command("set", {"key": key, "value": f"secret of {key}"}), 0))
    (reach,) = reach_of_query(query)
    assert reach.prefixes is not None
    (prefix,) = reach.prefixes
    assert prefix.startswith("a/")
    told = str(machine.query(query))
    for key in KEYS:
        assert key.startswith(prefix) or f"secret of {key}" not in told


def test_what_only_the_state_names_reaches_all_keys() -> None:
    """The end of a lease deletes whatever hangs on it."""
    assert reach_of_command("lease_revoke", {"lease": 1}) == [ALL_WRITTEN]
    assert reach_of_query({"lease": 1}) == reach_of_query({"leases": 0}) == [ALL_READ]


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("unknown", {}),
        (7, {}),
        ("set", {"value": 1}),
        ("set", {"key": 7, "value": 1}),
        ("batch", {"ops": 3}),
        ("batch", {"ops": [{"type": "set", "key": None}]}),
        ("batch", {"ops": ["set"]}),
        ("transaction", {"if": [], "then": [{"type": "other", "key": "a"}]}),
        ("transaction", {"if": [], "then": [], "else": 3}),
    ],
)
def test_what_nobody_can_read_reaches_all_keys(name: Any, payload: dict[str, Any]) -> None:
    """So a rule never allows it, and a role leaves it to the machine to refuse."""
    assert any(reach.prefixes is None for reach in reach_of_command(name, payload))


@pytest.mark.parametrize("query", [7, None, {}, {"get": 1}, {"get": "a", "count": "b"}, {"other": "a"}, ["a"]])
def test_a_query_that_nobody_can_read_reaches_all_keys(query: Any) -> None:
    """As with commands."""
    assert [reach.prefixes for reach in reach_of_query(query)] == [None]


def test_a_comparison_reads_its_key() -> None:
    """Whether it holds tells what the key holds."""
    payload = {"if": [["value", "b/1", "==", 1]], "then": [{"type": "set", "key": "a/1", "value": 1}]}
    assert covers(reach_of_command("transaction", payload), "read", "b/1")
    assert reach_of_command("transaction", {"if": [["value"]], "then": []})[1] == ALL_READ
