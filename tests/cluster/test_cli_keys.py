"""``kv watch``, ``kv transaction``, ``kv append`` and ``lease`` against a real node."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from forge_consensus.client.sync import Client
from tests.worlds.cli_world import NO_CONTEXTS, Shell, running_node
from tests.worlds.source_tree import ROOT
from tests.worlds.waiting import wait_for


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A command line with a node behind it."""
    with running_node(Path(tmp_path_factory.mktemp("keys"))) as node:
        yield Shell(node.address)


class Running:
    """A command that runs as a process of its own, as in a terminal."""

    def __init__(self, shell: Shell, *arguments: str) -> None:
        known = {name: text for name, text in NO_CONTEXTS.items() if text is not None}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "forge_consensus", *arguments],
            cwd=ROOT,
            env={**os.environ, **known, "FORGE_CONSENSUS_ENDPOINTS": shell.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def said(self) -> str:
        """The next line on stderr, where it says that it has begun."""
        assert self.process.stderr is not None
        return self.process.stderr.readline()

    def end(self) -> tuple[int, str, str]:
        """Press Ctrl-C; returns exit code, stdout and the rest of stderr."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


def test_keys_are_shown_with_their_revisions(shell: Shell) -> None:
    shell.run("kv", "put", "meta/a", "1")
    shell.run("kv", "put", "meta/a", "2")
    row = shell.json("kv", "get", "meta/a", "--meta")
    assert (row["value"], row["lease"]) == ("2", 0)
    assert 0 < row["created"] < row["modified"] <= row["applied_index"]
    assert "created" not in shell.json("kv", "get", "meta/a")
    lines = shell.run("kv", "get", "meta/a", "--meta").stdout.splitlines()
    assert lines[0].split() == ["KEY", "KIND", "VALUE", "CREATED", "MODIFIED", "LEASE"]
    assert lines[1].split() == ["meta/a", "text", "2", str(row["created"]), str(row["modified"]), "-"]
    assert shell.run("kv", "get", "meta/none", "--meta").exit_code == 1
    assert shell.run("kv", "get", "meta/a", "--meta", "--raw").exit_code == 2
    (pair,) = shell.json("kv", "scan", "meta/", "--meta")["pairs"]
    assert pair == {name: row[name] for name in ("key", "value", "kind", "created", "modified", "lease")}


def test_a_scan_has_bounds_and_both_directions(shell: Shell) -> None:
    for letter in "abcd":
        shell.run("kv", "put", f"order/{letter}", letter)

    def keys(*options: str) -> str:
        return "".join(pair["value"] for pair in shell.json("kv", "scan", "order/", *options)["pairs"])

    assert keys() == "abcd"
    assert keys("--reverse") == "dcba"
    assert keys("--start", "order/b", "--end", "order/d") == "bc"
    assert keys("--after", "order/b") == "cd"
    assert keys("--reverse", "--limit", "1") == "d"
    assert shell.run("kv", "scan", "order/", "--reverse").stdout.splitlines()[1].split() == ["order/d", "text", "d"]


def test_appended_keys_are_written_out(shell: Shell) -> None:
    keys = [shell.run("kv", "append", "jobs/", str(number)).stdout.strip() for number in range(3)]
    assert keys == sorted(keys)
    assert shell.run("kv", "get", keys[1]).stdout == "1\n"
    assert shell.json("kv", "append", "jobs/", "x")["key"] > keys[-1]


def test_keys_go_with_their_time_or_lease(shell: Shell) -> None:
    assert shell.run("kv", "put", "short", "1", "--ttl", "300ms").stdout == "ok\n"
    wait_for(lambda: shell.run("kv", "get", "short").exit_code == 1, 15, "its end")
    lease = shell.run("lease", "grant", "30s").stdout.strip()
    assert lease.isdigit()
    assert shell.run("kv", "put", "leased", "1", "--lease", lease).exit_code == 0
    assert shell.json("kv", "get", "leased", "--meta")["lease"] == int(lease)
    shown = shell.json("lease", "show", lease)
    assert (shown["found"], shown["ttl"], shown["keys"], shown["count"]) == (True, 30.0, ["leased"], 1)
    assert "leased" in shell.run("lease", "show", lease).stdout
    listed = shell.json("lease", "list")
    assert listed["leases"][-1]["lease"] == int(lease)
    assert shell.run("lease", "list").stdout.splitlines()[0].split() == ["LEASE", "LIVES", "FOR", "LEFT", "KEYS"]
    assert shell.run("lease", "keep-alive", lease, "--once").stdout == f"lease {lease} lives for 30 s\n"
    assert shell.run("lease", "revoke", lease).stdout == "revoked, 1 key deleted\n"
    assert shell.run("kv", "get", "leased").exit_code == 1
    gone = shell.run("lease", "show", lease)
    assert (gone.exit_code, gone.stdout) == (1, "")
    assert f"there is no lease {lease}" in gone.stderr
    refused = shell.run("lease", "keep-alive", lease)
    assert refused.exit_code == 65
    assert f"lease {lease} does not exist" in refused.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("kv", "put", "k", "v", "--ttl", "1s", "--lease", "1"),
        ("kv", "put", "k", "v", "--ttl", "0"),
        ("kv", "put", "k", "v", "--ttl", "soon"),
        ("kv", "put", "k", "v", "--ttl", "1000h000"),
        ("kv", "put", "k", "v", "--lease", "0"),
        ("lease", "grant", "0.01s"),
        ("lease", "show", "first"),
        ("kv", "watch"),
        ("kv", "watch", "k", "--prefix", "p"),
        ("kv", "watch", "k", "--count", "0"),
        ("kv", "watch", "k", "--since", "-1"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(shell: Shell, arguments: tuple[str, ...]) -> None:
    assert shell.run(*arguments).exit_code == 2


def test_a_lease_is_kept_alive_until_ctrl_c(shell: Shell) -> None:
    lease = shell.run("lease", "grant", "20s").stdout.strip()
    keeping = Running(shell, "lease", "keep-alive", lease)
    assert "Ctrl-C" in keeping.said()

    def left() -> float:
        shell.run("kv", "put", "clock", "ticks")  # what is left is told as of the last entry
        return float(shell.json("lease", "show", lease)["left"])

    wait_for(lambda: left() < 18.5, 30, "less of it is left")
    wait_for(lambda: left() > 18.5, 30, "it was kept alive")
    code, out, err = keeping.end()
    assert (code, out) == (130, f"lease {lease} lives for 20 s\n")
    assert "interrupted" in err


def test_who_keeps_a_lease_is_told_of_its_loss(shell: Shell) -> None:
    lease = shell.run("lease", "grant", "20s").stdout.strip()
    keeping = Running(shell, "lease", "keep-alive", lease)
    keeping.said()
    shell.run("lease", "revoke", lease)
    _, err = keeping.process.communicate(timeout=40)
    assert keeping.process.returncode == 1
    assert f"lease {lease} is lost" in err


def test_a_transaction_is_carried_out_as_it_is_written(shell: Shell) -> None:
    text = json.dumps(
        {
            "if": [["exists", "tx/a", "==", False]],
            "then": [{"type": "set", "key": "tx/a", "value": 1}, {"type": "increment", "key": "tx/n"}],
            "else": [{"type": "get", "key": "tx/a"}],
        }
    ).encode()
    first = shell.run("kv", "transaction", stdin=text)
    assert (first.exit_code, first.stdout) == (0, "null\n1\n")
    second = shell.run("kv", "transaction", "-", stdin=text)
    assert (second.exit_code, second.stdout) == (1, "1\n")
    assert "a comparison did not hold, so else was carried out" in second.stderr
    told = shell.run("kv", "transaction", "-", "-o", "json", stdin=text)
    assert json.loads(told.stdout) == {"succeeded": False, "results": [1]}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", 2), ("[]", 2), ('{"if": 1}', 2), ('{"when": []}', 2), ('{"then": [], "if": []}', 0), ("{}", 0),
        ('{"if": [["size", "k", "==", 1]]}', 65), ('{"then": [{"type": "delete_prefix", "prefix": ""}]}', 65),
    ],
)  # fmt: skip
def test_what_is_no_transaction_is_refused(shell: Shell, text: str, code: int) -> None:
    assert shell.run("kv", "transaction", stdin=text.encode()).exit_code == code


def test_a_watch_prints_each_change(shell: Shell) -> None:
    shell.run("kv", "put", "seen/a", "old")
    since = shell.json("kv", "get", "seen/a")["applied_index"] + 1
    shell.run("kv", "put", "seen/a", "new")
    shell.run("kv", "put", "seen/b", "5", "--as", "json", "--ttl", "200ms")
    shell.run("kv", "delete", "seen/a")
    done = shell.run("kv", "watch", "--prefix", "seen/", "--since", str(since), "--count", "4", "--timeout", "10s")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert (done.exit_code, done.stderr) == (0, "")
    assert sorted(line[1:] for line in lines) == [
        ["delete", "seen/a"],
        ["expire", "seen/b"],
        ["put", "seen/a", "text", "new"],
        ["put", "seen/b", "number", "5"],
    ]
    rows = shell.run("kv", "watch", "seen/a", "--since", str(since), "--count", "2", "-o", "json").stdout.splitlines()
    first, second = map(json.loads, rows)
    assert (first["change"], first["key"], first["value"], first["kind"]) == ("put", "seen/a", "new", "text")
    assert (second["change"], second["value"], second["kind"]) == ("delete", None, None)
    assert first["created"] < first["index"] < second["index"]


def test_a_watch_ends_after_silence_and_says_whether_that_is_a_failure(shell: Shell) -> None:
    began = time.monotonic()
    quiet = shell.run("kv", "watch", "quiet", "--timeout", "500ms")
    assert (quiet.exit_code, quiet.stdout) == (0, "")
    assert time.monotonic() - began < 20
    with Client(shell.address) as client:
        threading.Timer(0.3, client.put, ("quiet", "1")).start()
        late = shell.run("kv", "watch", "quiet", "--timeout", "1s", "--count", "2")
    assert late.exit_code == 75
    assert len(late.stdout.splitlines()) == 1
    assert re.search(r"1 of 2 changes came, and then none for 1 s: go on with --since \d+", late.stderr)


def test_a_watch_ends_with_ctrl_c(shell: Shell) -> None:
    watching = Running(shell, "kv", "watch", "live")
    assert "Ctrl-C ends it" in watching.said()
    shell.run("kv", "put", "live", "yes")
    assert watching.process.stdout is not None
    assert watching.process.stdout.readline().split()[1:] == ["put", "live", "text", "yes"]
    code, _, err = watching.end()
    assert (code, err) == (130, "interrupted\n")
