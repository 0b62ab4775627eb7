"""What ``forge-consensus node`` refuses before it touches anything."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from forge_consensus.cli.node import Seconds, Size, parse_listen, parse_peers
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
        (("--peers", "n2=127.0.0.1:7002"), "--listen"),
        (("--peers", "n1=127.0.0.1:7001,n2=127.0.0.1:7001"), "share one address"),
        (("--peers", "n1=127.0.0.1:7001,n2=127.0.0.1:7002", "--listen", "127.0.0.1:0"), "port 0"),
        ((), "--listen"),
        (("--listen", "127.0.0.1:0", "--data", ""), "storage_path"),
        (("--listen", "127.0.0.1:0", "--map-bytes", "99999999999T"), "map_bytes"),
        (("--listen", "nonsense"), "host:port"),
        (("--listen", "127.0.0.1:x"), "host:port"),
        (("--listen", "127.0.0.1:1", "--cluster", ""), "cluster_id"),
        (("--listen", "127.0.0.1:1", "--heartbeat-interval", "1s"), "election_timeout_min"),
        (("--listen", "127.0.0.1:1", "--election-timeout-max", "100ms"), "election_timeout_max"),
    ],
)
def test_a_wrong_configuration_is_78_and_says_what_is_wrong(
    tmp_path: Path, arguments: tuple[str, ...], part: str
) -> None:
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


def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "n1").write_text("a file")
    found = SHELL.run("node", "--id", "n1", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "n1"))
    assert found.exit_code == 2
    assert "is a file" in found.stderr


def test_peers_and_listen_fit_together() -> None:
    peers = parse_peers(" n1 = 127.0.0.1:7001 , n2=[::1]:7002,")
    assert peers == {"n1": "127.0.0.1:7001", "n2": "[::1]:7002"}
    assert parse_listen(None, "n2", peers) == "[::1]:7002"
    assert parse_listen("0.0.0.0:7001", "n1", peers) == "0.0.0.0:7001"
    assert parse_listen("127.0.0.1:0", "n1", {}) == "127.0.0.1:0"
    with pytest.raises(InvalidConfigError):
        parse_listen("two words:0", "n1", {})


@pytest.mark.parametrize(("text", "seconds"), [("0.1", 0.1), ("100ms", 0.1), ("1.5s", 1.5), (".5", 0.5), (2, 2.0)])
def test_durations_are_read(text: object, seconds: float) -> None:
    assert Seconds().convert(text, None, None) == pytest.approx(seconds)


@pytest.mark.parametrize(("text", "count"), [("4096", 4096), ("64MiB", 64 << 20), ("2G", 2 << 30), ("1 kb", 1024)])
def test_sizes_are_read(text: str, count: int) -> None:
    assert Size().convert(text, None, None) == count


@pytest.mark.parametrize(("kind", "text"), [(Seconds(), "-1"), (Seconds(), "1m"), (Size(), "0"), (Size(), "1.5G")])
def test_what_is_none_is_refused(kind: click.ParamType[float], text: str) -> None:
    with pytest.raises(click.BadParameter):
        kind.convert(text, None, None)
