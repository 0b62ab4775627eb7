"""The twin: what only a process with another hash seed shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.errors import OperationFailedError
from forge_consensus.storage.machine import Command, Entry
from forge_consensus.testing import Simulation, ViolationError
from forge_consensus.testing.simulator.agreement import CountingMachine, result_of
from forge_consensus.testing.simulator.twin import compare_with_twin, importable


class Hashing(CountingMachine):
    """A machine that looks at the order of a set of strings: the same on all nodes of one process."""

    def apply(self, entry: Entry) -> Any:
        super().apply(entry)
        return "".join({"one", "two", "three", "four", "five", "six"})


class Broken(CountingMachine):
    """A machine that can be made here only."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        if not Broken.made:
            raise RuntimeError("not here")


def entries(count: int) -> list[Entry]:
    return [Entry(index, 1, index, Command("increment", {"key": "k"})) for index in range(1, count + 1)]


def results(machine: CountingMachine, run: list[Entry]) -> list[str]:
    return [result_of(machine, entry)[0] for entry in run]


def test_a_machine_that_depends_on_its_state_and_the_entry_agrees_with_its_twin() -> None:
    run = entries(20)
    compare_with_twin(CountingMachine, run, results(CountingMachine(), run))


def test_a_machine_that_depends_on_hashes_does_not_and_the_entry_is_named() -> None:
    run = entries(5)
    with pytest.raises(ViolationError, match=r"entry 1, 'increment' .* another hash seed"):
        compare_with_twin(Hashing, run, results(Hashing(), run))


def test_a_result_that_is_an_error_is_compared_as_well() -> None:
    run = [Entry(1, 1, 1, Command("increment", {}))]
    text = results(CountingMachine(), run)
    assert text == ["raised KeyError: 'key'"]
    compare_with_twin(CountingMachine, run, text)


def test_a_twin_that_cannot_be_made_says_how_to_do_without() -> None:
    with pytest.raises(OperationFailedError, match="twin=False"):
        compare_with_twin(Broken, [], [])


UNGUARDED = """
from forge_consensus.testing import Simulation
from tests.test_testing_twin import CountingMachine

class Mine(CountingMachine):
    pass

with Simulation(nodes=1, seed=2, seconds=0.5, state_machine=Mine, faults=False) as simulation:
    simulation.run()
"""


def test_a_script_that_simulates_when_it_is_imported_is_told_and_makes_no_twins_of_twins(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert 'put it below `if __name__ == "__main__":`' in done.stderr
    assert "with twin=False there is none" in done.stderr


def test_what_another_process_cannot_make_has_no_twin() -> None:
    class Local(CountingMachine):
        pass

    assert importable(CountingMachine)
    assert not importable(Local)
    assert not importable(lambda: CountingMachine())  # noqa: PLW0108 - a function without a name is the point


def test_a_simulation_of_a_users_machine_ends_with_its_twin() -> None:
    with Simulation(nodes=3, seed=2, seconds=2.0, state_machine=Hashing, faults=False) as simulation:
        simulation.start()
        with pytest.raises(ViolationError, match="another hash seed"):
            compare_with_twin(Hashing, entries(1), results(Hashing(), entries(1)))
        assert simulation.twin
