"""How many linearizable reads a second three node processes answer: the leader alone, beside all nodes each its own.

    python -m tests.benchmarks.reads [--seconds 5] [--rounds 3] [--window 256] [--writes 200]

Three client processes read on one cluster while a fourth writes. They ask the leader alone, then each a node of its
own, then the two followers only, in turns, so that a slow phase of the machine meets all alike. One JSON line for each
place and round, then one with the median of each. `cpu_us_per_read` is the processor time of each node for each read
of all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

from forge_consensus.client.sync import Client
from forge_consensus.testing.local.cluster import LocalCluster
from tests.benchmarks.failover import percentile
from tests.benchmarks.machine import cpu_seconds

KEYS = 1_000
CLIENTS = 3
WARM_SECONDS = 0.5
PLACES = ("leader", "all", "followers")


def read_pipelined(client: Client, read_from: str, window: int, seconds: float) -> tuple[list[float], float]:
    """Keep `window` linearizable reads outstanding for a while; returns (milliseconds of each, seconds in all)."""
    took: list[float] = []
    gate = threading.Semaphore(window)
    failures: list[BaseException] = []

    def done(began: float, future: Any) -> None:
        took.append((time.perf_counter() - began) * 1000)
        if (error := future.exception()) is not None:
            failures.append(error)
        gate.release()

    start = time.perf_counter()
    number = 0
    while time.perf_counter() - start < seconds:
        gate.acquire()
        began = time.perf_counter()
        client.ask_query(f"k{number % KEYS}", read_from=read_from).add_done_callback(partial(done, began))
        number += 1
    for _ in range(window):
        gate.acquire()
    if failures:
        raise failures[0]
    return took, time.perf_counter() - start


def work(endpoints: str, read_from: str, window: int, seconds: float) -> None:
    """What one client process does: it reads, and prints what it measured."""
    with Client(endpoints, timeout=30.0) as client:
        read_pipelined(client, read_from, window, WARM_SECONDS)
        print("ready", flush=True)
        sys.stdin.readline()
        took, lasted = read_pipelined(client, read_from, window, seconds)
        print(
            json.dumps({"count": len(took), "seconds": lasted, "ms": [percentile(took, 0.5), percentile(took, 0.99)]})
        )


@contextmanager
def writing(cluster: LocalCluster, rate: float) -> Iterator[None]:
    """Write keys at that rate, in writes a second, so that followers must follow."""
    ending = threading.Event()

    def write() -> None:
        with cluster.client(timeout=30.0) as client:
            number = 0
            while rate and not ending.wait(1 / rate):
                client.put(f"k{number % KEYS}", number)
                number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        ending.set()
        writer.join()


def measure(cluster: LocalCluster, place: str, window: int, seconds: float) -> dict[str, Any]:
    """One run; returns the line to print."""
    leader = cluster.wait_for_leader()
    followers = cluster.followers()
    names = {"leader": ["leader"] * CLIENTS, "all": [leader, *followers], "followers": [*followers, followers[0]]}[
        place
    ]
    where = [name if name == "leader" else cluster.addresses[name] for name in names]
    endpoints = ",".join(cluster.endpoints)
    command = [sys.executable, "-m", "tests.benchmarks.reads", "--seconds", str(seconds), "--window", str(window)]
    readers = [
        subprocess.Popen(
            [*command, "--endpoints", endpoints, "--read-from", one],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for one in where
    ]
    for reader in readers:
        assert reader.stdout is not None
        if reader.stdout.readline() != "ready\n":
            raise SystemExit("a client failed")
    before = {name: cpu_seconds(cluster.process(name).pid) for name in cluster.names}
    for reader in readers:
        assert reader.stdin is not None
        reader.stdin.write("go\n")
        reader.stdin.flush()
    told = [json.loads(reader.communicate(timeout=seconds + 60)[0]) for reader in readers]
    count = sum(one["count"] for one in told)
    used = {name: cpu_seconds(cluster.process(name).pid) - before[name] for name in cluster.names}
    each = {name: round(seconds_used / count * 1e6, 1) for name, seconds_used in used.items()}
    return {
        "place": place,
        "reads_per_s": round(sum(one["count"] / one["seconds"] for one in told)),
        "p50_ms": round(max(one["ms"][0] for one in told), 2),
        "p99_ms": round(max(one["ms"][1] for one in told), 2),
        "cpu_us_per_read": {"leader": each[leader], "followers": [each[name] for name in followers]},
    }


def main() -> None:
    """Measure as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--window", type=int, default=256, help="reads that each client process has outstanding")
    parser.add_argument("--writes", type=float, default=200.0, help="writes a second meanwhile")
    parser.add_argument("--endpoints", help=argparse.SUPPRESS)
    parser.add_argument("--read-from", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.endpoints:
        work(arguments.endpoints, arguments.read_from, arguments.window, arguments.seconds)
        return
    lines: dict[str, list[dict[str, Any]]] = {place: [] for place in PLACES}
    with LocalCluster() as cluster:
        cluster.wait_until_settled()
        with cluster.client(timeout=30.0) as client:
            for number in range(KEYS):
                client.put(f"k{number}", number)
        with writing(cluster, arguments.writes):
            for number in range(arguments.rounds):
                for place in PLACES:
                    line = measure(cluster, place, arguments.window, arguments.seconds)
                    lines[place].append(line)
                    print(json.dumps({"round": number + 1, **line}), flush=True)
    medians = {place: median(line["reads_per_s"] for line in found) for place, found in lines.items()}
    print(json.dumps({"median_reads_per_s": medians}))


if __name__ == "__main__":
    main()
