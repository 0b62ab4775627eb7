"""The admin API keeps to its OpenAPI document: schemathesis makes requests of it, right and wrong ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.node_process import NodeProcess

HERE = Path(__file__).parent
EXAMPLES = int(os.environ.get("FORGE_EXAMPLES", "2"))
"""How many requests are drawn for each operation, besides those that its schema names."""


def excluded(*paths: str) -> list[str]:
    """What leaves these paths out: streams have no end, and adding a node waits for it."""
    return [word for path in paths for word in ("--exclude-path", path)]


@pytest.mark.timeout(360)
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    with LocalCluster(1, folder=tmp_path, extra_args=("--http", "127.0.0.1:0")) as cluster:
        cluster.wait_for_leader()
        node = cluster.nodes["n1"]
        assert isinstance(node, NodeProcess)
        url = re.findall(r"(http://\S+)/$", node.output(), re.MULTILINE)[-1]
        tool = Path(sys.executable).with_name("schemathesis")
        command = [
            str(tool), "--config-file", str(HERE / "schemathesis.toml"), "run", f"{url}/openapi.json", "--url", url,
            "--max-examples", str(EXAMPLES), "--seed", "1", "--no-color", "--phases", "examples,coverage,fuzzing",
            "--request-timeout", "8", *excluded("/v1/events", "/v1/watch", "/v1/members", "/consensus/add-node"),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        assert "500 Internal" not in done.stdout
        assert "INTERNAL" not in node.output()
