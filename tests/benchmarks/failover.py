"""How long a client waits for its next acknowledged write after the leader was killed, or stopped; default options.

    python -m tests.benchmarks.failover [--rounds 20] [--pause]

One JSON line a run: milliseconds from the signal to the answer of the first write that was begun after it. The client
is one with default settings that had the leader's connection and wrote just before.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from forge_consensus.actors.options import Options
from tests.cluster import ProcessCluster

SETTLE_SECONDS = 2.0
TIMEOUT = 15.0


def percentile(values: list[float], part: float) -> float:
    """The value below which that part of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def measure(rounds: int, *, pause: bool) -> dict[str, Any]:
    """Run the rounds; returns the line to print."""
    took: list[float] = []
    with tempfile.TemporaryDirectory(prefix="forge-failover-") as folder, ProcessCluster(Path(folder)) as cluster:
        client = cluster.client(timeout=TIMEOUT)
        for number in range(rounds):
            client.put("before", number)
            leader = cluster.nodes[cluster.leader()]
            client.put("before", number)
            began = time.perf_counter()
            if pause:
                leader.pause()
            else:
                leader.kill()
            client.put("after", number)
            took.append((time.perf_counter() - began) * 1000)
            if pause:
                leader.resume()
            else:
                leader.start()
            time.sleep(SETTLE_SECONDS)
            cluster.wait_level()
    options = Options()
    return {
        "system": "forge-consensus",
        "work": "failover",
        "signal": "SIGSTOP" if pause else "SIGKILL",
        "rounds": rounds,
        "p50_ms": round(percentile(took, 0.5), 1),
        "p99_ms": round(percentile(took, 0.99), 1),
        "max_ms": round(max(took), 1),
        "all_ms": [round(value, 1) for value in took],
        "heartbeat_interval": options.heartbeat_interval,
        "election_timeout": [options.election_timeout_min, options.election_timeout_max],
        "rank_delay": options.rank_delay,
    }


def main() -> None:
    """Measure as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--pause", action="store_true", help="SIGSTOP the leader instead of killing it")
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.rounds, pause=arguments.pause)), flush=True)


if __name__ == "__main__":
    main()
