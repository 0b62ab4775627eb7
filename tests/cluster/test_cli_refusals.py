"""What people are told of nodes that refuse each other: the advice holds, and what is over is told as past."""

from __future__ import annotations

import select
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from forge_consensus.service.cluster_report import REFUSES_SECONDS
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.ports import free_ports
from tests.worlds.cli_world import Shell
from tests.worlds.command_nodes import CommandNodes
from tests.worlds.waiting import wait_for

SECONDS_MAX = 15.0
NOTEBOOK = "tests.worlds.service_machines:Notebook"


class Pair(CommandNodes):
    """The two members of a cluster, started by the command line."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]

    def serve(self, number: int, *arguments: str) -> subprocess.Popen[str]:
        """Start a member that says something."""
        peers = ",".join(f"n{place}={address}" for place, address in enumerate(self.addresses, 1))
        data = str(self.folder / f"n{number}")
        process = self.start("--id", f"n{number}", "--peers", peers, "--data", data, *arguments)
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], SECONDS_MAX)[0], "it said nothing"
        return process


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Two members, ended with the test."""
    with Pair(tmp_path) as made:
        yield made


def test_the_advice_to_a_node_with_another_machine_holds(pair: Pair) -> None:
    machines: dict[int, list[str]] = {1: ["--machine", NOTEBOOK], 2: []}
    running = {number: pair.serve(number, *machine) for number, machine in machines.items()}
    wait_for(lambda: any(process.poll() for process in running.values()), SECONDS_MAX, "one of them to end")
    wrong = next(number for number, process in running.items() if process.poll())
    right = machines[3 - wrong]
    _, told = running[wrong].communicate(timeout=SECONDS_MAX)
    assert running[wrong].returncode == 78
    assert "the members of a cluster all run the same one" in told
    assert "move the folder away and start the node with the right one" in told
    assert "and it is taken" not in told
    again = pair.serve(wrong, *right)
    _, told = again.communicate(timeout=SECONDS_MAX)
    assert (again.returncode, "the folder holds the state of the machine" in told) == (78, True), "not by itself"
    shutil.move(pair.folder / f"n{wrong}", pair.folder / "away")
    pair.serve(wrong, *right)
    if running[3 - wrong].poll() is not None:  # each refused the other
        pair.serve(3 - wrong, *right)
    shell = Shell(",".join(pair.addresses))
    wait_for(lambda: "HEALTHY" in shell.run("status").stdout.split(), SECONDS_MAX, "a healthy cluster")


def test_the_refusal_of_a_node_that_is_gone_is_told_as_past(tmp_path: Path) -> None:
    with LocalCluster(folder=tmp_path, cluster_id="proof") as cluster:
        cluster.wait_for_leader()
        with cluster.client() as client:
            client.put("a", 1)
        wiped = cluster.followers()[0]
        other = next(name for name in cluster.nodes if name != wiped)
        cluster.kill(wiped)
        shutil.rmtree(cluster.process(wiped).data)
        cluster.process(wiped).refused()
        shell = Shell(cluster.addresses[other])
        assert f"{other} refuses {wiped}: " in " ".join(shell.run("status").stderr.split())
        past = f"{other} refused {wiped} "
        wait_for(lambda: past in " ".join(shell.run("status").stderr.split()), REFUSES_SECONDS + 10, "a past refusal")
        told = " ".join(shell.run("status").stderr.split())
        assert f"{other} refuses {wiped}" not in told
