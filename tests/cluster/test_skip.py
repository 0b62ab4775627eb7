"""An entry that ends every node of a real cluster is skipped on all of them, and the cluster goes on with one state."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result

from forge_consensus import Command
from forge_consensus.client.sync import Client
from forge_consensus.errors import CommandError, ConsensusError
from forge_consensus.storage.machines.machine import Entry
from forge_consensus.testing.local.cluster import LocalCluster
from tests.worlds.cli_world import Shell
from tests.worlds.service_machines import Notebook
from tests.worlds.waiting import wait_for

pytestmark = pytest.mark.timeout(120)


class Mortal(Notebook):
    """A machine whose process is killed while it applies the note `kill`, as by the kernel when memory runs out."""

    def apply(self, entry: Entry) -> object:
        """Write a note, or die."""
        if entry.command.type == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().apply(entry)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    with LocalCluster(nodes=3, folder=tmp_path / "cluster", state_machine=Mortal) as made:
        yield made


def skip(*arguments: str) -> Result:
    """Run `forge-consensus log skip`, in this process, because it is tried for several entries."""
    return Shell("").run("log", "skip", *arguments)


def start_all(cluster: LocalCluster) -> None:
    """Start every node; one that ends at once is no failure here."""
    for node in cluster.nodes.values():
        if not node.running:
            node.launch()


@pytest.mark.parametrize(("poison", "starts"), [("die", 1), ("kill", 6)])
def test_a_poisoned_cluster_goes_on_after_a_skip(cluster: LocalCluster, poison: str, starts: int) -> None:
    client = cluster.client(timeout=2.0)
    for n in range(3):
        client.apply(Command("note", {"text": n}))
    with contextlib.suppress(ConsensusError):
        client.apply(Command(poison), timeout=2.0)
    folders = ",".join(str(cluster.process(name).data) for name in cluster.names)
    index, printed = wait_until_poisoned(cluster, folders, starts)
    assert "is skipped now on: n1, n2, n3" in printed
    for name in cluster.names:
        cluster.restart(name)
    cluster.wait_for_leader()
    assert client.apply(Command("note", {"text": "after"}), timeout=20) == 4
    cluster.wait_until_settled()
    for name in cluster.names:
        address = cluster.real_addresses[name]
        with Client([address], 10, cluster_id=cluster.settings["cluster_id"], follow=False) as asked:
            assert asked.read("all", "stale") == [0, 1, 2, "after"]
    again = skip(str(index), "--on-all", folders)
    assert again.exit_code == 78, again.stderr
    with pytest.raises(CommandError, match="ValueError: no such page"):
        client.apply(Command("fail"))


def wait_until_poisoned(cluster: LocalCluster, folders: str, starts: int) -> tuple[int, str]:
    """Start the nodes again and again until each has ended and one knows why; skip the entry; returns its index."""
    for _ in range(starts):
        wait_for(lambda: stuck(cluster), 20, "the nodes to end")
        for node in cluster.nodes.values():
            if node.running:
                node.kill()
        for index in range(5, 9):
            done = skip(str(index), "--on-all", folders)
            if done.exit_code == 0:
                return index, done.stdout
        start_all(cluster)
    raise AssertionError(f"no entry was found: {done.stderr}")


def stuck(cluster: LocalCluster) -> bool:
    """Whether the nodes that still run are no majority, so that nothing happens any more."""
    return sum(node.running for node in cluster.nodes.values()) < 2
