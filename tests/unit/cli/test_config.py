"""``forge-consensus config``, and what ``forge-consensus node`` takes from files and variables before it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.config.resolving import NAMES, ROWS
from forge_consensus.config.schema import schema
from tests.worlds.cli_world import Shell
from tests.worlds.source_tree import ROOT

SHELL = Shell("")
SMALL = 'node_id: n1\nbind: "127.0.0.1:7001"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small file that is valid."""
    path = tmp_path / "node.yaml"
    path.write_text(SMALL)
    return path


def test_the_example_is_valid_as_it_stands_and_with_every_default_taken_in(tmp_path: Path) -> None:
    example = SHELL.run("config", "example").stdout
    path = tmp_path / "example.yaml"
    path.write_text(example)
    assert SHELL.run("config", "validate", str(path)).stdout == "ok: node n1 of cluster default at 127.0.0.1:7001\n"
    lines = [line.replace("# ", "", 1) if is_setting(line) else line for line in example.splitlines()]
    full = tmp_path / "full.yaml"
    full.write_text("\n".join(lines))
    assert SHELL.run("config", "diff", str(path), str(full)).stdout == "the files come to the same settings\n"
    rows = {row["name"]: row["origin"] for row in SHELL.json("config", "show", "--origin", str(full))}
    empty = {
        "metrics", "events_bind", "advertise", "http_url", "join", "join_as", "machine", "admin_api.bind",
        "admin_api.hosts", "admin_api.api_key", "security.curve_key_file", "security.curve_secret_key",
        "security.access_file", "security.client_key_file", "security.cert_file", "security.key_file",
        "security.ca_file", "security.encryption_key", "security.encryption_key_file",
        "security.encryption_key_command", "security.audit_file",
    }  # fmt: skip
    assert {name for name, origin in rows.items() if origin == "default"} == empty


def test_the_configuration_of_the_originals_readme_is_valid_as_it_stands() -> None:
    done = SHELL.run("config", "validate", str(ROOT / "demo" / "original_config.yaml"))
    assert done.stdout.endswith("ok: node node-1 of cluster production-cluster at 0.0.0.0:7000\n")
    assert "without security.curve_key_file (forge-consensus keygen) or security.insecure this node will" in done.stdout


def is_setting(line: str) -> bool:
    """Whether a line of the example is a setting that is commented out."""
    name, colon, _ = line.strip().removeprefix("# ").partition(":")
    return line.strip().startswith("# ") and bool(colon) and name in {row.rpartition(".")[2] for row in ROWS}


def test_a_valid_file_is_told_with_its_notes(file: Path) -> None:
    file.write_text(f"{SMALL}transport: {{type: grpc}}\n")
    found = SHELL.run("config", "validate", str(file))
    assert found.exit_code == 0
    assert found.stdout.splitlines() == [
        f"note: {file}:3:13 transport.type: grpc is taken as zmq: nodes speak ZeroMQ with one another",
        "ok: node n1 of cluster default at 127.0.0.1:7001",
    ]


def test_a_file_with_faults_ends_with_78_and_all_of_them(file: Path) -> None:
    file.write_text(f"{SMALL}raft: {{x: 1, y: 2}}\n")
    for command in (["config", "validate"], ["config", "show"], ["node", "-c"]):
        found = SHELL.run(*command, str(file))
        assert found.exit_code == 78
        assert found.stderr.splitlines()[0] == "error[INVALID_CONFIG]: 2 faults in the configuration"
        assert [line.split()[0] for line in found.stderr.splitlines()[1:]] == [f"{file}:3:8", f"{file}:3:14"]


def test_what_a_file_comes_to_is_shown_with_its_origins(file: Path) -> None:
    file.write_text(f"{SMALL}raft: {{heartbeat_interval: 50ms}}\n")
    shown = SHELL.run("config", "show", "--origin", str(file), FORGE_CONSENSUS_LOG_LEVEL="debug").stdout
    cells = {line.split()[0]: line.split()[1:] for line in shown.splitlines()}
    assert cells["raft.heartbeat_interval"] == ["0.05", "restart", f"{file}:3:8"]
    assert cells["log_level"] == ["debug", "hot", "FORGE_CONSENSUS_LOG_LEVEL"]
    assert cells["raft.fast_retries"] == ["3", "restart", "default"]
    assert "ORIGIN" not in SHELL.run("config", "show", str(file)).stdout


def test_a_secret_is_not_shown(file: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2")
    file.write_text(f"{SMALL}cluster_id: ${{file:{tmp_path}/secret}}\n")
    for output in ("table", "json"):
        shown = SHELL.run("config", "show", str(file), "-o", output).stdout
        assert "hunter2" not in shown
        assert "(secret)" in shown


def test_what_differs_between_two_files_is_shown(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(f"{SMALL}raft: {{snapshot_threshold: 5}}\n")
    found = SHELL.run("config", "diff", str(file), str(other))
    assert found.exit_code == 1
    assert found.stdout.splitlines()[1].split() == ["storage.snapshot_entries", "100000", "5"]
    assert len(found.stdout.splitlines()) == 2
    for path, text in ((file, "a"), (other, "b")):
        (tmp_path / text).write_text(text)
        path.write_text(f"node_id: ${{NAME}}\nbind: 'a:1'\ncluster_id: ${{file:{tmp_path}/{text}}}\n")
    found = SHELL.run("config", "diff", str(file), str(other), NAME="n1", FORGE_CONSENSUS_CLUSTER_ID="c")
    assert found.stdout.splitlines()[1].split() == ["cluster_id", "(secret)", "(secret)"]


def test_the_schema_knows_every_name_and_nothing_else() -> None:
    root = json.loads(SHELL.run("config", "schema").stdout)
    assert root == schema()
    settings = root["$defs"]["settings"]
    assert set(leaves(settings, "")) == NAMES
    heartbeat = settings["properties"]["raft"]["properties"]["heartbeat_interval"]
    assert heartbeat["default"] == 0.1
    assert "How often a leader" in heartbeat["description"]
    assert heartbeat["x-reload"] == "restart"
    assert settings["properties"]["log_level"]["x-reload"] == "hot"
    assert settings["properties"]["transport"]["properties"]["type"]["enum"] == ["zmq", "grpc", "tcp"]


def leaves(node: dict[str, Any], prefix: str) -> list[str]:
    """The names of all values in a schema."""
    names: list[str] = []
    for name, body in node["properties"].items():
        inside = body.get("properties") and body.get("additionalProperties") is False
        names += leaves(body, f"{prefix}{name}.") if inside else [f"{prefix}{name}"]
    return names


# --- the node --------------------------------------------------------------------------------------------------------


def test_options_win_over_variables_and_these_over_files(file: Path, tmp_path: Path) -> None:
    file.write_text(f"{SMALL}storage_path: {tmp_path}/n1\nmachine: no.such:Machine\n")
    found = SHELL.run("node", "-c", str(file), FORGE_CONSENSUS_MACHINE="other.such:Machine")
    assert found.exit_code == 78
    assert "other.such" in found.stderr
    found = SHELL.run("node", "-c", str(file), "--machine", "third:Machine", FORGE_CONSENSUS_MACHINE="other:Machine")
    assert "third" in found.stderr
    found = SHELL.run("node", "-c", str(file), "--listen", "nonsense")
    assert "--listen" in found.stderr
    assert "endpoint 'nonsense' is not an address" in found.stderr


def test_a_node_without_an_id_says_the_three_places_for_it(file: Path) -> None:
    file.write_text("bind: '127.0.0.1:7001'\n")
    for arguments in ((), ("-c", str(file))):
        found = SHELL.run("node", *arguments)
        assert found.exit_code == 2
        assert "Missing option '--id'" in found.stderr


def test_without_its_package_a_file_is_refused_with_the_extra(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    found = SHELL.run("node", "-c", str(file))
    assert found.exit_code == 78
    assert "pip install 'forge-consensus[config]'" in found.stderr
