"""A backup of a real cluster under load becomes a new cluster of three and one of one; the old nodes stay out."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from forge_consensus import Command
from forge_consensus.client.aio import AsyncClient
from forge_consensus.client.sync import Client
from forge_consensus.errors import AlreadyExistsError, NoLeaderError, SessionExpiredError
from forge_consensus.storage.restoring import inspect_snapshot
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.ports import free_ports
from tests.worlds.command_line import run_command
from tests.worlds.command_nodes import CommandNodes
from tests.worlds.waiting import wait_for

pytestmark = pytest.mark.timeout(180)
SECONDS = 40.0
VALUE = "x" * 2_000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(folder=tmp_path_factory.mktemp("old"), cluster_id="demo") as made:
        made.wait_for_leader()
        with made.client(timeout=SECONDS) as client:
            commands = [Command("set", {"key": f"k{n}", "value": VALUE}) for n in range(300)]
            for pending in [client.submit(command) for command in commands]:
                pending.result()
        yield made


def written_during(cluster: LocalCluster, save: object) -> tuple[int, int, object]:
    """Count a key up while `save` runs; returns what was acknowledged before and after it, and its result."""
    ending = threading.Event()
    acknowledged = [0]
    client = cluster.client(timeout=SECONDS)

    def write() -> None:
        while not ending.is_set():
            acknowledged[0] = client.incr("count")

    thread = threading.Thread(target=write)
    thread.start()
    wait_for(lambda: acknowledged[0] > 20, SECONDS, "writes")
    before = acknowledged[0]
    try:
        result = save()  # type: ignore[operator]
        return before, acknowledged[0], result
    finally:
        ending.set()
        thread.join(SECONDS)


def serve(nodes: CommandNodes, node: str, address: str, data: Path) -> subprocess.Popen[str]:
    """Start a restored node and wait until it serves."""
    process = nodes.start("--id", node, "--listen", address, "--data", str(data))
    assert process.stdout is not None
    assert process.stdout.readline().startswith(f"serving {node} of cluster demo~")
    return process


def test_a_backup_becomes_a_cluster_of_one_that_can_be_made_again(cluster: LocalCluster, tmp_path: Path) -> None:
    file = tmp_path / "backup.snap"
    with cluster.client(timeout=SECONDS) as client:
        client.put("last", "acknowledged")
        report = client.save_snapshot(file)
        assert report == inspect_snapshot(file)
        with pytest.raises(AlreadyExistsError):
            client.save_snapshot(file)
        assert [each.name for each in tmp_path.iterdir()] == ["backup.snap"]
    address = f"127.0.0.1:{free_ports(1)[0]}"
    restore = ("snapshot", "restore", str(file), "--id", "n1", "--listen", address)
    ids = {run_command(*restore, "--data", str(tmp_path / name)).split()[3] for name in ("one", "two")}
    assert len(ids) == 2
    with CommandNodes() as nodes, Client([address], SECONDS) as client:
        serve(nodes, "n1", address, tmp_path / "two")
        assert client.get("last") == "acknowledged"
        assert client.incr("count") > 0


def test_snapshots_are_taken_and_listed_and_the_cluster_described(cluster: LocalCluster, tmp_path: Path) -> None:
    endpoints = ",".join(cluster.endpoints)
    client = cluster.client(timeout=SECONDS)
    client.put("more", 1)
    cluster.wait_until_settled()
    follower = cluster.followers()[0]
    taken = client.snapshot(cluster.addresses[follower])
    assert taken.node == follower
    assert client.snapshot(cluster.addresses[follower]) == taken  # nothing is new, so it is the same
    assert client.snapshots(cluster.addresses[follower])[0] == taken
    rows = json.loads(run_command("snapshot", "list", "--endpoints", endpoints, "-o", "json"))
    assert next(row["index"] for row in rows if row["node"] == follower) == taken.index
    assert "has a snapshot as of entry" in run_command("snapshot", "take", "--endpoints", endpoints)
    asked = json.loads(run_command("snapshot", "take", "--no-wait", "--endpoints", endpoints, "-o", "json"))
    assert asked["node"] in cluster.addresses
    info = client.get_cluster_info()
    assert (info.id, info.total_nodes, info.active_nodes, info.has_quorum) == ("demo", 3, 3, True)
    assert info.leader == cluster.wait_for_leader()

    async def the_same() -> None:
        async with AsyncClient(cluster.endpoints, SECONDS, "demo") as async_client:
            assert (await async_client.snapshot(cluster.addresses[follower])).index >= taken.index
            assert (await async_client.get_cluster_info()).total_nodes == 3
            assert await async_client.snapshots(cluster.addresses[follower])
            report = await async_client.save_snapshot(tmp_path / "async.snap")
            assert inspect_snapshot(tmp_path / "async.snap") == report

    asyncio.run(the_same())


def test_without_a_leader_only_a_stale_backup_is_saved(cluster: LocalCluster, tmp_path: Path) -> None:
    leader = cluster.wait_for_leader()
    survivor, other = cluster.followers()
    for name in (leader, other):
        cluster.kill(name)
    with Client([cluster.addresses[survivor]], SECONDS, cluster_id="demo") as client:
        with pytest.raises(NoLeaderError):
            client.save_snapshot(tmp_path / "no.snap", timeout=3)
        assert not list(tmp_path.iterdir())
        client.save_snapshot(tmp_path / "stale.snap", stale=True)
    assert inspect_snapshot(tmp_path / "stale.snap").cluster == "demo"
    for name in (leader, other):
        cluster.restart(name)


def test_scenario_60_a_backup_under_load_becomes_a_new_cluster_of_three_that_no_old_node_can_join(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    file, endpoints = tmp_path / "backup.snap", ",".join(cluster.endpoints)
    follower = cluster.addresses[cluster.followers()[0]]
    before, _, said = written_during(
        cluster,
        lambda: run_command("snapshot", "save", str(file), "--from", follower, "--endpoints", endpoints, "-o", "json"),
    )
    assert json.loads(str(said))["file"] == str(file)
    assert "is there already" in run_command("snapshot", "save", str(file), "--endpoints", endpoints, expect=78)
    run_command("snapshot", "save", str(file), "--force", "--endpoints", endpoints)
    report = json.loads(run_command("snapshot", "inspect", str(file), "-o", "json"))
    assert (report["cluster"], report["machine"]) == ("demo", "kv")
    assert report["members"] == cluster.addresses

    members = cluster.addresses
    peers = ",".join(f"{node}={address}" for node, address in members.items())
    for node in members:
        run_command("snapshot", "restore", str(file), "--id", node, "--data", str(tmp_path / node), "--peers", peers)
    lives_on = cluster.client(timeout=SECONDS)
    assert lives_on.incr("other") == 1  # behind the backup
    for node in members:
        cluster.shut_down(node)
    with CommandNodes() as nodes:
        third = [serve(nodes, node, address, tmp_path / node) for node, address in members.items()][-1]
        with Client(list(members.values()), SECONDS, cluster_id="demo") as client:
            assert client.get("k299") == VALUE
            assert client.get("count") >= before  # all that was acknowledged before the save began
            assert {each.id: each.address for each in client.members().members} == members
            client.put("new", 1)
            joins = nodes.start(
                "--id", "n4", "--cluster", "demo", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "n4"),
                "--join", members["n1"],
            )  # fmt: skip
            assert joins.stdout is not None
            address = joins.stdout.readline().split()[-1]
            client.add_node("n4", address, timeout=SECONDS)
            with Client([address], SECONDS, follow=False) as asked:
                wait_for(lambda: asked.get("new", "stale") == 1, SECONDS, "the new member to have all of it")
                assert asked.get("k0", "stale") == VALUE
        # A node of the old cluster comes back in the place of one of the new: it is refused and changes nothing.
        third.kill()
        third.wait()
        cluster.restart("n3")
        wait_for(lambda: "of cluster 'demo~" in cluster.log_text("n3"), SECONDS, "the old node to be refused")
        assert incremented(lives_on) == 1  # it went over to the new cluster, where what came later is gone
        for _ in range(20):
            lives_on.incr("other")
        assert lives_on.get("other") == 21
        assert cluster.status("n3")["leader_id"] is None
        cluster.kill("n3")


def incremented(client: Client) -> int:
    """Count up, again after the first command in an old session was told that its outcome is unknown."""
    try:
        return client.incr("other")
    except SessionExpiredError:
        return client.incr("other")
