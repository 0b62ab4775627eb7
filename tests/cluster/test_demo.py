"""The demo as a whole: it succeeds, it fails when something is missing, and it leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from forge_consensus.demo.command import demo
from forge_consensus.demo.writer import Writer
from forge_consensus.testing.local.cluster import LocalCluster
from tests.worlds.source_tree import ROOT

SECONDS_MAX = 60.0


def command_lines(part: str) -> list[str]:
    """The command lines of all processes that hold that text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if part in line:
            found.append(line)
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the demo puts its folder; in the end neither folder nor process is there."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []
    assert command_lines(str(tmp_path)) == []


def start(place: Path, *arguments: str) -> subprocess.Popen[str]:
    """The demo as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "demo", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(place)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_inside(*arguments: str) -> Result:
    """The demo in this process, so that a test can lie to it."""
    return CliRunner().invoke(demo, arguments)


def test_the_demo_kills_a_leader_and_proves_that_nothing_is_lost(place: Path) -> None:
    process = start(place, "--seconds", "4")
    try:
        out, err = process.communicate(timeout=SECONDS_MAX)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, "")
    assert re.search(r"SIGKILL to the leader (n\d)", out)
    assert re.search(r"failover +\d+ ms", out)
    assert re.search(r"verified +[\d,]+ writes on each of 3 nodes as of entry [\d,]+: all there, all nodes alike", out)
    assert "leader.elected" in out
    assert "log.appended" not in out
    assert out.endswith("OK\n")


@pytest.mark.usefixtures("place")
def test_a_single_acknowledged_write_that_is_missing_fails_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    finish: Callable[[Writer], None] = Writer.finish

    def lie(writer: Writer) -> None:
        finish(writer)
        writer.acknowledged["demo/lie"] = "never written"

    monkeypatch.setattr(Writer, "finish", lie)
    result = run_inside("--nodes", "1", "--seconds", "2")
    assert result.exit_code == 1
    assert "FAILED: n1: 1 acknowledged writes are missing or differ: demo/lie" in result.stderr
    assert "OK" not in result.stdout
    assert "all nodes alike" not in result.stdout


@pytest.mark.usefixtures("place")
def test_a_node_that_does_not_start_fails_the_demo_and_its_output_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr(LocalCluster, "free_addresses", lambda cluster, count: [address])
        result = run_inside("--nodes", "1", "--seconds", "2")
    assert result.exit_code == 1
    assert "FAILED: n1 ended with 69 instead of serving: error[CONSENSUS_TRANSPORT_UNAVAILABLE]" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_ends_with_130(place: Path, number: int) -> None:
    process = start(place, "--nodes", "2", "--seconds", "30")
    try:
        deadline = time.monotonic() + SECONDS_MAX
        while len(command_lines(str(place))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        _, err = process.communicate(timeout=SECONDS_MAX)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted" in err


def test_a_demo_of_no_nodes_is_wrong_usage() -> None:
    assert run_inside("--nodes", "0").exit_code == 2
