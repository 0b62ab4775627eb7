"""Real nodes and clients in a network that goes silent: an outage, a forgetful firewall, and what is no silence."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forge_consensus.errors import ConsensusError
from forge_consensus.testing import LocalCluster
from forge_consensus.testing.local.node_process import NodeProcess
from forge_consensus.testing.local.proxy import PathFaults
from tests.cluster.siege.namespaces import SpacedCluster, Switch, no_namespaces
from tests.worlds.source_tree import ROOT

OUTAGE_SECONDS = 16.0
SERVED_SECONDS_MAX = 4.0
"""TCP alone would take about as long as the outage lasted."""

FORGETFUL = Path(__file__).with_name("forgetful_firewall.py")


def test_a_cluster_serves_soon_after_an_outage_of_the_network() -> None:
    if reason := no_namespaces():
        pytest.skip(f"no network namespaces: {reason}")
    with Switch(["n1", "n2", "n3"]) as switch, SpacedCluster(switch) as cluster:
        client = cluster.client(timeout=5.0)
        client.put("a", 1)
        for name in switch.places:
            switch.allow(name, "on")
        time.sleep(OUTAGE_SECONDS)
        switch.whole()
        healed = time.monotonic()
        while True:
            try:
                client.put("a", 2, timeout=1.0)
                break
            except ConsensusError:
                assert time.monotonic() - healed < SERVED_SECONDS_MAX
        assert time.monotonic() - healed < SERVED_SECONDS_MAX


@pytest.mark.skipif(os.geteuid() != 0, reason="a network of its own needs root")
@pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("unshare", "ip")),
    reason="unshare and ip are needed (Debian: apt-get install util-linux iproute2)",
)
def test_the_next_call_succeeds_after_a_firewall_forgot_the_connections(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "-n", sys.executable, str(FORGETFUL), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if done.returncode == 75:
        pytest.skip(f"this machine cannot drop the packets of one connection: {done.stdout.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr


def connections_between(cluster: LocalCluster) -> int:
    """How often a node connected to another one."""
    assert cluster.proxy is not None
    return sum(path.connections for (source, _), path in cluster.proxy.counts().items() if source in cluster.nodes)


def test_a_slow_link_and_a_stopped_process_break_no_connection() -> None:
    with LocalCluster(nodes=3, proxy=True) as cluster:
        client = cluster.client(timeout=10.0)
        client.put("a", 1)
        before = connections_between(cluster)
        term = max(cluster.status(name)["term"] for name in cluster.nodes)
        assert cluster.proxy is not None
        pairs = [(one, other) for one in cluster.nodes for other in cluster.nodes if one != other]
        cluster.proxy.impose_all(pairs, PathFaults(delay_s_min=0.15, delay_s_max=0.15))
        for number in range(8):
            client.put("a", number)
        time.sleep(3.0)
        cluster.proxy.heal()
        assert max(cluster.status(name)["term"] for name in cluster.nodes) == term
        follower = next(name for name in cluster.nodes if cluster.status(name)["role"] == "follower")
        node = cluster.nodes[follower]
        assert isinstance(node, NodeProcess)
        assert node.pid is not None
        os.kill(node.pid, signal.SIGSTOP)
        time.sleep(3.0)
        os.kill(node.pid, signal.SIGCONT)
        client.put("a", 9)
        time.sleep(0.5)
        assert max(cluster.status(name)["term"] for name in cluster.nodes) == term
        assert connections_between(cluster) == before
