"""Keys over HTTP on real nodes: revisions, leases, transactions, requests that wait for changes, streams of them."""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.node_process import NodeProcess
from tests.worlds.waiting import wait_for

TEXT = {"Content-Type": "text/plain"}
NO_HEADERS: Mapping[str, str] = {}


class Site:
    """Three nodes that serve the admin API."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.web = httpx.Client(timeout=30)

    def url(self, number: int = 0) -> str:
        """Where a node serves the API."""
        node = self.cluster.nodes[self.cluster.names[number]]
        assert isinstance(node, NodeProcess)
        return node.output().rpartition("http://")[2].splitlines()[0].rstrip("/")

    def ask(self, method: str, path: str, number: int = 0, **more: Any) -> httpx.Response:
        """Make a request."""
        return self.web.request(method, f"http://{self.url(number)}{path}", **more)

    def put(
        self, key: str, value: str, query: str = "", number: int = 0, headers: Mapping[str, str] = NO_HEADERS
    ) -> httpx.Response:
        """Set a key."""
        return self.ask("PUT", f"/v1/kv/{key}{query}", number, content=value, headers={**TEXT, **headers})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with LocalCluster(folder=folder, cluster_id="site", extra_args=("--http", "127.0.0.1:0")) as cluster:
        cluster.wait_until_settled()
        made = Site(cluster)
        yield made
        made.web.close()


class Stream:
    """The events of a stream, taken on a thread."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.lines = lines
        self.events: list[dict[str, str]] = []
        self.place = ""
        """The last id, as a browser has it."""
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        event: dict[str, str] = {}
        try:
            for line in self.lines:
                name, _, text = line.partition(": ")
                if name == "id":
                    self.place = text
                elif name in ("event", "data"):
                    event[name] = text
                elif not line and event:
                    self.events.append({**event, "id": self.place})
                    event = {}
        except httpx.HTTPError:
            pass

    def next(self, count: int) -> list[dict[str, Any]]:
        """The data of the next events."""
        wait_for(lambda: len(self.events) >= count, 15, f"{count} events")
        taken, self.events = self.events[:count], self.events[count:]
        return [{**json.loads(each["data"]), "event": each["event"], "id": each["id"]} for each in taken]


@contextmanager
def streamed(site: Site, query: str, number: int = 0, **headers: str) -> Iterator[Stream]:
    """A stream of changes that is open."""
    with httpx.stream("GET", f"http://{site.url(number)}/v1/watch?{query}", headers=headers, timeout=30) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Stream(answer.iter_lines())
        # A close alone would leave the connection open for as long as the thread waits for its next bytes.
        answer.extensions["network_stream"].get_extra_info("socket").shutdown(socket.SHUT_RDWR)


# --- revisions and conditions ----------------------------------------------------------------------------------------


def test_a_key_is_told_with_its_revisions(site: Site) -> None:
    site.put("rev/a", "1")
    site.put("rev/a", "2", number=1)
    found = site.ask("GET", "/v1/kv/rev/a", 2)
    entry = found.json()
    assert (entry["value"], entry["lease"]) == ("2", 0)
    assert 0 < entry["created"] < entry["modified"] <= entry["applied"]
    assert found.headers["etag"] == f'"{entry["modified"]}"'
    assert site.ask("GET", "/v1/kv?prefix=rev/").json()["pairs"] == [
        {name: entry[name] for name in ("key", "value", "kind", "created", "modified", "lease")}
    ]


def test_pages_have_bounds_and_both_directions(site: Site) -> None:
    for letter in "abcd":
        site.put(f"page/{letter}", letter)

    def keys(query: str) -> str:
        pairs = site.ask("GET", f"/v1/kv?prefix=page/&{query}").json()["pairs"]
        return "".join(pair["value"] for pair in pairs)

    assert keys("reverse=true") == "dcba"
    assert keys("start=page/b&end=page/d") == "bc"
    assert keys("reverse&after=page/c&limit=1") == "b"


def test_a_key_is_changed_only_if_it_is_what_the_request_says(site: Site) -> None:
    site.put("if/a", "1")
    etag = site.ask("GET", "/v1/kv/if/a").headers["etag"]
    assert site.put("if/a", "2", headers={"If-Match": etag}).status_code == 200
    refused = site.put("if/a", "3", headers={"If-Match": etag})
    assert (refused.status_code, refused.json()["code"]) == (412, "KEY_CHANGED")
    assert site.ask("DELETE", "/v1/kv/if/a", headers={"If-Match": etag}).status_code == 412
    assert site.ask("GET", "/v1/kv/if/a").json()["value"] == "2"
    assert site.put("if/a", "3", headers={"If-Match": "*"}).status_code == 200
    assert site.put("if/none", "3", headers={"If-Match": "*"}).status_code == 412
    assert site.put("if/a", "4", headers={"If-None-Match": "*"}).json()["code"] == "KEY_EXISTS"
    for wrong in ({"If-Match": "W/x"}, {"If-None-Match": etag}, {"If-Match": etag, "If-None-Match": "*"}):
        assert site.put("if/a", "4", headers=wrong).status_code == 400
    last = site.ask("GET", "/v1/kv/if/a").headers["etag"]
    assert site.ask("DELETE", "/v1/kv/if/a", headers={"If-Match": last}).json()["deleted"] is True


def test_a_transaction_does_one_thing_or_the_other(site: Site) -> None:
    body = {
        "if": [["exists", "tx/a", "==", False]],
        "then": [{"type": "set", "key": "tx/a", "value": 1}],
        "else": [{"type": "get", "key": "tx/a"}],
    }
    first, second = (site.ask("POST", "/v1/transaction", json=body).json() for _ in range(2))
    assert (first["succeeded"], first["results"]) == (True, [None])
    assert (second["succeeded"], second["results"]) == (False, [1])
    wrong = site.ask("POST", "/v1/transaction", json={"if": [["size", "a", "==", 1]], "then": []})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "CONSENSUS_COMMAND_FAILED")
    assert site.ask("POST", "/v1/transaction", json={"then": {}}).status_code == 400


# --- leases ----------------------------------------------------------------------------------------------------------


def test_leases_are_granted_kept_alive_and_revoked(site: Site) -> None:
    granted = site.ask("POST", "/v1/leases", json={"ttl": 30})
    assert granted.status_code == 201
    lease = granted.json()["lease"]
    assert granted.headers["location"] == f"/v1/leases/{lease}"
    assert site.put("leased/a", "1", f"?lease={lease}").status_code == 200
    assert site.ask("GET", "/v1/kv/leased/a").json()["lease"] == lease
    found = site.ask("GET", f"/v1/leases/{lease}", 1).json()
    assert (found["ttl"], found["count"], found["keys"]) == (30.0, 1, ["leased/a"])
    assert 25 < found["left"] <= 30
    assert lease in [each["lease"] for each in site.ask("GET", "/v1/leases").json()["leases"]]
    assert site.ask("POST", f"/v1/leases/{lease}/keep-alive", 2).json()["ttl"] == 30.0
    assert site.ask("DELETE", f"/v1/leases/{lease}").json() == {"lease": lease, "deleted": 1}
    for method, path in (("GET", f"/v1/leases/{lease}"), ("POST", f"/v1/leases/{lease}/keep-alive")):
        gone = site.ask(method, path)
        assert (gone.status_code, gone.json()["code"]) == (404, "LEASE_NOT_FOUND")
    assert site.put("leased/a", "1", f"?lease={lease}").status_code == 422
    assert site.put("leased/a", "1", "?lease=1&ttl=1s").status_code == 422
    assert site.ask("POST", "/v1/leases", json={"ttl": 0}).status_code == 400


def test_a_key_goes_after_its_own_time(site: Site) -> None:
    site.put("short", "1", "?ttl=300ms")
    wait_for(lambda: site.ask("GET", "/v1/kv/short").status_code == 404, 15, "its end")
    site.put("short", "1", "?ttl=60s")
    assert site.ask("GET", "/v1/kv/short").json()["lease"] > 0


# --- waiting for a change --------------------------------------------------------------------------------------------


def test_a_request_waits_until_its_key_changes(site: Site) -> None:
    index = site.put("poll/a", "1").headers["x-raft-index"]
    began = time.monotonic()
    quiet = site.ask("GET", f"/v1/kv/poll/a?index={index}&wait=500ms", 1)
    assert 0.5 <= time.monotonic() - began < 15
    assert (quiet.json()["value"], int(quiet.headers["x-raft-index"]) >= int(index)) == ("1", True)
    for path, number in (("/poll/a?", 1), ("?prefix=poll/&", 2)):
        threading.Timer(0.5, site.put, ("poll/a", f"to {number}")).start()
        began = time.monotonic()
        found = site.ask("GET", f"/v1/kv{path}index={index}&wait=20s", number).json()
        assert (found.get("value") or found["pairs"][0]["value"]) == f"to {number}"
        assert 0.4 < time.monotonic() - began < 15
        index = str(found["applied"])
    site.ask("DELETE", "/v1/kv/poll/a")
    gone = site.ask("GET", f"/v1/kv/poll/a?index={index}&wait=20s")
    assert gone.status_code == 404
    assert int(gone.headers["x-raft-index"]) > int(index)
    assert site.ask("GET", "/v1/kv/poll/a?index=0&wait=20s").elapsed.total_seconds() < 15, "it changed long ago"


def test_a_loop_of_requests_that_wait_sees_the_last_value(site: Site) -> None:
    """The loop of Consul: wait for what comes after the index of the answer before."""
    seen: list[int] = []

    def follow(number: int) -> None:
        index = 0
        with httpx.Client(timeout=30) as web:
            while not seen or seen[-1] < 99:
                answer = web.get(f"http://{site.url(number)}/v1/kv/loop?index={index}&wait=10s")
                index = int(answer.headers["x-raft-index"])
                if answer.status_code == 200:
                    seen.append(answer.json()["value"])

    follower = threading.Thread(target=follow, args=(1,))
    follower.start()
    for value in range(100):
        site.ask("PUT", "/v1/kv/loop", json=value)
    follower.join(20)
    assert not follower.is_alive()
    assert seen == sorted(seen)


def test_a_client_that_leaves_frees_what_it_held(site: Site) -> None:
    index = site.put("left", "1").headers["x-raft-index"]
    for _ in range(20):
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"http://{site.url()}/v1/kv/left?index={index}&wait=60s", timeout=0.1)
    with (
        pytest.raises(httpx.ReadTimeout),
        httpx.stream("GET", f"http://{site.url()}/v1/watch?key=left", timeout=0.5) as one,
    ):
        one.read()
    began = time.monotonic()
    assert site.put("left", "2").status_code == 200
    assert site.ask("GET", "/v1/kv/left").json()["value"] == "2"
    assert time.monotonic() - began < 10


# --- the stream ------------------------------------------------------------------------------------------------------


def test_a_stream_tells_each_change_and_goes_on_at_another_node(site: Site) -> None:
    with streamed(site, "prefix=sse/") as stream:
        wait_for(lambda: stream.place, 5, "its beginning")
        site.put("sse/a", "1")
        site.put("other", "1")
        body = {"then": [{"type": "set", "key": f"sse/{name}", "value": name} for name in "bc"]}
        site.ask("POST", "/v1/transaction", json=body)
        first, second, third = stream.next(3)
    assert (first["event"], first["key"], first["value"], first["kind"]) == ("put", "sse/a", "1", "text")
    assert first["id"] == str(first["index"])
    assert second["index"] == third["index"]
    assert third["id"] == str(third["index"])
    assert second["id"] == first["id"], "who comes back after a half of it gets all of it again"
    site.ask("DELETE", "/v1/kv/sse/a")
    for place in ({"Last-Event-ID": third["id"]}, {}):
        with streamed(site, f"prefix=sse/&since={int(third['id']) + 1}", 1, **place) as further:
            (change,) = further.next(1)
            assert (change["event"], change["key"], change["value"]) == ("delete", "sse/a", None)
    with streamed(site, "key=sse/b", 2, **{"Last-Event-ID": first["id"]}) as again:
        assert again.next(1)[0]["value"] == "b"


def test_a_stream_goes_on_over_the_kill_of_the_leader(site: Site) -> None:
    leader = site.cluster.wait_for_leader()
    number = next(number for number, name in enumerate(site.cluster.names) if name != leader)
    with streamed(site, "prefix=kill/", number) as stream:
        wait_for(lambda: stream.place, 5, "its beginning")
        for value in range(20):
            if value == 10:
                site.cluster.kill(leader)
                site.cluster.wait_for_leader(other_than=leader)
            assert site.put(f"kill/{value}", str(value), number=number).status_code == 200
        assert [change["value"] for change in stream.next(20)] == [str(value) for value in range(20)]
    site.cluster.restart(leader)
    site.cluster.wait_until_settled()


def test_what_cannot_be_watched_is_told_before_the_stream_begins(site: Site) -> None:
    assert site.ask("GET", "/v1/watch").status_code == 400
    assert site.ask("GET", "/v1/watch?key=a&prefix=b").status_code == 400
    assert site.ask("GET", "/v1/watch?key=a", headers={"Last-Event-ID": "x"}).status_code == 400
    since = int(site.put("gone", "1").headers["x-raft-index"])
    with site.cluster.client(timeout=10) as client:
        for turn in range(11):
            client.batch([Command("set", {"key": f"many/{number}", "value": turn}) for number in range(10_000)])
        gone = site.ask("GET", f"/v1/watch?key=gone&since={since}")
        assert (gone.status_code, gone.json()["code"]) == (410, "CONSENSUS_COMPACTED")
        assert site.ask("GET", f"/v1/kv/gone?index={since}&wait=20s").elapsed.total_seconds() < 15
        client.delete_prefix("many/")


def test_no_more_than_so_many_wait_at_once(site: Site) -> None:
    index = site.put("many", "1").headers["x-raft-index"]
    host, _, port = site.url().partition(":")
    request = f"GET /v1/kv/many?index={index}&wait=60s HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    with ExitStack() as stack:
        waiting = [stack.enter_context(socket.create_connection((host, int(port)), 60)) for _ in range(520)]
        for one in waiting:
            one.sendall(request)

        def answered() -> list[socket.socket]:
            return [one for one in waiting if select.select([one], [], [], 0)[0]]

        wait_for(lambda: len(answered()) >= 20, 30, "the refusals")
        site.put("other", "1")
        refused = answered()
        assert len(refused) == 20
        assert {one.recv(100).split()[1] for one in refused} == {b"503"}
        site.put("many", "2")
        answers = [one.recv(100).split()[1] for one in waiting if one not in refused]
    assert answers == [b"200"] * 500
    assert site.ask("GET", f"/v1/kv/many?index={index}&wait=8s").status_code == 200
