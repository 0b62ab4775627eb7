"""Reads of a real cluster: its followers answer them, as new as was asked for, from a program and from the shell."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from forge_consensus.client.sync import Client
from forge_consensus.errors import InvalidConfigError, NoLeaderError, StaleReadError
from forge_consensus.testing.local.cluster import LocalCluster
from tests.worlds.cli_world import Shell


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Three processes with proxies between them, and a leader."""
    with LocalCluster(nodes=3, proxy=True) as started:
        started.wait_until_settled()
        yield started


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with cluster.client(timeout=10.0) as client:
        yield client
    cluster.heal()
    cluster.wait_until_settled()


def address(cluster: LocalCluster, name: str) -> str:
    """Where clients reach a node."""
    return cluster.endpoints[cluster.names.index(name)]


def answered(cluster: LocalCluster, name: str) -> int:
    return int(cluster.status(name)["reads_total"])


def test_followers_answer_linearizable_reads_and_the_leader_serves_no_data(
    cluster: LocalCluster, client: Client
) -> None:
    leader, (one, other) = cluster.leader(), cluster.followers()
    assert leader is not None
    before = {name: answered(cluster, name) for name in cluster.names}
    for number in range(30):
        client.put("k", number)
        follower = (one, other)[number % 2]
        detail = client.read_detail("k", read_from=address(cluster, follower))
        assert detail.value == number
        assert detail.stale_ms == 0
    told = {name: answered(cluster, name) - before[name] for name in cluster.names}
    assert told == {leader: 0, one: 15, other: 15}


def test_every_reader_sees_what_was_acknowledged_before_it_asked(cluster: LocalCluster, client: Client) -> None:
    """Four threads read at all nodes in turn while one writes, and the leader is stopped for a while."""
    acknowledged, ending = [0], threading.Event()
    failures: list[str] = []

    def read() -> None:
        with cluster.client(timeout=10.0) as own:
            while not ending.is_set():
                least = acknowledged[0]
                value = own.get("n", read_from="any") or 0
                if value < least:
                    failures.append(f"saw {value}, {least} was acknowledged")

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    try:
        for number in range(1, 121):
            acknowledged[0] = client.incr("n")
            if number == 40:
                paused = cluster.pause(cluster.wait_for_leader())
            if number == 80:
                cluster.resume(paused)
    finally:
        ending.set()
        for reader in readers:
            reader.join()
    assert not failures
    assert acknowledged[0] == 120


def test_a_stale_read_with_a_token_sees_what_its_client_wrote(cluster: LocalCluster, client: Client) -> None:
    for number in range(30):
        client.put("mine", number)
        for name in cluster.names:
            found = client.get(
                "mine", "stale", read_from=address(cluster, name), after_index=client.last_index, timeout=5.0
            )
            assert found == number
    with pytest.raises(StaleReadError, match="must see entry"):
        client.get("mine", "stale", 1.0, read_from=address(cluster, cluster.names[0]), after_index=1 << 40)


def test_a_node_that_is_cut_off_confirms_nothing_and_answers_nothing_too_old(
    cluster: LocalCluster, client: Client
) -> None:
    lonely = cluster.followers()[0]
    there = address(cluster, lonely)
    assert client.get("mine", "stale", read_from=there, max_staleness=3.0) is not None
    cluster.isolate(lonely, disconnect=True)
    client.put("mine", "new")
    with pytest.raises(NoLeaderError):
        client.get("mine", timeout=2.5, read_from=there)
    assert client.get("mine", read_from="any") == "new"
    with pytest.raises(StaleReadError):
        client.get("mine", "stale", timeout=1.0, read_from=there, max_staleness=1.5)
    detail = client.read_detail("mine", "stale", read_from=there)
    assert detail.value != "new"
    assert detail.stale_ms > 1500, "who does not ask for a bound is told the age"
    for _ in range(6):
        assert client.get("mine", "stale", read_from="any", max_staleness=1.5) == "new"


def test_a_bound_that_no_state_keeps_is_kept_by_the_leader(cluster: LocalCluster, client: Client) -> None:
    client.put("mine", "newest")
    detail = client.read_detail("mine", "stale", read_from="any", max_staleness=0.001)
    assert (detail.value, detail.stale_ms) == ("newest", 0)


def test_the_shell_reads_from_any_node(cluster: LocalCluster, client: Client) -> None:
    client.put("shell", "seen")
    shell = Shell(",".join(cluster.endpoints))
    there = address(cluster, cluster.followers()[0])
    for options in (
        ("--any",),
        ("--node", there),
        ("--consistency", "stale", "--any", "--max-staleness", "2"),
        ("--consistency", "stale", "--node", there, "--after-index", str(client.last_index)),
    ):
        done = shell.run("kv", "get", "shell", *options)
        assert (done.exit_code, done.stdout) == (0, "seen\n"), done.output
        assert shell.run("kv", "scan", "shell", *options).exit_code == 0
    late = shell.run(
        "kv", "get", "shell", "--consistency", "stale", "--node", there, "--after-index", "1000000", "--timeout", "1"
    )
    assert late.exit_code == StaleReadError.exit_code == 69
    assert shell.run("kv", "get", "shell", "--any", "--node", there).exit_code == 2
    unbounded = shell.run("kv", "get", "shell", "--max-staleness", "1")
    assert unbounded.exit_code == 2
    assert "give 'stale'" in unbounded.stderr


def test_a_service_answers_linearizable_reads_itself() -> None:
    with LocalCluster(nodes=3, mode="thread") as cluster:
        cluster.wait_until_settled()
        follower = cluster.service(cluster.followers()[0])
        for number in range(10):
            follower.put("own", number)
            assert follower.get("own", read_from="nearest") == number
            assert follower.get("own", "stale", after_index=follower.last_index) == number
        assert int(follower.status().reads_total) == 20
        with pytest.raises(InvalidConfigError):
            follower.get("own", read_from="nowhere")
