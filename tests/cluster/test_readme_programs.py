"""Programs of the README and of docs/keys.md that need its three nodes, run against such nodes as they are printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from forge_consensus.testing import LocalCluster
from tests.worlds.readme_programs import KEYS, SHOWN_ADDRESS, Program, programs

ROOT = Path(__file__).resolve().parents[2]
IN_ITS_PLACE = "n1"
"""The node whose place a program takes that runs a node itself."""


@pytest.mark.parametrize(
    "program", [each for each in [*programs(), *programs(KEYS)] if each.needs_cluster], ids=lambda each: each.name
)
def test_a_program_runs_beside_the_nodes_of_the_readme(program: Program, tmp_path: Path) -> None:
    with LocalCluster(nodes=3, cluster_id="demo", folder=tmp_path / "data") as cluster:
        cluster.wait_for_leader()
        text = program.text
        for number, address in enumerate(cluster.endpoints, 1):
            text = text.replace(f"{SHOWN_ADDRESS}{number}", address)
        if "ConsensusService(" in text:
            cluster.shut_down(IN_ITS_PLACE)
        path = tmp_path / program.name
        path.write_text(text, encoding="utf-8")
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, path.name], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
