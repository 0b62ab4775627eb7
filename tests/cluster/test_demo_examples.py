"""The examples: each runs by itself, as its reader would run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worlds.source_tree import ROOT

EXAMPLES = sorted((ROOT / "demo").glob("example_*.py"))
LINES_MAX = 80
SAYS = {
    "example_asyncio": "key-19 is 19",
    "example_in_process": "snapshot of entry",
    "example_remote": "consensus.leader.elected in term 1",
    "example_simulation": "RightLocks: all agree",
    "example_while_leader": "runs a block in term",
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_prints_its_result(path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(path)], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert SAYS[path.stem] in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < LINES_MAX
