"""What one command costs, counted: turns, flushes, frames, bytes, calls and questions to ZeroMQ. Nothing is timed.

A bound that fails says that a command costs more than before. Raise it only for something that is worth its cost.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest

from forge_consensus.actors.transport import sockets as transport
from forge_consensus.process.socket_poller import SocketPoller
from forge_consensus.service.thread_node import ThreadNode
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.node_thread import NodeThread
from tests.worlds.plain_cluster import PlainCluster, PlainNode

PUTS = 50
VALUE = "v" * 128
CALLS_OF_THE_LEADER = 530
CALLS_OF_A_FOLLOWER = 310
"""Calls of functions in Python, a few more than there were: 502 and 295."""
BLOCKS = 40
"""Blocks of memory that a command leaves on three nodes, whose tables are in memory: there were 33."""
WAITS_OF_THE_LEADER = 8
QUESTIONS_OF_THE_LEADER = 20
"""There are three waits and ten questions, for the command and two acknowledgements; heartbeats come to it if the disk
is slow. ZeroMQ's own poller asked about fifty times."""
WAITS_OF_AN_IDLE_LEADER = 100
"""In a second; there are about forty: for heartbeats, their answers, and health checks."""
IDLE_SECONDS = 1.0


class Cost(NamedTuple):
    """What a node did."""

    turns: int
    flushes: int
    frames: int
    bytes: int


def cost_of(node: PlainNode) -> Cost:
    return Cost(node.turns, node.tables.commits, node.frames_sent, node.bytes_sent)


@pytest.fixture
def cluster(tmp_path: Path) -> PlainCluster:
    """A cluster that has done enough for its caches to be filled."""
    made = PlainCluster(tmp_path)
    for _ in range(PUTS):
        made.put(VALUE)
    return made


def test_turns_flushes_frames_and_bytes_of_a_command(cluster: PlainCluster) -> None:
    before = {node.name: cost_of(node) for node in cluster.nodes.values()}
    for _ in range(PUTS):
        cluster.put(VALUE)
    costs = {
        node.name: Cost(*(now - then for now, then in zip(cost_of(node), before[node.name], strict=True)))
        for node in cluster.nodes.values()
    }
    leader = costs.pop(cluster.leader.name)
    assert leader[:3] == (2 * PUTS, PUTS, 3 * PUTS), "a turn appends, one commits; each follower and the client hear"
    assert leader.bytes <= 630 * PUTS
    for follower in costs.values():
        assert follower[:3] == (PUTS, PUTS, PUTS), "no turn follows a flush from which nothing follows"
        assert follower.bytes <= 75 * PUTS
    records = [len(node.engine.ledger.log.get(node.engine.ledger.log.last)) for node in cluster.nodes.values()]
    assert max(records) <= len(VALUE) + 76, "the entry itself"


def test_calls_of_a_command(cluster: PlainCluster) -> None:
    calls = Counter[str]()

    @contextmanager
    def counted(node: PlainNode) -> Iterator[None]:
        def count(frame: FrameType, event: str, argument: Any) -> None:
            calls[node.name] += event == "call"

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            yield
        finally:
            sys.setprofile(before)

    with cluster.watched(counted):
        for _ in range(PUTS):
            cluster.put(VALUE)
    assert calls[cluster.leader.name] <= CALLS_OF_THE_LEADER * PUTS
    for follower in cluster.followers:
        assert calls[follower.name] <= CALLS_OF_A_FOLLOWER * PUTS


def test_memory_that_a_command_leaves_behind(cluster: PlainCluster) -> None:
    before = sys.getallocatedblocks()
    for _ in range(10 * PUTS):
        cluster.put(VALUE)
    assert sys.getallocatedblocks() - before <= BLOCKS * 10 * PUTS


class CountingPoller(SocketPoller):
    """A poller that counts how often it waits, and how often it asks ZeroMQ about a socket."""

    waits = asked = 0

    def wait(self, seconds: float) -> list[Any]:
        self.waits += 1
        return super().wait(seconds)

    def has_more(self, socket: Any) -> bool:
        self.asked += 1
        return super().has_more(socket)


def poller_of(node: Any) -> CountingPoller:
    """The poller of a node that runs on a thread."""
    assert isinstance(node, NodeThread)
    host = node.service.host
    assert isinstance(host, ThreadNode)
    assert host.node.base is not None
    poller = host.node.base.sockets.poller
    assert isinstance(poller, CountingPoller)
    return poller


def test_waits_and_questions_to_zeromq_for_a_command_and_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "SocketPoller", CountingPoller)
    with LocalCluster(mode="thread") as cluster:
        leader = cluster.wait_for_leader()
        client = cluster.client()
        client.put("k", VALUE)
        poller = poller_of(cluster.nodes[leader])
        before = poller.waits, poller.asked
        for _ in range(4 * PUTS):
            client.put("k", VALUE)
        waits, asked = poller.waits - before[0], poller.asked - before[1]
        time.sleep(IDLE_SECONDS)
        idle = poller.waits - before[0] - waits
    assert idle <= WAITS_OF_AN_IDLE_LEADER * IDLE_SECONDS
    assert waits <= WAITS_OF_THE_LEADER * 4 * PUTS
    assert asked <= QUESTIONS_OF_THE_LEADER * 4 * PUTS
