"""A real cluster loses a majority for good: one command brings the survivor up alone, and fences the others."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from forge_consensus.client.sync import Client
from forge_consensus.errors import ConsensusError, SessionExpiredError
from forge_consensus.testing.local.cluster import LocalCluster
from tests.cluster.test_backup import serve
from tests.worlds.command_line import run_command
from tests.worlds.command_nodes import CommandNodes
from tests.worlds.waiting import wait_for

pytestmark = pytest.mark.timeout(120)
SECONDS = 30.0


def test_scenario_66_a_survivor_goes_on_alone_and_an_old_node_is_fenced(tmp_path: Path) -> None:
    with LocalCluster(folder=tmp_path, cluster_id="demo") as cluster:
        cluster.wait_for_leader()
        client = cluster.client(timeout=SECONDS)
        for number in range(100):
            client.put(f"k{number}", number)
        assert client.incr("n") == 1
        cluster.wait_until_settled()
        for name in ("n1", "n2", "n3"):
            cluster.shut_down(name)
        data = cluster.process("n1").data
        shutil.copytree(cluster.process("n2").data, tmp_path / "old")  # n2 comes back later, with all that it knew
        for name in ("n2", "n3"):
            shutil.rmtree(cluster.process(name).data)
        refused = run_command("recover", "--data", str(data), expect=2)
        assert "lost: whatever the cluster acknowledged behind entry" in refused
        said = run_command("recover", "--data", str(data), "--yes")
        assert "n1 is the only member of cluster demo~" in said

        address = cluster.addresses["n1"]
        with CommandNodes() as nodes, Client([address], SECONDS, cluster_id="demo") as other:
            serve(nodes, "n1", address, data)  # its folder says who is a member, so no --peers and no --cluster
            assert other.get("k99") == 99
            assert [member.id for member in other.members().members] == ["n1"]
        cluster.restart("n1")
        # The client lived through it. Its session is of the old cluster, so it opens another one by itself.
        assert incremented(client) == 2

        shutil.copytree(tmp_path / "old", cluster.process("n2").data)
        cluster.restart("n2")
        wait_for(lambda: "not of 'demo'" in cluster.log_text("n1"), SECONDS, "n1 to refuse the old node")
        for _ in range(20):
            client.incr("n")
        with Client([cluster.addresses["n2"]], 2.0, follow=False) as old, pytest.raises(ConsensusError):
            old.put("k", "in a past that was given up")
        assert client.get("n") == 22
        status = cluster.status("n2")
        assert status["leader_id"] is None
        assert not status["has_quorum"]
        assert cluster.status("n1")["term"] < 10

        cluster.kill("n2")
        address = cluster.join("n2", None)  # on an empty folder, as a new member
        client.add_node("n2", address, timeout=SECONDS)
        assert [member.part for member in client.members().members] == ["voter", "voter"]
        with Client([address], SECONDS, follow=False) as asked:
            wait_for(lambda: asked.get("n", "stale") == 22, SECONDS, "n2 to have the state")


def incremented(client: Client) -> int:
    """Count on, again after the first command in an old session was told that its outcome is unknown."""
    try:
        return client.incr("n")
    except SessionExpiredError:
        return client.incr("n")
