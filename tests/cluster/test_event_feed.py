"""The remote feed against real nodes: every journaled event comes once and in order, despite kills of both sides."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import zmq

from forge_consensus.client.sync import Client
from forge_consensus.config.node import NodeSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import ClusterNotFoundError, ConnectionFailedError, ConsensusError, InvalidConfigError
from forge_consensus.events.bus import EventBus
from forge_consensus.events.encoding import from_json_line, from_msgpack
from forge_consensus.events.stream import StreamEndedError
from forge_consensus.events.types import ConsensusEvent, LeaderElected, LogCommitted
from forge_consensus.feed.cursor import EventCursor
from forge_consensus.feed.event_feed import EventFeed, Gap, Position
from forge_consensus.service.node import Node
from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.backends.sealed import unseal
from forge_consensus.storage.ledger.journal import TIME_BYTES
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.ports import free_ports
from tests.worlds.source_tree import ROOT
from tests.worlds.waiting import wait_for

ROUNDS = int(os.environ.get("FORGE_FEED_ROUNDS", "4"))


class Threads:
    """Nodes on threads of this process; each may be stopped and started again."""

    def __init__(self, folder: Path, count: int, **settings: Any) -> None:
        self.folder = folder
        self.settings = settings
        self.peers = {f"n{i}": f"127.0.0.1:{port}" for i, port in enumerate(free_ports(count), 1)}
        self.nodes: dict[str, tuple[Node, threading.Thread]] = {}
        for name in self.peers:
            self.start(name)
        self.client = Client(list(self.peers.values()))

    @property
    def addresses(self) -> list[str]:
        return list(self.peers.values())

    def start(self, name: str, folder: str = "") -> None:
        path = self.folder / (folder or name)
        node = Node(NodeSettings(name, "c", self.peers[name], self.peers, path, **self.settings), EventBus())
        node.open()
        thread = threading.Thread(target=node.run)
        thread.start()
        self.nodes[name] = (node, thread)

    def stop(self, name: str) -> None:
        node, thread = self.nodes.pop(name)
        node.stop()
        thread.join(10)
        node.close()

    def numbers(self, name: str) -> int:
        """The newest number that the node gave out."""
        base = self.nodes[name][0].base
        assert base is not None
        return base.engine.ledger.numbers.sequence

    def close(self) -> None:
        self.client.close()
        for name in list(self.nodes):
            self.stop(name)


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Threads]:
    threads = Threads(tmp_path, 1)
    yield threads
    threads.close()


def read_until_quiet(feed: EventFeed, seconds: float = 0.4) -> list[ConsensusEvent]:
    found = []
    with suppress(TimeoutError):
        while True:
            found.append(feed.get(seconds))
    return found


def test_a_feed_follows_the_whole_cluster_from_one_endpoint(tmp_path: Path) -> None:
    cluster = Threads(tmp_path, 3)
    try:
        with EventFeed(cluster.addresses[0], since=0) as feed:
            for number in range(20):
                cluster.client.put("k", number)
            found = read_until_quiet(feed)
            numbers = defaultdict(list)
            for event in found:
                numbers[event.node_id].append(event.sequence)
            assert numbers == {name: list(range(1, cluster.numbers(name) + 1)) for name in cluster.peers}
            assert all(
                source.subscriber is not None and source.subscriber.trusted for source in feed.driver.sources.values()
            )
            assert {name: place.next for name, place in feed.positions.items()} == {
                name: cluster.numbers(name) + 1 for name in cluster.peers
            }
        with EventFeed(cluster.addresses[1], scope="node", follow=False, since=3) as feed:
            found = list(feed)
            assert {event.node_id for event in found} == {"n2"}
            assert found[0].sequence == 3
        with EventFeed(cluster.addresses, kinds=["leader.*"], follow=False, since=0) as feed:
            assert {(type(event), event.node_id) for event in feed} >= {(LeaderElected, name) for name in cluster.peers}
    finally:
        cluster.close()


def test_selected_kinds_come_at_once_and_in_order(one: Threads) -> None:
    one.client.put("k", 0)
    with EventFeed(one.addresses, kinds=[LogCommitted]) as feed:
        wait_for(lambda: feed.positions, 5, "the feed to stand")
        for number in range(30):
            one.client.put("k", number)
        found = read_until_quiet(feed)
    indexes = [(event.first_index, event.last_index) for event in found if isinstance(event, LogCommitted)]
    assert len(indexes) == len(found) >= 25
    assert all(after[0] == before[1] + 1 for before, after in itertools.pairwise(indexes))


def test_a_slow_reader_costs_no_memory_and_misses_nothing(one: Threads) -> None:
    with EventFeed(one.addresses, since=0, queue_max=20) as feed:
        for number in range(150):
            one.client.put("k", number)
            assert len(feed.inbox.queue) <= 20
        found: list[ConsensusEvent] = []
        while len(found) < one.numbers("n1"):
            found.append(feed.get(2.0))
            assert len(feed.inbox.queue) <= 20
    assert [event.sequence for event in found] == list(range(1, len(found) + 1))


def test_a_reader_slower_than_the_journal_gets_a_gap(tmp_path: Path) -> None:
    node = Threads(tmp_path, 1, storage=StorageSettings(events_kept=40))
    try:
        with EventFeed(node.addresses, since=0, queue_max=4) as feed:
            wait_for(lambda: len(feed.inbox.queue) == 4, 5, "the queue to fill")
            for number in range(100):
                node.client.put("k", number)
            found = read_until_quiet(feed)
        gaps = [event for event in found if isinstance(event, Gap)]
        assert [gap.reason for gap in gaps] == ["discarded"]
        assert gaps[0].last is not None
        covered = [event.sequence for event in found if not isinstance(event, Gap)]
        covered += range(gaps[0].first, gaps[0].last + 1)
        assert sorted(covered) == list(range(1, node.numbers("n1") + 1))
    finally:
        node.close()


def test_a_new_folder_of_a_node_is_a_gap_and_begins_the_numbers_anew(tmp_path: Path) -> None:
    node = Threads(tmp_path, 1)
    try:
        with EventFeed(node.addresses, since=0) as feed:
            read_until_quiet(feed, 0.2)
            node.stop("n1")
            node.start("n1", folder="other")
            found: list[ConsensusEvent] = []
            while not (found and isinstance(found[-1], Gap)):
                found.append(feed.get(5.0))
            gap = found[-1]
            assert isinstance(gap, Gap)
            assert (gap.reason, gap.last) == ("replaced", None)
            assert [event.sequence for event in read_until_quiet(feed)][:3] == [1, 2, 3]
    finally:
        node.close()


def test_an_orderly_restart_is_no_gap_and_the_new_publisher_is_found(one: Threads) -> None:
    with EventFeed(one.addresses, since=0) as feed:
        found = read_until_quiet(feed, 0.2)
        for _ in range(2):
            one.stop("n1")
            one.start("n1")
            one.client.put("k", 1)
            found += read_until_quiet(feed)
    assert [event.sequence for event in found] == list(range(1, len(found) + 1))
    assert [event.kind for event in found].count("consensus.node.started") == 3
    assert [event.kind for event in found].count("consensus.node.stopped") == 2


def test_a_feed_can_be_iterated_over_with_async_for(one: Threads) -> None:
    async def first_of(kind: type[ConsensusEvent]) -> ConsensusEvent:
        async with EventFeed(one.addresses, kinds=[kind], since=0, timeout=5) as feed:
            async for event in feed:
                return event
        raise AssertionError("nothing came")

    async def both() -> None:
        assert isinstance(await first_of(LogCommitted), LogCommitted)
        async with EventFeed(one.addresses, kinds=["log.truncated"], timeout=0.1) as feed:
            assert [event async for event in feed] == []
            with pytest.raises(TimeoutError):
                await feed.aget(0.05)
            waiting = asyncio.create_task(feed.aget())
            await asyncio.sleep(0.05)
            await asyncio.to_thread(feed.close)
            with pytest.raises(StreamEndedError):
                await waiting

    one.client.put("k", 1)
    asyncio.run(both())


def test_a_closed_feed_wakes_waiting_readers_and_leaves_no_thread(one: Threads) -> None:
    feed = EventFeed(one.addresses, kinds=["log.truncated"])
    threading.Timer(0.1, feed.close).start()
    assert list(feed) == []
    feed.close()
    assert not feed.driver.thread.is_alive()


def test_wrong_use_of_a_feed_is_a_clear_error(one: Threads) -> None:
    with pytest.raises(InvalidConfigError):
        EventFeed("nowhere")
    with pytest.raises(InvalidConfigError, match="lieder"):
        EventFeed(one.addresses, kinds=["lieder.*"])
    with EventFeed(one.addresses, cluster_id="another", since=0) as feed, pytest.raises(ClusterNotFoundError):
        feed.get(5.0)
    address = f"127.0.0.1:{free_ports(1)[0]}"
    with EventFeed(address, follow=False, connect_seconds=0.2) as feed, pytest.raises(ConnectionFailedError):
        list(feed)


def test_a_plain_subscriber_gets_the_kind_and_the_event(one: Threads) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        socket = context.socket(zmq.SUB)
        socket.setsockopt(zmq.SUBSCRIBE, b"consensus.log.")
        socket.setsockopt(zmq.RCVTIMEO, 200)
        socket.connect(f"tcp://{one.client.status(one.addresses[0])['events_address']}")
        for number in range(50):
            one.client.put("k", number)
            with suppress(zmq.Again):
                topic, body = socket.recv_multipart()
                assert from_msgpack(body).kind.encode() == topic
                return
        raise AssertionError("nothing was published")
    finally:
        context.destroy(linger=0)


def test_the_command_line_prints_events_as_lines(one: Threads) -> None:
    one.client.put("k", 1)
    command = [sys.executable, "-m", "forge_consensus", "events", "watch", "--endpoints", one.addresses[0]]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        [*command, "-o", "json", "--kind", "leader.*"], env=env, capture_output=True, text=True, timeout=20, check=True
    )
    events = [from_json_line(line) for line in told.stdout.splitlines()]
    assert [type(event) for event in events] == [LeaderElected]
    table = subprocess.run([*command, "--since", "2"], env=env, capture_output=True, text=True, timeout=20, check=True)
    assert "n1 leader.elected term=1" in table.stdout
    assert "node.started" not in table.stdout


def test_the_command_line_says_when_nobody_is_there() -> None:
    command = [
        sys.executable,
        "-m",
        "forge_consensus",
        "events",
        "watch",
        "--endpoints",
        "127.0.0.1:1",
        "--timeout",
        "0.3",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (69, "")
    assert "no node answered at 127.0.0.1:1 within 0.3 s" in done.stderr
    with subprocess.Popen([*command, "--follow"], env=env, stderr=subprocess.PIPE, text=True) as following:
        assert following.stderr is not None
        assert following.stderr.readline().rstrip().endswith("; still trying")
        following.terminate()


class Writer:
    """Writes all the time, whatever happens to the node."""

    def __init__(self, address: str) -> None:
        self.client = Client([address], timeout=1.0)
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        number = 0
        while not self.closing.wait(0.001):
            number += 1
            with suppress(ConsensusError):
                self.client.put("k", number, timeout=0.2)

    def close(self) -> None:
        self.closing.set()
        self.client.close()
        self.thread.join(10)


class Reader:
    """Reads with one feed after the other, each beginning where the one before it ended."""

    def __init__(self, address: str, rng: random.Random) -> None:
        self.address = address
        self.rng = rng
        self.found: list[ConsensusEvent] = []
        self.feed = EventFeed(address, since=0)

    def read(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(TimeoutError):
                self.found.append(self.feed.get(0.05))

    def restart(self) -> None:
        """The reading process ends with what its queue holds, and another begins."""
        places = self.feed.positions
        self.feed.close()
        self.feed = EventFeed(
            self.address, since=places or 0, kinds=(), queue_max=self.rng.choice((5, 100, 10_000)), scope="node"
        )


def check_all(found: list[ConsensusEvent], journaled: dict[int, ConsensusEvent]) -> None:
    """Ascending without a hole; every journaled event there, once."""
    place = 1
    events = {}
    for event in found:
        assert event.sequence == place, f"{place} was skipped"
        if isinstance(event, Gap):
            assert event.reason == "lost"
            assert event.last is not None
            assert not [number for number in journaled if event.first <= number <= event.last]
            place = event.last + 1
        else:
            events[place] = event
            place += 1
    assert {number: events.get(number) for number in journaled} == journaled


def test_every_journaled_event_comes_once_despite_kills_of_node_and_feed(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    with LocalCluster(1, folder=tmp_path) as cluster:
        node = cluster.process("n1")
        writer, reader = Writer(node.address), Reader(node.address, rng)
        try:
            for _ in range(ROUNDS):
                reader.read(rng.uniform(0.0, 0.5))
                victim = rng.choice(("node", "node", "feed", "both", "stop"))
                if victim in ("feed", "both"):
                    reader.restart()
                if victim in ("node", "both"):
                    node.kill()
                elif victim == "stop":
                    node.stop()
                if rng.random() < 0.3:
                    reader.restart()
                if not node.running:
                    node.start()
            reader.read(0.5)
            writer.close()
            node.stop()
            node.start()
            reader.read(1.0)
            wait_for(lambda: level(reader), 10, "the reader to be level")
            node.kill()
        finally:
            writer.close()
            reader.feed.close()
    with LmdbTables(next(tmp_path.glob("n1/**/data.mdb")).parent) as tables:
        rows = tables.scan("events")
    journaled = {int.from_bytes(key): from_msgpack(unseal(key, row, "")[TIME_BYTES:]) for key, row in rows}
    assert len(journaled) > 50
    check_all(reader.found, journaled)


def level(reader: Reader) -> bool:
    """Read on until nothing more is there."""
    before = len(reader.found)
    reader.read(0.5)
    sources = list(reader.feed.driver.sources.values())
    following: EventCursor = sources[0].cursor
    return len(reader.found) == before and bool(following.node) and not following.news


def test_a_feed_begins_at_the_positions_of_another(one: Threads) -> None:
    with EventFeed(one.addresses, since=0) as feed:
        taken = [feed.get(5.0).sequence for _ in range(4)]
        places = feed.positions
    assert taken == [1, 2, 3, 4]
    assert places["n1"].next == 5
    with EventFeed(one.addresses, since=places) as feed:
        assert feed.get(5.0).sequence == 5
    with EventFeed("127.0.0.1:1", since={"n1": 3, "n2": places["n1"]}) as feed:
        assert feed.positions == {"n1": Position("", 3), "n2": places["n1"]}
    with EventFeed(one.addresses, since=feed.positions) as feed:
        assert feed.get(5.0).sequence == 3
    with EventFeed(one.addresses, since={"n1": Position("another folder", 7)}) as feed:
        gap = feed.get(5.0)
        assert isinstance(gap, Gap)
        assert (gap.first, gap.reason) == (7, "replaced")
        assert feed.get(5.0).sequence == 1
