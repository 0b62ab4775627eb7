"""The sockets of a node: what a connection may make it hold, and that no frame is overlooked."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from forge_consensus.actors.runtime.refusals import TOO_MANY_TOPICS
from forge_consensus.actors.transport.liveness import PING
from forge_consensus.actors.transport.sockets import (
    FRAMES_UNREAD_MAX,
    TOPIC_BYTES_MAX,
    TOPICS_MAX,
    Sockets,
    endpoint_of,
)
from forge_consensus.errors import TransportUnavailableError
from forge_consensus.testing.local.ports import free_ports

Socket = zmq.Socket[bytes]
SECONDS_MAX = 10.0
KILLED_SENDER = Path(__file__).with_name("killed_sender.py")


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets("127.0.0.1:0", {}, 8 << 20, 2.0, 4096)
    yield made
    made.close()


@pytest.fixture
def context() -> Iterator[zmq.Context[Socket]]:
    made: zmq.Context[Socket] = zmq.Context()
    yield made
    made.destroy(linger=0)


def test_a_connection_holds_only_so_many_unread_frames(sockets: Sockets, context: zmq.Context[Socket]) -> None:
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.SNDHWM, 1)
    dealer.connect(f"tcp://{sockets.bind_address}")
    sent, quiet = 0, 0
    while quiet < 10:  # half a second in which nothing is taken
        if dealer.poll(50, zmq.POLLOUT):
            dealer.send(bytes(4 << 20))
            sent, quiet = sent + 1, 0
        else:
            quiet += 1
        assert sent < 3 * FRAMES_UNREAD_MAX
    assert sent >= FRAMES_UNREAD_MAX
    taken = 0
    end = time.monotonic() + SECONDS_MAX
    while taken < sent and time.monotonic() < end:
        sockets.router.poll(100)
        taken += len(list(sockets.from_anyone(100, 1 << 30)))
    assert taken == sent, "none was lost"
    dealer.close(0)


def test_events_are_published_where_one_wishes() -> None:
    host, port = "127.0.0.1", free_ports(1)[0]
    made = Sockets(f"{host}:0", {}, 1 << 20, 2.0, 4096, f"{host}:{port}")
    try:
        assert made.events_address == f"{host}:{port}"
        with pytest.raises(TransportUnavailableError, match=f"events: {host}:{port} is in use by another program"):
            Sockets(f"{host}:0", {}, 1 << 20, 2.0, 4096, f"{host}:{port}")
        with pytest.raises(
            TransportUnavailableError, match=r"events: cannot listen on 203.*an address of this machine"
        ):
            Sockets(f"{host}:0", {}, 1 << 20, 2.0, 4096, "203.0.113.7:0")
        chosen = Sockets(f"{host}:0", {}, 1 << 20, 2.0, 4096, f"{host}:0")
        assert chosen.events_address.rpartition(":")[2] not in ("0", str(port))
        chosen.close()
    finally:
        made.close()


def test_a_process_that_is_killed_while_its_frames_wait_does_not_end_the_node() -> None:
    done = subprocess.run([sys.executable, str(KILLED_SENDER)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_ping_is_answered_and_is_no_frame(sockets: Sockets, context: zmq.Context[Socket]) -> None:
    dealer = context.socket(zmq.DEALER)
    dealer.connect(f"tcp://{sockets.bind_address}")
    dealer.send(PING)
    dealer.send(b"a frame")
    frames: list[bytes] = []
    end = time.monotonic() + SECONDS_MAX
    while not frames and time.monotonic() < end:
        sockets.router.poll(100)
        frames += [data for data, *_ in sockets.from_anyone(100, 1 << 20)]
    assert frames == [b"a frame"]
    assert dealer.poll(5000)
    assert dealer.recv() == PING
    dealer.close(0)


def settle(sockets: Sockets) -> list[bytes]:
    """Read as a node does, until nothing comes any more; returns the connections that frames came on."""
    connections: list[bytes] = []
    while sockets.poller.wait(0.05):
        sockets.let_in(time.monotonic())
        sockets.take_subscriptions()
        connections += [connection for _, connection, _ in sockets.from_anyone(10, 1 << 20)]
        for node, link in sockets.links.items():
            list(sockets.changes(node))
            list(sockets.from_peer(link.socket, 10))
    assert sockets.poller.unsure == set()
    return connections


@pytest.mark.parametrize("act", ["send_peer", "answer", "tick"])
def test_a_frame_that_arrives_before_a_call_on_its_socket_is_told_after_it(
    sockets: Sockets, context: zmq.Context[Socket], act: str
) -> None:
    """The call takes ZeroMQ's note of the arrival, and no descriptor tells of the frame any more."""
    peer, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    peer.bind("tcp://127.0.0.1:0")
    dealer.connect(f"tcp://{sockets.bind_address}")
    sockets.connect("peer", endpoint_of(peer))
    link = sockets.links["peer"].socket
    dealer.send(b"first")
    connections: list[bytes] = []
    end = time.monotonic() + SECONDS_MAX
    while not (connections and sockets.links["peer"].stands):
        assert time.monotonic() < end
        connections += settle(sockets)
    assert sockets.send_peer("peer", b"request")
    asked, _ = peer.recv_multipart()
    settle(sockets)

    calls: dict[str, Callable[[], object]] = {
        "send_peer": lambda: sockets.send_peer("peer", b"request"),
        "answer": lambda: sockets.answer(connections[0], b"answer"),
        "tick": lambda: sockets.tick(time.monotonic() + 1.0),
    }
    if act == "send_peer":
        peer.send_multipart([asked, b"answer"])
    else:
        dealer.send(b"second")
    assert sockets.poller.epoll.poll(SECONDS_MAX), "it has arrived, and nobody has looked"
    time.sleep(0.02)  # a send looks for notes only if nobody has for a millisecond
    calls[act]()
    assert sockets.poller.epoll.poll(0.02) == [], "the note is taken"
    assert (link if act == "send_peer" else sockets.router) in sockets.poller.wait(0.0)
    peer.close(0)
    dealer.close(0)


def listen(sockets: Sockets, done: Callable[[], bool]) -> None:
    """Serve subscribers as a node does, until `done`."""
    end = time.monotonic() + SECONDS_MAX
    while not done():
        assert time.monotonic() < end, (len(sockets.topics), sockets.events_door.wishes)
        sockets.publisher.poll(20)
        sockets.let_in(time.monotonic())
        sockets.take_subscriptions()


def test_the_subscriber_that_asks_for_too_many_topics_is_shut_and_the_others_stay(
    sockets: Sockets, context: zmq.Context[Socket]
) -> None:
    """ZeroMQ keeps each topic byte by byte, so they would take all memory."""
    readers = [context.socket(zmq.SUB) for _ in range(2)]
    for reader in readers:
        reader.setsockopt(zmq.RECONNECT_IVL, -1)
        reader.setsockopt(zmq.SNDHWM, 0)
        reader.connect(f"tcp://{sockets.events_address}")
    modest, greedy = readers
    for number in range(100):
        modest.setsockopt(zmq.SUBSCRIBE, b"modest-%d" % number)
    listen(sockets, lambda: len(sockets.topics) == 100)
    for number in range(TOPICS_MAX + 500):
        greedy.setsockopt(zmq.SUBSCRIBE, b"topic-%d" % number)
    listen(sockets, lambda: sockets.refusals.counts[TOO_MANY_TOPICS] == 1 and len(sockets.topics) == 100)
    sockets.publish(b"modest-7", b"event")
    assert sockets.publisher in sockets.poller.unsure, "it may have taken the note of a subscription"
    assert modest.poll(5000)
    assert modest.recv_multipart() == [b"modest-7", b"event"]
    assert sockets.refusals.counts[TOO_MANY_TOPICS] == 1
    for reader in readers:
        reader.close(0)


def test_a_topic_longer_than_any_name_ends_the_connection(sockets: Sockets, context: zmq.Context[Socket]) -> None:
    large = context.socket(zmq.SUB)
    large.setsockopt(zmq.RECONNECT_IVL, -1)
    monitor = large.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    large.connect(f"tcp://{sockets.events_address}")
    large.setsockopt(zmq.SUBSCRIBE, b"x" * 2 * TOPIC_BYTES_MAX)
    assert monitor.poll(5000), "it is disconnected"
    large.disable_monitor()
    monitor.close(0)
    large.close(0)
