"""Whether a cluster stays as fast and as small as it was: many entries in windows of time, with its memory, then rest.

    python -m tests.benchmarks.endurance [--entries 200000] [--window 2] [--outstanding 1000] [--idle 5]

Defaults are small; ``--entries 5000000 --window 10`` is a measurement. Three node processes with default settings, so
snapshots and compaction happen. One JSON line for each window, and one that sums up: the rate of the last third of the
windows as a part of that of the first third, memory of their own (RssAnon) and processor time of idle nodes before and
after, and what the folders take on disk.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from statistics import median
from typing import Any, Final

from forge_consensus.checks.closed_loop import ClosedLoop
from forge_consensus.client.pending import Pending
from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.local.cluster import LocalCluster
from tests.benchmarks.failover import percentile
from tests.benchmarks.machine import cpu_seconds

KEYS: Final = 10_000
WARM_SECONDS: Final = 1.0


def memory_mib(cluster: LocalCluster) -> dict[str, float]:
    """Return the memory that each node itself allocated."""
    return {name: round(cluster.process(name).own_memory_bytes() / 2**20, 1) for name in cluster.names}


def folders_mib(cluster: LocalCluster) -> int:
    """Return what the data folders of all nodes take on disk."""
    files = [file for name in cluster.names for file in cluster.process(name).data.rglob("*") if file.is_file()]
    return sum(file.stat().st_blocks for file in files) >> 11


def at_rest(cluster: LocalCluster, seconds: float) -> dict[str, Any]:
    """Leave the cluster alone for so long; return the nodes' memory, and their processor time in percent of a core."""
    before = {name: cpu_seconds(cluster.process(name).pid) for name in cluster.names}
    began = time.perf_counter()
    time.sleep(seconds)
    lasted = time.perf_counter() - began
    used = {name: cpu_seconds(cluster.process(name).pid) - before[name] for name in cluster.names}
    return {
        "rss_anon_mib": memory_mib(cluster),
        "cpu_percent": {name: round(100 * each / lasted, 2) for name, each in used.items()},
    }


def one_window(loop: ClosedLoop, seconds: float) -> dict[str, Any]:
    """Write for so many seconds; return what was acknowledged and how long it took. Ends the program on a failure."""
    loop.took.clear()
    lasted = loop.run(seconds)
    if loop.failures:
        sys.exit(f"commands failed: {dict(loop.failures)}")
    return {
        "entries": len(loop.took),
        "per_second": round(len(loop.took) / lasted),
        "p50_ms": round(percentile(loop.took, 0.5) * 1000, 3),
        "p99_ms": round(percentile(loop.took, 0.99) * 1000, 3),
        "max_ms": round(max(loop.took) * 1000, 3),
    }


def measure(entries: int, window: float, outstanding: int, idle: float, value_bytes: int) -> dict[str, Any]:
    """Write so many entries, window after window; prints each, and returns what sums up."""
    with LocalCluster() as cluster:
        cluster.wait_until_settled()
        before = at_rest(cluster, idle)
        client = cluster.client(timeout=60.0)
        value = "x" * value_bytes

        def write(number: int) -> Pending[Any]:
            return client.submit(Command("set", {"key": f"k{number % KEYS}", "value": value}))

        loop = ClosedLoop(write, outstanding)
        loop.run(WARM_SECONDS)
        rates: list[int] = []
        written = 0
        while written < entries:
            found = one_window(loop, window)
            written += found["entries"]
            rates.append(found["per_second"])
            told = {
                "window": len(rates),
                **found,
                "rss_anon_mib": memory_mib(cluster),
                "disk_mib": folders_mib(cluster),
            }
            print(json.dumps(told), flush=True)
        cluster.wait_until_settled()
        third = max(1, len(rates) // 3)
        return {
            "system": "forge-consensus",
            "work": "endurance",
            "entries": written,
            "per_second": median(rates),
            "slowest_window": min(rates),
            "last_third_to_first": round(median(rates[-third:]) / median(rates[:third]), 3),
            "idle_before": before,
            "idle_after": at_rest(cluster, idle),
            "disk_mib": folders_mib(cluster),
        }


def main() -> None:
    """Measure as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=200_000, help="default: %(default)s")
    parser.add_argument("--window", type=float, default=2.0, help="seconds of a window; default: %(default)s")
    parser.add_argument("--outstanding", type=int, default=1000, help="default: %(default)s")
    parser.add_argument(
        "--idle", type=float, default=5.0, help="seconds of rest that are measured; default: %(default)s"
    )
    parser.add_argument("--value-bytes", type=int, default=128, help="default: %(default)s")
    arguments = parser.parse_args()
    print(json.dumps(measure(**vars(arguments))), flush=True)


if __name__ == "__main__":
    main()
