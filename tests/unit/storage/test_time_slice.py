"""Slices by time: applying stops when the time is used up, whatever one entry costs, and a slow entry is named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.ledger.applying import Applier, SlowStep
from forge_consensus.storage.ledger.log import Log
from forge_consensus.storage.ledger.record import Kind, encode
from forge_consensus.storage.ledger.time_slice import TimeSlice
from forge_consensus.storage.machines.machine import Command, Entry
from tests.worlds.ledger_world import TallyMachine


class Costly(TallyMachine):
    """A machine whose command {ms} takes that many milliseconds of its own clock."""

    def __init__(self) -> None:
        super().__init__()
        self.ns = 0

    def clock(self) -> int:
        return self.ns

    def apply(self, entry: Entry) -> Any:
        self.ns += int(entry.command.payload["ms"] * 1e6)
        return super().apply(entry)


class CostlyRuns(Costly):
    """The same machine, which takes several commands at once."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[int] = []

    def apply_run(self, entries: Sequence[Entry]) -> Sequence[Any]:
        self.runs.append(len(entries))
        return [self.apply(entry) for entry in entries]


def applier_of(machine: Costly, *ms: float) -> tuple[Applier, Log]:
    log = Log(MemoryTables(), 1 << 30)
    data = [Command(f"take {each}", {"ms": each}).encode() for each in ms]
    log.append([encode(n, 1, Kind.COMMAND, 0, data=each) for n, each in enumerate(data, 1)])
    return Applier(MemoryTables(), machine), log


def slices(applier: Applier, log: Log, machine: Costly, seconds: float = 0.025) -> list[tuple[int, float]]:
    """Apply everything; returns the entries and the milliseconds of each slice."""
    found = []
    while applier.index < log.last:
        began = machine.ns
        done = applier.run(log, log.last, 4096, TimeSlice(machine.clock, seconds, 0.1))
        found.append((len(done), (machine.ns - began) / 1e6))
    return found


@pytest.mark.parametrize("ms", [0.001, 0.3, 1, 20, 90, 300, 2000])
@pytest.mark.parametrize("kind", [Costly, CostlyRuns])
def test_a_slice_takes_no_longer_than_its_time_and_one_step(kind: type[Costly], ms: float) -> None:
    machine = kind()
    applier, log = applier_of(machine, *[ms] * 700)
    found = slices(applier, log, machine)
    assert machine.indexes == list(range(1, 701))
    settled = found[5:] if kind is CostlyRuns else found  # runs are fitted to what the first ones cost
    assert all(took < 25 + 25 + ms for _, took in settled)
    assert len(found) == 1 or max(count for count, _ in found) >= 25 // max(ms, 1)


@pytest.mark.parametrize("kind", [Costly, CostlyRuns])
def test_commands_that_suddenly_cost_much_do_not_fill_a_slice_that_was_meant_for_cheap_ones(kind: type[Costly]) -> None:
    machine = kind()
    applier, log = applier_of(machine, *[0.01] * 3000, *[50] * 40)
    found = slices(applier, log, machine)
    assert max(took for _, took in found) < (2500 if kind is CostlyRuns else 76)  # a run cannot be interrupted


def test_only_a_step_that_is_worth_telling_is_named() -> None:
    machine = Costly()
    applier, log = applier_of(machine, 1, 99, 1, 150, 1)
    told = []
    while applier.index < log.last:
        applier.run(log, log.last, 4096, TimeSlice(machine.clock, 0.025, 0.1))
        told.append(applier.slow)
    assert told == [None, SlowStep(4, 1, "take 150", 0.15), None]


def test_runs_are_as_long_as_fits_and_grow_for_cheap_commands() -> None:
    machine = CostlyRuns()
    applier, log = applier_of(machine, *[0.01] * 20_000)
    slices(applier, log, machine)
    assert max(machine.runs) >= 256
    machine = CostlyRuns()
    applier, log = applier_of(machine, *[30] * 50)
    slices(applier, log, machine)
    assert machine.runs[0] == 16
    assert set(machine.runs[3:]) == {1}
