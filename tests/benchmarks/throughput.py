"""How many commands a second three node processes commit for one client process, and how long each takes.

    python -m tests.benchmarks.throughput [--seconds 8] [--window 1000] [--encrypted ROUNDS]
    python -m tests.benchmarks.throughput [--seconds 8] [--window 1000] [--secure]

One JSON line a run: 128-byte values, keys cycling over 10,000, every command durable on a majority before its answer.
`--secure` measures each window a second time with every connection encrypted and authenticated (CURVE).
`--encrypted` measures clusters whose disks are plain and encrypted, in turns, and prints how the medians compare.
Beside other systems: ``make bench``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from statistics import median
from typing import Any

from forge_consensus.checks.closed_loop import ClosedLoop
from forge_consensus.client.pending import Pending
from forge_consensus.client.sync import Client
from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.local.cluster import LocalCluster
from tests.benchmarks.failover import percentile
from tests.benchmarks.machine import cpu_seconds

KEYS = 10_000
WARM_UP = 2_000
SECURITY = "FORGE_CONSENSUS_SECURITY__"


def put_for(client: Client, value: bytes, window: int, seconds: float) -> tuple[list[float], float]:
    """Keep `window` commands outstanding for a while; returns (milliseconds of each, seconds in all)."""

    def put(number: int) -> Pending[Any]:
        return client.submit(Command("set", {"key": f"k{number % KEYS}", "value": value}))

    loop = ClosedLoop(put, window)
    lasted = loop.run(seconds)
    if loop.failures:
        sys.exit(f"commands failed: {dict(loop.failures)}")
    return [each * 1000 for each in loop.took], lasted


def measure(window: int, size: int, seconds: float, *, encrypted: bool = False, secure: bool = False) -> dict[str, Any]:
    """One run on a fresh cluster; returns the line to print."""
    environment = {f"{SECURITY}ENABLE_ENCRYPTION": "true", f"{SECURITY}ENCRYPTION_KEY": os.urandom(32).hex()}
    with LocalCluster(environment=environment if encrypted else None, secure=secure) as cluster:
        client = cluster.client(timeout=30.0)
        value = os.urandom(size)
        futures = [client.submit(Command("set", {"key": f"k{n}", "value": value})) for n in range(WARM_UP)]
        for future in futures:
            future.result()
        leader = cluster.wait_for_leader()
        before, flushes = cpu_seconds(cluster.process(leader).pid), cluster.status(leader)["flushes_total"]
        took, lasted = put_for(client, value, window, seconds)
        flushed = cluster.status(leader)["flushes_total"] - flushes
        return {
            "system": "forge-consensus with CURVE" if secure else "forge-consensus",
            "work": "put",
            "size": size,
            "window": window,
            "encrypted": encrypted,
            "ops_per_s": round(len(took) / lasted),
            "p50_ms": round(percentile(took, 0.5), 3),
            "p99_ms": round(percentile(took, 0.99), 3),
            "fsync": True,
            "leader_us_per_command": round((cpu_seconds(cluster.process(leader).pid) - before) / len(took) * 1e6, 1),
            "commands_per_flush": round(len(took) / max(flushed, 1), 1),
            "leader_rss_anon_mib": cluster.process(leader).own_memory_bytes() >> 20,
        }


def compare_encrypted(window: int, size: int, seconds: float, rounds: int) -> None:
    """Measure plain and encrypted clusters in turns, and print what encryption costs."""
    runs = []
    for number in range(2 * rounds):
        runs.append(measure(window, size, seconds, encrypted=number % 4 in {1, 2}))
        print(json.dumps(runs[-1]), flush=True)
    told: dict[str, Any] = {"window": window, "rounds": rounds}
    for field in ("ops_per_s", "p50_ms", "p99_ms", "leader_us_per_command"):
        plain, encrypted = (median(run[field] for run in runs if run["encrypted"] is kind) for kind in (False, True))
        told[field] = {"plain": plain, "encrypted": encrypted, "ratio": round(encrypted / plain, 3)}
    print(json.dumps(told), flush=True)


def main() -> None:
    """Measure as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--size", type=int, default=128, help="bytes of a value")
    parser.add_argument("--window", type=int, action="append", help="commands outstanding; default: 1000, then 1")
    parser.add_argument("--secure", action="store_true", help="measure with CURVE too")
    parser.add_argument("--encrypted", type=int, default=0, metavar="ROUNDS", help="compare with encrypted disks")
    arguments = parser.parse_args()
    for window in arguments.window or [1000, 1]:
        if arguments.encrypted:
            compare_encrypted(window, arguments.size, arguments.seconds, arguments.encrypted)
            continue
        for secure in (False, True) if arguments.secure else (False,):
            print(json.dumps(measure(window, arguments.size, arguments.seconds, secure=secure)), flush=True)


if __name__ == "__main__":
    main()
