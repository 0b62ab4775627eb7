"""The door of a node: clients beyond the limit are turned away, and peers always find a place."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from forge_consensus.actors.transport import door as door_module
from forge_consensus.actors.transport.door import RESERVE, Door, connections_allowed
from forge_consensus.actors.transport.sockets import Sockets

Socket = zmq.Socket[bytes]
SECONDS_MAX = 10.0


@pytest.fixture
def context() -> Iterator[zmq.Context[Socket]]:
    made: zmq.Context[Socket] = zmq.Context()
    yield made
    made.destroy(linger=0)


def client(context: zmq.Context[Socket], address: str) -> Socket:
    """A connection that is not made again."""
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.RECONNECT_IVL, -1)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.connect(f"tcp://{address}")
    return dealer


def tend(sockets: Sockets, done: Callable[[], bool], frames: list[bytes] | None = None) -> None:
    """Take what arrives, as a node does, until `done`."""
    end = time.monotonic() + SECONDS_MAX
    while not done():
        assert time.monotonic() < end, (sockets.door.inside, sockets.door.probation, sockets.door.shut)
        sockets.poller.poll(5)
        now = time.monotonic()
        sockets.look_at_door(now)
        if sockets.wake_at <= now:
            sockets.tick(now)
        arrived = [data for data, _ in sockets.from_anyone(100, 1 << 20)]
        if frames is not None:
            frames += arrived


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sockets]:
    monkeypatch.setattr(door_module, "PROBATION_SECONDS", 0.3)
    made = Sockets("127.0.0.1:0", {}, 1 << 20, 2.0, 4096)
    made.door.limit = 3
    yield made
    made.close()


def test_a_client_beyond_the_limit_is_turned_away_and_another_one_finds_the_place_of_one_that_left(
    context: zmq.Context[Socket], sockets: Sockets
) -> None:
    kept = [client(context, sockets.bind_address) for _ in range(3)]
    tend(sockets, lambda: len(sockets.door.inside) == 3)
    late = client(context, sockets.bind_address)
    tend(sockets, lambda: sockets.door.crowded)
    tend(sockets, lambda: sockets.door.shut == 1 and not sockets.door.probation)
    kept[0].close(0)
    tend(sockets, lambda: len(sockets.door.inside) == 2)
    again = client(context, sockets.bind_address)
    again.send(b"served")
    kept[1].send(b"still served")
    found: list[bytes] = []
    tend(sockets, lambda: len(found) == 2, found)
    assert set(found) == {b"served", b"still served"}
    assert len(sockets.door.inside) == 3
    for one in (*kept, late, again):
        one.close(0)


def test_a_peer_finds_a_place_where_clients_find_none(context: zmq.Context[Socket], sockets: Sockets) -> None:
    clients = [client(context, sockets.bind_address) for _ in range(3)]
    tend(sockets, lambda: len(sockets.door.inside) == 3)
    peer = client(context, sockets.bind_address)
    peer.send(b"\x9d\x03\xaamembership...")
    tend(sockets, lambda: len(sockets.door.inside) == 4)
    assert not sockets.door.crowded
    assert sockets.door.shut == 0
    peer.send(b"more")
    found: list[bytes] = []
    tend(sockets, lambda: found == [b"more"], found)
    for one in (*clients, peer):
        one.close(0)


def test_more_than_the_reserve_is_shut_at_once(context: zmq.Context[Socket], sockets: Sockets) -> None:
    sockets.door.limit = 0
    many = [client(context, sockets.bind_address) for _ in range(RESERVE + 20)]
    tend(sockets, lambda: sockets.door.shut >= 20)
    assert len(sockets.door.probation) <= RESERVE
    for one in many:
        one.close(0)


def test_a_number_that_is_no_connection_of_ours_is_left_alone(sockets: Sockets) -> None:
    one, other = socket.socketpair()
    with Path("/dev/null").open("rb") as file, one, other:
        sockets.door.turn_away(file.fileno())
        assert file.read() == b""
        sockets.door.turn_away(one.fileno())
        one.sendall(b"whole")
        assert other.recv(9) == b"whole"
    sockets.door.turn_away(99_999)


def test_the_limit_is_what_the_descriptors_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, allowed in ((1024, 704), (100, RESERVE), (1 << 20, 4096), (resource.RLIM_INFINITY, 4096)):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, soft=soft: (soft, soft))
        assert connections_allowed(4096) == allowed


def test_a_door_is_closed_with_its_router(context: zmq.Context[Socket]) -> None:
    router = context.socket(zmq.ROUTER)
    router.bind("tcp://127.0.0.1:0")
    door = Door(router, 5)
    router.disable_monitor()
    door.monitor.close(0)
    router.close(0)
