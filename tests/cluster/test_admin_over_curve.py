"""The admin API of nodes that speak CURVE: it asks everybody, reaches the others, and goes by the list of its node."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from forge_consensus import ConsensusExtension
from forge_consensus.security.access import Principal, Token
from forge_consensus.security.curve import KeyPair, write_key_file
from forge_consensus.security.permissions import Role
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.node_process import NodeProcess
from tests.worlds.waiting import wait_for

SERVED = re.compile(r"^serving .*, (http://\S+)/$", re.MULTILINE)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Three nodes with keys, each with the API."""
    with LocalCluster(secure=True, cluster_id="curved", extra_args=("--http", "127.0.0.1:0")) as made:
        made.wait_for_leader()
        yield made


def client(cluster: LocalCluster, name: str, role: Role) -> str:
    """Have a client known to all nodes by a token; returns the token."""
    token, text = Token.made()
    cluster.access.take(cluster.access.listed.with_principal(Principal(name, frozenset({role}), tokens=(token,))))
    return text


def webs(cluster: LocalCluster, token: str) -> dict[str, httpx.Client]:
    """A client of each node's API."""
    found = {}
    for name, node in cluster.nodes.items():
        assert isinstance(node, NodeProcess)
        url = SERVED.findall(node.output())[-1]
        found[name] = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=10)
    return found


def wait_until_healthy(web: httpx.Client) -> None:
    """Wait until the node behind an API reaches all others."""

    def is_healthy() -> bool:
        answer = web.get("/v1/cluster")  # the node may not have taken the list yet
        return answer.status_code == 200 and answer.json()["health"] == "healthy"

    wait_for(is_healthy, 30, "the node reaches all others")


def test_every_node_answers_those_whom_the_list_knows_and_nobody_else(cluster: LocalCluster) -> None:
    reader = {"Authorization": f"Bearer {client(cluster, 'reader', 'read')}"}
    found = webs(cluster, client(cluster, "boss", "admin"))
    for name, web in found.items():
        wait_until_healthy(web)
        assert web.put(f"/v1/kv/{name}", content="1", headers={"Content-Type": "text/plain"}).status_code == 200
        events = web.get("/v1/events?recent=100", headers={"Accept": "application/json"}).json()["events"]
        assert len({event["node_id"] for event in events}) == 3, "it hears all nodes"
        assert web.get("/v1/kv", headers=reader).status_code == 200
        assert web.delete(f"/v1/kv/{name}", headers=reader).status_code == 403
        assert web.get("/v1/cluster", headers={"Authorization": ""}).status_code == 401
        assert web.get("/livez", headers={"Authorization": ""}).status_code == 200
    leader = cluster.wait_for_leader()
    other = next(name for name in found if name != leader)
    assert found[other].post("/v1/leader/transfer", json={"target": other}).status_code == 200
    for web in found.values():
        web.close()


def test_a_token_is_made_rotated_and_revoked_at_any_node_and_all_go_by_it(cluster: LocalCluster) -> None:
    """Under load: no request fails while it is exchanged, and the revoked one is out on all nodes within a second."""
    found = webs(cluster, client(cluster, "boss", "admin"))
    for web in found.values():
        wait_until_healthy(web)
    leader = cluster.wait_for_leader()
    asked = found[next(name for name in found if name != leader)]
    first = asked.post("/v1/access/tokens", json={"name": "robot", "roles": ["read"], "ttl": 600}).json()
    robots = webs(cluster, first["token"])
    failures: list[tuple[str, int]] = []
    ending = threading.Event()

    def load() -> None:
        while not ending.is_set():
            for name, web in robots.items():
                if (status := web.get("/v1/kv").status_code) != 200:
                    failures.append((name, status))

    wait_for(lambda: all(web.get("/v1/kv").status_code == 200 for web in robots.values()), 10, "all nodes know it")
    thread = threading.Thread(target=load)
    thread.start()
    second = asked.post(f"/v1/access/tokens/{first['id']}/rotate", json={"ttl": 600, "overlap": 60}).json()
    rotated = webs(cluster, second["token"])
    wait_for(lambda: all(web.get("/v1/kv").status_code == 200 for web in rotated.values()), 10, "all nodes know it")
    time.sleep(0.3)
    ending.set()
    thread.join(10)
    assert failures == []
    assert asked.delete(f"/v1/access/tokens/{first['id']}").json()["new"] is True
    revoked = time.monotonic()
    wait_for(lambda: all(web.get("/v1/kv").status_code == 401 for web in robots.values()), 10, "it is out everywhere")
    assert time.monotonic() - revoked < 1.0
    assert all(web.get("/v1/kv").status_code == 200 for web in rotated.values())
    states = {row["id"]: row["state"] for row in found[leader].get("/v1/access/tokens").json()["tokens"]}
    assert states[second["id"]] == "valid"
    assert first["id"] not in states
    for web in [*found.values(), *robots.values(), *rotated.values()]:
        web.close()


def test_a_member_with_a_new_key_is_reached_without_a_restart_of_the_others(cluster: LocalCluster) -> None:
    found = webs(cluster, client(cluster, "boss", "admin"))
    for web in found.values():
        wait_until_healthy(web)
    old = cluster.access.keys["n2"].public
    cluster.access.add_key("n2")
    cluster.restart("n2")
    cluster.access.forget_key("n2", old)
    for name in ("n1", "n3"):
        wait_until_healthy(found[name])
    for web in found.values():
        web.close()


def test_a_node_whose_api_has_no_key_says_so(tmp_path: Path) -> None:
    write_key_file(tmp_path / "n1.key", KeyPair.made())
    key = "the key of the settings"
    extension = ConsensusExtension(
        node_id="n1",
        bind="127.0.0.1:0",
        storage_path=str(tmp_path / "data"),
        security={"curve_key_file": str(tmp_path / "n1.key")},
        admin_api={"bind": "127.0.0.1:0", "enable_auth": True, "api_key": key},
    )
    with extension:
        assert extension.admin is not None
        with httpx.Client(base_url=extension.admin.url, headers={"Authorization": f"Bearer {key}"}) as web:
            answer = web.get("v1/cluster")
            assert (answer.status_code, answer.json()["code"]) == (503, "CONSENSUS_AUTHENTICATION_FAILED")
            assert "security.client_key_file" in answer.json()["detail"]
            assert web.get("v1/kv").status_code == 200, "the node itself is asked within the process"
            with httpx.Client(base_url=extension.admin.url) as stranger:
                assert stranger.get("v1/kv").status_code == 401
