"""``forge-consensus status``: the rows it shows for a healthy and for a degraded cluster."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from forge_consensus.client.sync import Client
from forge_consensus.testing.local.cluster import LocalCluster
from tests.worlds.cli_world import Shell, dead_address, running_node
from tests.worlds.waiting import wait_for


def test_three_nodes_are_found_by_one_endpoint_and_lost_ones_are_shown(tmp_path: Path) -> None:
    with LocalCluster(folder=tmp_path, cluster_id="proof") as cluster:
        leader = cluster.wait_for_leader()
        follower = cluster.followers()[0]
        shell = Shell(cluster.addresses[follower])
        wait_for(lambda: shell.json("status")["health"] == "healthy", 5, "a healthy cluster")
        found = shell.run("status")
        assert found.exit_code == 0
        head, leads, columns, *rows = found.stdout.splitlines()
        assert head == "Cluster proof  HEALTHY   quorum 3/3, can lose 1 node"
        assert leads.startswith(f"leader {leader} (term ")
        assert max(map(len, found.stdout.splitlines())) <= 80
        assert columns.split("  ")[0] == "NODE"
        assert [row.split()[0].rstrip("*") for row in rows] == ["n1", "n2", "n3"]
        assert leader + "*" in found.stdout

        cluster.nodes[leader].kill()
        wait_for(lambda: shell.json("status")["leader_id"] not in (None, leader), 5, "a new leader")
        wait_for(lambda: shell.json("status")["connected"] == 2, 5, "the leader misses the killed node")
        report = shell.json("status")
        lost = next(row for row in report["nodes"] if row["node_id"] == leader)
        assert (report["health"], report["reachable"], report["can_lose"]) == ("degraded", 2, 0)
        assert (lost["state"], lost["role"], lost["term"]) == ("no answer", None, None)
        assert {frozenset(row) for row in report["nodes"]} == {frozenset(lost)}
        assert "does not answer" in shell.run("status").stderr

        cluster.nodes[report["leader_id"]].kill()
        last = next(name for name, node in cluster.nodes.items() if node.running)
        alone = Shell(cluster.addresses[last])
        wait_for(lambda: alone.json("status")["leader_id"] is None, 5, "a cluster without a leader")
        began = time.monotonic()
        found = alone.run("status")
        assert time.monotonic() - began < 3
        assert found.exit_code == 1
        assert "UNHEALTHY" in found.stdout
        assert "no leader (term " in found.stdout
        assert "NO QUORUM" in found.stdout
        assert found.stdout.count("no answer") == 2


def test_an_endpoint_that_does_not_answer_is_a_row_too(tmp_path: Path) -> None:
    with running_node(tmp_path) as node:
        dead = dead_address()
        report = Shell(f"{dead},{node.address}").json("status", "--timeout", "1")
    assert [(row["node_id"], row["state"]) for row in report["nodes"]] == [("n1", "ok"), (None, "no answer")]
    assert report["nodes"][1]["address"] == dead


def test_a_context_names_the_cluster_that_is_asked(tmp_path: Path) -> None:
    file = str(tmp_path / "contexts.yaml")
    shell, elsewhere = Shell(""), Shell(dead_address())
    with running_node(tmp_path / "n1") as node:
        for name, address in (("real", node.address), ("gone", dead_address())):
            done = shell.run("context", "set", name, "--endpoints", address, FORGE_CONSENSUS_CONTEXTS=file)
            assert done.exit_code == 0, done.stderr
        found = elsewhere.run("--context", "real", "status", "-o", "json", FORGE_CONSENSUS_CONTEXTS=file)
        assert (found.exit_code, json.loads(found.stdout)["leader_id"]) == (0, "n1"), found.stderr
        found = elsewhere.run("--context", "gone", "status", "--timeout", "0.3", FORGE_CONSENSUS_CONTEXTS=file)
        assert found.exit_code == 69
        assert shell.run("context", "use", "real", FORGE_CONSENSUS_CONTEXTS=file).exit_code == 0
        doctor = shell.run("doctor", "-o", "json", FORGE_CONSENSUS_CONTEXTS=file)
        assert "members" in {row["check"] for row in json.loads(doctor.stdout)["findings"]}, doctor.stdout


def test_status_without_an_answer_is_69() -> None:
    found = Shell(dead_address()).run("status", "--timeout", "0.5")
    assert found.exit_code == 69
    assert "no connection" in found.stderr


def test_status_is_shown_again_and_again_until_it_is_interrupted(tmp_path: Path) -> None:
    with running_node(tmp_path) as node:
        command = [
            sys.executable,
            "-m",
            "forge_consensus",
            "status",
            "--endpoints",
            node.address,
            "--watch",
            "--interval",
            "0.1",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watch:
            assert watch.stdout is not None
            heads = 0
            while heads < 3:
                heads += watch.stdout.readline().startswith("Cluster ")
            watch.send_signal(signal.SIGINT)
            _, said = watch.communicate(timeout=10)
    assert (watch.returncode, said) == (130, "interrupted\n")


def test_a_client_that_ends_before_its_answer_leaves_nothing_to_tell_people(tmp_path: Path) -> None:
    with LocalCluster(folder=tmp_path, cluster_id="proof") as cluster:
        cluster.wait_for_leader()
        follower = cluster.followers()[0]
        with cluster.client() as client:
            client.put("a", 1)
            client.status(cluster.addresses[follower])  # it has a connection now
            cluster.pause(follower)
            client.driver.hand_over(client.status_query(cluster.addresses[follower], 1.0))
            time.sleep(0.2)  # until the question has left
        cluster.resume(follower)
        wait_for(
            lambda: "client takes no answer" in cluster.status(follower)["refused"], 5, "an answer that nobody takes"
        )
        shell = Shell(cluster.addresses[follower])
        wait_for(lambda: shell.json("status")["health"] == "healthy", 5, "a healthy cluster")
        assert shell.run("status").stderr == ""


def test_a_node_without_an_interpreter_writes_snapshots_and_tells_people_that_it_costs_time(tmp_path: Path) -> None:
    """The program of the node is frozen as far as it can see."""
    address = dead_address()
    frozen = "import sys; sys.frozen = True; from forge_consensus.cli.main import cli; cli()"
    often = ("storage.snapshot_entries=200", "storage.snapshot_seconds_min=0.5", "storage.trailing_entries=50")
    given = ["node", "--id", "n1", "--listen", address, "--data", str(tmp_path), "--events"]
    command = [sys.executable, "-c", frozen, *given, *(part for text in often for part in ("--set", text))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as node:
        try:
            shell = Shell(address)
            with Client([address]) as client:
                for number in range(300):
                    client.put("k", number, timeout=15)
            wait_for(lambda: shell.json("status")["nodes"][0]["snapshot_index"], 10, "a snapshot")
            told = " ".join(shell.run("status").stderr.split())
            assert "n1 writes snapshots on a thread of its process, which costs it time: sys.executable" in told
            assert not [text for text in shell.json("status")["warnings"] if "snapshot" in text], "it is no fault"
        finally:
            node.terminate()
            _, said = node.communicate(timeout=15)
    warned = [line for line in said.splitlines() if "snapshot.on_thread reason=" in line]
    assert len(warned) == 1, said
    assert "WARNING n1 " in warned[0]
    assert "log.compacted" in said
