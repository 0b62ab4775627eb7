"""Example: "Admin API" and "Monitoring" of the Go original's README: the same requests, answered by a node.

It needs the extra ``admin``, and ``cli`` for the node that joins.
"""

import json
import re
import tempfile
import urllib.request
from contextlib import ExitStack
from typing import Any

from forge_consensus import ConsensusExtension, ConsensusService
from forge_consensus.demo.joining import joining_node
from forge_consensus.testing.local.ports import free_ports

SECONDS = 60.0
SHOWN = 150
PATIENT = {"election_timeout_min": "2s", "election_timeout_max": "4s"}
"""As under "Performance Tuning" of the README; the defaults here are shorter."""
METRICS = (
    "cluster_size", "cluster_healthy_nodes", "is_leader", "has_quorum", "term", "operations_total",
    "operations_failed", "operations_per_sec", "operation_duration_seconds", "leader_elections_total",
    "leader_election_duration_seconds", "commit_index", "last_applied", "log_size", "log_entries", "snapshots_total",
    "snapshot_duration_seconds",
)  # fmt: skip


class Curl:
    """Sends the requests of the README to one node."""

    def __init__(self, base: str) -> None:
        self.base = base

    def __call__(self, title: str, path: str, body: dict[str, Any] | None = None, method: str = "GET") -> Any:
        """Send one request, print the command and the answer, and return the answer."""
        print(f"== {title} ==")
        sent = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.base}{path}", sent, headers, method=method)
        shown = "" if body is None else f" -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
        print(f"$ curl {'' if method == 'GET' else f'-X {method} '}{request.full_url}{shown}")
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            text = answer.read().decode()
        print(text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)")
        return json.loads(text)


def show_api(service: ConsensusService, url: str, address: str, folder: str) -> None:
    """Send all requests, in the order of the README."""
    curl = Curl(url)
    curl("Health Check", "/consensus/health")
    curl("Cluster Status", "/consensus/status")
    curl("List Nodes", "/consensus/nodes")
    curl("Get Leader", "/consensus/leader")
    curl("Metrics", "/consensus/metrics")
    # The node is one of this machine instead of 10.0.1.13, and runs and waits when it is added, else it is refused.
    host, port = address.split(":")
    with joining_node("node-4", address, service.settings.cluster_id, service.settings.peers.values(), folder):
        curl("Add Node", "/consensus/add-node", {"node_id": "node-4", "address": host, "port": int(port)}, "POST")
        curl("Remove Node", "/consensus/remove-node", {"node_id": "node-4"}, "POST")
    if service.get_leader() == "node-2":
        service.step_down(timeout=SECONDS)
    curl("Transfer Leadership", "/consensus/transfer-leadership", {"target_node_id": "node-2"}, "POST")
    curl("Create Snapshot", "/consensus/snapshot", method="POST")


def show_monitoring(address: str) -> None:
    """Look for the metrics that the README names."""
    print("== Prometheus Metrics ==")
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=SECONDS) as answer:
        found = set(re.findall(r"^# TYPE (\w+) ", answer.read().decode(), re.MULTILINE))
    for name in METRICS:
        print(f"forge_consensus_{name}:", "yes" if f"forge_consensus_{name}" in found else "no")
    # Prometheus makes rates of counters itself, for whatever window is asked for.
    print("instead of operations_per_sec: rate(forge_consensus_operations_total[1m])")
    print("== Grafana Dashboard ==")
    # There is none yet. Every node with an admin API has a dashboard of its own, made of what the API tells.
    print("there is none for Grafana; a node's own dashboard is at the address of its admin API")


def main() -> None:
    """Run three nodes, of which the first answers requests."""
    *ports, spare, scraped = free_ports(5)
    peers = {f"node-{number}": f"127.0.0.1:{port}" for number, port in enumerate(ports, 1)}
    own: dict[str, dict[str, Any]] = {
        "node-1": {"admin_api": {"bind": "127.0.0.1:0"}, "metrics": f"127.0.0.1:{scraped}"}
    }
    extensions = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        for name in peers:
            extension = ConsensusExtension(
                node_id=name,
                cluster_id="my-cluster",
                peers=peers,
                storage_path=f"{folder}/{name}",
                raft=PATIENT,
                wait_for_leader=0,
                **own.get(name, {}),
            )
            extensions[name] = running.enter_context(extension)
        first = extensions["node-1"]
        first.service.wait_for_leader(SECONDS)
        assert first.admin is not None, "its configuration says where"
        # There the API is a part of the application, at its port 8080. Here it has an address of its own, of this
        # machine only, because nobody is asked who he is; original_web.py shows how an application mounts it.
        show_api(first.service, first.admin.url.rstrip("/"), f"127.0.0.1:{spare}", f"{folder}/node-4")
        show_monitoring(f"127.0.0.1:{scraped}")


if __name__ == "__main__":
    main()
