"""The benchmarks for a moment each, of this system alone: that they run, and what they write."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.benchmarks import growth
from tests.benchmarks.peers.rounds import LATE
from tests.benchmarks.stages import STAGES
from tests.worlds.source_tree import ROOT

SECONDS_MAX = 100.0


def carried_out(module: str, *flags: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a benchmark with these options, and demand that it ends well."""
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *flags, *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_this_system_alone_is_measured(tmp_path: Path) -> None:
    done = carried_out(
        "peers", "--reads", systems="own", rounds=1, seconds=0.25, outstanding="1,64", folder=tmp_path, out=tmp_path
    )
    assert "round 1 of 1, forge-consensus: writes, 64 at once, " in done.stderr
    assert "floor: durable commit of LMDB: p50 " in done.stdout
    found = json.loads((tmp_path / "benchmark.json").read_text())
    works = [("write", 1), ("write", 64), ("read", 1), ("read", 64)]
    assert [(run["kind"], run["outstanding"]) for run in found["runs"]] == works
    for run in found["runs"]:
        assert run["count"] > 0
        assert run["failed"] == 0
        assert run["note"] in {"", LATE}, "a busy machine looks late at what was used"
        assert run["p50_ms"] <= run["p99_ms"] <= run["max_ms"]
        assert run["flushes_per_write"] < 10
        assert run["kind"] == "read" or run["flushes_per_write"] > 0
    assert ET.parse(tmp_path / "benchmark.svg").getroot().tag.endswith("svg")
    assert {path.name for path in tmp_path.iterdir()} == {"benchmark.json", "benchmark.svg"}, (
        "folders of nodes are gone"
    )


def test_a_command_is_followed_through_its_stages(tmp_path: Path) -> None:
    done = carried_out("stages", seconds=0.5, outstanding="1,64", out=tmp_path)
    alone, many = json.loads((tmp_path / "stages.json").read_text())["measured"]
    assert alone["calls"]["followed"] > alone["calls"]["all"] / 2 > 0
    stages = {each["stage"]: each["mean_us"] for each in alone["stages"]}
    parts = [stages[name] for name in STAGES]
    assert sum(parts) == pytest.approx(stages["whole"], abs=1.0)
    assert stages["whole"] < 1e6 / alone["per_second"] * 1.5
    assert many["leader"]["commands a flush"] > 1.5 > alone["leader"]["commands a flush"]
    assert "follower's flush" in done.stdout


def test_growth_is_plotted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(growth, "OUTSTANDING", (1, 64))
    monkeypatch.setattr(sys, "argv", ["growth", "--only=outstanding", "--seconds=0.2", f"--out={tmp_path}"])
    growth.main()
    found = json.loads((tmp_path / "growth.json").read_text())["measured"]
    assert [each["at"] for each in found["outstanding"]] == [1, 64]
    assert all(each["runs"][0]["count"] > 0 for each in found["outstanding"])
    assert ET.parse(tmp_path / "growth.svg").getroot().tag.endswith("svg")


def test_sessions_are_opened_by_one_connection() -> None:
    with growth.running(nodes=1) as system:
        before = system.cluster.status("n1")["last_applied"]
        growth.open_sessions(system, 250)
        assert system.cluster.status("n1")["last_applied"] == before + 250, "each is an entry of the log"


def test_windows_of_an_endurance_run_are_told_with_memory_and_rest() -> None:
    done = carried_out("endurance", entries=2_000, window=0.3, outstanding=64, idle=0.3)
    *windows, whole = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum(each["entries"] for each in windows) == whole["entries"] >= 2_000
    assert all(0 < each["p50_ms"] <= each["p99_ms"] <= each["max_ms"] for each in windows)
    for rest in (whole["idle_before"], whole["idle_after"]):
        assert set(rest["rss_anon_mib"]) == set(rest["cpu_percent"]) == {"n1", "n2", "n3"}
    assert min(whole["idle_before"]["rss_anon_mib"].values()) > 1
