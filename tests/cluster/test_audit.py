"""The audit of a secure cluster of three processes: who did what is recorded once, by the node that did it.

The cluster is that of `init --secure`, each node with an audit file. It is administered by its commands and its admin
API, and strangers, readers and revoked keys are turned away.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_consensus import Client
from forge_consensus.cli.secure_set import write_secure_set
from forge_consensus.config.client_file import read_client_file
from forge_consensus.errors import AuthenticationFailedError
from forge_consensus.events.types import AuditRecorded
from forge_consensus.feed.event_feed import EventFeed
from forge_consensus.security.credentials import Credentials
from forge_consensus.security.curve import KeyPair
from forge_consensus.testing.local.ports import free_ports
from tests.worlds.cli_world import Shell
from tests.worlds.waiting import wait_for

SECONDS = 30.0
NODES = ("n1", "n2", "n3")
SHELL = Shell("")
GREETING_WITHOUT_KEYS = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
"""How ZMTP 3.1 begins where nobody has keys."""
Row = dict[str, Any]


class Cluster:
    """Three nodes with an audit file each."""

    def __init__(self, folder: Path) -> None:
        ports = free_ports(6)
        self.folder = folder
        self.nodes = {node: f"127.0.0.1:{port}" for node, port in zip(NODES, ports[:3], strict=True)}
        self.http = {node: f"127.0.0.1:{port}" for node, port in zip(NODES, ports[3:], strict=True)}
        write_secure_set(self.nodes, "vault", folder)
        self.processes = {node: self.start(node) for node in NODES}

    def file(self, node: str) -> Path:
        return self.folder / f"{node}.audit"

    def start(self, node: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "forge_consensus", "node", "-c", str(self.folder / f"{node}.yaml")]
        variables = {"FORGE_CONSENSUS_SECURITY__AUDIT_FILE": str(self.file(node))}
        with (self.folder / f"{node}.log").open("ab") as out:
            return subprocess.Popen(
                [*command, "--http", self.http[node]],
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, **variables},
            )

    def records(self, node: str) -> list[Row]:
        """The records in a node's file."""
        rows = [json.loads(line) for line in self.file(node).read_bytes().splitlines()]
        return [row for row in rows if row["kind"] == "record"]

    def all_records(self, of: Callable[[Row], bool]) -> list[Row]:
        """The records of that kind in all files."""
        return [row for node in NODES for row in self.records(node) if of(row)]

    def one(self, of: Callable[[Row], bool]) -> Row:
        """The one record of that kind, waited for."""
        wait_for(lambda: self.all_records(of), SECONDS, "it is recorded")
        (found,) = self.all_records(of)
        return found

    def run(self, *words: str, code: int = 0, config: str = "admin") -> str:
        done = SHELL.run(*words, "--config", str(self.folder / f"{config}.yaml"), stdin=None)
        assert done.exit_code == code, (words, done.exit_code, done.output)
        return done.output

    def page(self, node: str, path: str, token: str) -> str:
        """What the API of a node answers."""
        return self.answered(node, "GET", path, token)[1]

    def ask(self, node: str, method: str, path: str, token: str = "", body: object = None) -> int:
        """The status with which the API of a node answers."""
        return self.answered(node, method, path, token, body)[0]

    def answered(self, node: str, method: str, path: str, token: str, body: object = None) -> tuple[int, str]:
        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"https://{self.http[node]}{path}", data, method=method)
        if token:
            request.add_header("Authorization", f"Bearer {(self.folder / token).read_text().strip()}")
        request.add_header("Content-Type", "application/json")
        try:
            answer = urllib.request.urlopen(request, timeout=SECONDS, context=context)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            return int(answer.status or 0), answer.read().decode("utf-8", "replace")

    def leader(self) -> str:
        with Client.from_config(self.folder / "admin.yaml", timeout=SECONDS) as client:
            found = client.locate().leader
        assert found in NODES
        return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("audit") / "set")
    try:
        with Client.from_config(made.folder / "admin.yaml", timeout=SECONDS) as client:
            client.put("first", 1)
        yield made
    finally:
        for process in made.processes.values():
            process.kill()
            process.wait(SECONDS)


def test_a_change_of_the_list_of_access_is_recorded_by_the_leader_with_the_key_that_asked(cluster: Cluster) -> None:
    token = cluster.run("auth", "token", "create", "prometheus", "--role", "metrics")
    row = cluster.one(lambda row: row["action"] == "@access.add_token")
    assert (row["who"], row["identity"], row["role"], row["origin"]) == ("admin", "client", "admin", "127.0.0.1")
    assert (row["outcome"], row["via"], row["count"]) == ("done", "", 1)
    assert row["subject"].startswith("prometheus ")
    assert row["node"] == cluster.leader()
    assert token.strip()[20:] not in cluster.file(row["node"]).read_text()


def test_a_reader_is_denied_a_write_and_that_is_recorded(cluster: Cluster) -> None:
    output = cluster.run("kv", "put", "k", "1", code=77, config="reader")
    assert "CONSENSUS_AUTHENTICATION_FAILED" in output
    row = cluster.one(lambda row: row["who"] == "reader" and row["outcome"] == "denied")
    assert (row["action"], row["code"]) == ("OpenSession", "CONSENSUS_AUTHENTICATION_FAILED")
    assert "write" in row["subject"]


def test_an_unknown_key_and_a_connection_without_one_are_recorded(cluster: Cluster) -> None:
    servers = read_client_file(cluster.folder / "admin.yaml").servers
    pair = KeyPair.made()
    stranger = Client([cluster.nodes["n2"]], 1.5, follow=False, credentials=Credentials(pair, servers))
    with stranger as client, pytest.raises(AuthenticationFailedError, match="lets this client in"):
        client.status()
    row = cluster.one(lambda row: row["who"] == pair.public)
    assert (row["node"], row["identity"], row["action"], row["subject"]) == (
        "n2",
        "unknown",
        "handshake",
        "unknown key",
    )
    assert row["origin"] == "127.0.0.1"
    host, _, port = cluster.nodes["n2"].partition(":")
    with socket.create_connection((host, int(port))) as plain:
        plain.sendall(GREETING_WITHOUT_KEYS)
        cluster.one(lambda row: row["subject"] == "connection without encryption")


def test_the_api_records_whom_it_turns_away(cluster: Cluster) -> None:
    assert cluster.ask("n3", "GET", "/v1/cluster") == 401
    row = cluster.one(lambda row: row["action"] == "get_v1_cluster")
    assert (row["node"], row["identity"], row["origin"], row["outcome"]) == ("n3", "unknown", "127.0.0.1", "denied")
    assert cluster.ask("n3", "PUT", "/v1/kv/k", "reader.token", {"value": 1}) == 403
    row = cluster.one(lambda row: row["action"] == "put_v1_kv_key")
    assert (row["node"], row["who"], row["identity"], row["subject"]) == ("n3", "reader", "token", "write")


def test_an_act_asked_of_a_follower_is_recorded_once_by_the_leader_for_whom_asked(cluster: Cluster) -> None:
    leader = cluster.leader()
    follower, other = (node for node in NODES if node != leader)
    change = {"priority": 3}
    assert cluster.ask(follower, "PATCH", f"/v1/members/{other}", "admin.token", change) == 202
    row = cluster.one(lambda row: row["action"] == "ChangeMembers" and row["identity"] == "token")
    assert (row["node"], row["who"], row["outcome"]) == (leader, "admin", "done")
    assert row["origin"] == "127.0.0.1"
    assert row["via"].startswith(f"{follower}-")
    assert "priority" in row["subject"]
    cluster.run("members", "update", other, "--priority", "4")
    row = cluster.one(lambda row: row["action"] == "ChangeMembers" and row["identity"] == "client")
    assert (row["node"], row["who"], row["via"]) == (leader, "admin", "")
    access = {"type": "@access", "payload": {"do": "put", "name": "shop", "roles": ["read"], "rules": []}}
    assert cluster.ask(follower, "POST", "/v1/apply", "admin.token", access) == 200
    row = cluster.one(lambda row: row["action"] == "@access.put" and row["subject"].startswith("shop"))
    assert (row["node"], row["who"], row["identity"]) == (leader, "admin", "token")
    assert row["via"].startswith(f"{follower}-")


def test_backups_and_readings_of_the_configuration_are_recorded_where_they_happen(cluster: Cluster) -> None:
    assert cluster.ask("n2", "GET", "/v1/backup", "admin.token") == 200
    row = cluster.one(lambda row: row["action"] == "get_v1_backup")
    assert (row["node"], row["who"], row["outcome"]) == ("n2", "admin", "done")
    row = cluster.one(lambda row: row["action"] == "MakeSnapshot" and row["node"] == "n2")
    assert (row["who"], row["identity"], row["via"]) == ("admin", "token", "")
    assert cluster.ask("n2", "POST", "/v1/config/reload", "admin.token", {}) == 200
    row = cluster.one(lambda row: row["action"] == "post_v1_config_reload")
    assert (row["node"], row["who"]) == ("n2", "admin")
    cluster.processes["n1"].send_signal(signal.SIGHUP)
    row = cluster.one(lambda row: row["action"] == "ReloadConfig")
    assert (row["node"], row["identity"], row["origin"]) == ("n1", "operator", "local")


def test_an_access_file_that_has_changed_is_recorded_as_the_operators(cluster: Cluster) -> None:
    file = cluster.folder / "access.json"
    listed = json.loads(file.read_text())
    listed["clients"]["newcomer"] = {"roles": ["read"], "keys": [KeyPair.made().public]}
    for text, outcome in ((json.dumps(listed), "done"), ("{", "failed")):
        new = file.with_suffix(".new")
        new.write_text(text)
        os.replace(new, file)

        def told(row: Row, outcome: str = outcome) -> bool:
            return bool(row["action"] == "access file" and row["outcome"] == outcome)

        wait_for(lambda: len(cluster.all_records(told)) == len(NODES), SECONDS, "each node records it")
        assert {row["identity"] for row in cluster.all_records(told)} == {"operator"}


def test_the_metrics_count_by_outcome(cluster: Cluster) -> None:
    cluster.run("auth", "user", "set", "counted", "--role", "metrics")
    assert [cluster.ask(node, "GET", "/v1/node") for node in NODES] == [401] * 3
    counts = dict.fromkeys(("done", "failed", "denied", "unknown"), 0.0)
    for node in NODES:
        page = cluster.page(node, "/metrics", "admin.token")
        for outcome in counts:
            pattern = rf'(?m)^forge_consensus_audit_records_total\{{.*outcome="{outcome}".*\}} (\S+)$'
            (count,) = re.findall(pattern, page)
            counts[outcome] += float(count)
        assert re.search(r"(?m)^forge_consensus_audit_file_missing_records_total\{.*\} 0.0$", page)
    for outcome, count in counts.items():
        told = [row["count"] for row in cluster.all_records(bool) if row["outcome"] == outcome]
        assert sum(told) <= count, "some wait to be told with others"
    assert counts["done"] >= 1
    assert counts["denied"] >= 3


def test_a_handover_is_recorded_when_the_other_one_leads(cluster: Cluster) -> None:
    leader = cluster.leader()
    cluster.run("leader", "stepdown")
    row = cluster.one(lambda row: row["action"] == "TransferLeadership")
    assert (row["node"], row["who"], row["outcome"]) == (leader, "admin", "done")


def test_the_file_says_what_the_journal_says(cluster: Cluster) -> None:
    cluster.run("auth", "user", "set", "told", "--role", "metrics")
    cluster.one(lambda row: row["subject"] == "told roles metrics")
    config = cluster.folder / "admin.yaml"
    with EventFeed.from_config(config, kinds=["audit.*"], since=0, follow=False) as feed:
        journal = [event for event in feed if isinstance(event, AuditRecorded)]
    assert "told roles metrics" in {event.subject for event in journal}
    for event in journal:
        rows = [row for row in cluster.records(event.node_id) if row["sequence"] == event.sequence]
        assert [(row["who"], row["action"], row["count"]) for row in rows] == [(event.who, event.action, event.count)]


def test_the_check_of_a_file_notices_a_flipped_bit_and_by_its_head_a_cut(cluster: Cluster, tmp_path: Path) -> None:
    cluster.run("auth", "user", "set", "checked", "--role", "metrics")
    node = str(cluster.one(lambda row: row["subject"] == "checked roles metrics")["node"])
    file, changed, cut = tmp_path / "whole", tmp_path / "changed", tmp_path / "cut"
    file.write_bytes(data := cluster.file(node).read_bytes())
    done = SHELL.run("audit", "verify", str(file), "-o", "json", stdin=None)
    found = json.loads(done.stdout)
    assert (done.exit_code, found["holds"], found["node"]) == (0, True, node)
    assert SHELL.run("audit", "verify", str(file), "--head", found["head"], stdin=None).exit_code == 0
    middle = len(data) // 2
    changed.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    done = SHELL.run("audit", "verify", str(changed), stdin=None)
    assert done.exit_code == 65
    assert "BROKEN" in done.stdout
    cut.write_bytes(b"".join(data.splitlines(keepends=True)[:-1]))
    assert SHELL.run("audit", "verify", str(cut), stdin=None).exit_code == 0
    assert SHELL.run("audit", "verify", str(cut), "--head", found["head"], stdin=None).exit_code == 65
    assert len(SHELL.run("audit", "show", str(file), stdin=None).stdout.splitlines()) == found["records"]
