"""Other systems in the benchmark: what is said of those that are missing, and how what each tells is read."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.benchmarks.peers import etcd, go_programs, hraft, rabbitmq, zookeeper
from tests.benchmarks.peers.__main__ import SYSTEMS, chosen
from tests.benchmarks.peers.etcd import Etcd, metric
from tests.benchmarks.peers.figures import Work
from tests.benchmarks.peers.go_programs import SOURCES, go_missing
from tests.benchmarks.peers.hraft import Hraft
from tests.benchmarks.peers.load import GRACE_SECONDS, Loaded, LoadFailedError, LoadProgram
from tests.benchmarks.peers.pysyncobj import Pysyncobj
from tests.benchmarks.peers.rabbitmq import Rabbitmq, running_members
from tests.benchmarks.peers.report import missing_line
from tests.benchmarks.peers.system import (
    NAMES,
    ProcessSystem,
    files_missing,
    package_version,
    programs_missing,
    said_by,
)
from tests.benchmarks.peers.zookeeper import Zookeeper, field

FIGURES = {"count": 10, "seconds": 1.5, "failed": 0, "p50_ms": 1.0, "p99_ms": 2.0, "max_ms": 3.0}


# --- what is missing -------------------------------------------------------------------------------------------------


def test_a_system_that_is_not_installed_is_a_line_that_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(go_programs, "LIBRARIES", "/nowhere")
    monkeypatch.setattr(zookeeper, "JAR", "/nowhere/zookeeper.jar")
    monkeypatch.setattr(rabbitmq, "PROGRAMS", "/nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = {system.name: missing_line(system) for system in SYSTEMS}
    assert said.pop("own") == ""
    assert said["etcd"] == (
        "etcd: not measured, there is no etcd, go, go.etcd.io/etcd/clientv3; "
        "install with: apt-get install etcd-server golang-go golang-etcd-server-dev"
    )
    assert all(" install " in line for line in said.values())
    assert set(said) == {"etcd", "hraft", "zookeeper", "rabbitmq", "pysyncobj"}


def test_what_is_there_is_not_missing(tmp_path: Path) -> None:
    assert programs_missing(sys.executable, "no-such-program") == ["no-such-program"]
    assert files_missing(str(tmp_path), str(tmp_path / "x")) == [str(tmp_path / "x")]
    assert "no/such/library" in go_missing("no/such/library")
    assert said_by("no-such-program") == package_version("no-such-package") == ""
    assert said_by(sys.executable, "-c", "print(); print('one 1.2')") == "one 1.2"


def test_an_unknown_system_is_refused_with_those_that_there_are() -> None:
    assert [system.name for system in chosen("etcd,own")] == ["etcd", "own"]
    with pytest.raises(SystemExit, match="there is no system etdc: choose from own, etcd"):
        chosen("own,etdc")


# --- what each tells -------------------------------------------------------------------------------------------------


def test_metrics_of_etcd_are_numbers_without_labels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = (
        "# HELP etcd_server_is_leader Whether or not\netcd_server_is_leader 1\n"
        'etcd_disk_wal_fsync_duration_seconds_bucket{le="+Inf"} 7\n'
        "etcd_disk_wal_fsync_duration_seconds_count 1.2e+03\netcd_disk_backend_commit_duration_seconds_count 34\n"
    )
    assert metric(text, "etcd_server_is_leader") == 1
    assert metric(text, "etcd_server_is_leade") == 0
    node = Etcd(tmp_path)
    told = {name: text if name == "n2" else text.replace("is_leader 1", "is_leader 0") for name in NAMES}
    monkeypatch.setattr(node, "metrics", told.__getitem__)
    assert (node.leader(), node.flushes()) == ("n2", 1234)


def test_zookeeper_is_read_field_by_field(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = "zk_version\t3.8.0-${mvngit.commit.id}, built on\nzk_server_state\tleader\nzk_cnt_fsynctime\t77\n"
    node = Zookeeper(tmp_path)
    told = {name: text if name == "n3" else text.replace("leader", "follower") for name in NAMES}
    monkeypatch.setattr(node, "monitored", told.__getitem__)
    assert (node.leader(), node.flushes()) == ("n3", 77)
    assert field("This ZooKeeper instance is not currently serving requests", "zk_server_state") == ""
    told["n3"] = "zk_server_state\tleader\n"
    assert node.flushes() is None


def test_rabbitmq_is_whole_when_all_its_nodes_run() -> None:
    assert running_members(json.dumps({"running_nodes": ["a@h", "b@h"], "disk_nodes": []})) == {"a@h", "b@h"}
    assert running_members("Error: unable to connect") == running_members("{}") == set()


def test_hraft_is_asked_by_frames(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    node = Hraft(tmp_path)
    told = {name: {"leads": name == "n1", "flushes": 42} for name in NAMES}
    monkeypatch.setattr(node, "state", told.__getitem__)
    assert (node.leader(), node.flushes()) == ("n1", 42)


@pytest.mark.parametrize("kind", [Etcd, Hraft, Zookeeper, Rabbitmq, Pysyncobj])
def test_nodes_have_folders_and_ports_of_their_own(
    kind: type[ProcessSystem], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hraft, "go_program", lambda *files: "program")
    system = kind(tmp_path)
    commands = [(*system.command(name), *sorted(system.environment(name).items())) for name in NAMES]
    assert len(set(commands)) == len(NAMES)


def test_zookeeper_flushes_and_its_members_know_each_other(tmp_path: Path) -> None:
    text = Zookeeper(tmp_path).settings("n2")
    assert "forceSync=yes\n" in text
    assert len(re.findall(r"^server\.[123]=127\.0\.0\.1:\d+:\d+$", text, re.MULTILINE)) == 3
    assert f"dataDir={tmp_path / 'n2'}\n" in text


# --- what loads say --------------------------------------------------------------------------------------------------


def test_figures_are_read_from_one_line() -> None:
    assert Loaded.of_line(json.dumps(FIGURES)) == Loaded(10, 1.5, 1.0, 2.0, 3.0, 0)
    for wrong in ("", "panic: x", "[]", json.dumps({**FIGURES, "more": 1})):
        with pytest.raises(LoadFailedError, match="instead of its figures"):
            Loaded.of_line(wrong)
    with pytest.raises(LoadFailedError, match="no write was acknowledged, 7 failed"):
        Loaded.of_line(json.dumps({**FIGURES, "count": 0, "failed": 7}))


def program(text: str, tmp_path: Path) -> LoadProgram:
    """A load that is this program in Python."""
    return LoadProgram([sys.executable, "-c", text], tmp_path / "load.log", 5.0)


def test_a_load_is_warm_before_it_counts_and_stays_until_it_was_looked_at(tmp_path: Path) -> None:
    text = f"import sys; print('began'); print({json.dumps(json.dumps(FIGURES))}, flush=True); sys.stdin.read()"
    with program(text, tmp_path) as load:
        load.wait_until_begun()
        assert load.result().count == 10
        assert load.process.poll() is None
    assert load.process.returncode is not None


def test_a_load_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    with program("print('odd')", tmp_path) as load, pytest.raises(LoadFailedError, match="'odd' instead of 'began'"):
        load.wait_until_begun()
    text = "import sys; sys.exit('no route')"
    with program(text, tmp_path) as load, pytest.raises(LoadFailedError, match=r"ended or was silent: .*no route"):
        load.wait_until_begun()


def test_a_load_that_hangs_is_ended(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    load = LoadProgram(command, tmp_path / "load.log", 0.2 - GRACE_SECONDS)
    with load, pytest.raises(LoadFailedError, match="it said nothing"):
        load.wait_until_begun()
    assert load.process.returncode is not None


# --- the programs in Go ----------------------------------------------------------------------------------------------


def test_all_clients_have_the_same_loop_and_are_told_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[tuple[str, ...]] = []

    def noted(*files: str) -> str:
        built.append(files)
        return "program"

    monkeypatch.setattr(go_programs, "go_program", noted)
    options = go_programs.client_command("etcd.go", "127.0.0.1:1", Work(64, 2.0, 128))
    assert built == [("etcd.go", "loop.go")]
    named = {option.partition("=")[0].lstrip("-") for option in options[1:]}
    assert named == set(re.findall(r'flag\.\w+\((?:&o\.\w+, )?"([\w-]+)"', (SOURCES / "loop.go").read_text()))


def test_a_program_is_built_once_and_again_when_a_source_is_newer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built: list[Path] = []

    def noted(program: Path, sources: Sequence[Path]) -> None:
        assert sources == [SOURCES / "hraft_node.go"]
        built.append(program)
        program.touch()

    monkeypatch.setattr(go_programs, "PROGRAMS", tmp_path)
    monkeypatch.setattr(go_programs, "build", noted)
    assert go_programs.go_program("hraft_node.go") == str(tmp_path / "hraft_node")
    go_programs.go_program("hraft_node.go")
    assert built == [tmp_path / "hraft_node"]
    os.utime(tmp_path / "hraft_node", (0, 0))
    go_programs.go_program("hraft_node.go")
    assert len(built) == 2


def test_addresses_of_etcd_are_on_the_loopback() -> None:
    assert etcd.url(80) == "http://127.0.0.1:80"
