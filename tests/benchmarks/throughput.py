"""How many commands a second three node processes commit for one client process, and how long each takes.

    python -m tests.benchmarks.throughput [--seconds 8] [--window 1000] [--encrypted ROUNDS]
    python -m tests.benchmarks.throughput [--seconds 8] [--window 1000] [--many 100] [--secure]
    python -m tests.benchmarks.throughput [--seconds 8] --protected ROUNDS

One JSON line a run: 128-byte values, keys cycling over 10,000, every command durable on a majority before its answer.
`--many` hands the commands over in lists, by `Client.submit_many`; the times are then those of a list.
`--secure` measures each window a second time with every connection encrypted and authenticated (CURVE).
`--encrypted` measures clusters whose disks are plain and encrypted, in turns, and prints how the medians compare.
`--protected` measures plain clusters, those with CURVE, and those with CURVE and encrypted disks, in turns in one run,
with 1,000 outstanding and one at a time, and prints the medians of each.
Beside other systems: ``make bench``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from statistics import median
from typing import Any

from forge_consensus.checks.closed_loop import ClosedLoop
from forge_consensus.client.pending import Pending
from forge_consensus.client.pending_many import PendingMany
from forge_consensus.client.sync import Client
from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.encrypted_disks import encrypted_disks
from tests.benchmarks.failover import percentile
from tests.benchmarks.machine import cpu_seconds

KEYS = 10_000
WARM_UP = 2_000
FIELDS = ("ops_per_s", "p50_ms", "p99_ms", "leader_us_per_command")
KINDS: dict[str, dict[str, bool]] = {
    "plain": {},
    "CURVE": {"secure": True},
    "CURVE, encrypted disks": {"secure": True, "encrypted": True},
}
"""What protects a cluster, as `measure` takes it."""


def put_for(client: Client, value: bytes, window: int, seconds: float, many: int = 1) -> tuple[list[float], float]:
    """Keep `window` commands outstanding for a while, in lists of `many`; returns (ms of each list, seconds in all)."""

    def put(number: int) -> Pending[Any] | PendingMany:
        if many == 1:
            return client.submit(Command("set", {"key": f"k{number % KEYS}", "value": value}))
        keys = range(number * many, (number + 1) * many)
        return client.submit_many([Command("set", {"key": f"k{key % KEYS}", "value": value}) for key in keys])

    loop = ClosedLoop(put, max(1, window // many))
    lasted = loop.run(seconds)
    if loop.failures:
        sys.exit(f"commands failed: {dict(loop.failures)}")
    return [each * 1000 for each in loop.took], lasted


def measure(
    window: int, size: int, seconds: float, *, many: int = 1, encrypted: bool = False, secure: bool = False
) -> dict[str, Any]:
    """One run on a fresh cluster; returns the line to print."""
    with LocalCluster(environment=encrypted_disks() if encrypted else None, secure=secure) as cluster:
        client = cluster.client(timeout=30.0)
        value = os.urandom(size)
        futures = [client.submit(Command("set", {"key": f"k{n}", "value": value})) for n in range(WARM_UP)]
        for future in futures:
            future.result()
        leader = cluster.wait_for_leader()
        pids = {name: cluster.process(name).pid for name in cluster.names}
        before, flushes = (
            {name: cpu_seconds(pid) for name, pid in pids.items()},
            cluster.status(leader)["flushes_total"],
        )
        client_began = time.process_time()
        took, lasted = put_for(client, value, window, seconds, many)
        client_seconds = time.process_time() - client_began
        count = len(took) * many
        used = {name: (cpu_seconds(pid) - before[name]) / count * 1e6 for name, pid in pids.items()}
        flushed = cluster.status(leader)["flushes_total"] - flushes
        return {
            "system": "forge-consensus with CURVE" if secure else "forge-consensus",
            "work": "put",
            "size": size,
            "window": window,
            "many": many,
            "encrypted": encrypted,
            "ops_per_s": round(count / lasted),
            "p50_ms": round(percentile(took, 0.5), 3),
            "p99_ms": round(percentile(took, 0.99), 3),
            "fsync": True,
            "leader_us_per_command": round(used.pop(leader), 1),
            "follower_us_per_command": round(sum(used.values()) / len(used), 1),
            "client_us_per_command": round(client_seconds / count * 1e6, 1),
            "commands_per_flush": round(count / max(flushed, 1), 1),
            "leader_rss_anon_mib": cluster.process(leader).own_memory_bytes() >> 20,
        }


def compare_encrypted(window: int, size: int, seconds: float, rounds: int) -> None:
    """Measure plain and encrypted clusters in turns, and print what encryption costs."""
    runs = []
    for number in range(2 * rounds):
        runs.append(measure(window, size, seconds, encrypted=number % 4 in {1, 2}))
        print(json.dumps(runs[-1]), flush=True)
    told: dict[str, Any] = {"window": window, "rounds": rounds}
    for field in FIELDS:
        plain, encrypted = (median(run[field] for run in runs if run["encrypted"] is kind) for kind in (False, True))
        told[field] = {"plain": plain, "encrypted": encrypted, "ratio": round(encrypted / plain, 3)}
    print(json.dumps(told), flush=True)


def compare_protected(windows: list[int], size: int, seconds: float, rounds: int) -> None:
    """Measure clusters of each kind of protection in turns, and print the medians of each with each window.

    Each round begins with another kind, because a machine has fast and slow phases.
    """
    runs: dict[tuple[int, str], list[dict[str, Any]]] = {}
    names = list(KINDS)
    for number in range(rounds):
        first = number % len(names)
        for kind in names[first:] + names[:first]:
            for window in windows:
                found = measure(window, size, seconds, **KINDS[kind])
                runs.setdefault((window, kind), []).append(found)
                print(json.dumps(found), flush=True)
    for window in windows:
        plain = {field: median(run[field] for run in runs[window, names[0]]) for field in FIELDS}
        for kind in names:
            told = {field: median(run[field] for run in runs[window, kind]) for field in FIELDS}
            ratio = round(told["ops_per_s"] / plain["ops_per_s"], 3)
            line = {"window": window, "protection": kind, "rounds": rounds, **told, "ops_per_s_of_plain": ratio}
            print(json.dumps(line), flush=True)


def main() -> None:
    """Measure as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--size", type=int, default=128, help="bytes of a value")
    parser.add_argument("--window", type=int, action="append", help="commands outstanding; default: 1000, then 1")
    parser.add_argument("--many", type=int, default=1, metavar="N", help="lists of N commands, by submit_many")
    parser.add_argument("--secure", action="store_true", help="measure with CURVE too")
    parser.add_argument("--encrypted", type=int, default=0, metavar="ROUNDS", help="compare with encrypted disks")
    parser.add_argument(
        "--protected",
        type=int,
        default=0,
        metavar="ROUNDS",
        help="compare plain, CURVE, and CURVE + encrypted disks",
    )
    arguments = parser.parse_args()
    if arguments.protected:
        compare_protected(arguments.window or [1000, 1], arguments.size, arguments.seconds, arguments.protected)
        return
    for window in arguments.window or [1000, 1]:
        if arguments.encrypted:
            compare_encrypted(window, arguments.size, arguments.seconds, arguments.encrypted)
            continue
        for secure in (False, True) if arguments.secure else (False,):
            told = measure(window, arguments.size, arguments.seconds, many=arguments.many, secure=secure)
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
