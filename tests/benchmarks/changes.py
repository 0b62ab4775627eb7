"""How long clients wait while the members of a cluster change under load, and while its leadership is handed over.

    python -m tests.benchmarks.changes [--transfers 50] [--clients 6] [--only changes|transfers]

A real cluster grows from one node to three and five, shrinks to three, replaces every node by a new one, and moves one
node to another port. Then it hands its leadership over, again and again. One JSON line a step, with the longest time
between two acknowledged writes of any client in it; the last line sums up. Every write must be acknowledged (clients
repeat by themselves what is safe to repeat), the history must be linearizable, and all nodes equal: else it fails.

Nodes, clients and the judge share one machine, so a node's start takes processor time from the others; the gap of a
step is measured from the moment when its new process serves, and `with_start_ms` from before.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from forge_consensus.client.sync import Client
from forge_consensus.storage.ledger.changes import Action, Change
from forge_consensus.testing.histories.history import History, Operation, Outcome
from forge_consensus.testing.local.cluster import LocalCluster
from tests.benchmarks.failover import percentile
from tests.cluster.siege.callers import record
from tests.cluster.siege.keys import COUNTER, Keys
from tests.cluster.siege.verdicts import final_reads, judge_history, judge_machines, judge_sums

KEYS_AT_ONCE: Final = 24
WRITE_SECONDS: Final = 10.0
"""For so long a client tries each call."""
CHANGE_SECONDS: Final = 60.0
REST_SECONDS_MAX: Final = 0.004
AFTER_SECONDS: Final = 0.7
"""How long the load goes on after each step, so that what comes late belongs to it."""


class Load:
    """Clients on a thread each, which write and sometimes read, and note when each write was acknowledged."""

    def __init__(self, cluster: LocalCluster, clients: int) -> None:
        self.history = History()
        self.keys = Keys("load", KEYS_AT_ONCE, random.Random(1))
        self.acknowledged: list[float] = []
        """In order of time, up to what threads do to each other."""
        self.slowest_seconds = 0.0
        self.failures: list[BaseException] = []
        self.ending = threading.Event()
        self.clients = [cluster.client(timeout=WRITE_SECONDS) for _ in range(clients)]
        self.threads = [
            threading.Thread(target=self.run, args=(f"c{number}", client), daemon=True)
            for number, client in enumerate(self.clients)
        ]

    def run(self, name: str, client: Client) -> None:
        """Call until told to end."""
        dice = random.Random(name)
        while not self.ending.is_set():
            key = self.keys.take(dice)
            kind = "get" if dice.random() < 0.2 else "increment" if COUNTER in key else "set"
            argument = {"get": None, "increment": 1, "set": self.keys.value()}[kind]
            call = Operation(name, kind, key, argument)
            self.failures += record(client, self.history, [call], WRITE_SECONDS)
            if call.outcome is not Outcome.OK or call.ended is None:
                return
            if kind != "get":
                self.acknowledged.append(call.ended)
                self.slowest_seconds = max(self.slowest_seconds, call.ended - call.began)
            time.sleep(dice.uniform(0.0, REST_SECONDS_MAX))

    def longest_gap(self, since: float) -> float:
        """The longest time, in seconds, without an acknowledged write since that moment."""
        times = sorted(moment for moment in self.acknowledged[:] if moment >= since)
        moments = [since, *times, time.monotonic()]
        return max(later - earlier for earlier, later in itertools.pairwise(moments))


@contextmanager
def load(cluster: LocalCluster, clients: int) -> Iterator[Load]:
    """Run the load; at the end demand that nothing failed, the history is linearizable and all nodes are equal."""
    found = Load(cluster, clients)
    for thread in found.threads:
        thread.start()
    time.sleep(1.0)
    try:
        yield found
    finally:
        found.ending.set()
        for thread in found.threads:
            thread.join(2 * WRITE_SECONDS)
    assert not found.failures, f"{len(found.failures)} calls failed, the first with {found.failures[0]!r}"
    cluster.wait_until_settled(*cluster.names)
    final_reads(found.clients[0], found.history, found.keys.made)
    judge_history(found.history)
    judge_sums(found.history, judge_machines(cluster, WRITE_SECONDS))


class Operator:
    """Makes the steps, and prints the gap that each of them had."""

    def __init__(self, cluster: LocalCluster, load: Load) -> None:
        self.cluster = cluster
        self.load = load
        self.client = cluster.client(timeout=CHANGE_SECONDS)
        self.gaps: dict[str, float] = {}
        self.began = time.monotonic()
        self.starting = time.monotonic()

    def step(self, name: str, act: Callable[[], object]) -> None:
        """Make a step and print its gap; `act` may call `measure` when its new process serves."""
        self.began = self.starting = time.monotonic()
        act()
        took = time.monotonic() - self.began
        time.sleep(AFTER_SECONDS)
        gap = self.gaps[name] = self.load.longest_gap(self.began)
        line = {"step": name, "gap_ms": round(gap * 1000, 1), "took_s": round(took, 2)}
        if self.starting != self.began:
            line["with_start_ms"] = round(self.load.longest_gap(self.starting) * 1000, 1)
        print(json.dumps({**line, "load_average": round(os.getloadavg()[0], 1)}), flush=True)

    def join(self, name: str) -> str:
        """Start a new node; the step is measured from when it serves."""
        address = self.cluster.join(name, None)
        self.began = time.monotonic()
        return address

    def add(self, name: str) -> None:
        """Add a voter."""
        self.client.add_node(name, self.join(name))

    def remove(self, name: str) -> None:
        """Remove a member, and end it."""
        self.client.remove_node(name)
        self.cluster.leave(name)

    def replace(self, old: str, new: str) -> None:
        """Put a new node in the place of a member, in one step of the voters."""
        self.client.add_node(new, self.join(new), learner=True)
        self.client.change_members(Change(Action.PROMOTE, new), Change(Action.REMOVE, old))
        self.cluster.leave(old)

    def move(self, name: str) -> None:
        """Restart a member at another port, and tell the cluster."""
        self.client.change_members(Change(Action.UPDATE, name, self.cluster.move(name)))


def change_members(clients: int) -> dict[str, Any]:
    """Grow, shrink, replace and move; returns the line that sums up."""
    with LocalCluster(1) as cluster:
        with load(cluster, clients) as running:
            operator = Operator(cluster, running)
            for number in range(2, 6):
                operator.step(f"grow to {number}", lambda number=number: operator.add(f"n{number}"))  # type: ignore[misc]
            for count in (4, 3):
                name = cluster.followers()[0]
                operator.step(f"shrink to {count}", lambda name=name: operator.remove(name))  # type: ignore[misc]
            for number, old in enumerate(list(cluster.names), 6):
                who = f"replace {old}{' (leads)' if old == cluster.wait_for_leader() else ''}"
                operator.step(who, lambda old=old, number=number: operator.replace(old, f"n{number}"))  # type: ignore[misc]
            operator.step("move a follower", lambda: operator.move(cluster.followers()[0]))
            operator.step("move the leader", lambda: operator.move(cluster.wait_for_leader()))
            operator.step("remove the leader", lambda: operator.remove(cluster.wait_for_leader()))
        return {
            "work": "changes",
            "writes": len(running.acknowledged),
            "failed": 0,
            "longest_gap_ms": round(max(operator.gaps.values()) * 1000, 1),
            "slowest_write_ms": round(running.slowest_seconds * 1000, 1),
            "linearizable": True,
        }


def transfer(transfers: int, clients: int) -> dict[str, Any]:
    """Hand the leadership over; returns the line that sums up."""
    gaps: list[float] = []
    with LocalCluster(3) as cluster:
        with load(cluster, clients) as running:
            client = cluster.client(timeout=CHANGE_SECONDS)
            for _ in range(transfers):
                before, began = cluster.wait_for_leader(), time.monotonic()
                after = client.transfer_leadership()
                assert after != before, f"{before} still leads"
                time.sleep(max(began + AFTER_SECONDS - time.monotonic(), 0.0))
                gaps.append(running.longest_gap(began) * 1000)
        return {
            "work": "transfers",
            "transfers": transfers,
            "writes": len(running.acknowledged),
            "failed": 0,
            "gap_p50_ms": round(percentile(gaps, 0.5), 1),
            "gap_max_ms": round(max(gaps), 1),
            "all_ms": [round(gap, 1) for gap in gaps],
            "linearizable": True,
            "load_average": round(os.getloadavg()[0], 1),
        }


def main() -> None:
    """Measure as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transfers", type=int, default=50)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--only", choices=("changes", "transfers"))
    arguments = parser.parse_args()
    if arguments.only != "transfers":
        print(json.dumps(change_members(arguments.clients)), flush=True)
    if arguments.only != "changes":
        print(json.dumps(transfer(arguments.transfers, arguments.clients)), flush=True)


if __name__ == "__main__":
    main()
