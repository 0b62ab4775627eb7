"""Slow machines on real nodes: neither commands of a millisecond nor queries of a second end leaderships."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from forge_consensus import Command
from forge_consensus.events import ApplySlow, BecameLeader, QuerySlow
from forge_consensus.storage.machines.machine import Entry
from forge_consensus.testing import LocalCluster

LED_MAX = 2
"""Leaderships that a busy host may cost by itself; without the bounds there were more than five of them."""


class Slow:
    """A machine whose commands and queries sleep for as many seconds as they say."""

    asked: list[float]

    def __init__(self) -> None:
        self.total = 0
        self.asked = []

    def apply(self, entry: Entry) -> int:
        time.sleep(entry.command.payload["s"])
        self.total += 1
        return self.total

    def query(self, query: float) -> int:
        self.asked.append(query)
        time.sleep(query)
        return self.total

    def snapshot(self) -> list[bytes]:
        return [b"%d" % self.total]

    def restore(self, chunks: Any) -> None:
        self.total = int(b"".join(chunks))


@contextmanager
def slow_cluster() -> Iterator[tuple[LocalCluster, list[Any]]]:
    """Three nodes on threads of this process, and the leaderships and slow calls that they tell."""
    told: list[Any] = []
    with LocalCluster(nodes=3, mode="thread", state_machine=Slow) as cluster:
        for name in ("n1", "n2", "n3"):
            for kind in (BecameLeader, ApplySlow, QuerySlow):
                cluster.service(name).bus.subscribe(kind, told.append)
        cluster.wait_for_leader()
        yield cluster, told


def count(told: list[Any], kind: type) -> int:
    return sum(1 for event in told if isinstance(event, kind))


def test_thousands_of_commands_of_a_millisecond_are_answered_by_one_leader() -> None:
    with slow_cluster() as (cluster, told):
        client = cluster.client(timeout=60.0)
        calls = [client.submit(Command("nap", {"s": 0.001})) for _ in range(3000)]
        assert all(call.exception(60.0) is None for call in calls)
        assert count(told, BecameLeader) <= LED_MAX


def test_queries_of_more_than_an_election_timeout_are_carried_out_once_and_told() -> None:
    with slow_cluster() as (cluster, told):
        client = cluster.client(timeout=20.0)
        slowest = 0.0
        for _ in range(3):
            reading = cluster.client(timeout=20.0)
            began = time.monotonic()
            assert reading.read(1.3) >= 0
            assert time.monotonic() - began < 5.0
            began = time.monotonic()
            client.apply(Command("nap", {"s": 0.0}))
            slowest = max(slowest, time.monotonic() - began)
        assert count(told, BecameLeader) <= LED_MAX
        assert count(told, QuerySlow) >= 1
        assert slowest < 3.0


def test_one_command_that_takes_long_is_told_by_its_type() -> None:
    with slow_cluster() as (cluster, told):
        cluster.client(timeout=20.0).apply(Command("long nap", {"s": 0.3}))
        deadline = time.monotonic() + 5.0
        while not count(told, ApplySlow) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert "long nap" in {event.command for event in told if isinstance(event, ApplySlow)}
