"""A large state: what a snapshot costs writes, how long a new node takes to catch up, and what a broken link costs.

    python -m tests.benchmarks.snapshots [--bytes 1GB] [--machine kv|own] [--rate 2000] [--breaks 10] [--folder DIR]

One JSON line. Three nodes hold the state; their logs are short. A client writes small values at a fixed rate, alone
and while all three nodes write a snapshot, begun a second after one another, because nodes do not look at the same
moment whether one is due; then a fourth joins while the writes go on. In a second cluster a node that lacks the
snapshot gets it over a link that breaks so many times; `sent_ratio` is what the leader sent to it, heartbeats included,
as a multiple of the snapshot. All nodes share this machine and its disk.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

from forge_consensus.client.sync import Client
from forge_consensus.config.storage import StorageSettings
from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.node_process import NodeProcess
from tests.benchmarks.failover import percentile
from tests.benchmarks.large_machine import PAGE_BYTES, LargeMachine

NEVER: Final = 1 << 40
UNITS: Final = {"GB": 10**9, "MB": 10**6, "KB": 10**3}
STATE_SECONDS_MAX: Final = 1_800.0
TICK_SECONDS: Final = 0.005
WARM_SECONDS: Final = 15.0
"""How long writes are measured without a snapshot."""
SWEPT_SECONDS: Final = 20.0
"""After this time the log that made the state is deleted, which is no cost of the snapshot that is measured."""
APART_SECONDS: Final = 1.0
"""How much later than the one before it each node begins its snapshot."""
FILL_PAGES: Final = 200
OWN: Final = "own"
SMALL_PAGES: Final = 1 << 40
"""The pages of small writes, behind those that hold the state."""


class Writing:
    """Writes small values at a fixed rate on a thread of its own, and notes (when it was sent, how long it took)."""

    def __init__(self, client: Client, machine: str, rate: int) -> None:
        self.client = client
        self.machine = machine
        self.rate = rate
        self.took: list[tuple[float, float]] = []
        self.failed = 0
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ending.set()
        self.thread.join(60.0)

    def run(self) -> None:
        """Send what is due, whether or not earlier writes were answered."""
        began, sent = time.perf_counter(), 0
        while not self.ending.is_set():
            due = int((time.perf_counter() - began) * self.rate)
            for number in range(sent, due):
                self.write(number)
            sent = due
            time.sleep(TICK_SECONDS)

    def write(self, number: int) -> None:
        """Send one write."""
        at = time.perf_counter()

        def answered(pending: Any) -> None:
            if pending.exception() is None:
                self.took.append((at, time.perf_counter() - at))
            else:
                self.failed += 1

        if self.machine == OWN:
            command = Command("set", {"page": SMALL_PAGES + number % 1000, "value": b"x" * 100})
        else:
            command = Command("set", {"key": f"w{number % 1000}", "value": b"x" * 100})
        self.client.submit(command, 60.0).add_done_callback(answered)

    def p99_ms(self, since: float, until: float) -> float | None:
        """The 99th percentile of the writes that were sent between two moments, in milliseconds."""
        found = [took for at, took in list(self.took) if since <= at < until]
        return round(percentile(found, 0.99) * 1000, 1) if found else None


class Memory:
    """The largest RssAnon of each node with its helper processes, looked at ten times a second."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.most: dict[str, int] = {}
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ending.set()
        self.thread.join(10.0)

    def run(self) -> None:
        """Look until told to end."""
        while not self.ending.wait(0.1):
            for name in self.cluster.names:
                try:
                    mib = memory_of(self.cluster.process(name)) >> 20
                except Exception:  # it is being started anew
                    continue
                self.most[name] = max(self.most.get(name, 0), mib)


def memory_of(node: NodeProcess) -> int:
    """The RssAnon of a node and of the processes that it has started, in bytes."""
    total = node.own_memory_bytes()
    for children in Path(f"/proc/{node.pid}/task").glob("*/children"):
        for child in children.read_text().split():
            with suppress(OSError):  # it has ended
                status = Path(f"/proc/{child}/status").read_text()
                total += next((int(row.split()[1]) << 10 for row in status.splitlines() if row[:8] == "RssAnon:"), 0)
    return total


def fill(cluster: LocalCluster, machine: str, size: int) -> int:
    """Make the state; returns how many entries that took."""
    client = cluster.client(timeout=120.0)
    count = size // PAGE_BYTES
    if machine == OWN:
        for first in range(0, count, FILL_PAGES):
            client.apply(Command("fill", {"first": first, "count": min(FILL_PAGES, count - first)}))
        return -(-count // FILL_PAGES)
    for numbers in batches(count, 32):
        futures = [client.submit(Command("set", {"key": f"k{n}", "value": os.urandom(PAGE_BYTES)})) for n in numbers]
        for future in futures:
            future.result()
    return count


def batches(count: int, size: int) -> Iterator[range]:
    """The numbers below `count` in runs."""
    return (range(first, min(first + size, count)) for first in range(0, count, size))


def files_of(cluster: LocalCluster, pattern: str) -> list[Path]:
    """The snapshot files of all nodes with such names."""
    return [path for name in cluster.names for path in (cluster.folder / name / "snapshots").glob(pattern)]


def wait(what: str, holds: Any, seconds: float = STATE_SECONDS_MAX) -> float:
    """Wait until something holds; returns when it did. Raises `TimeoutError`."""
    end = time.perf_counter() + seconds
    while not holds():
        if time.perf_counter() > end:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.02)
    return time.perf_counter()


@contextmanager
def loaded(machine: str, size: int, folder: Path | None, *, proxy: bool) -> Iterator[LocalCluster]:
    """A cluster with the state, whose nodes take a snapshot only when they are asked to."""
    storage = StorageSettings(snapshot_entries=NEVER, snapshot_log_bytes=NEVER, trailing_entries=100)
    own = LargeMachine if machine == OWN else None
    with LocalCluster(3, state_machine=own, storage=storage, proxy=proxy, folder=folder) as cluster:
        fill(cluster, machine, size)
        yield cluster


def take_snapshots(cluster: LocalCluster) -> float:
    """Have all nodes take a snapshot; returns how many seconds passed until the last one had."""
    began = time.perf_counter()

    def take(place: int, name: str) -> None:
        time.sleep(place * APART_SECONDS)
        with cluster.client(timeout=120.0) as client:
            client.snapshot(cluster.addresses[name], STATE_SECONDS_MAX)

    with ThreadPoolExecutor() as threads:
        list(threads.map(take, range(len(cluster.names)), cluster.names))
    return time.perf_counter() - began


def measure_writes(machine: str, size: int, rate: int, folder: Path | None) -> dict[str, Any]:
    """The costs of taking a snapshot, and of a node that joins, for writes and memory."""
    with loaded(machine, size, folder, proxy=False) as cluster, Memory(cluster) as memory:
        client = cluster.client(timeout=120.0)
        take_snapshots(cluster)
        time.sleep(SWEPT_SECONDS)
        with Writing(client, machine, rate) as writing:
            time.sleep(2.0)
            alone = time.perf_counter()
            time.sleep(WARM_SECONDS)
            first = time.perf_counter()
            took = take_snapshots(cluster)
            time.sleep(1.0)  # the logs are cut
            last = time.perf_counter()
            index = max(cluster.status(name, 30.0)["snapshot_index"] for name in cluster.names)
            before = dict(memory.most)
            memory.most.clear()
            joined = time.perf_counter()
            cluster.join("n4")
            level = wait("the new node", lambda: caught_up(cluster, index))
            result: dict[str, Any] = {
                "writes_per_s": rate,
                "p99_ms_without": writing.p99_ms(alone, first),
                "p99_ms_with": writing.p99_ms(first, last),
                "snapshot_s": round(took, 1),
                "p99_ms_catching_up": writing.p99_ms(joined, level),
                "catch_up_s": round(level - joined, 1),
            }
        result["failed_writes"] = writing.failed
        result["rss_anon_mib_taking"] = before
        result["rss_anon_mib_sending"] = dict(memory.most)
        result["snapshot_mb"] = max(path.stat().st_size for path in files_of(cluster, "*.fcs")) // 10**6
        return result


def caught_up(cluster: LocalCluster, index: int) -> bool:
    """Whether the node that joined last has applied what the snapshot holds and what came until now."""
    joined = cluster.names[-1]
    try:
        leader = cluster.status("leader", 30.0)
        return bool(cluster.status(joined, 30.0)["last_applied"] >= max(index, leader["commit_index"] - 2000))
    except Exception:
        return False


def measure_breaks(machine: str, size: int, breaks: int, folder: Path | None) -> dict[str, Any]:
    """Send the snapshot over a link that breaks so many times, to a node that was away."""
    with loaded(machine, size, folder, proxy=True) as cluster:
        leader = cluster.wait_for_leader()
        away = next(name for name in cluster.names if name != leader)
        cluster.kill(away)
        client = cluster.client(timeout=120.0)
        for numbers in batches(1_000, 200):
            for future in [client.submit(small(machine, number)) for number in numbers]:
                future.result()
        index = client.snapshot(cluster.addresses[leader], STATE_SECONDS_MAX).index
        wait("the shorter log", lambda: cluster.status(leader, 30.0)["first_log_index"] > index - 500)
        total = max(path.stat().st_size for path in (cluster.folder / leader / "snapshots").glob("*.fcs"))
        path = (leader, away)
        before = cluster.proxy.counts()[path].bytes
        cluster.restart(away)
        began = time.perf_counter()
        broken = 0
        while cluster.status(away, 30.0)["last_applied"] < cluster.status(leader, 30.0)["commit_index"]:
            sent = cluster.proxy.counts()[path].bytes - before
            if broken < breaks and sent > total * (broken + 1) / (breaks + 1):
                cluster.proxy.disconnect(leader, away)
                broken += 1
            time.sleep(0.005)
            if time.perf_counter() - began > STATE_SECONDS_MAX:
                raise TimeoutError("the node did not catch up")
        sent = cluster.proxy.counts()[path].bytes - before
        return {
            "breaks": broken,
            "broken_transfer_s": round(time.perf_counter() - began, 1),
            "broken_snapshot_mb": total // 10**6,
            "sent_mb": sent // 10**6,
            "sent_ratio": round(sent / total, 3),
        }


def small(machine: str, number: int) -> Command:
    """A small write."""
    if machine == OWN:
        return Command("set", {"page": SMALL_PAGES + number % 1000, "value": b"x"})
    return Command("set", {"key": f"w{number % 1000}", "value": b"x"})


def bytes_of(text: str) -> int:
    """A number of bytes, such as 1GB. Raises `ValueError`."""
    for unit, factor in UNITS.items():
        if text.upper().endswith(unit):
            return int(float(text[: -len(unit)]) * factor)
    return int(text)


def main() -> None:
    """Measure as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=bytes_of, default=10**9, help="the size of the state, such as 1GB")
    parser.add_argument("--machine", choices=["kv", OWN], default="kv")
    parser.add_argument("--rate", type=int, default=2_000, help="writes in a second")
    parser.add_argument("--breaks", type=int, default=10, help="how often the link breaks; 0 leaves that out")
    parser.add_argument("--folder", type=Path, help="where the nodes keep their data; it needs ten times the state")
    given = parser.parse_args()
    line: dict[str, Any] = {"system": "forge-consensus", "work": "snapshots", "machine": given.machine}
    line["state_mb"] = given.bytes // 10**6
    line |= measure_writes(given.machine, given.bytes, given.rate, given.folder)
    if given.breaks:
        line |= measure_breaks(given.machine, given.bytes, given.breaks, given.folder)
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
