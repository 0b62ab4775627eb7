"""The twin: it finds differences that only a process with another hash seed or another clock shows."""

from __future__ import annotations

import datetime
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.errors import InvalidConfigError, OperationFailedError
from forge_consensus.storage.machines.machine import Command, Entry, Machine
from forge_consensus.testing import Call, Simulation, ViolationError, Workload
from forge_consensus.testing.rules.agreement import CountingMachine, Effect, result_of, state_text
from forge_consensus.testing.simulator.twin import IN_TWIN, Run, compare_with_twin, importable


class Hashing(CountingMachine):
    """A machine that looks at the order of a set of strings: the same on all nodes of one process."""

    def apply(self, entry: Entry) -> Any:
        super().apply(entry)
        return "".join({"one", "two", "three", "four", "five", "six"})


class Picking(CountingMachine):
    """A machine that picks one of a set of strings, and tells whom it picked only when it is asked."""

    owner = ""

    def apply(self, entry: Entry) -> Any:
        self.owner += next(iter({f"{name}{entry.index} " for name in ("ann", "bob", "cid", "dan", "eve", "fay")}))
        return super().apply(entry)

    def query(self, query: Any) -> Any:
        return self.owner


class Keeping(CountingMachine):
    """A machine that is right, and whose state is a set of strings."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def apply(self, entry: Entry) -> Any:
        self.seen.add(f"{entry.index}")
        return super().apply(entry)


def owner_of(machine: Picking) -> str:
    """What identifies its state."""
    return machine.owner


def seen_by(machine: Keeping) -> dict[str, Any]:
    """What identifies its state."""
    return {"seen": machine.seen, "of": [frozenset(machine.seen)]}


class Broken(CountingMachine):
    """A machine that can be made here only."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        if not Broken.made:
            raise RuntimeError("not here")


def entries(count: int) -> list[Entry]:
    return [Entry(index, 1, index, Command("increment", {"key": "k"})) for index in range(1, count + 1)]


def run_of(
    machine: Machine, applied: list[Entry], state: Callable[[Any], Any] | None = None, queries: Iterable[Any] = ()
) -> Run:
    """What a machine makes of some entries here."""
    effects = [Effect("n1", result_of(machine, entry)[0], state_text(machine, state)) for entry in applied]
    return Run.of(applied, effects, queries, machine)


def test_a_deterministic_machine_agrees_with_its_twin() -> None:
    compare_with_twin(CountingMachine, run_of(CountingMachine(), entries(20), queries=[{"get": "k"}, {}]))


def test_a_machine_that_depends_on_hashes_disagrees_with_its_twin_at_a_named_entry() -> None:
    with pytest.raises(ViolationError, match=r"entry 1, 'increment' .* another hash seed and a clock"):
        compare_with_twin(Hashing, run_of(Hashing(), entries(5)))


def test_a_state_that_depends_on_hashes_is_found_if_another_process_can_import_its_machine() -> None:
    with pytest.raises(
        ViolationError, match=r"entry \d, 'increment' .*: here \d, state '.*; in a process .* \d, state '"
    ):
        compare_with_twin(Picking, run_of(Picking(), entries(20), owner_of), owner_of)

    def hidden(machine: Picking) -> str:
        return machine.owner

    compare_with_twin(Picking, run_of(Picking(), entries(20), hidden), hidden)


def test_answers_that_depend_on_hashes_are_found() -> None:
    with pytest.raises(ViolationError, match=r"the query 'who' has two answers by Picking after the same 20 commands"):
        compare_with_twin(Picking, run_of(Picking(), entries(20), queries=["who"]))


def test_equal_sets_are_equal_states_in_any_order() -> None:
    compare_with_twin(Keeping, run_of(Keeping(), entries(30), seen_by), seen_by)


class Day(CountingMachine):
    """A machine that looks at the wall clock in some way."""

    def apply(self, entry: Entry) -> Any:
        return [super().apply(entry), self.looked()]

    def looked(self) -> Any:
        return time.strftime("%Y")


class Expiring(Day):
    """Two looks at the clock are compared: how far ahead it is does not matter."""

    last = 0.0

    def looked(self) -> Any:
        before, self.last = self.last, time.time()
        return bool(before) and self.last - before > 20.0


class Dated(Day):
    """The right way: the entry's time, though by the classes that know the clock."""

    def apply(self, entry: Entry) -> Any:
        super().apply(entry)
        moment = datetime.datetime.fromtimestamp(entry.time_ms / 1000, datetime.UTC)
        assert isinstance(datetime.datetime.min, datetime.datetime)
        return [repr(moment), str(moment), time.strftime("%Y", time.gmtime(entry.time_ms / 1000))]


@pytest.mark.parametrize("machine", [Day, Expiring])
def test_a_machine_that_reads_the_clock_is_found_even_if_it_reads_only_the_date(machine: type[Day]) -> None:
    with pytest.raises(ViolationError, match=r"entry [12], .* a clock that is 400 days ahead"):
        compare_with_twin(machine, run_of(machine(), entries(2)))


def test_a_machine_may_use_the_time_of_the_entry() -> None:
    compare_with_twin(Dated, run_of(Dated(), entries(3)))


class Asking(Workload):
    """Counts, and asks for one thing at the end."""

    def command(self, chance: random.Random, client: str) -> Call:
        return Call("increment", "k", 1, Command("increment", {"key": "k"}))

    def query(self, chance: random.Random, client: str) -> Call:
        return Call("who", "k", query="who")

    def at_the_end(self) -> Iterable[Call]:
        return [Call("who", "k", query="who")]


class Unasked(Asking):
    """Asks for nothing at the end."""

    def at_the_end(self) -> Iterable[Call]:
        return []


@pytest.mark.parametrize("arguments", [{"workload": Asking()}, {"workload": Unasked(), "state": owner_of}])
def test_a_simulation_finds_differences_of_answers_or_states_by_its_twin(arguments: dict[str, Any]) -> None:
    with (
        Simulation(nodes=1, seed=2, seconds=1.0, state_machine=Picking, faults=False, **arguments) as simulation,
        pytest.raises(ViolationError, match=r"by Picking.* another hash seed"),
    ):
        simulation.run()


def test_an_impossible_twin_is_refused() -> None:
    with pytest.raises(InvalidConfigError, match="twin=True: another process must make the machine too"):
        Simulation(state_machine=lambda: CountingMachine(), twin=True)  # noqa: PLW0108 - it has no name


def test_errors_are_compared_like_other_results() -> None:
    run = run_of(CountingMachine(), [Entry(1, 1, 1, Command("increment", {}))], queries=[{}])
    assert [effect.result for effect in run.effects] == ["raised KeyError: 'key'"]
    assert list(run.answers) == ["raised KeyError: 'get'"]
    compare_with_twin(CountingMachine, run)


def test_a_failing_twin_says_how_to_do_without() -> None:
    with pytest.raises(OperationFailedError, match="twin=False"):
        compare_with_twin(Broken, Run([], []))


UNGUARDED = """
from forge_consensus.testing import Simulation
from tests.kit.test_twin import CountingMachine

class Mine(CountingMachine):
    pass

with Simulation(nodes=1, seed=2, seconds=0.5, state_machine=Mine, faults=False) as simulation:
    simulation.run()
"""


def run_script(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script from a file."""
    script = folder / "script.py"
    script.write_text(text)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_script_without_a_main_guard_is_refused_at_once_with_its_line(tmp_path: Path) -> None:
    done = run_script(UNGUARDED, tmp_path)
    assert done.returncode == 1
    assert "InvalidConfigError: line 8 of " in done.stderr
    assert 'put that line below `if __name__ == "__main__":`' in done.stderr
    assert len(done.stderr.splitlines()) < 20
    guarded = UNGUARDED.replace("with Sim", 'if __name__ == "__main__":\n  with Sim').replace(
        "    simul", "      simul"
    )
    assert run_script(guarded, tmp_path).returncode == 0


def test_nothing_simulates_in_a_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IN_TWIN, "1")
    with Simulation(nodes=1, seed=2) as simulation, pytest.raises(InvalidConfigError, match="put it below `if"):
        simulation.start()


def test_a_machine_that_another_process_cannot_make_has_no_twin() -> None:
    class Local(CountingMachine):
        pass

    assert importable(CountingMachine)
    assert not importable(Local)
    assert not importable(lambda: CountingMachine())  # noqa: PLW0108 - a function without a name is the point


def test_a_simulation_of_a_users_machine_ends_with_its_twin() -> None:
    with Simulation(nodes=3, seed=2, seconds=2.0, state_machine=Hashing, faults=False) as simulation:
        simulation.start()
        with pytest.raises(ViolationError, match="another hash seed"):
            compare_with_twin(Hashing, run_of(Hashing(), entries(1)))
        assert simulation.twin
