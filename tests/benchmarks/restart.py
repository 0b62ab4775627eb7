"""How long a node with a long log takes from its start to serving, and how much memory it holds then.

    python -m tests.benchmarks.restart [--entries 1000000] [--nodes 1]

One JSON line. The log is built by a client at full speed, with snapshots off, so that every entry stays in it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

from forge_consensus.config.storage import StorageSettings
from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.local.cluster import LocalCluster

BURST = 4_000
KEYS = 10_000
SIZE = 128
NEVER = 1_000_000_000
RESTARTS = 5


def build(cluster: LocalCluster, entries: int) -> float:
    """Fill the log; returns the seconds that took."""
    client = cluster.client(timeout=60.0)
    value = os.urandom(SIZE)
    began = time.monotonic()
    written = 0
    while written < entries:
        futures = [
            client.submit(Command("set", {"key": f"k{n % KEYS}", "value": value}))
            for n in range(written, written + BURST)
        ]
        for future in futures:
            future.result()
        written += BURST
    return time.monotonic() - began


def restarted(cluster: LocalCluster, name: str, *, kill: bool) -> tuple[float, float]:
    """Stop a node and start it again: seconds until it says that it serves, and until it has applied everything."""
    node = cluster.process(name)
    if kill:
        node.kill()
    else:
        node.stop()
    began = time.monotonic()
    node.start()
    serving = time.monotonic() - began
    cluster.wait_until_settled(*cluster.names, timeout=60.0)
    return serving, time.monotonic() - began


def measure(entries: int, nodes: int) -> dict[str, Any]:
    """Build the log and restart; returns the line to print."""
    with LocalCluster(
        nodes, storage=StorageSettings(snapshot_entries=NEVER, snapshot_log_bytes=NEVER << 10)
    ) as cluster:
        lasted = build(cluster, entries)
        cluster.wait_until_settled(*cluster.names)
        name = cluster.wait_for_leader()
        built = cluster.process(name).own_memory_bytes()
        log_entries = cluster.status(name)["log_entries"]
        times = [restarted(cluster, name, kill=number % 2 == 0) for number in range(RESTARTS)]
        return {
            "system": "forge-consensus",
            "work": "restart",
            "nodes": nodes,
            "log_entries": log_entries,
            "build_ops_per_s": round(entries / lasted),
            "serving_s": [round(serving, 3) for serving, _ in times],
            "level_s": [round(level, 3) for _, level in times],
            "rss_anon_built_mib": built >> 20,
            "rss_anon_restarted_mib": cluster.process(name).own_memory_bytes() >> 20,
            "folder_mib": sum(f.stat().st_blocks for f in cluster.process(name).data.rglob("*") if f.is_file()) >> 11,
        }


def main() -> None:
    """Measure as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--nodes", type=int, default=1)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.entries, arguments.nodes)), flush=True)


if __name__ == "__main__":
    main()
