"""``forge-consensus doctor`` on a host without a cluster, and its output."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import click
import pytest

from forge_consensus.checks.finding import problem, warning
from forge_consensus.cli.doctor import show
from forge_consensus.security.curve import KeyPair, write_key_file
from tests.worlds.cli_world import Shell, dead_address

SHELL = Shell("")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The configuration of a node that does not run, whose folder is not there."""
    path = tmp_path / "node.yaml"
    path.write_text(f"node_id: n1\nbind: {dead_address()}\nstorage_path: {tmp_path}/n1\n")
    return path


def test_without_anything_the_host_is_checked() -> None:
    found = SHELL.json("doctor")
    assert found["is_fit"]
    assert [row["check"] for row in found["findings"]] == ["interpreter", "open files"]
    assert [text.partition(" (")[2] for text in found["not_checked"]] == [
        "-c FILE)",
        "--data DIR)",
        "--endpoints HOST:PORT,... or --config FILE of a client)",
    ]
    assert "not checked: a configuration and its addresses (-c FILE); " in SHELL.run("doctor").stderr


def test_a_file_brings_the_folder_the_disk_and_the_addresses(file: Path, tmp_path: Path) -> None:
    found = SHELL.json("doctor", "-c", str(file))
    checks = [row["check"] for row in found["findings"]]
    assert checks == [
        "configuration", "interpreter", "open files", "folder", "free space", "file system", "disk", "addresses",
        "connections", "encryption",
    ]  # fmt: skip
    assert {frozenset(row) for row in found["findings"]} == {frozenset(("check", "level", "text", "advice"))}
    assert found["is_fit"], found
    assert not (tmp_path / "n1").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["node.yaml"]


def test_a_folder_that_is_named_wins_over_that_of_the_file(file: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    done = SHELL.run("doctor", "-c", str(file), "--data", str(tmp_path / "other"), "-o", "json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["findings"][3]["text"] == f"{tmp_path}/other is no folder"


def test_a_wrong_file_is_a_problem_and_the_rest_is_checked_all_the_same(file: Path) -> None:
    file.write_text("node_id: n1\nraft: {x: 1, y: 2}\n")
    done = SHELL.run("doctor", "-c", str(file))
    assert (done.exit_code, done.stderr.count("not checked")) == (1, 1)
    lines = done.stdout.splitlines()
    assert lines[0].split()[:2] == ["problem", "configuration"]
    assert "2 faults in the configuration" in " ".join(done.stdout.split())
    assert any(line.split()[1:2] == ["interpreter"] for line in lines)
    missing = SHELL.run("doctor", "-c", str(file.with_name("missing.yaml")))
    assert missing.exit_code == 1


def test_a_taken_port_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        path.write_text(f"node_id: n1\nbind: 127.0.0.1:{taken.getsockname()[1]}\nstorage_path: {tmp_path}/n1\n")
        done = SHELL.run("doctor", "-c", str(path))
    assert done.exit_code == 1
    assert "is taken by process" in " ".join(done.stdout.split())


def test_a_cluster_that_does_not_answer_is_a_problem() -> None:
    done = SHELL.run("doctor", "--endpoints", dead_address(), "--timeout", "0.3")
    assert done.exit_code == 1
    assert "no node answers" in " ".join(done.stdout.split())
    assert SHELL.run("doctor", "--endpoints", "nonsense").exit_code == 78


def test_a_clients_file_is_looked_at_and_names_the_cluster(tmp_path: Path) -> None:
    path, address = tmp_path / "client.json", dead_address()
    path.write_text(json.dumps({"client": {"endpoints": [address], "token": "x" * 30}}))
    for given, variable in ((("--config", str(path)), ""), ((), str(path))):
        done = SHELL.run("doctor", *given, "--timeout", "0.3", "-o", "json", FORGE_CONSENSUS_CONFIG=variable)
        rows = json.loads(done.stdout)["findings"]
        told = {(row["check"], row["level"]): row["text"] for row in rows}
        assert told["client", "ok"] == f"{path} names {address}"
        assert {("secrets", "warning"), ("tokens", "warning"), ("members", "problem")} <= told.keys()
        assert "x" * 30 not in done.stdout


def test_a_clients_file_that_cannot_be_used_is_a_problem_like_others(file: Path) -> None:
    done = SHELL.run("doctor", "--config", str(file), "-o", "json")
    assert done.exit_code == 1
    (problem_found,) = [row for row in json.loads(done.stdout)["findings"] if row["level"] == "problem"]
    assert "client.node_id: unknown key" in problem_found["text"]
    assert "that of a node is given by -c" in problem_found["advice"]


def test_how_old_a_key_may_be_is_an_option(file: Path, tmp_path: Path) -> None:
    write_key_file(tmp_path / "n1.key", KeyPair.made())
    os.utime(tmp_path / "n1.key", (1.0, 1.0))
    file.write_text(f"{file.read_text()}security: {{curve_key_file: {tmp_path}/n1.key}}\n")
    for given, level in (((), "warning"), (("--key-days", "100000"), "ok")):
        rows = SHELL.json("doctor", "-c", str(file), *given)["findings"]
        assert [row["level"] for row in rows if row["check"] == "key age"] == [level]


def test_findings_are_columns_with_what_to_do_below(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    show([warning("clock", "word " * 30, "set it right"), problem("disk", "first\n  second \x1b[2J")])
    lines = click.unstyle(capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 70
    assert lines[0].startswith("warning  clock  ")
    assert lines[1].startswith(" " * len("warning  clock  "))
    assert lines[3].strip() == "> set it right"
    assert lines[-2].split() == ["problem", "disk", "first"]
    assert lines[-1].strip() == "second \\x1b[2J"
    path = "/a-long/" + "name-of-a-folder/" * 4
    show([problem("folder", f"the folder {path} is not there", f"chmod 700 {path}")])
    shown = capsys.readouterr().out
    assert shown.count(path) == 2, "a path is in one piece, so that it can be copied"
