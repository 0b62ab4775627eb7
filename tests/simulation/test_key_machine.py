"""Leases, transactions and changes of the built-in machine under all faults, compared with a plain model of them."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from loguru import logger

from forge_consensus.errors import CorruptionError
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.kv_state import KeyValueState
from forge_consensus.storage.machines.leases import LEASES, Leases
from forge_consensus.storage.machines.machine import EXPIRE, ApplyFaultError, Command, Entry
from forge_consensus.testing.rules.key_model import KeyModel, RefusedError
from forge_consensus.testing.rules.violations import ViolationError, demand
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.simulation import Simulation
from forge_consensus.testing.simulator.workload import Call, KeyValueWorkload

SEEDS = max(2, int(os.environ.get("FORGE_SEEDS", "330")) // 15)
FIRST = 7_000_001
BLOCK = 2
KEYS = ("held/a", "held/b", "held/c")


class LeasedWorkload(KeyValueWorkload):
    """The usual calls, and among them calls of other keys that hang on leases; the model judges all of them."""

    model = None  # type: ignore[assignment]
    may_fail = True

    def __init__(self) -> None:
        super().__init__()
        self.leases = [1]
        self.seen = 1

    def command(self, chance: random.Random, client: str) -> Call:
        if chance.random() < 0.4:
            return super().command(chance, client)
        name, payload = self.leased(chance)
        return Call(name, "leases", command=Command(name, payload))

    def lease(self, chance: random.Random) -> int:
        """One of the last leases, which may be over, or an id that is none."""
        return chance.choice((*self.leases[-4:], self.seen + 3))

    def applied(self, entry: Entry) -> None:
        """Note an entry that some node has applied."""
        self.seen = max(self.seen, entry.index)
        if entry.command.type == "lease_grant" and entry.index not in self.leases:
            self.leases.append(entry.index)

    def on_lease(self, chance: random.Random) -> dict[str, Any]:
        drawn = chance.random()
        if drawn < 0.4:
            return {"ttl_ms": chance.choice((100, 300, 1000, 5000))}
        return {"lease": self.lease(chance)} if drawn < 0.6 else {}

    def op(self, chance: random.Random) -> dict[str, Any]:
        kind = chance.choice(("set", "append", "delete", "cas", "increment", "lease_revoke"))
        key = {"key": chance.choice(KEYS)}
        fields: dict[str, dict[str, Any]] = {
            "set": {**key, "value": chance.randint(0, 9), **self.on_lease(chance)},
            "append": {"prefix": "held/q/", "value": 1, **self.on_lease(chance)},
            "delete": key,
            "cas": {**key, "expected": chance.choice((None, 1)), "value": 1, **self.on_lease(chance)},
            "increment": key,
            "lease_revoke": {"lease": self.lease(chance)},
        }
        return {"type": kind, **fields[kind]}

    def leased(self, chance: random.Random) -> tuple[str, dict[str, Any]]:
        drawn = chance.random()
        if drawn < 0.2:
            return "lease_grant", {"ttl_ms": chance.choice((100, 1000, 4000, 20_000, 20_000))}
        if drawn < 0.3:
            return "lease_keep_alive", {"lease": self.lease(chance)}
        if drawn < 0.35:
            return "delete_prefix", {"prefix": "held/", "limit": chance.choice((2, 100))}
        if drawn < 0.5:
            return "batch", {"ops": [self.op(chance) for _ in range(3)]}
        if drawn < 0.65:
            compares = [["exists", chance.choice(KEYS), "==", True], ["modified", chance.choice(KEYS), "<", self.seen]]
            parts = [[self.op(chance) for _ in range(2)] for _ in range(2)]
            return "transaction", {"if": compares[: chance.randint(1, 2)], "then": parts[0], "else": parts[1]}
        op = self.op(chance)
        return op.pop("type"), op

    def query(self, chance: random.Random, client: str) -> Call:
        drawn = chance.random()
        if drawn < 0.5:
            return super().query(chance, client)
        if drawn < 0.7:
            return Call("entries", "leases", query={"entries": "held/", "reverse": drawn < 0.6})
        if drawn < 0.8:
            return Call("leases", "leases", query={"leases": 0})
        wait_ms = chance.choice((0, 200, 2000))
        since = max(1, self.seen - chance.randint(-3, 40))
        return Call("changes", "leases", query={"changes": "held/", "since": since, "wait_ms": wait_ms})


def whole(machine: KeyValueMachine) -> Any:
    """What identifies a state."""
    return list(machine.whole_state()), machine.due_ms


def check_entries(simulation: Simulation) -> KeyModel:
    """Apply all entries to the model, and compare every result; returns the model."""
    model = KeyModel()
    for entry, effect in zip(simulation.agreement.entries, simulation.agreement.effects, strict=True):
        command = Command.decode(entry.command.encode())
        try:
            expected = repr(model.apply(entry.index, entry.elapsed_ms, command.type, command.payload))
        except RefusedError:
            demand(effect.result.startswith("raised "), "I5", f"{entry} has the result {effect.result}")
        else:
            demand(effect.result == expected, "I5", f"{entry} has the result {effect.result}, the model {expected}")
    return model


def check_nodes(simulation: Simulation, model: KeyModel) -> None:
    """Compare the states and the histories of all nodes with the model's."""
    rows = [[key, held.value, held.created, held.modified, held.lease] for key, held in sorted(model.keys.items())]
    for base in simulation.cluster.healthy():
        machine: Any = base.engine.ledger.applier.machine
        assert msgpack.packb(machine.query({"entries": "", "limit": 10_000})) == msgpack.packb(rows)
        oldest = machine.query({"changes": "", "since": 1})["oldest"]
        page = machine.query({"changes": "", "since": oldest, "limit": 10_000})
        expected = [change for change in model.history if change[0] >= oldest]
        assert sorted(page["changes"], key=repr) == sorted(expected, key=repr), base.name
        assert page["next"] == machine.history.last + 1


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nodes that fail on purpose need not say so."""
    logger.disable("forge_consensus")
    yield
    logger.enable("forge_consensus")


def run(seed: int) -> int:
    """Run the plan of a seed, and compare; returns how many entries leaders let in by themselves."""
    plan = replace(Plan.of(seed, 8.0), own_machine=False)
    workload = LeasedWorkload()
    with Simulation(plan, state_machine=KeyValueMachine, state=whole, workload=workload, twin=False) as simulation:
        observe = simulation.agreement.observe

        def seen(entry: Entry) -> None:
            workload.applied(entry)
            observe(entry)

        simulation.agreement.observe = seen
        simulation.run()
        check_nodes(simulation, check_entries(simulation))
        return sum(entry.command == EXPIRE for entry in simulation.agreement.entries)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("first", range(FIRST, FIRST + SEEDS, BLOCK))
def test_leases_and_changes_are_those_of_the_model_under_all_faults(first: int) -> None:
    assert sum(run(seed) for seed in range(first, first + BLOCK)), "and leaders end leases by themselves"


# --- faults on purpose ------------------------------------------------------------------------------------------------


def by_wall_time(patch: pytest.MonkeyPatch) -> None:
    """Leases end by the wall time of entries."""
    apply = KeyValueMachine.apply
    patch.setattr(KeyValueMachine, "apply", lambda self, entry: apply(self, replace(entry, elapsed_ms=entry.time_ms)))


def ends_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A checkpoint writes leases when they are granted, and not when they are kept alive."""
    end_at = Leases.end_at

    def silent(self: Leases, lease: int, ends_ms: int) -> None:
        before = set(self.changed)
        end_at(self, lease, ends_ms)
        self.changed = before

    patch.setattr(Leases, "end_at", silent)


def leases_left_behind(patch: pytest.MonkeyPatch) -> None:
    """A snapshot that is installed brings keys without their leases."""
    put = Batch.put

    def but_leases(self: Batch, table: str, key: bytes, value: bytes) -> None:
        if table != "kv" or key[4:5] != LEASES:
            put(self, table, key, value)

    patch.setattr(Batch, "put", but_leases)


def half_undone(patch: pytest.MonkeyPatch) -> None:
    """A command that fails has changed leases."""
    patch.setattr(Leases, "roll_back", Leases.settle)


def born_again(patch: pytest.MonkeyPatch) -> None:
    """Whoever writes a key has created it, as far as the disk knows."""
    patch.setattr(KeyValueState, "stored_births", lambda self, keys: [None] * len(keys))


def undying(patch: pytest.MonkeyPatch) -> None:
    """A key that is written again stays on its lease."""
    patch.setattr(Leases, "move", lambda self, key, lease: None if not lease else Leases.attach(self, key, lease))


@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    "fault",
    [by_wall_time, ends_forgotten, leases_left_behind, half_undone, born_again, undying],
    ids=lambda f: f.__name__,
)
def test_a_fault_that_is_put_in_on_purpose_is_found(fault: Callable[[pytest.MonkeyPatch], None]) -> None:
    for seed in range(FIRST, FIRST + 20):
        with pytest.MonkeyPatch.context() as patch:
            fault(patch)
            try:
                run(seed)
            except (AssertionError, KeyError, ViolationError, CorruptionError, ApplyFaultError):
                return
    pytest.fail(f"{fault.__doc__} It was not found")
