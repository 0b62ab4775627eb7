"""The arguments that ``forge-consensus node`` refuses before it opens anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from forge_consensus.config.loading import address_among_peers, check_free_port
from forge_consensus.errors import InvalidConfigError
from tests.worlds.cli_world import Shell

SHELL = Shell("")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--peers", "n1"), "ID=HOST:PORT"),
        (("--peers", "n1=127.0.0.1"), "host:port"),
        (("--peers", "n1=127.0.0.1:70000"), "1 to 65535"),
        (("--peers", "=127.0.0.1:7001"), "ID=HOST:PORT"),
        (("--peers", "n1=127.0.0.1:7001,n1=127.0.0.1:7002"), "twice"),
        (
            ("--peers", "n2=127.0.0.1:7002,n3=127.0.0.1:7003", "--listen", "127.0.0.1:7001"),
            "not among the peers n2, n3",
        ),
        (("--peers", "n2=127.0.0.1:7002"), "node 'n1' is not among the peers n2"),
        ((), "--listen"),
        (("--peers", "n1=127.0.0.1:7001,n2=127.0.0.1:7001"), "n1 and n2 share the address 127.0.0.1:7001"),
        (("--peers", "n1=127.0.0.1:7001,n2=0.0.0.0:7002"), "nobody can connect to it"),
        (("--peers", "n1=127.0.0.1:7001,n2=[::]:7002"), "nobody can connect to it"),
        (("--peers", "n1=127.0.0.1:7001,a b/c=127.0.0.1:7002"), "'a b/c' cannot be a node's id"),
        (("--peers", "n1=127.0.0.1:7001,n2=127.0.0.1:7002", "--listen", "127.0.0.1:0"), "port 0"),
        ((), "--listen"),
        (("--listen", "127.0.0.1:0", "--data", ""), "storage_path"),
        (("--listen", "127.0.0.1:0", "--map-bytes", "99999999999T"), "map_bytes"),
        (("--listen", "nonsense"), "host:port"),
        (("--listen", "127.0.0.1:x"), "host:port"),
        (("--listen", "127.0.0.1:1", "--events-listen", "7101"), "events_bind: endpoint '7101'"),
        (("--listen", "127.0.0.1:1", "--events-listen", "127.0.0.1:1"), "give the events a port of their own"),
        (("--listen", "127.0.0.1:1", "--metrics", "127.0.0.1:1"), "give the metrics a port of their own"),
        (("--listen", "127.0.0.1:1", "--cluster", ""), "cluster_id"),
        (("--listen", "127.0.0.1:1", "--heartbeat-interval", "1s"), "election_timeout_min"),
        (("--listen", "127.0.0.1:1", "--election-timeout-max", "100ms"), "election_timeout_max"),
    ],
)
def test_a_wrong_configuration_is_78_and_names_its_fault(tmp_path: Path, arguments: tuple[str, ...], part: str) -> None:
    found = SHELL.run("node", "--id", "n1", "--data", str(tmp_path / "n1"), *arguments)
    assert found.exit_code == 78
    assert found.stderr.startswith("error[INVALID_CONFIG]: ")
    assert part in found.stderr
    assert found.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [(), ("--id", "n1"), ("--id", "n1", "--data", "x", "--quota-bytes", "much"), ("--idd", "n1"), ("stray",)],
)
def test_wrong_usage_is_2(arguments: tuple[str, ...]) -> None:
    assert SHELL.run("node", *arguments).exit_code == 2


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_machine_is_wrong_usage_and_no_machine_of_keys_and_values(tmp_path: Path, text: str) -> None:
    data = tmp_path / "n1"
    found = SHELL.run("node", "--id", "n1", "--listen", "127.0.0.1:0", "--data", str(data), "--machine", text)
    assert found.exit_code == 2
    assert "it is empty: write MODULE:CLASS" in " ".join(found.stderr.split())
    assert not data.exists()


def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "n1").write_text("a file")
    found = SHELL.run("node", "--id", "n1", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "n1"))
    assert found.exit_code == 2
    assert "is a file" in found.stderr


def test_the_address_to_listen_at_fits_to_the_peers() -> None:
    peers = {"n1": "127.0.0.1:7001", "n2": "[::1]:7002"}
    assert address_among_peers("n2", peers) == "[::1]:7002"
    check_free_port("0.0.0.0:7001", peers)
    check_free_port("127.0.0.1:0", {})
    for wrong in (lambda: check_free_port("127.0.0.1:0", peers), lambda: address_among_peers("n1", {})):
        with pytest.raises(InvalidConfigError):
            wrong()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--set", "raft.hartbeat_interval=1"), "did you mean raft.heartbeat_interval?"),
        (("--set", "heartbeat_interval=1"), "did you mean raft.heartbeat_interval?"),
        (("--set", "raft.heartbeat_interval=soon"), "write a number of seconds"),
        (("--set", "raft.heartbeat_interval=1m"), "election_timeout_min"),
        (("--set", "raft.fast_retries=1", "--set", "raft.fast_retries=2"), "raft.fast_retries is given twice"),
        (("--heartbeat-interval", "50ms", "--set", "raft.heartbeat_interval=50ms"), "is given twice"),
        (("--set", "cluster_id=x"), "use --cluster"),
        (("--set", "log_level=debug"), "use --log-level"),
        (("--set", "client.silence_seconds=1"), "a setting of clients"),
        (("--set", "security.encryption_key=00"), "variable FORGE_CONSENSUS_SECURITY__ENCRYPTION_KEY"),
        (("--machine", "nothing"), "no import path"),
        (("--machine", "json:JSONDecoder"), "is no state machine"),
    ],
)
def test_a_wrong_setting_or_machine_is_78_and_gives_advice(
    tmp_path: Path, arguments: tuple[str, ...], part: str
) -> None:
    found = SHELL.run("node", "--id", "n1", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "n1"), *arguments)
    assert found.exit_code == 78
    assert part in found.stderr


def test_a_setting_without_a_value_is_wrong_usage(tmp_path: Path) -> None:
    found = SHELL.run("node", "--id", "n1", "--data", str(tmp_path), "--set", "raft.heartbeat_interval")
    assert found.exit_code == 2
    assert "NAME=VALUE" in found.stderr


@pytest.mark.parametrize(
    ("option", "text"),
    [("--heartbeat-interval", "-1"), ("--heartbeat-interval", "1x"), ("--quota-bytes", "1.5G")],
)
def test_an_option_that_is_no_number_is_wrong_usage(tmp_path: Path, option: str, text: str) -> None:
    found = SHELL.run("node", "--id", "n1", "--listen", "127.0.0.1:0", "--data", str(tmp_path), option, text)
    assert found.exit_code == 2


def test_an_empty_store_is_refused(tmp_path: Path) -> None:
    found = SHELL.run("node", "--id", "n1", "--listen", "127.0.0.1:0", "--data", str(tmp_path), "--quota-bytes", "0")
    assert found.exit_code == 78
    assert "storage.quota_bytes is 0: it must be a whole number of bytes" in found.stderr


def test_the_help_of_a_node_points_to_the_settings() -> None:
    assert "forge-consensus settings" in " ".join(SHELL.run("node", "--help").stdout.split())


def test_the_settings_are_listed_with_defaults_and_reasons() -> None:
    text = SHELL.run("settings", "raft.").stdout
    assert "raft.heartbeat_interval" in text
    assert "Default: " in text
    assert "storage." not in text.split("Default:")[0]
    rows = {row["name"]: row for row in SHELL.json("settings")}
    assert rows["raft.heartbeat_interval"]["default"] == 0.1
    assert rows["raft.heartbeat_interval"]["unit"] == "s"
    assert rows["node_id"]["required"]
    assert {name.partition(".")[0] for name in rows} >= {"raft", "storage", "client", "peers"}
    assert all(row["what"] and row["why"] and row["reload"] for row in rows.values())
    assert "raft.heartbeat_interval" in SHELL.run("settings", "heartbeat").stdout
    wrong = SHELL.run("settings", "heartbeet")
    assert (wrong.exit_code, "did you mean raft.heartbeat_interval?" in wrong.stderr) == (78, True)


def test_an_option_that_is_given_twice_is_refused() -> None:
    arguments = ["--id", "n1", "--data", "never-made", "--heartbeat-interval", "1", "--heartbeat-interval", "2"]
    found = SHELL.run("node", *arguments)
    assert (found.exit_code, "given 2 times: give it once" in found.stderr) == (2, True)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("command", [("demo", "--seconds"), ("status", "--timeout"), ("status", "--interval")])
def test_a_number_of_seconds_is_finite(command: tuple[str, str], text: str) -> None:
    found = SHELL.run(*command, text)
    assert found.exit_code == 2
    assert command[1] in found.stderr
