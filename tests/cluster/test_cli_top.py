"""``forge-consensus top`` with a real node: two refreshes while something writes."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from forge_consensus.client.sync import Client
from tests.worlds.cli_world import Shell, running_node


def test_two_refreshes_tell_what_a_node_did_in_between(tmp_path: Path) -> None:
    with running_node(tmp_path) as node, Client([node.address]) as client:
        client.put("k", 0, timeout=30)  # it leads by now
        over = threading.Event()

        def write() -> None:
            while not over.is_set():
                client.put("k", 1, timeout=30)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            done = Shell(node.address).run("top", "--count", "2", "--interval", "1", "-o", "json")
        finally:
            over.set()
            writer.join(30)
    assert done.exit_code == 0, done.output
    first, second = map(json.loads, done.stdout.splitlines())
    assert set(first) == set(second)
    assert (first["error"], first["report"]["health"], first["report"]["leader_id"]) == ("", "healthy", "n1")
    assert first["committed_per_second"] is first["rates"]["n1"]["operations_per_second"] is None
    assert first["slowest_commit_seconds"] > 0
    rates = second["rates"]["n1"]
    assert min(second["committed_per_second"], rates["operations_per_second"], rates["commits_per_second"]) > 0
    assert rates["reads_per_second"] == 0
    assert second["report"]["commit_index"] > first["report"]["commit_index"]
