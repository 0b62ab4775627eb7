"""A cluster from ``init --secure``: commands, programs and the admin API by its files, and nothing plain on disk."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from forge_consensus import AsyncClient, Client, EventFeed
from forge_consensus.cli.secure_set import write_secure_set
from forge_consensus.errors import AuthenticationFailedError, ConnectionFailedError
from forge_consensus.events.types import LeaderElected
from forge_consensus.testing.local.ports import free_ports

PLANTED = "planted-1f6b0c9e"
SECONDS = 30.0


class SecureCluster:
    """Three nodes as processes, each started by ``node -c`` with the file that ``init --secure`` wrote."""

    def __init__(self, folder: Path) -> None:
        ports = free_ports(6)
        self.folder = folder
        self.nodes = {f"n{number + 1}": f"127.0.0.1:{port}" for number, port in enumerate(ports[:3])}
        self.http = {f"n{number + 1}": f"127.0.0.1:{port}" for number, port in enumerate(ports[3:])}
        write_secure_set(self.nodes, "vault", folder)
        self.processes = [self.start(node) for node in self.nodes]

    def start(self, node: str) -> subprocess.Popen[bytes]:
        file, log = str(self.folder / f"{node}.yaml"), self.folder / f"{node}.log"
        command = [sys.executable, "-m", "forge_consensus", "node", "-c", file, "--http", self.http[node]]
        with log.open("wb") as out:
            return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=self.folder)

    def run(self, *words: str, config: str = "admin") -> subprocess.CompletedProcess[str]:
        return self.bare(*words, "--config", str(self.folder / f"{config}.yaml"))

    def bare(self, *words: str) -> subprocess.CompletedProcess[str]:
        given = [sys.executable, "-m", "forge_consensus", *words]
        return subprocess.run(given, capture_output=True, text=True, timeout=SECONDS, cwd=self.folder, check=False)

    def ask(self, node: str, path: str, token: str | None) -> tuple[int, str]:
        """Ask the admin API over TLS; returns the status and the body."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        request = urllib.request.Request(f"https://{self.http[node]}{path}")
        if token is not None:
            request.add_header("Authorization", f"Bearer {(self.folder / f'{token}.token').read_text().strip()}")
        try:
            with urllib.request.urlopen(request, timeout=SECONDS, context=context) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(SECONDS)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureCluster]:
    made = SecureCluster(tmp_path_factory.mktemp("secure") / "set")
    try:
        with Client.from_config(made.folder / "admin.yaml", timeout=SECONDS) as client:
            client.put("first", PLANTED)
        yield made
    finally:
        made.stop()


def test_commands_are_who_their_file_says(cluster: SecureCluster) -> None:
    assert cluster.run("status").returncode == 0
    assert cluster.run("kv", "put", "greeting", "hello").returncode == 0
    assert cluster.run("kv", "get", "greeting", config="reader").stdout == "hello\n"
    refused = cluster.run("kv", "put", "greeting", "no", config="reader")
    assert refused.returncode == 77
    assert "client reader has no permission" in refused.stderr
    assert cluster.run("members", "remove", "n3", config="reader").returncode == 77
    watched = cluster.run("events", "watch", "--since", "0", "-o", "json", config="reader")
    assert '"consensus.leader.elected"' in watched.stdout


def test_the_doctor_finds_a_secure_set_well_and_asks_the_cluster_with_its_keys(cluster: SecureCluster) -> None:
    for given in (["--config", str(cluster.folder / "admin.yaml")], ["--endpoints", cluster.nodes["n1"]]):
        done = cluster.bare("doctor", "-c", str(cluster.folder / "n1.yaml"), *given, "-o", "json")
        rows = json.loads(done.stdout)["findings"]
        levels = {row["check"]: row["level"] for row in rows if row["level"] != "ok" or row["check"] == "members"}
        assert levels.keys() <= {"members", "interpreter", "open files", "free space", "file system", "disk"}, rows
        assert levels["members"] == "ok", rows


def test_programs_take_the_same_files(cluster: SecureCluster) -> None:
    with Client.from_config(cluster.folder / "admin.yaml", timeout=SECONDS) as client:
        client.put("k", 1)

    async def read() -> int:
        async with AsyncClient.from_config(cluster.folder / "reader.yaml", timeout=SECONDS) as other:
            found: int = await other.get("k")
            with pytest.raises(AuthenticationFailedError):
                await other.put("k", 2)
            return found

    assert asyncio.run(read()) == 1
    with EventFeed.from_config(cluster.folder / "reader.yaml", [LeaderElected], since=0, timeout=SECONDS) as feed:
        assert isinstance(feed.get(), LeaderElected)


def test_who_has_no_key_is_not_heard(cluster: SecureCluster) -> None:
    with Client(list(cluster.nodes.values()), timeout=1.0) as client, pytest.raises(ConnectionFailedError) as refused:
        client.get("k", consistency="stale")
    assert "this side has none" in str(refused.value)


def test_the_admin_api_speaks_tls_and_asks_for_a_token(cluster: SecureCluster) -> None:
    assert cluster.ask("n1", "/livez", None)[0] == 200
    assert cluster.ask("n1", "/v1/cluster", None)[0] == 401
    status, body = cluster.ask("n1", "/v1/cluster", "reader")
    assert status == 200
    assert "vault" in body
    assert cluster.ask("n2", "/v1/kv/first", "reader")[0] == 200
    answers = {node: cluster.ask(node, "/v1/kv/first", "admin")[0] for node in cluster.nodes}
    assert set(answers.values()) == {200}, "also a node that does not lead asks the leader, with a key of its own"


def test_nothing_that_was_written_is_plain_on_any_disk(cluster: SecureCluster) -> None:
    for node in cluster.nodes:
        assert cluster.run("snapshot", "take", "--from", cluster.nodes[node]).returncode == 0
    backup = cluster.folder / "backup"
    end = time.monotonic() + SECONDS
    files: list[Path] = []
    while not any("snapshots" in path.parts for path in files) and time.monotonic() < end:
        files = [path for path in (cluster.folder / "data").rglob("*") if path.is_file()]
    assert any("snapshots" in path.parts for path in files)
    assert not [path for path in files if PLANTED.encode() in path.read_bytes()]
    assert json.loads(cluster.run("kv", "get", "first", "-o", "json").stdout)["value"] == PLANTED
    assert not backup.exists()


def test_a_load_is_made_with_the_keys_of_the_file(cluster: SecureCluster) -> None:
    given = ("--seconds", "0.2", "-o", "json")
    assert json.loads(cluster.run("check", "perf", *given).stdout)["failed"] == 0
    assert cluster.run("bench", "--outstanding", "4", *given).returncode == 2, "it holds keys, and nobody said --yes"
    found = json.loads(cluster.run("bench", "--outstanding", "4", "--yes", *given).stdout)
    assert (found["is_ok"], found["left"]) == (True, "")
    assert cluster.run("bench", "--outstanding", "4", "--yes", *given, config="reader").returncode == 77
