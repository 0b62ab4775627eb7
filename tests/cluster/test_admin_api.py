"""The admin API of three real nodes: every node answers, a failover is seen, and streams go on from where they were."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from forge_consensus.storage.restoring import inspect_snapshot
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.node_process import NodeProcess
from tests.worlds.cli_world import Shell
from tests.worlds.command_line import run_command
from tests.worlds.waiting import wait_for

SERVED = re.compile(r"^serving .*, (http://\S+)/$", re.MULTILINE)


class Site:
    """A cluster whose nodes serve the admin API."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.web = httpx.Client(timeout=10)
        self.urls: dict[str, str] = {}
        for name in cluster.nodes:
            self.find(name)

    def node(self, name: str) -> NodeProcess:
        """A node's process."""
        found = self.cluster.nodes[name]
        assert isinstance(found, NodeProcess)
        return found

    def find(self, name: str) -> None:
        """Find where a node that has just started serves the API."""
        self.urls[name] = SERVED.findall(self.node(name).output())[-1]

    def start(self, name: str) -> None:
        """Start a node again."""
        self.node(name).start()
        self.find(name)

    def get(self, name: str, path: str, **more: Any) -> httpx.Response:
        """Ask a node."""
        return self.web.get(f"{self.urls[name]}{path}", **more)

    def post(self, name: str, path: str, body: Any = None) -> httpx.Response:
        """Tell a node to do something."""
        url = f"{self.urls[name]}{path}"
        return self.web.post(url) if body is None else self.web.post(url, json=body)

    def leader(self, *left_out: str) -> str:
        """The node that leads, by what the others say."""
        name = next(each for each in self.urls if each not in left_out)

        def found() -> str | None:
            leader = self.get(name, "/v1/leader").json()["leader_id"]
            return None if leader in left_out else leader

        leader: str = wait_for(found, 10, "a leader")
        return leader


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three nodes."""
    folder = tmp_path_factory.mktemp("site")
    with LocalCluster(folder=folder, cluster_id="site", extra_args=("--http", "127.0.0.1:0")) as cluster:
        cluster.wait_for_leader()
        made = Site(cluster)
        wait_for(lambda: made.get("n1", "/v1/cluster").json()["health"] == "healthy", 10, "a healthy cluster")
        yield made
        made.web.close()


def test_the_requests_of_the_originals_readme_are_answered_by_every_node(site: Site) -> None:
    leader = site.leader()
    for name in site.urls:
        assert site.get(name, "/consensus/health").json()["healthy"] is True
        status = site.get(name, "/consensus/status").json()
        assert status["stats"]["node_id"] == name
        assert status["cluster"]["leader"] == leader
        nodes = site.get(name, "/consensus/nodes").json()
        assert {node["id"] for node in nodes["nodes"]} == set(site.urls)
        assert site.get(name, "/consensus/leader").json()["leader_id"] == leader
        assert site.get(name, "/consensus/metrics").json()["cluster_size"] == 3
        assert site.post(name, "/consensus/snapshot").json()["message"] == "snapshot created successfully"
        prometheus = site.get(name, "/metrics")
        assert prometheus.headers["content-type"].startswith("text/plain")
        assert "forge_consensus_term{" in prometheus.text


def test_leadership_is_handed_over_through_a_node_that_does_not_lead(site: Site) -> None:
    leader = site.leader()
    target, asked = (name for name in site.urls if name != leader)
    answer = site.post(asked, "/consensus/transfer-leadership", {"target_node_id": target})
    assert (answer.status_code, answer.json()["target"]) == (200, target)
    wait_for(lambda: site.get(asked, "/v1/leader").json()["leader_id"] == target, 5, "the new leader is known")
    roles = {name: site.get(name, "/leader").status_code for name in site.urls}
    assert roles == {name: 200 if name == target else 503 for name in site.urls}
    assert site.get(asked, "/v1/leader").headers["x-raft-leader-url"] == site.urls[target]
    assert site.post(asked, "/v1/leader/stepdown").json()["leader_id"] != target
    refused = site.post(asked, "/v1/leader/transfer", {"target": "n9"})
    assert (refused.status_code, refused.json()["title"]) == (409, "refused")


def test_keys_are_written_and_read_through_any_node(site: Site) -> None:
    url = site.urls
    put = site.web.put(f"{url['n1']}/v1/kv/a%2Fb/é", content="grüß", headers={"Content-Type": "text/plain"})
    assert put.json()["key"] == "a/b/é"
    index = int(put.headers["x-raft-index"])
    for name in url:
        found = site.get(name, "/v1/kv/a/b/é")
        assert (found.json()["value"], found.json()["kind"]) == ("grüß", "text")
        own = site.get(name, f"/v1/kv/a/b/é?consistency=eventual&min_index={index}&raw=true")
        assert (own.text, own.headers["content-type"]) == ("grüß", "text/plain; charset=utf-8")
        assert int(own.headers["x-raft-index"]) >= index
        assert (own.headers["x-raft-consistency"], found.headers["x-raft-consistency"]) == ("eventual", "linearizable")
        assert int(own.headers["x-commit-index"]) >= int(own.headers["x-last-applied"]) >= index
        assert int(own.headers["x-raft-last-contact-ms"]) >= 0
        by_header = site.web.get(f"{url[name]}/v1/kv/a/b/é", headers={"X-Allow-Stale": "true"})
        assert by_header.headers["x-raft-consistency"] == "eventual"
    site.web.put(f"{url['n2']}/v1/kv/a/c", content=b"\xff\0", headers={"Content-Type": "application/octet-stream"})
    site.web.put(f"{url['n3']}/v1/kv/a/d", json={"x": [1, 2.5, None]})
    page = site.get("n1", "/v1/kv?prefix=a/&limit=2").json()
    assert [(pair["key"], pair["kind"]) for pair in page["pairs"]] == [("a/b/é", "text"), ("a/c", "bytes")]
    assert page["more"] is True
    rest = site.get("n1", "/v1/kv?prefix=a/&limit=2&after=a/c").json()
    assert [pair["value"] for pair in rest["pairs"]] == [{"x": [1, 2.5, None]}]
    once = {"If-None-Match": "*", "Content-Type": "text/plain"}
    assert site.web.put(f"{url['n1']}/v1/kv/a/e", content="1", headers=once).status_code == 200
    assert site.web.put(f"{url['n1']}/v1/kv/a/e", content="2", headers=once).status_code == 412
    assert site.web.delete(f"{url['n2']}/v1/kv/a/e").json()["deleted"] is True
    assert site.get("n3", "/v1/kv/a/e").status_code == 404
    applied = site.post("n3", "/consensus/apply", {"type": "increment", "payload": {"key": "n", "by": 2}})
    assert applied.json()["result"] == 2
    assert site.post("n2", "/consensus/read", "n").json()["result"] == 2
    failed = site.post("n1", "/v1/apply", {"type": "increment", "payload": {"key": "a/c", "by": 1}})
    assert (failed.status_code, failed.json()["code"]) == (422, "CONSENSUS_COMMAND_FAILED")
    large = site.web.put(
        f"{url['n1']}/v1/kv/big", content=b"x" * (1 << 21) + b"x", headers={"Content-Type": "text/plain"}
    )
    assert large.status_code == 413


def test_members_are_planned_with_their_arithmetic(site: Site) -> None:
    plan = site.post("n1", "/v1/members", {"id": "n4", "address": "127.0.0.1:1", "dry_run": True}).json()
    assert (plan["dry_run"], plan["index"]) == (True, 0)
    assert (plan["before"]["voters"], plan["before"]["required"], plan["before"]["can_lose"]) == (3, 2, 1)
    assert (plan["after"]["voters"], plan["after"]["required"]) == (4, 3)
    assert "odd number is better" in plan["warnings"][0]
    removal = site.web.delete(f"{site.urls['n2']}/v1/members/n3?dry_run=true").json()
    assert (removal["after"]["voters"], removal["after"]["can_lose"]) == (2, 0)
    assert len(site.get("n1", "/v1/members").json()["members"]) == 3, "nothing was done"
    gone = site.web.delete(f"{site.urls['n1']}/v1/members/n9")
    assert (gone.status_code in {404, 409}, gone.json().get("forceable", False)) == (True, False)
    assert site.get("n1", "/v1/members/n9").status_code == 404
    bad = site.post("n1", "/v1/members", {"id": "n 4", "address": "127.0.0.1:1"})
    assert (bad.status_code, bad.json()["detail"][:11]) == (400, 'id is "n 4"')
    assert site.post("n1", "/consensus/add-node", {"node_id": "n4", "address": "127.0.0.1"}).status_code == 400


def test_a_node_that_does_not_run_is_not_added_and_the_problem_says_so(site: Site) -> None:
    nobody = {"node_id": "n9", "address": "127.0.0.1", "port": 1}
    refused = site.post("n2", "/consensus/add-node?timeout=4s", nobody)
    problem = refused.json()
    assert (refused.status_code, problem["title"]) == (503, "node not reached"), refused.text
    assert problem["code"] == "CONSENSUS_CONNECTION_FAILED"
    assert "node 'n9' was not met at 127.0.0.1:1: start it there with --join" in problem["detail"]
    assert not problem["forceable"]


@contextmanager
def streamed(site: Site, name: str, path: str, after: str = "") -> Iterator[Callable[[], dict[str, Any]]]:
    """A stream of events; the function returns the next one, with its id as ``id``."""
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
    with site.web.stream("GET", f"{site.urls[name]}{path}", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()

        def following() -> dict[str, Any]:
            place = ""
            for line in lines:
                if line.startswith("id: "):
                    place = line[4:]
                elif line.startswith("data: "):
                    return {**json.loads(line[6:]), "id": place}
            raise AssertionError("the stream ended")

        yield following


def numbers_of(events: list[dict[str, Any]]) -> dict[str, list[int]]:
    """The numbers of events by node."""
    found: dict[str, list[int]] = {}
    for event in events:
        found.setdefault(event["node_id"], []).append(event["sequence"])
    return found


def test_a_failover_is_seen_and_a_stream_goes_on_at_another_node(site: Site) -> None:
    leader = site.leader()
    first, second = (name for name in site.urls if name != leader)
    before: list[dict[str, Any]] = []
    with streamed(site, first, "/v1/events?recent=5") as following:
        before += [following() for _ in range(5)]
        site.cluster.nodes[leader].kill()
        while before[-1]["type"] != "consensus.leader.elected" or before[-1]["data"]["leader"] == leader:
            before.append(following())
    term = before[-1]["term"]
    after: list[dict[str, Any]] = []
    site.web.put(f"{site.urls[first]}/v1/kv/after", content="x", headers={"Content-Type": "text/plain"})
    with streamed(site, second, "/v1/events", before[-1]["id"]) as following:
        while not (after and after[-1]["type"] == "consensus.log.committed" and after[-1]["term"] >= term):
            after.append(following())
    seen, rest = numbers_of(before), numbers_of(after)
    for node in rest.keys() & seen.keys():
        together = seen[node] + rest[node]
        assert together == list(range(together[0], together[0] + len(together))), f"{node}: each once and in order"
    report = site.get(first, "/v1/cluster").json()
    lost = next(row for row in report["nodes"] if row["node_id"] == leader)
    assert (report["health"], lost["state"], lost["term"]) == ("degraded", "no answer", None)
    assert site.get(first, "/readyz").text == "ok\n"
    third = next(name for name in site.urls if name not in {leader, site.leader(leader)})
    removal = f"{site.urls[first]}/v1/members/{third}"
    for query in ("dry_run=true", ""):  # it would leave one voter of two, and the other one is dead
        refused = site.web.delete(f"{removal}?{query}")
        assert (refused.status_code, refused.json()["forceable"]) == (409, True), refused.text
    assert site.web.delete(f"{removal}?dry_run=true&force=true").status_code == 200
    path = "/v1/checks/quorum-critical"
    wait_for(lambda: site.get(first, path).status_code == 503, 10, "no other node may be stopped")
    assert site.get(first, path).json()["can_lose"] == 0
    site.start(leader)
    wait_for(lambda: site.get(leader, "/readyz").status_code == 200, 10, "it follows again")


def test_without_a_majority_reads_tell_and_a_writer_is_told_soon(site: Site) -> None:
    alive, *others = site.urls
    for name in others:
        site.cluster.nodes[name].kill()
    wait_for(lambda: site.get(alive, "/readyz").status_code == 503, 10, "it knows no leader")
    assert site.get(alive, "/livez").status_code == 200
    assert site.get(alive, "/consensus/health").status_code == 503
    # It may have been behind, and so not ready, before it missed the others.
    wait_for(lambda: site.get(alive, "/v1/cluster").json()["health"] == "unhealthy", 10, "it misses the others")
    refused = site.web.put(
        f"{site.urls[alive]}/v1/kv/x?timeout=500ms", content="x", headers={"Content-Type": "text/plain"}
    )
    assert refused.status_code in {503, 504}
    assert refused.json()["request_id"]
    assert site.get(alive, "/v1/kv?consistency=eventual&prefix=a/").status_code == 200
    for name in others:
        site.start(name)
    wait_for(lambda: site.get(alive, "/readyz").status_code == 200, 10, "a leader again")


def test_a_backup_of_any_node_is_a_file_that_a_cluster_can_be_made_of(site: Site, tmp_path: Path) -> None:
    follower = next(name for name in site.urls if name != site.leader())
    put = site.web.put(
        f"{site.urls[follower]}/v1/kv/kept", content="x" * 300_000, headers={"Content-Type": "text/plain"}
    )
    answer = site.get(follower, "/v1/backup")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream")
    index = int(answer.headers["x-raft-index"])
    assert index >= int(put.headers["x-raft-index"]), "what was acknowledged before is in it"
    assert answer.headers["content-disposition"] == f'attachment; filename="site-{index}.snap"'
    file = tmp_path / "backup.snap"
    file.write_bytes(answer.content)
    report = inspect_snapshot(file)
    assert (report.index, report.cluster, report.sha256) == (index, "site", answer.headers["x-checksum-sha256"])
    assert answer.headers["repr-digest"].startswith("sha-256=:")
    head = site.web.head(f"{site.urls[follower]}/v1/backup?stale=true")
    assert (head.status_code, int(head.headers["content-length"])) == (200, report.size_bytes)
    run_command(
        "snapshot", "restore", str(file), "--id", "n1", "--listen", "127.0.0.1:7", "--data", str(tmp_path / "n1")
    )


def test_the_log_of_a_running_node_can_be_read(site: Site) -> None:
    web, url = site.web, site.urls["n2"]
    index = int(web.put(f"{url}/v1/kv/logged", json={"n": [1, 2]}).headers["x-raft-index"])

    def entries(query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = site.get("n2", f"/v1/log/entries?{query}").json()["entries"]
        return found

    wait_for(lambda: site.get("n2", "/v1/log").json()["last_log_index"] >= index, 5, "the entry")
    (entry,) = entries(f"from={index}&limit=1")
    assert (entry["index"], entry["kind"], entry["type"], "payload" in entry) == (index, "command", "set", False)
    (entry,) = entries(f"from={index}&limit=1&payload=true")
    assert (entry["payload"], entry["cut"]) == ({"key": "logged", "value": {"n": [1, 2]}}, False)
    octets = {"Content-Type": "application/octet-stream"}
    index = int(web.put(f"{url}/v1/kv/large", content=b"x" * 200_000, headers=octets).headers["x-raft-index"])
    wait_for(lambda: site.get("n2", "/v1/log").json()["last_log_index"] >= index, 5, "the large entry")
    (large,) = entries(f"from={index}&limit=1&payload=true")
    assert large["size_bytes"] > 200_000
    assert (large["type"], large["payload"], large["cut"]) == ("set", None, True)
    page = site.get("n2", "/v1/log/entries?from=1&limit=1").json()
    (first,) = page["entries"]
    assert (first["kind"], first["committed"], page["next"]) == ("configuration", True, first["index"] + 1)
    assert all(node in first["members"] for node in site.urls)
    assert site.get("n2", "/v1/log/entries?from=9007199254740992").json()["next"] is None
    assert site.get("n2", "/v1/log/entries?limit=501").status_code == 400


def test_where_a_member_answers_is_known_to_nodes_that_never_met_it(site: Site) -> None:
    def told(name: str) -> dict[str, str]:
        return {row["id"]: row["http_url"] for row in site.get(name, "/v1/members").json()["members"]}

    wait_for(lambda: told("n1") == site.urls, 15, "all are noted")
    leader = site.leader()
    asked, down = (name for name in site.urls if name != leader)
    site.cluster.nodes[down].kill()
    site.cluster.nodes[asked].kill()
    site.start(asked)
    wait_for(lambda: site.get(asked, "/readyz").status_code == 200, 10, "it follows again")
    rows = {row["id"]: row["http_url"] for row in site.get(asked, "/v1/node").json()["nodes"]}
    assert rows[down] == site.urls[down], "it is down, and this process has never met it"
    wait_for(lambda: told(asked)[asked] == site.urls[asked], 15, "the new port is noted")
    site.start(down)
    wait_for(lambda: told(asked) == site.urls, 15, "all are noted")
    wait_for(lambda: site.get(asked, "/v1/members").json()["settled"], 10, "no change is under way")


def test_what_the_options_cannot_mean_ends_a_node_at_once(tmp_path: Path, site: Site) -> None:
    def refused(*options: str) -> tuple[int, str]:
        found = Shell("").run("node", "--id", "x1", "--data", str(tmp_path / "x"), "--listen", "127.0.0.1:0", *options)
        return found.exit_code, found.stderr

    code, text = refused("--http", "0.0.0.0:0")
    assert (code, "--insecure" in text) == (78, True)
    code, text = refused("--http", site.urls["n1"].removeprefix("http://"))
    assert (code, "in use by another program" in text) == (69, True)
    assert refused("--http", "ipc:///x")[0] == 78
    assert not (tmp_path / "x").exists(), "no folder was founded"
