"""A local cluster of real nodes: it recovers from kills, pauses and partitions, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import (
    ConsensusTimeoutError,
    InvalidConfigError,
    NodeNotFoundError,
    NotStartedError,
    OperationFailedError,
)
from forge_consensus.events.types import BecameLeader
from forge_consensus.storage.ledger.changes import Action, Change
from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.node_process import uninterrupted
from tests.worlds.service_machines import Notebook
from tests.worlds.source_tree import ROOT
from tests.worlds.waiting import wait_for

QUICK = RaftSettings(heartbeat_interval=0.05, election_timeout_min=0.3, election_timeout_max=0.5)


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[LocalCluster]:
    """Three processes behind a proxy."""
    with LocalCluster(3, proxy=True, raft=QUICK) as made:
        yield made


@pytest.fixture
def cluster(shared_cluster: LocalCluster) -> LocalCluster:
    """The shared cluster, whole and settled whatever the last test did to it."""
    shared_cluster.heal()
    for name in set(shared_cluster.names) - set(shared_cluster.running()):
        shared_cluster.restart(name)
    shared_cluster.wait_until_settled()
    return shared_cluster


def alive(pid: int) -> bool:
    """Whether a process of that number exists."""
    return Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"


def test_a_killed_node_is_replaced_and_catches_up_after_its_restart(cluster: LocalCluster) -> None:
    client = cluster.client()
    client.put("killed", 1)
    old = cluster.wait_for_leader()
    pid = cluster.process(old).pid
    assert cluster.kill("leader") == old
    assert not alive(pid)
    assert cluster.wait_for_leader(other_than=old) in cluster.running() != cluster.names
    client.put("killed", 2)
    cluster.restart(old)
    assert cluster.wait_until_settled() == cluster.status(old)["last_applied"]
    assert client.get("killed", consistency="linearizable") == 2


def test_a_partitioned_leader_is_replaced_and_rejoins_after_the_partition(cluster: LocalCluster) -> None:
    client = cluster.client()
    old = cluster.isolate("leader")
    new = cluster.wait_for_leader(other_than=old)
    client.put("cut", new)
    assert cluster.status(old)["last_applied"] < cluster.status(new)["last_applied"]
    cluster.heal()
    cluster.wait_until_settled()
    assert cluster.status(old)["leader_id"] == cluster.wait_for_leader()


def test_a_leader_whose_connections_break_is_replaced_at_once(cluster: LocalCluster) -> None:
    known = {name: len(cluster.log_text(name)) for name in cluster.names}
    old = cluster.isolate("leader", disconnect=True)
    new = cluster.wait_for_leader(other_than=old)
    assert "connection lost" in cluster.log_text(new)[known[new] :]
    cluster.heal()
    cluster.wait_until_settled()


def test_a_leader_is_replaced_if_only_its_own_frames_are_lost(cluster: LocalCluster) -> None:
    old = cluster.wait_for_leader()
    before = cluster.proxy.counts()
    cluster.partition("leader", one_way=True)
    new = cluster.wait_for_leader(other_than=old)
    wait_for(lambda: cluster.status(old)["leader_id"] == new, 5.0, f"{old} to hear of {new}")
    lost = {pair: now.dropped - before[pair].dropped for pair, now in cluster.proxy.counts().items() if pair in before}
    assert lost[old, new] > 0
    assert lost[new, old] == 0
    cluster.heal()
    cluster.wait_until_settled()


def test_a_paused_process_is_replaced_and_goes_on_later(cluster: LocalCluster) -> None:
    old = cluster.pause("leader")
    assert old not in cluster.running()
    cluster.wait_for_leader(other_than=old)
    cluster.resume(old)
    cluster.wait_until_settled()


def test_a_failed_wait_names_the_condition_and_the_state_of_each_node(cluster: LocalCluster) -> None:
    for name in ("n1", "n2"):
        cluster.shut_down(name)
    vain = r"waited 0\.6 s for a leader other than n3: n3 is \w+ in term \d.*; n1 does not run"
    with pytest.raises(ConsensusTimeoutError, match=vain):
        cluster.wait_for_leader(0.6, other_than="n3")
    assert "node.stopped" in cluster.log_text("n1")


def test_senseless_arguments_are_refused(cluster: LocalCluster) -> None:
    with pytest.raises(NodeNotFoundError, match=r"there is no node 'n9' in this cluster: there are n1, n2, n3"):
        cluster.kill("n9")
    with pytest.raises(InvalidConfigError, match=r"does not part a cluster"):
        cluster.partition("n1", ["n1", "n2"])
    with pytest.raises(InvalidConfigError, match=r"is another process and no service: use LocalCluster\(mode='thread'"):
        cluster.service("n1")
    choices: list[tuple[dict[str, Any], str]] = [
        ({"nodes": 0}, "nodes is 0: a local cluster has 1 to 15"),
        ({"mode": "fork"}, "mode is 'fork': expected 'process' or 'thread'"),
        ({"transport": "udp"}, "transport is 'udp': expected 'tcp' or 'ipc'"),
        ({"state_machine": Notebook()}, "each node makes its own, so give the class"),
    ]
    for options, text in choices:
        with pytest.raises(InvalidConfigError, match=text):
            LocalCluster(**options)
    with pytest.raises(NotStartedError):
        LocalCluster().leader()


def notebook() -> Notebook:
    """Make a machine."""
    return Notebook()


def test_threads_over_ipc_publish_events_can_be_killed_and_run_a_users_machine() -> None:
    led: list[str] = []
    with LocalCluster(3, mode="thread", transport="ipc", state_machine=notebook, raft=QUICK) as threads:
        for name in threads.names:
            threads.service(name).bus.subscribe(BecameLeader, lambda event: led.append(event.node_id))
        with pytest.raises(
            InvalidConfigError, match=r"is a thread and cannot be paused: use LocalCluster\(mode='process'"
        ):
            threads.pause("leader")
        with pytest.raises(InvalidConfigError, match=r"nothing between these nodes: use LocalCluster\(proxy=True"):
            threads.heal()
        client = threads.client()
        assert client.apply(Command("note", {"text": "one"})) == 1
        old = threads.kill("leader")
        new = threads.wait_for_leader(other_than=old)
        assert client.apply(Command("note", {"text": "two"})) == 2
        threads.restart(old)
        threads.wait_until_settled()
        assert threads.service(old).read(None, "stale") == ["one", "two"]
        assert threads.addresses[old].startswith("ipc:///")
        assert "leader.elected" in threads.log_text(new)
    assert new in led


def test_processes_over_ipc_run_a_users_machine_with_limits_and_keep_a_given_folder(tmp_path: Path) -> None:
    limits = StorageSettings(snapshot_entries=20, snapshot_seconds_min=0.0, trailing_entries=5)
    folder = tmp_path / "kept"
    with LocalCluster(
        1, transport="ipc", state_machine=Notebook, storage=limits, raft=QUICK, folder=folder
    ) as processes:
        client = processes.client()
        for number in range(50):
            client.apply(Command("note", {"text": number}))
        wait_for(lambda: processes.status("n1")["snapshots_total"], 5.0, "a snapshot")
        processes.kill("n1")
        processes.restart("n1", before=["nice", "-n", "3"], environment={"FORGE_TEST": "seen"})
        pid = processes.process("n1").pid
        assert os.getpriority(os.PRIO_PROCESS, pid) == 3
        assert b"FORGE_TEST=seen" in Path(f"/proc/{pid}/environ").read_bytes()
        assert client.read(None) == list(range(50))
        assert client.read("restored") == 1
    assert (folder / "n1.log").exists()
    assert (folder / "n1").is_dir()


def test_an_extra_node_is_refused_and_ended_with_the_cluster(tmp_path: Path) -> None:
    with LocalCluster(1, raft=QUICK, folder=tmp_path) as cluster:
        code, text = cluster.extra_node("n9").refused()
        assert code == 78
        assert "n9" in text
        second = cluster.extra_node("n1")
        assert second.refused()[0] == 78, "the folder is in use"
        address = cluster.free_addresses(1)[0]
        other = cluster.extra_node("m1", address=address, peers={"m1": address}, cluster_id="another")
        assert 0 < other.start() < 30
        with pytest.raises(ConsensusTimeoutError, match=r"m1 did not end within 0\.1 s; it wrote .serving m1"):
            other.exit_code(0.1)
        assert other.own_memory_bytes() > 1 << 20
        pid = other.pid
        assert "serving m1" in other.output()
        assert sorted(path.name for path in tmp_path.glob("extra-*")) == [
            "extra-1-n9.log", "extra-2-n1.log", "extra-3-m1.log",
        ]  # fmt: skip
        assert cluster.names == ["n1"]
    assert not alive(pid)


def test_the_contents_of_a_node_are_read_from_it_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge_consensus.testing.local.cluster.PAGE_ROWS", 2)
    with LocalCluster(1, raft=QUICK) as cluster:
        client = cluster.client()
        for number in range(5):
            client.put(f"k{number}", number)
        client.put("other", True)
        numbers = {f"k{number}": number for number in range(5)}
        assert cluster.contents("n1", "k") == numbers
        assert cluster.contents("leader") == {**numbers, "other": True}


def test_another_program_may_be_run_as_a_node_and_a_stop_returns_its_exit_code(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "print('serving ', end='', flush=True)\n"
        "time.sleep(0.3)  # the kit waits for the whole line\n"
        "print(sys.argv[1:3], flush=True)\n"
        "signal.pause()\n"
    )
    with LocalCluster(1, program=[sys.executable, str(program)]) as cluster:
        node = cluster.process("n1")
        assert node.output() == "serving ['--id', 'n1']\n"
        assert node.stop() == 7
        assert node.exit_code() == 7


def test_an_error_within_a_cluster_carries_the_ends_of_the_logs() -> None:
    with pytest.raises(ZeroDivisionError) as caught, LocalCluster(1, raft=QUICK):
        raise ZeroDivisionError
    (note,) = caught.value.__notes__
    assert note.startswith("--- the log of n1 ends with\nserving n1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_a_start_is_delivered_after_it(number: int) -> None:
    arrived: list[str] = []
    usual = signal.signal(number, lambda *_: arrived.append("signal"))
    try:
        with uninterrupted():
            signal.raise_signal(number)
            arrived.append("block")
    finally:
        signal.signal(number, usual)
    assert arrived == ["block", "signal"]


def test_nothing_is_left_when_the_test_fails_or_a_node_cannot_start() -> None:
    before = set(threading.enumerate())
    pids: list[int] = []
    with pytest.raises(ZeroDivisionError), LocalCluster(2, proxy=True) as failing:
        pids += [failing.process(name).pid for name in failing.names]
        folder, guard = failing.folder, failing.guard
        failing.pause("n2")
        raise ZeroDivisionError
    assert guard is not None
    pids.append(guard.process.pid)
    with pytest.raises(OperationFailedError, match=r"(?s)n\d ended with 2 instead of serving: .*No such option '--no"):
        LocalCluster(2, extra_args=["--nonsense"]).start()
    assert not [pid for pid in pids if alive(pid)]
    assert not folder.exists()
    assert not set(threading.enumerate()) - before


def test_nothing_is_left_when_the_test_itself_is_killed() -> None:
    program = (
        "import os, signal; from forge_consensus.testing import LocalCluster\n"
        "cluster = LocalCluster(2, transport='ipc').start()\n"
        "print(cluster.folder, *(cluster.process(name).pid for name in cluster.names), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder, *pids = done.stdout.split()
    assert len(pids) == 2
    wait_for(lambda: not any(alive(int(pid)) for pid in pids), 5.0, "the nodes to be ended")
    wait_for(lambda: not os.path.exists(folder), 5.0, f"{folder} to be removed")


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_nodes_join_move_and_leave_behind_a_proxy(transport: Literal["tcp", "ipc"]) -> None:
    with LocalCluster(3, proxy=True, transport=transport, raft=QUICK) as cluster:
        client = cluster.client()
        client.add_node("n4", cluster.join("n4", None))
        cluster.isolate("n4")
        wait_for(lambda: cluster.status("n4")["leader_id"] is None, 10.0, "n4 to miss its leader")
        cluster.heal()
        cluster.wait_until_settled()
        before = cluster.addresses["n4"]
        address = cluster.move("n4")
        assert before != address != cluster.real_addresses["n4"]
        client.change_members(Change(Action.UPDATE, "n4", address))
        cluster.wait_until_settled()
        leader = cluster.wait_for_leader()
        client.remove_node(leader)
        cluster.leave(leader)
        assert cluster.wait_for_leader() in cluster.names
        assert len(cluster.names) == len(cluster.proxy.fronts) == 3
        with pytest.raises(NodeNotFoundError, match=f"there is no node '{leader}'"):
            cluster.leave(leader)
        with pytest.raises(InvalidConfigError, match="node 'n4' runs, so it cannot join"):
            cluster.join("n4")
        client.put("joined", 1)
        cluster.wait_until_settled()
