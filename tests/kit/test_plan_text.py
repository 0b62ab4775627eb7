"""Tests of the plan as text: the printed text evaluates to the same plan."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.testing.simulator.conditions import Conditions
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.plan_text import call_of, reproduction
from forge_consensus.testing.simulator.trial import attempt
from forge_consensus.testing.world.cluster import Bounds


def evaluated(text: str) -> Any:
    return eval(text, {made.__name__: made for made in (Plan, StorageSettings, RaftSettings, Conditions, Bounds)})


def test_the_text_of_a_plan_makes_the_same_plan() -> None:
    for seed in range(50):
        plan = replace(Plan.of(seed), skip=frozenset(range(seed)) - {3, 7}, kinds=("kill", "mend"))
        assert evaluated(call_of(plan)) == plan


def test_defaults_are_not_written() -> None:
    assert call_of(Plan(5)) == "Plan(5)"
    assert (
        call_of(Plan(5, nodes=4, raft=RaftSettings(chunk_bytes=7)))
        == "Plan(5, nodes=4, raft=RaftSettings(chunk_bytes=7))"
    )


def test_a_large_set_of_numbers_is_written_by_its_gaps() -> None:
    assert call_of(frozenset({3, 1})) == "frozenset({1, 3})"
    assert call_of(frozenset(range(1, 500)) - {5, 77}) == "frozenset(range(1, 500)) - {5, 77}"
    assert call_of(frozenset()) == "frozenset()"


def test_the_reproduction_runs_as_it_is_printed() -> None:
    plan = replace(Plan.of(4), seconds=0.3, pace=1.0)
    names: dict[str, Any] = {}
    exec(reproduction(plan), names)
    assert names["simulation"].cluster.timeline.digest == attempt(plan).digest


def test_a_machine_of_the_main_program_is_imported_by_the_name_of_its_file(tmp_path: Path) -> None:
    program = tmp_path / "counter.py"
    program.write_text(
        "from forge_consensus.testing import Plan\n"
        "from forge_consensus.testing.simulator.plan_text import reproduction\n"
        "class Counter:\n    pass\n"
        "if __name__ == '__main__':\n    print(reproduction(Plan(3), Counter))\n"
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
    assert "from counter import Counter" in done.stdout.splitlines()
