"""How long a client waits for its next acknowledged write after the leader has fallen; default options.

    python -m tests.benchmarks.failover [--rounds 20] [--pause | --cut]

The leader is killed, or stopped, or its host is gone: each node has a network of its own then, and the leader's cable
is pulled, which nothing tells the others (needs root). One JSON line a run: milliseconds from that moment to the next
acknowledged write, as a client with default settings sees it that writes one key after the other all the time; so one
command is under way when the leader falls.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Self

from forge_consensus.client.sync import Client
from forge_consensus.config.raft import RaftSettings
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.node_process import NodeProcess
from tests.cluster.siege.namespaces import SpacedCluster, Switch, no_namespaces

SETTLE_SECONDS = 2.0
ANSWER_SECONDS_MAX = 15.0
FALLEN_SECONDS = 0.005
"""An answer may have left just before the signal; what comes later than this was given by another leader."""


class Writing:
    """A thread that writes all the time and notes when each write was acknowledged."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.acknowledged_at = 0.0
        self.failure: BaseException | None = None
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ending.set()
        self.thread.join(2 * ANSWER_SECONDS_MAX)

    def run(self) -> None:
        """Write until told to end."""
        number = 0
        try:
            while not self.ending.is_set():
                number += 1
                self.client.put("written", number)
                self.acknowledged_at = time.perf_counter()
        except BaseException as failure:
            self.failure = failure

    def next_after(self, moment: float) -> float:
        """Wait for the next acknowledgement behind that moment; returns when it was."""
        end = time.perf_counter() + ANSWER_SECONDS_MAX
        while self.acknowledged_at <= moment:
            if self.failure is not None:
                raise self.failure
            if time.perf_counter() > end:
                raise TimeoutError(f"nothing was acknowledged for {ANSWER_SECONDS_MAX:g} s")
            time.sleep(0.0005)
        return self.acknowledged_at


def percentile(values: list[float], part: float) -> float:
    """The value below which that part of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


class Fall(ABC):
    """A way in which a leader falls and comes back."""

    name: ClassVar[str]
    """What it is called in the line."""

    @contextmanager
    def cluster(self) -> Iterator[LocalCluster]:
        """The cluster whose leader falls."""
        with LocalCluster() as cluster:
            yield cluster

    @abstractmethod
    def strike(self, cluster: LocalCluster, leader: NodeProcess) -> None:
        """Let it fall."""

    @abstractmethod
    def repair(self, cluster: LocalCluster, leader: NodeProcess) -> None:
        """Let it come back."""


class Killed(Fall):
    """The process is killed; the kernel closes its connections."""

    name: ClassVar = "SIGKILL"

    def strike(self, cluster: LocalCluster, leader: NodeProcess) -> None:
        """Let it fall."""
        leader.signal(signal.SIGKILL)

    def repair(self, cluster: LocalCluster, leader: NodeProcess) -> None:
        """Let it come back."""
        leader.kill()
        leader.start()


class Stopped(Fall):
    """The process stands still; its kernel keeps its connections."""

    name: ClassVar = "SIGSTOP"

    def strike(self, cluster: LocalCluster, leader: NodeProcess) -> None:
        """Let it fall."""
        leader.signal(signal.SIGSTOP)

    def repair(self, cluster: LocalCluster, leader: NodeProcess) -> None:
        """Let it come back."""
        leader.resume()


class Unplugged(Fall):
    """Its host is gone: not even its kernel answers."""

    name: ClassVar = "cable pulled"

    @contextmanager
    def cluster(self) -> Iterator[LocalCluster]:
        """The cluster whose leader falls."""
        if reason := no_namespaces():
            sys.exit(f"no network namespaces: {reason}")
        with Switch(["n1", "n2", "n3"]) as switch, SpacedCluster(switch) as cluster:
            yield cluster

    def strike(self, cluster: LocalCluster, leader: NodeProcess) -> None:
        """Let it fall."""
        assert isinstance(cluster, SpacedCluster), "it was made here"
        cluster.switch.plug(leader.name, "down")

    def repair(self, cluster: LocalCluster, leader: NodeProcess) -> None:
        """Let it come back."""
        cluster.heal()


def measure(rounds: int, fall: Fall) -> dict[str, Any]:
    """Run the rounds; returns the line to print."""
    took: list[float] = []
    with fall.cluster() as cluster:
        client = cluster.client(timeout=ANSWER_SECONDS_MAX)
        for _ in range(rounds):
            leader = cluster.process("leader")
            with Writing(client) as writing:
                writing.next_after(time.perf_counter())
                time.sleep(random.uniform(0.1, 0.3))
                began = time.perf_counter()
                fall.strike(cluster, leader)
                took.append((writing.next_after(began + FALLEN_SECONDS) - began) * 1000)
            fall.repair(cluster, leader)
            time.sleep(SETTLE_SECONDS)
            cluster.wait_until_settled(*cluster.names)
    options = RaftSettings()
    return {
        "system": "forge-consensus",
        "work": "failover",
        "signal": fall.name,
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
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--pause", action="store_true", help="SIGSTOP the leader instead of killing it")
    ways.add_argument("--cut", action="store_true", help="pull the cable of its network namespace")
    arguments = parser.parse_args()
    fall = Unplugged() if arguments.cut else Stopped() if arguments.pause else Killed()
    print(json.dumps(measure(arguments.rounds, fall)), flush=True)


if __name__ == "__main__":
    main()
