"""Random histories of all commands: the same outcomes and states by whatever way a state came about, and as a model."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest

from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.machines import kv_history, leases
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import Command, Entry, apply_one
from forge_consensus.testing.rules.key_model import KeyModel, RefusedError

KEYS = ["a", "b", "b/", "b/1", "c", "é", "q/0000000000000099"]
PREFIXES = ["", "b", "q/", "é", "z"]


class Drawn:
    """Commands drawn at random, many of which meet the same few keys and leases."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.leases: list[int] = [7]

    def key(self) -> str:
        return self.chance.choice(KEYS)

    def lease(self) -> int:
        return self.chance.choice(self.leases[-4:])

    def on_lease(self) -> dict[str, Any]:
        chance = self.chance.random()
        if chance < 0.35:
            return {"lease": self.lease()}
        if chance < 0.6:
            return {"ttl_ms": self.chance.choice([100, 150, 400, 1000])}
        return {"lease": 0} if chance < 0.65 else {}

    def value(self) -> Any:
        return self.chance.choice([1, True, 1.0, "x", None, [1], {"a": 1}])

    def simple(self) -> tuple[str, dict[str, Any]]:
        name = self.chance.choice(
            ["set", "set", "set", "cas", "increment", "delete", "append", "get", "lease_keep_alive", "lease_revoke"]
        )
        fields: dict[str, Any] = {"key": self.key()}
        if name in {"set", "cas"}:
            fields |= {"value": self.value(), **self.on_lease()}
        if name == "cas":
            fields["expected"] = self.value()
        elif name == "append":
            fields = {"prefix": "q/", "value": self.value(), **self.on_lease()}
        elif name.startswith("lease"):
            fields = {"lease": self.lease()}
        return name, fields

    def ops(self, count: int) -> list[dict[str, Any]]:
        return [{"type": name, **fields} for name, fields in (self.simple() for _ in range(count))]

    def compare(self) -> list[Any]:
        target = self.chance.choice(["value", "created", "modified", "lease", "exists"])
        if target == "value":
            return [target, self.key(), self.chance.choice(["==", "!="]), self.value()]
        if target == "exists":
            return [target, self.key(), "==", self.chance.choice([True, False])]
        comparisons = ["==", "!="] if target == "lease" else ["==", "!=", "<", ">"]
        wanted = self.lease() if target == "lease" else self.chance.choice([0, 1, 20, 60])
        return [target, self.key(), self.chance.choice(comparisons), wanted]

    def command(self, index: int) -> tuple[str, dict[str, Any]]:
        chance = self.chance.random()
        if chance < 0.12:
            self.leases.append(index)
            return "lease_grant", {"ttl_ms": self.chance.choice([100, 300, 900])}
        if chance < 0.17:
            return "delete_prefix", {"prefix": self.chance.choice(PREFIXES), "limit": self.chance.choice([1, 2, 100])}
        if chance < 0.22:
            return "expire", {}
        if chance < 0.4:
            return "batch", {"ops": self.ops(self.chance.randint(0, 5))}
        if chance < 0.55:
            compares = [self.compare() for _ in range(self.chance.randint(0, 2))]
            found = {"if": compares, "then": self.ops(self.chance.randint(0, 4))}
            return "transaction", found | ({"else": self.ops(2)} if self.chance.random() < 0.7 else {})
        return self.simple()


def entries_of(chance: random.Random, count: int) -> list[Entry]:
    """Entries with indexes that leave gaps, as entries of other kinds do, and times that stand still or jump."""
    drawn, index, elapsed, made = Drawn(chance), 0, 0, []
    for _ in range(count):
        index += chance.choice([1, 1, 1, 2])
        elapsed += chance.choice([0, 0, 1, 40, 130, 350])
        name, payload = drawn.command(index)
        if "ttl_ms" in payload or "lease" in payload:
            drawn.leases.append(index)
        made.append(Entry(index, 1, 0, Command(name, payload), elapsed))
    return made


def state(machine: KeyValueMachine) -> tuple[Any, ...]:
    """All that later commands depend on, and what queries tell."""
    held = [machine.query({"lease": lease}) for lease, *_ in machine.query({"leases": 0})]
    return (
        list(machine.whole_state()),
        held,
        machine.query({"entries": ""}),
        machine.due_ms,
        machine.query({"count": ""}),
    )


def outcome(machine: KeyValueMachine, entry: Entry) -> Any:
    done = apply_one(machine, entry)
    return done.code, done.payload


class Bound:
    """A machine bound to tables, which are saved, restarted from and replaced at random."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.tables = MemoryTables()
        self.machine = KeyValueMachine()
        self.machine.bind(self.tables, 255)
        self.since: list[Entry] = []
        """The entries behind the last checkpoint."""
        self.saved = (0, 0)
        self.last = (0, 0)

    def apply(self, entry: Entry) -> Any:
        self.since.append(entry)
        self.last = entry.index, entry.elapsed_ms
        return outcome(self.machine, entry)

    def disturb(self) -> None:
        what = self.chance.choice(["nothing", "nothing", "save", "stage", "restart", "install", "restore"])
        if what == "restore":
            self.machine.restore(list(self.machine.snapshot()))
            return
        if what == "stage":
            self.machine.checkpoint(Batch())
        elif what != "nothing":
            if what != "restart":
                self.save()
            if what == "install":
                self.install()
            if what != "save":
                self.restart()

    def save(self) -> None:
        batch = Batch()
        self.machine.checkpoint(batch)
        self.tables.commit(batch)
        self.machine.checkpointed()
        assert self.machine.dirty == (0, 0)
        self.since, self.saved = [], self.last

    def install(self) -> None:
        """Move the state into another generation by a snapshot."""
        batch, old = Batch(), self.machine.generation
        for chunk in KeyValueMachine.export(self.tables, old):
            KeyValueMachine.import_chunk(batch, old + 1, chunk)
        if self.chance.random() < 0.5:
            batch.delete_range("kv", old.to_bytes(4), (old + 1).to_bytes(4))
        self.tables.commit(batch)
        self.machine.generation += 1

    def restart(self) -> None:
        """Take the state from the disk, and apply what is behind it once more."""
        machine = KeyValueMachine()
        machine.bind(self.tables, self.machine.generation, *self.saved)
        for entry in self.since:
            outcome(machine, entry)
        self.machine = machine


class Alone:
    """A machine by itself, restored from its own snapshots at random."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.machine = KeyValueMachine()

    def apply(self, entry: Entry) -> Any:
        return outcome(self.machine, entry)

    def disturb(self) -> None:
        if self.chance.random() < 0.3:
            chunks = list(self.machine.snapshot())
            if self.chance.random() < 0.7:
                self.machine = KeyValueMachine()
            self.machine.restore(chunks)


def outcome_of_model(model: KeyModel, entry: Entry) -> tuple[bool, Any]:
    payload = msgpack.unpackb(msgpack.packb(entry.command.payload))
    try:
        return True, model.apply(entry.index, entry.elapsed_ms, entry.command.type, payload)
    except RefusedError:
        return False, None


def check_against_model(machine: KeyValueMachine, model: KeyModel) -> None:
    rows = [[key, held.value, held.created, held.modified, held.lease] for key, held in sorted(model.keys.items())]
    packed = msgpack.packb(rows)
    assert msgpack.packb(machine.query({"entries": "", "limit": 10_000})) == packed
    held = [
        [lease, one.ttl_ms, max(0, one.ends_ms - model.now_ms), len(model.attached(lease))]
        for lease, one in sorted(model.leases.items())
    ]
    assert machine.query({"leases": 0}) == held
    for lease in model.leases:
        assert machine.query({"lease": lease})[3] == model.attached(lease)
    assert machine.due_ms == min((one.ends_ms for one in model.leases.values()), default=None)


def check_history(machine: KeyValueMachine, model: KeyModel, chance: random.Random) -> None:
    """The changes are those of the model, as far back as the machine remembers, page by page."""
    oldest = machine.query({"changes": "", "since": 1})["oldest"]
    prefix = chance.choice(PREFIXES)
    since = chance.randint(1, model.index + 1)
    page = {"since": since, "next": since, "changes": []}
    found: list[Any] = []
    while True:
        page = machine.query({"changes": prefix, "since": page["next"], "limit": chance.randint(1, 5)})
        if since < oldest:
            assert (page["changes"], page["next"], page["oldest"]) == ([], since, oldest)
            return
        found += page["changes"]
        if page["next"] == model.index + 1:
            break
    expected = [change for change in model.history if change[0] >= since and change[1].startswith(prefix)]
    assert msgpack.packb(found) == msgpack.packb(expected)
    exact = machine.query({"changes": "b", "since": since, "key": True})["changes"]
    assert exact == [change for change in expected if change[1] == "b"] or not "b".startswith(prefix)


@pytest.mark.parametrize("block", range(6))
def test_all_ways_to_a_state_give_the_same_outcomes_and_states(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_history, "KNOWN_MAX", 2 if block % 2 else 50)
    if block % 2:  # a history that is short and is forgotten in the midst of the changes of an entry
        monkeypatch.setattr(kv_history, "PART_CHANGES", 3)
        monkeypatch.setattr(kv_history, "CHANGES_MAX", 12)
        monkeypatch.setattr(kv_history, "KNOWN_MAX", 1)
    if block % 3 == 0:
        monkeypatch.setattr(leases, "KEYS_MAX", 3)
        monkeypatch.setattr(leases, "EXPIRED_MAX", 2)
    monkeypatch.setattr(leases, "HEAP_SPARE", block % 2)
    for seed in range(block * 25, block * 25 + 25):
        chance = random.Random(seed)
        straight, bound, alone = KeyValueMachine(), Bound(chance), Alone(chance)
        model = KeyModel(keys_max=leases.KEYS_MAX, expired_max=leases.EXPIRED_MAX)
        for place, entry in enumerate(entries_of(chance, 70)):
            told = f"seed {seed}, entry {entry.index}, {entry.command}"
            done = outcome(straight, entry)
            assert bound.apply(entry) == done, told
            assert alone.apply(entry) == done, told
            succeeded, result = outcome_of_model(model, entry)
            assert succeeded is (done[0] == ""), (told, done)
            assert not succeeded or msgpack.packb(result) == done[1], (told, result, done)
            expected = state(straight)
            assert state(bound.machine) == expected, told
            assert state(alone.machine) == expected, told
            if place % 7 == 0:
                check_against_model(straight, model)
                check_history(straight, model, chance)
                check_history(bound.machine, model, chance)
                check_history(alone.machine, model, chance)
            bound.disturb()
            alone.disturb()


def test_a_machine_in_tables_that_restores_a_snapshot_writes_it_in_the_place_of_its_state() -> None:
    chance = random.Random(5)
    bound, other = Bound(chance), KeyValueMachine()
    for entry in entries_of(chance, 60):
        bound.apply(entry)
    bound.save()
    for entry in entries_of(random.Random(6), 50):
        outcome(other, entry)
    bound.machine.restore(list(other.snapshot()))
    assert state(bound.machine) == state(other)
    bound.last = other.history.last, other.leases.now_ms
    bound.save()
    bound.restart()
    assert state(bound.machine) == state(other)


def test_a_history_that_is_forgotten_in_the_midst_of_an_entry_keeps_its_checkpoints_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is left of the changes of a forgotten entry has no births any more, and nobody may look for them."""
    monkeypatch.setattr(kv_history, "PART_CHANGES", 2)
    monkeypatch.setattr(kv_history, "CHANGES_MAX", 4)
    monkeypatch.setattr(kv_history, "KNOWN_MAX", 1)
    bound = Bound(random.Random(1))
    for index, count in enumerate([5, 1, 1, 1, 5, 1, 1, 1], 1):
        ops = [{"type": "set", "key": f"{index}/{number}", "value": number} for number in range(count)]
        bound.apply(Entry(index, 1, 0, Command("batch", {"ops": ops}), 0))
        bound.save()
    found = bound.machine.query({"changes": "", "since": 1})
    assert found["oldest"] > 1
    page = bound.machine.query({"changes": "", "since": found["oldest"]})
    assert all(change[0] == change[3] for change in page["changes"]), "each was created by its own entry"
