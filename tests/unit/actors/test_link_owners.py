"""The owners of links: a node, a client and a feed learn in the same turn that a connection was given up."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from forge_consensus.actors.notices import PeerDown
from forge_consensus.actors.transport.link import Link
from forge_consensus.actors.transport.liveness import SILENCE_TIMES
from forge_consensus.actors.transport.sockets import Sockets
from forge_consensus.actors.transport.zeromq import ZeroMqBase
from forge_consensus.client.connections import Connections
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.events.bus import EventBus
from forge_consensus.feed.cursor import Wanted
from forge_consensus.feed.driver import FeedDriver
from forge_consensus.process.socket_poller import SocketPoller
from forge_consensus.process.wakeup import Wakeup
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.opening import Founding, open_ledger
from forge_consensus.storage.snapshots.export import export_state
from tests.worlds.waiting import wait_for

SECONDS_MAX = 5.0
"""The monitor tells nothing before the handshake with a silent listener is given up, which takes longer."""


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    made: zmq.Context[Any] = zmq.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
def address(context: zmq.Context[Any]) -> Iterator[str]:
    """Where something listens that a link can connect to."""
    with context.socket(zmq.ROUTER) as router:
        yield f"127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}"


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a listener that says nothing, so that an attempt to connect to it ends late."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"


def pings_unanswered(link: Link, silent: str) -> None:
    """Bring a link that stands to the point at which it is given up; its next attempt is at the silent listener."""
    assert link.stands
    link.name.urls.append(silent)
    link.heard, link.pings, link.ping_at, link.wake_at = False, SILENCE_TIMES, 0.0, 0.0


def connected(sockets: Sockets, node: str) -> Link:
    """The link to a peer, once it stands."""
    wait_for(lambda: True in list(sockets.changes(node)), SECONDS_MAX, "the connection")
    return sockets.links[node]


def test_the_sockets_name_the_peers_whose_connections_were_given_up(address: str, silent: str) -> None:
    sockets = Sockets("127.0.0.1:0", {"n2": address, "n3": "127.0.0.1:1"}, 1 << 20, 2.0, 100)
    try:
        pings_unanswered(connected(sockets, "n2"), silent)
        assert sockets.tick(time.monotonic()) == ["n2"]
        assert list(sockets.changes("n2")) == [False]
        assert sockets.tick(time.monotonic()) == []
    finally:
        sockets.close()


def base_of(folder: Path, address: str) -> ZeroMqBase:
    """A node's base whose peer n2 is at that address, with its node in memory."""
    tables, members = MemoryTables(), {"n1": "127.0.0.1:0", "n2": address}
    opened = open_ledger(
        tables,
        folder,
        Founding("n1", "demo", Configuration.of(members), lambda: "folder-n1"),
        KeyValueMachine(),
        StorageSettings(),
        lambda: export_state(tables, folder, KeyValueMachine),
    )
    return ZeroMqBase(opened, RaftSettings(), EventBus(), "127.0.0.1:0", rng=random.Random(7))


def test_a_node_learns_in_the_same_turn_that_the_connection_to_a_peer_was_given_up(
    tmp_path: Path, address: str, silent: str
) -> None:
    base = base_of(tmp_path, address)
    try:
        pings_unanswered(connected(base.sockets, "n2"), silent)
        base.sockets.wake_at = 0.0
        _, notices = base.wait()
        assert notices == [PeerDown("n2")]
        assert "has gone silent" in base.engine.peers.problems["n2"]
    finally:
        base.close()


def test_a_client_learns_in_the_same_turn_that_a_connection_was_given_up(address: str, silent: str) -> None:
    wakeup = Wakeup()
    connections = Connections(wakeup)
    try:
        connections.connect(address)
        wait_for(lambda: (address, True, 0) in connections.wait(0.1), SECONDS_MAX, "the connection")
        pings_unanswered(connections.by_address[address].link, silent)
        connections.tend_at = 0.0
        began = time.monotonic()
        lost, why = connections.wait(1.0)
        assert time.monotonic() - began < 1.0, "what is known is not held back"
        assert lost == (address, False, 0)
        assert "has gone silent" in str(why[1])
    finally:
        connections.close()


class Taken:
    """A reader of a feed that takes whatever it is told."""

    capacity = 100

    def tell(self, told: Any) -> None:
        """Nothing is told here."""

    def stand(self, node: str, position: Any, fresh: bool) -> None:
        """Nothing was read here."""

    def end(self, error: Any) -> None:
        """It does not end."""


def test_a_feed_learns_in_the_same_turn_that_a_connection_was_given_up(
    context: zmq.Context[Any], address: str, silent: str
) -> None:
    driver = FeedDriver(Taken(), [address], Wanted(()), None, cluster_id="", whole_cluster=False, capacity_min=1)
    driver.context, driver.wakeup, driver.poller = context, Wakeup(), SocketPoller()
    driver.follow(address, "")
    source = driver.sources[address]

    def turned() -> bool:
        driver.turn()
        return source.connected

    wait_for(turned, SECONDS_MAX, "the connection")
    pings_unanswered(source.connection.link, silent)
    driver.turn()
    assert not source.connected
    assert driver.silent == [address]
    driver.leave(address)
