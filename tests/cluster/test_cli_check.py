"""``forge-consensus check`` and ``doctor`` against real nodes, and a node that runs by a file of ``init``."""

from __future__ import annotations

import select
from pathlib import Path

from forge_consensus.checks.load import PREFIX
from forge_consensus.testing.local.cluster import LocalCluster
from tests.worlds.cli_world import Shell, dead_address
from tests.worlds.command_nodes import CommandNodes
from tests.worlds.waiting import wait_for

SECONDS_MAX = 15.0


def test_three_nodes_are_checked_before_and_after_one_is_lost(tmp_path: Path) -> None:
    with LocalCluster(folder=tmp_path, cluster_id="proof") as cluster:
        cluster.wait_for_leader()
        lost = cluster.followers()[0]
        others = [name for name in cluster.nodes if name != lost]
        shell = Shell(cluster.addresses[others[0]])
        wait_for(lambda: shell.json("status")["health"] == "healthy", SECONDS_MAX, "a healthy cluster")

        done = shell.run("check", "quorum-critical")
        assert (done.exit_code, done.stdout.startswith("each of the voters can be stopped")) == (0, True)
        loaded = shell.json("check", "perf", "--seconds", "1", "--outstanding", "50")
        assert (loaded["failed"], loaded["left"]) == (0, "")
        assert loaded["writes"] > 50
        with cluster.client() as client:
            assert client.scan(PREFIX) == []
        assert doctors_findings(shell, cluster, others[0]) >= {
            ("quorum", "ok"), ("members", "ok"), ("between nodes", "ok"), ("clocks", "ok"), ("versions", "ok"),
            ("lock", "ok"),
        }  # fmt: skip

        cluster.kill(lost)
        wait_for(lambda: shell.json("status")["connected"] == 2, SECONDS_MAX, "the leader misses the killed node")
        found = shell.json("check", "quorum-critical")
        assert (found["is_ok"], found["critical"], found["can_lose"]) == (False, sorted(others), 0)
        assert shell.run("check", "quorum-critical").exit_code == 1
        assert shell.run("check", "quorum-critical", "--node", lost).exit_code == 0
        assert shell.run("check", "quorum-critical", "--node", others[1]).exit_code == 1
        assert doctors_findings(shell, cluster, lost) >= {("quorum", "warning"), ("members", "problem"), ("lock", "ok")}
        assert shell.run("doctor").exit_code == 1


def doctors_findings(shell: Shell, cluster: LocalCluster, node: str) -> set[tuple[str, str]]:
    """Each check with its level, for the cluster and the folder of a node."""
    found = shell.json("doctor", "--data", str(cluster.process(node).data))
    return {(row["check"], row["level"]) for row in found["findings"]}


def test_a_check_without_an_answer_is_69() -> None:
    for command in (("check", "quorum-critical"), ("check", "perf")):
        assert Shell(dead_address()).run(*command, "--timeout", "0.5").exit_code == 69


def test_a_node_runs_by_the_file_of_init_and_the_doctor_finds_it_there(tmp_path: Path) -> None:
    file, address = tmp_path / "config.yaml", dead_address()
    given = ("--yes", "--id", "n1", "--cluster", "proof", "--listen", address, "--data", str(tmp_path / "n1"))
    assert Shell("").run("init", str(file), *given).exit_code == 0
    with CommandNodes() as nodes:
        process = nodes.start("-c", str(file))
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], SECONDS_MAX)[0], "it said nothing"
        assert process.stdout.readline() == f"serving n1 of cluster proof at {address}\n"
        shell = Shell(address)
        wait_for(lambda: shell.json("status")["health"] == "healthy", SECONDS_MAX, "a healthy cluster")
        found = shell.json("doctor", "-c", str(file))
        assert found["is_fit"], found
        told = {row["check"]: row["text"] for row in found["findings"]}
        assert told["lock"].startswith(f"process {process.pid} (")
        assert told["addresses"] == f"bind {address}: the node of this folder listens there"
        assert told["peers"] == "the cluster has the members that the file names"
        assert found["not_checked"] == []
