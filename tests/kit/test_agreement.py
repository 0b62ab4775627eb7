"""A simulation checks a user's machine: effects of entries, raising commands, snapshots, answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from forge_consensus.config.storage import StorageSettings
from forge_consensus.events.types import SnapshotFailed
from forge_consensus.storage.machines.machine import Command, Entry
from forge_consensus.testing import Call, Plan, Simulation, ViolationError, Workload
from forge_consensus.testing.rules.agreement import Agreement, CountingMachine, WatchedMachine, text_of_value

LIMITS = StorageSettings(snapshot_entries=20, snapshot_seconds_min=0.1, trailing_entries=0, checkpoint_entries=5)
PLAN = Plan(3, nodes=3, clients=2, seconds=4.0, faults=False, storage=LIMITS)


def entry(index: int, key: str = "a") -> Entry:
    return Entry(index, 1, 0, Command("increment", {"key": key}))


def counted(machine: CountingMachine) -> Any:
    """What identifies its state."""
    return machine.counters


class Loose(Workload):
    """Counts keys, without a model."""

    def command(self, chance: random.Random, client: str) -> Call:
        key = chance.choice("abc")
        return Call("increment", key, 1, Command("increment", {"key": key}))

    def query(self, chance: random.Random, client: str) -> Call:
        return Call("get", "a", query={"get": "a"})

    def at_the_end(self) -> Iterable[Call]:
        return [Call("get", key, query={"get": key}) for key in "abc"]


class Strict(Loose):
    """The same, and nothing may fail."""

    may_fail = False


def violation_of(machine: Callable[[], Any], plan: Plan = PLAN, **arguments: Any) -> str:
    """Run a machine; returns what was found."""
    with (
        Simulation(plan, state_machine=machine, twin=False, **{"workload": Loose(), **arguments}) as simulation,
        pytest.raises(ViolationError) as raised,
    ):
        simulation.run()
    return str(raised.value)


# --- snapshots --------------------------------------------------------------------------------------------------------


def raising(machine: Any) -> Any:
    """Raise at once."""
    raise KeyError("oops")


def live(machine: Any) -> Iterator[bytes]:
    """Look at the state only when somebody iterates."""
    yield b"one"
    raise RuntimeError("dictionary changed size during iteration")


@pytest.mark.parametrize(
    ("snapshot", "said"),
    [
        (raising, "failed, KeyError: 'oops'"),
        (live, "failed, RuntimeError: dictionary changed size"),
        (lambda machine: b"state", "it returned bytes b'state' itself"),
        (lambda machine: "state", "it returned str 'state' itself"),
        (lambda machine: None, "'NoneType' object is not iterable"),
        (lambda machine: ["state"], "a chunk is str 'state' and no bytes"),
    ],
)
def test_a_broken_snapshot_is_found_and_the_failure_explains_how_to_write_one(snapshot: Any, said: str) -> None:
    machine = type("Saving", (CountingMachine,), {"snapshot": snapshot})
    found = violation_of(machine)
    assert found.startswith("snapshot: Saving.snapshot() on n")
    assert said in found
    assert "must return an iterable of bytes chunks" in found


def test_a_snapshot_refused_by_the_disk_is_not_blamed_on_the_machine() -> None:
    failed: list[Any] = []
    plan = replace(PLAN, own_machine=True, faults=True, kinds=("failing_file",), seconds=6.0)
    with Simulation(plan) as simulation:
        simulation.subscribe(SnapshotFailed, failed.append)
        simulation.run()
    assert failed


# --- commands that raise ----------------------------------------------------------------------------------------------


class Hasty(CountingMachine):
    """Changes its state and then raises, now and then, on all nodes alike."""

    def apply(self, entry: Entry) -> Any:
        count = super().apply(entry)
        if count % 7 == 3:
            raise ValueError("no such numbers")
        return count


class Careful(CountingMachine):
    """Raises before it changes anything."""

    def apply(self, entry: Entry) -> Any:
        if self.counters.get(entry.command.payload["key"], 0) % 7 == 2 and entry.index % 2:
            raise ValueError("no such numbers")
        return super().apply(entry)


def test_a_command_must_not_change_the_state_and_raise() -> None:
    found = violation_of(Hasty, state=counted)
    assert found.startswith("I5: entry ")
    assert "raised ValueError: no such numbers in Hasty on n" in found
    assert "must not have changed anything when it raises" in found
    assert "before it {" in found
    with Simulation(PLAN, state_machine=Careful, workload=Loose(), twin=False, state=counted) as simulation:
        simulation.run()


def test_a_failure_outside_the_workload_names_the_entry_the_error_and_the_argument_that_allows_it() -> None:
    found = violation_of(Careful, workload=Strict())
    assert "the machine raised ValueError: no such numbers for entry " in found
    assert ", 'increment' {'key': '" in found
    assert "may_fail = True in its class does" in found


def test_a_failing_state_function_is_not_blamed_on_the_command() -> None:
    found = violation_of(CountingMachine, state=lambda machine: machine.nonsense)
    assert found.startswith("state: the function that was given as state= raised AttributeError")


# --- answers ----------------------------------------------------------------------------------------------------------


class Forgetful(CountingMachine):
    """Keeps something that only queries show, and that no snapshot has."""

    def __init__(self) -> None:
        super().__init__()
        self.shadow: dict[str, int] = {}

    def apply(self, entry: Entry) -> Any:
        count = super().apply(entry)
        key = entry.command.payload["key"]
        self.shadow[key] = self.shadow.get(key, 0) + 1
        return count

    def query(self, query: Any) -> Any:
        return self.shadow.get(query["get"])


def run_with_restart(machine: Callable[[], Any], workload: Workload) -> None:
    """Have one node begin from its snapshot, then run."""
    with Simulation(PLAN, state_machine=machine, workload=workload, twin=False) as simulation:
        simulation.start()
        for client in simulation.clients:
            client.start()
        simulation.advance(2.0)
        simulation.crash("leader")
        simulation.wait_for_leader()
        simulation.heal()
        simulation.advance(2.0)
        simulation.be_quiet()


def test_nodes_that_answer_differently_are_found_without_a_model() -> None:
    with pytest.raises(ViolationError) as raised:
        run_with_restart(Forgetful, Loose())
    found = str(raised.value)
    assert "answer the query {'get': 'a'} differently: n1 " in found
    assert "; n2 " in found
    assert "; n3 " in found
    run_with_restart(CountingMachine, Loose())


class Refusing(CountingMachine):
    """Answers no query."""

    def query(self, query: Any) -> Any:
        raise LookupError("nothing is told")


def test_a_query_may_raise_unless_the_workload_is_strict() -> None:
    with Simulation(PLAN, state_machine=Refusing, workload=Loose(), twin=False) as simulation:
        simulation.run()
    assert "the machine raised LookupError: nothing is told" in violation_of(Refusing, workload=Strict())


# --- the workload that nobody gave ------------------------------------------------------------------------------------


@pytest.mark.parametrize("result", ["a text", None, 7])
def test_the_default_workload_refuses_a_machine_without_counting_and_lists_its_commands(result: Any) -> None:
    def apply(self: Any, entry: Entry) -> Any:
        return result

    found = violation_of(type("Other", (CountingMachine,), {"apply": apply}), workload=None)
    assert 'Without workload= the clients send Command("increment", {"key": key})' in found
    assert "give a workload" in found


def test_a_machine_without_increment_is_refused_with_the_missing_command() -> None:
    def apply(self: Any, entry: Entry) -> Any:
        raise KeyError(entry.command.type)

    found = violation_of(type("Other", (CountingMachine,), {"apply": apply}), workload=None)
    assert "the machine raised KeyError: 'increment' for entry" in found
    assert "Without workload= the clients send" in found


# --- words ------------------------------------------------------------------------------------------------------------


def test_a_node_in_disagreement_with_itself_is_named_once_together_with_its_restart() -> None:
    agreement = Agreement()
    first, again = (
        WatchedMachine(CountingMachine(), "n1", agreement),
        WatchedMachine(CountingMachine(), "n1", agreement),
    )
    first.apply(entry(7))
    again.machine.apply(entry(6))
    with pytest.raises(ViolationError, match=r": on n1 first 1; on n1 again, after a restart, 2\. "):
        again.apply(entry(7))


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ("n1", r"on n1 first 1; on n1 again, after a restart from the snapshot of 40, 2"),
        ("n2", r"on n1 1; on n2, its state from the snapshot of 40, 2"),
    ],
)
def test_a_failure_shows_a_restored_state_together_with_its_snapshot(node: str, words: str) -> None:
    agreement, saved = Agreement(), CountingMachine()
    WatchedMachine(CountingMachine(), "n1", agreement).apply(entry(57))
    saved.apply(entry(39))
    watched = WatchedMachine(CountingMachine(), node, agreement, lambda: 40)
    watched.restore(saved.snapshot())
    with pytest.raises(ViolationError, match=words):
        watched.apply(entry(57))


def test_the_advice_mentions_snapshots_that_see_later_commands() -> None:
    agreement = Agreement()
    agreement.applied("n1", CountingMachine(), entry(7), "1")
    with pytest.raises(ViolationError, match=r"snapshot\(\) must give a copy that does not see what is applied later"):
        agreement.applied("n2", CountingMachine(), entry(7), "2")


def test_sets_are_printed_in_one_order_and_other_values_as_usual() -> None:
    values: list[Any] = [[], (), (1,), {}, {"a": [1, (2, 3)]}, "text", None, 1.5, {"x": {"y": ()}}]
    for value in values:
        assert text_of_value(value) == repr(value)
    assert text_of_value([{"b", "a"}, frozenset({2, 1})]) == "[set('a', 'b'), frozenset(1, 2)]"
