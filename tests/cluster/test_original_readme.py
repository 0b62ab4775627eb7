"""The README of the Go original, section by section: an example under demo/ shows each, and says what is different."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest

from tests.worlds.source_tree import ROOT

SECONDS = 280
pytestmark = pytest.mark.timeout(SECONDS + 20)

TITLES = (
    "Features", "Installation", "Basic Usage", "Configuration File", "Leader Election", "Applying Commands",
    "Reading Data", "Cluster Management", "Leadership Transfer", "Snapshots", "Health Checks", "Middleware Integration",
    "Health Check", "Cluster Status", "List Nodes", "Get Leader", "Metrics", "Add Node", "Remove Node",
    "Transfer Leadership", "Create Snapshot", "Prometheus Metrics", "Grafana Dashboard", "Cluster Size",
    "Performance Tuning", "High Availability", "Security Hardening", "Troubleshooting", "Architecture", "Events",
)  # fmt: skip
"""Its titles in their order; "Events" is its list of constants."""
TEXT_ONLY = {
    "Features": "a list, of which each part that can be shown has a section of its own",
    "Cluster Size": "advice without code: docs/operations.md",
    "High Availability": "advice without code: docs/operations.md",
    "Troubleshooting": "advice without code: docs/operations.md",
    "Architecture": "a picture of the other program: docs/architecture.md",
}
"""The sections in which there is nothing to run, and why."""
EVENTS = (
    "NodeStarted", "NodeStopped", "NodeJoined", "NodeLeft", "NodeFailed", "NodeRecovered", "LeaderElected",
    "LeaderStepDown", "LeaderTransfer", "LeaderLost", "RoleChanged", "BecameFollower", "BecameCandidate",
    "BecameLeader", "ClusterFormed", "ClusterUpdated", "QuorumAchieved", "QuorumLost", "MembershipChanged",
    "LogAppended", "LogCommitted", "LogCompacted", "LogTruncated", "SnapshotStarted", "SnapshotCompleted",
    "SnapshotFailed", "SnapshotRestored", "Healthy", "Unhealthy", "Degraded", "Recovering", "ConfigUpdated",
    "ConfigReloaded",
)  # fmt: skip
METRICS = (
    "cluster_size", "cluster_healthy_nodes", "is_leader", "has_quorum", "term", "operations_total",
    "operations_failed", "operation_duration_seconds", "leader_elections_total", "leader_election_duration_seconds",
    "commit_index", "last_applied", "log_size", "log_entries", "snapshots_total", "snapshot_duration_seconds",
)  # fmt: skip
NOTES = (
    "transport.type: grpc is taken as zmq", "transport.enable_compression: true is taken as false",
    "transport.timeout: 10.0 has no effect", "storage.type: badger is taken as lmdb",
    "discovery.type: kubernetes is taken as static", "discovery.namespace: default has no effect",
    "discovery.service_name: forge-consensus has no effect",
    "observability.metrics.collection_interval: 15.0 has no effect",
    "observability.tracing.enabled: true is taken as false", "observability.tracing.sample_rate: 0.1 has no effect",
    "admin_api.enabled: true serves nothing by itself", "security.enable_tls: true is that of the admin API",
)  # fmt: skip
"""What means something else here, of all that its configuration file says."""
YAML = {
    "original_config.yaml": "ed66e4cd4d10d545f00f9f35a10decad38f867112ea8b4d2799c42ac39dd168d",
    "original_security.yaml": "bc0b4a19cf528e03dea7b2c7ec2138754cf0f9aa9ff529216b199110146786a9",
    "original_tuning.yaml": "4973d47554195e8083cef52d61db097d104b0013a69fa069cf0b36b4a008ad1e",
}
"""The SHA-256 of its YAML, which is unchanged to the last space."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Where a section is shown, and patterns of what the example prints below its title."""

    example: str
    says: tuple[str, ...]


def requested(path: str, answer: str, body: str = "") -> Shown:
    """A request of the admin API: its command, and what its answer contains."""
    way = "-X POST " if path.endswith(("node", "leadership", "snapshot")) else ""
    return Shown("original_admin", (rf"\$ curl {way}http://127\.0\.0\.1:\d+/consensus/{path}.*{body}", answer))


SHOWN = {
    "Installation": Shown("original_quick_start", (r"^forge-consensus \d+\.\d+\.\d+ is installed$",)),
    "Basic Usage": Shown(
        "original_quick_start",
        (r"^the leader is node-[123]$", r"^node-[123]: this node is the leader!$", r"^user:123 is John Doe$"),
    ),
    "Configuration File": Shown(
        "original_config",
        (
            r"^TLS True, with certificates of clients True: /etc/certs/server\.crt, .*server\.key, /etc/certs/ca\.crt$",
            r"^not started: security\.enable_tls is on, and the connections of ZeroMQ at 0\.0\.0\.0:7000 would be",
            r"^node-1 of production-cluster listens at 0\.0\.0\.0:7000; the members are 10\.0\.1\.10:7000, ",
            r"^heartbeat 1\.0 s, election timeout 5\.0 to 10\.0 s, messages of at most 4194304 bytes$",
            r"^a snapshot after 1800\.0 s or 10000 entries, in \./data/consensus; log level info$",
            *(rf"^note: original_config\.yaml:\d+:\d+ {re.escape(note)}" for note in NOTES),
        ),
    ),
    "Leader Election": Shown(
        "original_commands",
        (
            r"^node-[12]: I am the leader$",
            *(rf"^node-{n}: current leader: node-[12], my role: (leader|follower), term \d+$" for n in (1, 2, 3)),
        ),
    ),
    "Applying Commands": Shown(
        "original_commands",
        (
            r"^node-[12] has applied: user:123$",
            r"^node-[12] has had it applied: user:123$",
            r"^node-3 is not leader\. Redirect to: node-[12]$",
        ),
    ),
    "Reading Data": Shown(
        "original_commands",
        (
            *(rf"^node-{n}, eventual: (Alice|None) as of entry \d+$" for n in (1, 2, 3)),
            r"^node-[12], strong: alice@example\.com$",
        ),
    ),
    "Cluster Management": Shown(
        "original_cluster",
        (
            r"^node-4 is added: 3 voters before, 4 after",
            r"^the members: node-1 \(voter\), node-2 \(voter\), node-3 \(voter\), node-4 \(voter\)$",
            r"^node-4 is removed: 3 voters, of whom 2 must agree$",
            r"^Cluster ID: my-cluster$", r"^Leader: node-[123]$", r"^Total Nodes: 3$", r"^Active Nodes: \d$",
            r"^Has Quorum: True$", r"^Stats: active, term \d+, commit index \d+, \d+ entries$",
        ),
    ),
    "Leadership Transfer": Shown(
        "original_cluster",
        (r"^after the transfer node-2 leads$", r"^after the step down another node leads: True$"),
    ),
    "Snapshots": Shown(
        "original_cluster",
        (
            r"^node-1 has a snapshot of entry \d+, \d+ bytes$",
            r"^by itself it takes one every 1800\.0 s, or after 50 entries$",
            r"^it has taken one by itself, of a later entry$",
        ),
    ),
    "Health Checks": Shown(
        "original_cluster",
        (
            r"^Status: healthy$", r"^Leader: (True|False)$", r"^Has Quorum: True$", r"^Active Nodes: 3/3$",
            r"^  quorum: True - 3 of 3 members live$", r"^Unhealthy: .*2 needed", r"^Status: unhealthy$",
            r"^Has Quorum: False$", r"^Active Nodes: 1/3$", r"^  quorum: False - only 1 of 3 members live$",
        ),
    ),
    "Middleware Integration": Shown(
        "original_web",
        (
            r"^require_leader\n  POST to the leader: 200 \"user:123\".*\n  POST to a follower: 503 .*not the leader",
            r"^add_leader_header\n  PUT to a follower.*: 200 .*'X-Consensus-Leader-ID': 'node-[123]'",
            r"^read_only_routing\n  GET to a follower: 200 .*Bob.*\n  PUT to a follower: 503 .*not the leader",
            r"^consistency strong\n  GET to the leader: 200 .*Alice.*\n  GET to a follower: 200 .*Alice",
            r"^admin_api in the application\n  GET to a follower: 200 .*\"leader_id\":\"node-[123]\"",
        ),
    ),
    "Health Check": requested("health", r'^{"healthy":true,'),
    "Cluster Status": requested("status", r'^{"stats":{"node_id":"node-1","cluster_id":"my-cluster"'),
    "List Nodes": requested("nodes", r'^{"nodes":\[{"id":"node-1"'),
    "Get Leader": requested("leader", r'^{"leader_id":"node-[123]"'),
    "Metrics": requested("metrics", r'^{"current_term":\d+,"commit_index":\d+'),
    "Add Node": requested("add-node", r'^{"message":"node added', '"node_id": "node-4", "address": .*, "port": '),
    "Remove Node": requested("remove-node", r'^{"message":"node removed', '{"node_id": "node-4"}'),
    "Transfer Leadership": requested(
        "transfer-leadership", r'^{"message":"leadership transferred to node-2"', '{"target_node_id": "node-2"}'
    ),
    "Create Snapshot": requested("snapshot", r'^{"node_id":"node-1",.*"message":"snapshot created successfully"}$'),
    "Prometheus Metrics": Shown(
        "original_admin",
        (
            *(rf"^forge_consensus_{name}: yes$" for name in METRICS),
            r"^forge_consensus_operations_per_sec: no$", r"^instead of operations_per_sec: rate\(",
        ),
    ),
    "Grafana Dashboard": Shown("original_admin", (r"^there is none for Grafana",)),
    "Performance Tuning": Shown(
        "original_config",
        (
            r"^heartbeat 0\.5 s, election timeout 2\.0 to 4\.0 s, messages of at most 16777216 bytes$",
            *(
                rf"^note: original_tuning\.yaml:\d+:\d+ {name}: "
                for name in (
                    "raft.replication_batch_size", "raft.max_append_entries", "transport.enable_compression",
                    "transport.compression_level", "storage.max_batch_size", "storage.max_batch_delay",
                )
            ),
            r"^node-1 leads production-cluster, by both files$",
        ),
    ),
    "Security Hardening": Shown(
        "original_config",
        (
            r"^TLS True, with certificates of clients True: .*server\.crt, .*ca\.crt; encrypted on disk True$",
            r"^the key of the disk is shown as \(secret\)$",
        ),
    ),
    "Events": Shown(
        "original_events",
        (
            *(rf"^{name}: consensus\.[a-z.]+, first n[1-4] term \d+: " for name in EVENTS),
        ),
    ),
}  # fmt: skip
"""Every section with something to run."""


def sections_of(printed: str) -> dict[str, str]:
    """What an example printed, by the title above it."""
    _, *parts = re.split(r"^== (.+) ==\n", printed, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_no_section_is_left_out() -> None:
    assert sorted([*SHOWN, *TEXT_ONLY]) == sorted(TITLES)


def test_every_example_of_the_original_shows_a_section() -> None:
    examples = {path.stem for path in (ROOT / "demo").glob("original_*.py")}
    assert examples == {shown.example for shown in SHOWN.values()}


@pytest.mark.parametrize("name", YAML)
def test_its_yaml_is_unchanged(name: str) -> None:
    assert hashlib.sha256((ROOT / "demo" / name).read_bytes()).hexdigest() == YAML[name]


@pytest.mark.parametrize("example", sorted({shown.example for shown in SHOWN.values()}))
def test_an_example_shows_its_sections(example: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"forge_consensus.demo.{example}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    printed = sections_of(done.stdout)
    assert list(printed) == [title for title, shown in SHOWN.items() if shown.example == example]
    missing = [
        f"{title}: {pattern}"
        for title, text in printed.items()
        for pattern in SHOWN[title].says
        if not re.search(pattern, text, re.MULTILINE)
    ]
    assert missing == [], done.stdout
