"""The list of access in the log on nodes that ask who speaks: it lets in and keeps out, also after starts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from forge_consensus.client.sync import Client
from forge_consensus.errors import AuthenticationFailedError, ConnectionFailedError, ConsensusError
from forge_consensus.security.credentials import Credentials
from forge_consensus.security.curve import KeyPair, read_key_file, write_key_file
from forge_consensus.testing.local.cluster import LocalCluster
from tests.worlds.cli_world import Shell

REFUSED = (AuthenticationFailedError, ConnectionFailedError)
OUT_SECONDS = 1.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(nodes=3, secure=True) as made:
        made.wait_for_leader()
        yield made


@contextmanager
def client_of(cluster: LocalCluster, pair: KeyPair, node: str = "", timeout: float = 10.0) -> Iterator[Client]:
    """A client with these keys, at one node or at all."""
    credentials = Credentials(pair, cluster.access.credentials("admin").servers)
    endpoints = [cluster.addresses[node]] if node else cluster.endpoints
    with Client(endpoints, timeout, follow=not node, credentials=credentials) as client:
        yield client


def is_let_in(cluster: LocalCluster, node: str, pair: KeyPair) -> bool:
    """Whether a node tells the holder of these keys its status."""
    with client_of(cluster, pair, node, 1.5) as client:
        try:
            client.status()
        except REFUSED:
            return False
        return True


def test_only_an_administrator_reads_and_changes_the_list(cluster: LocalCluster) -> None:
    pair = KeyPair.made()
    with cluster.client() as admin:
        assert admin.add_principal("writer", roles=["write"], keys=[pair.public])
    with client_of(cluster, pair) as writer:
        writer.put("k", 1)
        for forbidden in (writer.access, lambda: writer.add_principal("writer", roles=["admin"])):
            with pytest.raises(AuthenticationFailedError, match="admin"):
                forbidden()
        writer.put("k", 2)
    with cluster.client() as admin:
        (writer_now,) = [one for one in admin.access().principals if one.name == "writer"]
        assert writer_now.roles == ("write",)


def test_a_key_that_is_revoked_in_the_log_is_out_within_a_second_on_all_nodes(cluster: LocalCluster) -> None:
    pair = KeyPair.made()
    with cluster.client() as admin:
        admin.add_principal("gone", roles=["write"], keys=[pair.public])
        assert all(is_let_in(cluster, node, pair) for node in cluster.names)
        last, ended = [0.0], threading.Event()

        def write() -> None:
            with client_of(cluster, pair, timeout=5.0) as client:
                try:
                    while True:
                        client.put("written", 1)
                        last[0] = time.monotonic()
                except ConsensusError:
                    ended.set()

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        time.sleep(0.5)
        admin.revoke_key(pair.public)
        revoked = time.monotonic()
        assert ended.wait(20)
        thread.join(10)
        assert last[0] - revoked < OUT_SECONDS
        end = revoked + OUT_SECONDS
        while any(is_let_in(cluster, node, pair) for node in cluster.names):
            assert time.monotonic() < end + 3 * 1.5, "each look takes a while of its own"


def test_what_was_revoked_stays_out_when_the_nodes_start_again(cluster: LocalCluster) -> None:
    pair, kept = KeyPair.made(), KeyPair.made()
    with cluster.client() as admin:
        admin.add_principal("fired", roles=["write"], keys=[pair.public])
        admin.add_principal("kept", roles=["read"], keys=[kept.public])
        admin.remove_principal("fired")
    for node in cluster.names:
        cluster.kill(node)
    for node in cluster.names:
        cluster.restart(node)
    cluster.wait_for_leader()
    assert [is_let_in(cluster, node, pair) for node in cluster.names] == [False] * 3
    assert [is_let_in(cluster, node, kept) for node in cluster.names] == [True] * 3
    with client_of(cluster, kept) as client:
        client.get("k")


def test_keys_of_a_client_are_exchanged_under_load_without_a_failed_call(cluster: LocalCluster) -> None:
    old, new = KeyPair.made(), KeyPair.made()
    with cluster.client() as admin:
        admin.add_principal("busy", roles=["write"], keys=[old.public])
        with client_of(cluster, old) as before:
            for number in range(50):
                before.put("busy", number)
            admin.add_key("busy", new.public)
            with client_of(cluster, new) as after:
                for number in range(50):
                    before.put("busy", number)
                    after.put("busy", number)
                admin.revoke_key(old.public)
                for number in range(50):
                    after.put("busy", number)
                with pytest.raises(REFUSED):
                    before.put("busy", -1, timeout=2.0)


def test_commands_change_the_list_with_the_keys_of_a_clients_file(cluster: LocalCluster, tmp_path: Path) -> None:
    admin, node = cluster.access, cluster.names[0]
    servers = {name: [admin.pair(name).public] for name in cluster.names}
    for name, pair in (("admin", admin.pair("admin")), ("other", KeyPair.made())):
        write_key_file(tmp_path / f"{name}.key", pair)
        told = {"endpoints": cluster.endpoints, "curve_key_file": f"{name}.key", "servers": servers}
        (tmp_path / f"{name}.json").write_text(json.dumps({"client": told}))
    shell, file = Shell(""), tmp_path / "admin.json"
    public = read_key_file(tmp_path / "other.key").public
    added = shell.run("auth", "key", "add", "helper", public, "--role", "read", "--config", str(file))
    assert added.exit_code == 0, added.output
    assert is_let_in(cluster, node, read_key_file(tmp_path / "other.key"))
    refused = shell.run("auth", "user", "list", "--config", str(tmp_path / "other.json"))
    assert (refused.exit_code, refused.stdout) == (77, ""), refused.output
    rows = json.loads(shell.run("auth", "key", "list", "-o", "json", "--config", str(file)).stdout)["keys"]
    seen = {(row["name"], row["from"]): (row["key"], row["in_force"]) for row in rows}
    assert seen["helper", "log"] == (public, True)
    assert seen["admin", "file"] == (admin.pair("admin").public, True)
    assert {name for name, place in seen if place == "file"} == {"admin", *cluster.names}
    table = shell.run("auth", "key", "list", "--config", str(file)).stdout.splitlines()
    assert [line.split()[-2:] for line in table if public in line] == [["valid", "log"]]
    users = json.loads(shell.run("auth", "user", "list", "-o", "json", "--config", str(file)).stdout)["users"]
    assert "helper" in [row["name"] for row in users]
