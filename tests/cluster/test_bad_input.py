"""Bad input at real processes: each is answered with a clear error and exit code, and nothing is lost or hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.actors.messages import (
    GetStatus,
    Hello,
    HelloReply,
    Refused,
    RequestVote,
    Submit,
    VoteReply,
)
from forge_consensus.client.sync import Client
from forge_consensus.errors import (
    ClusterNotFoundError,
    CommandTooLargeError,
    ConnectionFailedError,
    ConsensusError,
    OutcomeUnknownError,
)
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.ports import free_ports
from tests.worlds.raw_peer import RawPeer
from tests.worlds.source_tree import ROOT
from tests.worlds.waiting import wait_for

MIB = 1 << 20
CLUSTER = "proof"

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Three nodes that all tests of this module annoy, and that must not mind."""
    with LocalCluster(folder=tmp_path_factory.mktemp("cluster"), cluster_id=CLUSTER) as started:
        started.client().put("kept", "from the beginning")
        yield started


@pytest.fixture(autouse=True)
def unharmed(cluster: LocalCluster) -> Iterator[None]:
    """After every test all nodes still run in one cluster and hold what they held."""
    boots = {name: cluster.process(name).pid for name in cluster.names}
    yield
    with cluster.client() as client:
        client.put("after", "a test")
        assert client.get("kept") == "from the beginning"
    cluster.wait_until_settled(*cluster.names)
    assert {name: cluster.process(name).pid for name in cluster.running()} == boots


def command_line(*arguments: str, seconds_max: float = 15.0) -> tuple[int, str]:
    """Run the command line; returns exit code and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "forge_consensus", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds_max,
        check=False,
    )
    return done.returncode, done.stderr


# --- starting ---------------------------------------------------------------------------------------------------------


def test_a_port_in_use_ends_the_start(cluster: LocalCluster, tmp_path: Path) -> None:
    taken = cluster.addresses["n1"]
    code, text = cluster.extra_node("x", address=taken, peers={"x": taken}).refused()
    assert code == 69
    assert taken in text
    assert "in use" in text


def test_a_folder_of_a_live_node_ends_the_start(cluster: LocalCluster) -> None:
    code, text = cluster.extra_node("n1").refused()
    assert code == 78
    assert f"process {cluster.process('n1').pid}" in text


def test_a_folder_of_another_node_or_cluster_ends_the_start(cluster: LocalCluster, tmp_path: Path) -> None:
    address = cluster.free_addresses(1)[0]
    data = tmp_path / "data"
    owner = cluster.extra_node("owner", address=address, peers={"owner": address}, storage_path=data)
    owner.start()
    with Client([address], cluster_id=CLUSTER) as client:
        client.put("mine", 1)
    assert owner.stop() == 0
    other = cluster.extra_node("other", address=address, peers={"other": address}, storage_path=data)
    code, text = other.refused()
    assert code == 78
    assert "'owner'" in text
    assert "'other'" in text
    elsewhere = cluster.extra_node(
        "owner", address=address, peers={"owner": address}, storage_path=data, cluster_id="elsewhere"
    )
    code, text = elsewhere.refused()
    assert code == 78
    assert f"'{CLUSTER}'" in text
    assert "'elsewhere'" in text
    owner.start()
    with Client([address], cluster_id=CLUSTER) as client:
        assert client.get("mine") == 1


def test_a_list_of_peers_without_the_node_ends_the_start(cluster: LocalCluster, tmp_path: Path) -> None:
    peers = ",".join(f"{name}={address}" for name, address in cluster.addresses.items())
    listen = cluster.free_addresses(1)[0]
    code, text = command_line(
        *("node", "--id", "n4", "--listen", listen, "--peers", peers, "--data", str(tmp_path / "n4"))
    )
    assert code == 78
    assert "'n4'" in text
    assert "n1" in text
    assert not (tmp_path / "n4" / "tables" / "data.mdb").exists()


def test_a_node_with_another_list_of_peers_is_refused_and_both_lists_are_shown(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    address = cluster.free_addresses(1)[0]
    longer = {**cluster.addresses, "n4": address}
    code, text = cluster.extra_node("n4", address=address, peers=longer, storage_path=tmp_path / "n4").refused()
    assert code == 78
    assert Configuration.of(longer).text in text
    assert Configuration.of(cluster.addresses).text in text
    assert any(cluster.status(name)["refused"].get("greeting refused: configuration") for name in cluster.names)


def test_a_node_of_another_cluster_is_refused_and_both_are_named(cluster: LocalCluster, tmp_path: Path) -> None:
    address = cluster.free_addresses(1)[0]
    peers = {"m1": address, **{name: cluster.addresses[name] for name in ("n1", "n2")}}
    lost = cluster.extra_node("m1", address=address, peers=peers, cluster_id="elsewhere")
    code, text = lost.refused()
    assert code == 78
    assert f"'{CLUSTER}'" in text
    assert "'elsewhere'" in text


# --- frames -----------------------------------------------------------------------------------------------------------


def test_a_node_that_is_no_member_is_heard_and_counts_for_nothing(cluster: LocalCluster) -> None:
    """A member whose log lags behind must hear those that were added since; with a leader, it disturbs nobody."""
    initial = Configuration.of(cluster.addresses)
    hello = Hello("f" * 16, 1, "127.0.0.1:1", initial.digest, initial.text)
    follower = cluster.followers()[0]
    before = cluster.status(follower)["term"]
    who: dict[str, Any] = {"cluster": CLUSTER, "sender": "n9", "incarnation": "f" * 16, "boot": 1}
    with RawPeer(cluster.addresses[follower]) as peer:
        answer = peer.ask(hello, **who)
        assert isinstance(answer, HelloReply)
        assert answer.reason == ""
        vote = peer.ask(RequestVote(before + 5, 1 << 40, before + 5), **who, to_boot=answer.boot)
        assert isinstance(vote, VoteReply)
        assert not vote.granted
    assert cluster.status(follower)["term"] == before
    assert "n9" not in [member["id"] for member in cluster.status(follower)["nodes"]]


def test_a_stranger_that_takes_a_members_name_is_refused(cluster: LocalCluster) -> None:
    initial = Configuration.of(cluster.addresses)
    hello = Hello("f" * 16, 1, "127.0.0.1:1", initial.digest, initial.text)
    with RawPeer(cluster.addresses["n1"]) as peer:
        answer = peer.ask(hello, cluster=CLUSTER, sender="n2", incarnation="f" * 16, boot=1)
    assert isinstance(answer, HelloReply)
    assert answer.reason == "identity"
    assert "wiped" in answer.detail


def test_a_frame_of_another_cluster_is_answered_with_both_names(cluster: LocalCluster) -> None:
    with RawPeer(cluster.addresses["n1"]) as peer:
        answer = peer.ask(GetStatus(), cluster="elsewhere")
        assert isinstance(answer, Refused)
        assert answer.code == ClusterNotFoundError.code
        assert "'elsewhere'" in answer.text
        assert f"'{CLUSTER}'" in answer.text
        greeted = peer.ask(Hello("f" * 16, 1, "", "", ""), cluster="elsewhere", sender="n2", incarnation="f" * 16)
        assert isinstance(greeted, HelloReply)
        assert greeted.reason == "cluster"
    with cluster.client(cluster_id="elsewhere") as client, pytest.raises(ConsensusError, match="elsewhere"):
        client.put("k", 1, timeout=1.0)
    assert cluster.status("n1")["refused"]["another cluster"] >= 2


def test_an_oversized_command_is_refused_by_client_node_and_command_line(cluster: LocalCluster) -> None:
    with cluster.client() as client, pytest.raises(CommandTooLargeError, match="bytes"):
        client.put("large", b"x" * (2 * MIB))
    with RawPeer(cluster.addresses[cluster.wait_for_leader()]) as peer:
        answer = peer.ask(Submit(1, 1, ((1, b"x" * (2 * MIB)),)), cluster=CLUSTER)
        assert isinstance(answer, Refused)
        assert answer.code == CommandTooLargeError.code
        assert answer.numbers == (1,)
    with RawPeer(cluster.addresses["n1"]) as peer:
        peer.send_bytes(b"x" * (9 * MIB))  # above the largest frame: ZeroMQ ends the connection
        with pytest.raises(TimeoutError):
            peer.receive(0.3)
    put = ["kv", "put", "large", "-", "--endpoints", ",".join(cluster.endpoints)]
    done = subprocess.run(
        [sys.executable, "-m", "forge_consensus", *put],
        cwd=ROOT,
        input=b"x" * (2 * MIB),
        capture_output=True,
        timeout=15,
        check=False,
    )
    assert done.returncode == 65
    assert b"CONSENSUS_COMMAND_TOO_LARGE" in done.stderr


# --- clients ----------------------------------------------------------------------------------------------------------

SLEEPER = """
import os, signal, sys, time
from forge_consensus.client.sync import Client
from forge_consensus.storage.machines.machine import Command
client = Client(sys.argv[1].split(","), 30.0)
client.put("heavy", b"x" * 20_000)
futures = [client.submit(Command("set", {"key": f"slept-{n}", "value": n})) for n in range(1000)]
futures += [client.ask_query("heavy") for n in range(1000)]
time.sleep(0.01)  # all are asked; 20 MB of answers take longer than this to arrive
os.kill(os.getpid(), signal.SIGSTOP)
print("done", sum(future.exception() is None for future in futures), flush=True)
client.close()
"""


def test_a_client_that_stops_reading_delays_no_other_and_gets_its_answers_later(cluster: LocalCluster) -> None:
    leader = cluster.process("leader")
    memory = leader.own_memory_bytes()
    sleeper = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, ",".join(cluster.endpoints)], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        wait_for(lambda: os.waitpid(sleeper.pid, os.WUNTRACED | os.WNOHANG)[0], 15, "the client to stop")
        slowest = 0.0
        with cluster.client() as client:
            for number in range(300):
                began = time.monotonic()
                client.put("others", number)
                slowest = max(slowest, time.monotonic() - began)
        assert slowest < 3.0
        assert leader.own_memory_bytes() - memory < 100 * MIB
        sleeper.send_signal(signal.SIGCONT)
        told, _ = sleeper.communicate(timeout=30)
        assert told.split() == [b"done", b"2000"]
    finally:
        sleeper.kill()
        sleeper.wait(10)


def test_unreachable_endpoints_are_named_in_time(cluster: LocalCluster) -> None:
    nowhere = f"127.0.0.1:{free_ports(1)[0]}"
    began = time.monotonic()
    with Client([nowhere]) as client:
        with pytest.raises(ConnectionFailedError, match=nowhere):
            client.put("k", 1, timeout=0.5)
        with pytest.raises(ConnectionFailedError, match=nowhere):
            client.get("k", timeout=0.5)
    assert time.monotonic() - began < 3.0
    code, text = command_line("kv", "get", "k", "--endpoints", nowhere, "--timeout", "0.5")
    assert code == 69
    assert nowhere in text


def test_a_client_without_a_quorum_ends_at_its_timeout_and_goes_on_after(cluster: LocalCluster) -> None:
    leader, followers = cluster.wait_for_leader(), cluster.followers()
    with cluster.client() as client:
        client.put("quorum", "before")
        try:
            for name in followers:
                cluster.pause(name)
            began = time.monotonic()
            with pytest.raises(OutcomeUnknownError):
                client.put("quorum", "during", timeout=0.5)
            assert 0.4 < time.monotonic() - began < 2.0
            code, text = command_line(
                "kv", "put", "quorum", "shell", "--endpoints", cluster.addresses[leader], "--timeout", "0.5"
            )
            assert code in (69, 75), text
            assert text.startswith("error[")
        finally:
            for name in followers:
                cluster.resume(name)
        client.put("quorum", "after")
        assert client.get("quorum") == "after"
