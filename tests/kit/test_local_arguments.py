"""A local cluster refuses senseless calls with advice, and the refusal does not affect it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.config.raft import RaftSettings
from forge_consensus.errors import (
    AlreadyStartedError,
    ConsensusError,
    InvalidConfigError,
    NodeNotFoundError,
    NotStartedError,
    OperationFailedError,
    TransportUnavailableError,
)
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.network_paths import CUT, PathFaults
from forge_consensus.testing.local.proxy import Proxy

QUICK = RaftSettings(heartbeat_interval=0.05, election_timeout_min=0.3, election_timeout_max=0.5)
Given = Callable[[Any], object]


@pytest.fixture(scope="module")
def threads() -> Iterator[LocalCluster]:
    """Three threads behind a proxy, to which nothing happens here."""
    with LocalCluster(3, mode="thread", transport="ipc", proxy=True, raft=QUICK) as made:
        made.wait_until_settled()
        yield made


@pytest.fixture(scope="module")
def process() -> Iterator[LocalCluster]:
    """One process without a proxy."""
    with LocalCluster(1, transport="ipc", raft=QUICK) as made:
        yield made


NO_NODE = r"there is no node .* in this cluster: there are n1, n2, n3; give one such name, or 'leader'"
NO_TIME = r"timeout is .*: it is a time in seconds, a number that is not negative"
NO_PARTS = r"partition\(.*\) does not part a cluster, for .*: give one group or several"
ASKED_OF_THE_CLUSTER: list[tuple[Given, type[ConsensusError], str]] = [
    (lambda cluster: cluster.cluster_status("n9"), NodeNotFoundError, NO_NODE),
    (lambda cluster: cluster.wait_until_settled("n9"), NodeNotFoundError, NO_NODE),
    (lambda cluster: cluster.wait_serving("n9"), NodeNotFoundError, NO_NODE),
    (lambda cluster: cluster.kill(["n1"]), NodeNotFoundError, NO_NODE),
    (lambda cluster: cluster.kill(1), NodeNotFoundError, NO_NODE),
    (lambda cluster: cluster.wait_for_leader(other_than="n9"), NodeNotFoundError, NO_NODE),
    (lambda cluster: cluster.wait_for_leader(other_than="leader"), InvalidConfigError, "give the name that kill"),
    (lambda cluster: cluster.wait_for_leader(timeout="1"), InvalidConfigError, NO_TIME),
    (lambda cluster: cluster.wait_for_leader(-1), InvalidConfigError, NO_TIME),
    (lambda cluster: cluster.wait_until_settled(timeout=float("nan")), InvalidConfigError, NO_TIME),
    (lambda cluster: cluster.cluster_status(seconds=None), InvalidConfigError, "seconds is None: it is a time"),
    (lambda cluster: cluster.status("n1", "1"), InvalidConfigError, "seconds is '1': it is a time"),
    (
        lambda cluster: cluster.restart("n1", foo=1),
        InvalidConfigError,
        "with foo=1: .* extra_args, environment, before, program",
    ),
    (lambda cluster: cluster.partition(1), InvalidConfigError, r"1 names no nodes: give a name, such as 'n1', or some"),
    (lambda cluster: cluster.partition(), InvalidConfigError, NO_PARTS),
    (lambda cluster: cluster.partition([]), InvalidConfigError, NO_PARTS),
    (lambda cluster: cluster.partition(["n1", "n2", "n3"]), InvalidConfigError, NO_PARTS),
    (lambda cluster: cluster.partition("n1", []), InvalidConfigError, NO_PARTS),
    (lambda cluster: cluster.partition("n1", ["n1", "n2"]), InvalidConfigError, NO_PARTS),
    (lambda cluster: cluster.partition("n1", "n2", "n3", one_way=True), InvalidConfigError, NO_PARTS),
    (
        lambda cluster: cluster.partition("n1", disconnect=1),
        InvalidConfigError,
        "disconnect is 1: .* give True or False",
    ),
    (lambda cluster: cluster.disturb(0.3), InvalidConfigError, r"faults is 0\.3: .* by PathFaults\(\.\.\.\), such as"),
    (lambda cluster: cluster.disturb("drop"), InvalidConfigError, r"faults is 'drop': .* by PathFaults"),
    (lambda cluster: cluster.disturb(PathFaults), InvalidConfigError, "by PathFaults"),
    (lambda cluster: cluster.proxy.impose("n1", "n2", 0.3), InvalidConfigError, "by PathFaults"),
    (lambda cluster: cluster.proxy.impose("n1", ["n2"], CUT), InvalidConfigError, "is no path between two nodes"),
    (lambda cluster: cluster.proxy.impose_all(["n1"], CUT), InvalidConfigError, "'n1' is no path between two nodes"),
    (lambda cluster: cluster.proxy.impose_all("n1", CUT), InvalidConfigError, "'n1' names no paths: give"),
    (lambda cluster: cluster.proxy.impose_all(3, CUT), InvalidConfigError, "3 names no paths: give"),
    (lambda cluster: cluster.proxy.disconnect("n1", "n9"), TransportUnavailableError, "'n9' is no node of this proxy"),
    (lambda cluster: cluster.proxy.wait_listening("n9"), TransportUnavailableError, "'n9' is no node of this proxy"),
]


@pytest.mark.parametrize(("ask", "kind", "text"), ASKED_OF_THE_CLUSTER)
def test_senseless_calls_are_refused_with_advice(
    threads: LocalCluster, ask: Given, kind: type[ConsensusError], text: str
) -> None:
    before = {pair: path.faults for pair, path in threads.proxy.paths.items()}
    with pytest.raises(kind, match=text):
        ask(threads)
    assert threads.running() == threads.names
    assert {pair: path.faults for pair, path in threads.proxy.paths.items()} == before


def test_a_cluster_goes_on_after_refused_calls(threads: LocalCluster, capfd: pytest.CaptureFixture[str]) -> None:
    for wrong in (0.3, "drop", None):
        with pytest.raises(InvalidConfigError):
            threads.disturb(wrong)  # type: ignore[arg-type]
    threads.client().put("key", 1)
    threads.wait_until_settled()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"raft": 3}, r"raft is 3: give forge_consensus\.config\.raft\.RaftSettings\(\.\.\.\), or None"),
        (
            {"storage": "x"},
            r"storage is 'x': give .*\.config\.storage\.StorageSettings\(\.\.\.\), or None",
        ),
        ({"nodes": True}, "nodes is True: a local cluster has 1 to 15"),
        ({"seed": "x"}, "seed is 'x': chances are drawn from a whole number"),
        ({"proxy": "yes"}, "proxy is 'yes': it is switched on or off: give True or False"),
        ({"lease_reads": 1}, "lease_reads is 1: .* give True or False"),
        ({"folder": 7}, "folder is 7: name a folder"),
        ({"extra_args": "--lease-reads"}, "extra_args is '--lease-reads': give a list of words"),
        ({"before": [3]}, r"before is \[3\]: give a list of words"),
        ({"environment": {"A": 1}}, r"environment is {'A': 1}: give texts by name"),
        (
            {"mode": "thread", "before": ["nice"]},
            r"a thread is none: leave them out, or use LocalCluster\(mode='process'",
        ),
    ],
)
def test_impossible_clusters_are_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidConfigError, match=text):
        LocalCluster(**given)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"drop": "0.1"}, "drop is '0.1': it is a chance from 0 to 1"),
        ({"drop": True}, "drop is True: it is a chance"),
        ({"duplicate": 1.5}, "duplicate is 1.5: it is a chance"),
        ({"reorder": float("nan")}, "reorder is nan: it is a chance"),
        ({"delay_s_max": "1"}, "delay_s_max is '1': it is a time in seconds"),
        ({"delay_s_max": float("inf")}, "delay_s_max is inf: it is a time in seconds"),
        ({"delay_s_min": -1.0}, "delay_s_min is -1.0: it is a time in seconds"),
        ({"delay_s_min": 0.3}, "the delay is 0.3 to 0.0 s: the minimum is above the maximum"),
        ({"cut": 1}, "cut is 1: .* give True or False"),
    ],
)
def test_impossible_faults_are_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidConfigError, match=text):
        PathFaults(**given)


@pytest.mark.parametrize("fronts", [3, ["n1"], {"n1": "127.0.0.1:7001"}, {1: ("a:1", "b:2")}])
def test_a_proxy_without_valid_fronts_is_refused(fronts: Any) -> None:
    with pytest.raises(InvalidConfigError, match=r"map each node to \(its front's address, its real address\)"):
        Proxy(fronts)


# --- not started, started twice, ended -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        lambda cluster: cluster.client(),
        lambda cluster: cluster.endpoints,
        lambda cluster: cluster.heal(),
        lambda cluster: cluster.partition("n1"),
        lambda cluster: cluster.kill("n1"),
        lambda cluster: cluster.log_text("n1"),
        lambda cluster: cluster.cluster_status(),
        lambda cluster: cluster.status("n1"),
        lambda cluster: cluster.wait_for_leader(),
        lambda cluster: cluster.folder,
    ],
)
def test_a_cluster_that_was_not_started_says_so(ask: Given) -> None:
    with pytest.raises(NotStartedError, match="the cluster was not started, or has ended"):
        ask(LocalCluster(3))


def test_a_second_start_is_refused_and_loses_nothing(process: LocalCluster) -> None:
    pid, folder, threads = process.process("n1").pid, process.folder, set(threading.enumerate())
    with pytest.raises(AlreadyStartedError, match=r"the cluster runs already.* call start\(\) once"):
        process.start()
    assert (process.process("n1").pid, process.folder) == (pid, folder)
    assert not set(threading.enumerate()) - threads
    assert process.status("n1")["node_id"] == "n1"


def test_a_started_cluster_may_be_entered_and_leaves_nothing() -> None:
    threads = set(threading.enumerate())
    with LocalCluster(1, mode="thread", transport="ipc", proxy=True).start() as cluster:
        folder = cluster.folder
        with pytest.raises(AlreadyStartedError, match="the proxy runs already"):
            cluster.proxy.start()
    assert not set(threading.enumerate()) - threads
    assert not folder.exists()
    with pytest.raises(NotStartedError):
        cluster.client()


def test_the_error_names_a_folder_that_cannot_be_made() -> None:
    with pytest.raises(
        InvalidConfigError, match=r"the folder /dev/null/data cannot be made .*: name one where this user"
    ):
        LocalCluster(1, folder="/dev/null/data").start()


def test_the_error_names_a_missing_program_given_as_before() -> None:
    with pytest.raises(OperationFailedError, match=r"n1 could not be started by '/no/such' .*: see what before= says"):
        LocalCluster(1, before=["/no/such"]).start()


# --- processes and threads -------------------------------------------------------------------------------------------


def test_a_wrong_launch_option_is_refused_before_the_node_is_ended(process: LocalCluster) -> None:
    pid = process.process("n1").pid
    for launching, text in (({"foo": 1}, "foo=1"), ({"before": "nice"}, "before is 'nice': give a list")):
        with pytest.raises(InvalidConfigError, match=text):
            process.restart("n1", **launching)
    assert process.process("n1").pid == pid
    assert process.running() == ["n1"]


def test_an_ended_process_is_neither_paused_nor_resumed() -> None:
    with LocalCluster(1, transport="ipc", raft=QUICK) as cluster:
        cluster.pause("n1")
        cluster.resume("n1")
        cluster.kill("n1")
        for ask, what in ((cluster.pause, "paused"), (cluster.resume, "resumed")):
            with pytest.raises(NotStartedError, match=rf"n1 does not run and cannot be {what}: restart\('n1'\) first"):
                ask("n1")
        cluster.restart("n1")
        assert cluster.wait_for_leader() == "n1"


def test_an_ordered_kill_of_a_thread_raises_no_alarm(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told: list[ConsensusError] = []
    with LocalCluster(1, mode="thread", transport="ipc", raft=QUICK, folder=tmp_path) as cluster:
        service = cluster.service("n1")
        service.on_failure = told.append
        cluster.kill("n1")
        assert service.failed.is_set()
        with pytest.raises(OperationFailedError, match="n1 was killed by its cluster"):
            service.get_role()
        assert "n1 was killed by its cluster" in cluster.log_text("n1")
        assert [str(failure) for failure in told] == ["n1 was killed by its cluster"]
        cluster.restart("n1")
        assert cluster.wait_for_leader() == "n1"
    assert not re.search("CRITICAL|has ended", capfd.readouterr().err)
