"""The door of a node: clients beyond the limit are turned away, and peers always find a place."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from forge_consensus.actors.runtime.refusals import HALF_OPEN, TOO_MANY_CONNECTIONS
from forge_consensus.actors.transport import door as door_module
from forge_consensus.actors.transport.door import RESERVE, Door, connections_allowed
from forge_consensus.actors.transport.sockets import Sockets

Socket = zmq.Socket[bytes]
SECONDS_MAX = 10.0
FIRST = b"the first frame of a client"


@pytest.fixture
def context() -> Iterator[zmq.Context[Socket]]:
    made: zmq.Context[Socket] = zmq.Context()
    yield made
    made.destroy(linger=0)


def client(context: zmq.Context[Socket], address: str) -> Socket:
    """A connection that is not made again, on which a first frame is sent."""
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.RECONNECT_IVL, -1)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.connect(f"tcp://{address}")
    dealer.send(FIRST)
    return dealer


def half_open(address: str) -> socket.socket:
    """A connection on which nothing is ever sent."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)))


def clients(context: zmq.Context[Socket], sockets: Sockets, count: int) -> list[Socket]:
    """So many clients, of each of which a frame has arrived."""
    made = [client(context, sockets.bind_address) for _ in range(count)]
    tend(sockets, lambda: len(sockets.door.keys) == count)
    return made


def tend(sockets: Sockets, done: Callable[[], bool], frames: list[bytes] | None = None) -> None:
    """Take what arrives, as a node does, until `done`."""
    end = time.monotonic() + SECONDS_MAX
    while not done():
        assert time.monotonic() < end, (sockets.door.inside, sockets.door.probation, sockets.door.shut)
        sockets.poller.wait(0.005)
        now = time.monotonic()
        sockets.let_in(now)
        if sockets.wake_at <= now:
            sockets.tick(now)
        arrived = [data for data, *_ in sockets.from_anyone(100, 1 << 20)]
        if frames is not None:
            frames += [data for data in arrived if data != FIRST]


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
    kept = clients(context, sockets, 3)
    late = client(context, sockets.bind_address)
    tend(sockets, lambda: sockets.door.crowded)
    tend(sockets, lambda: sockets.door.shut == 1 and not sockets.door.probation)
    assert sockets.refusals.counts[TOO_MANY_CONNECTIONS] == 1
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
    held = clients(context, sockets, 3)
    peer = client(context, sockets.bind_address)
    peer.send(b"\x9d\x03\xaamembership...")
    tend(sockets, lambda: len(sockets.door.inside) == 4)
    assert not sockets.door.crowded
    assert sockets.door.shut == 0
    peer.send(b"more")
    found: list[bytes] = []
    tend(sockets, lambda: found == [b"more"], found)
    for one in (*held, peer):
        one.close(0)


def test_more_than_the_reserve_is_shut_at_once(context: zmq.Context[Socket], sockets: Sockets) -> None:
    sockets.door.limit = 0
    many = [client(context, sockets.bind_address) for _ in range(RESERVE + 20)]
    tend(sockets, lambda: sockets.door.shut >= 20)
    assert len(sockets.door.probation) <= RESERVE
    for one in many:
        one.close(0)


def test_half_open_connections_give_way_to_those_that_say_something(
    context: zmq.Context[Socket], sockets: Sockets
) -> None:
    """Also where nobody proves a key, however many there are, and where the limit of connections is reached."""
    sockets.door.limit, sockets.door.half_open_max = 8, 5
    first = client(context, sockets.bind_address)
    tend(sockets, lambda: len(sockets.door.keys) == 1)
    silent = [half_open(sockets.bind_address) for _ in range(60)]
    tend(sockets, lambda: sockets.refusals.counts[HALF_OPEN] >= 55)
    assert len(sockets.door.inside) <= 6
    second = client(context, sockets.bind_address)
    for one in (first, second):
        one.send(b"served")
    found: list[bytes] = []
    tend(sockets, lambda: found == [b"served"] * 2, found)
    assert not sockets.door.probation
    for each in silent:
        each.close()
    for one in (first, second):
        one.close(0)


def test_whoever_has_most_half_open_connections_loses_one_first(
    context: zmq.Context[Socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a flood from one network shuts out nobody who takes long to shake hands from elsewhere."""
    router = context.socket(zmq.ROUTER)
    door = Door(router, 100, 1000, 4)
    shut: list[int] = []
    monkeypatch.setattr(door, "turn_away", shut.append)
    monkeypatch.setattr(door_module, "network_behind", lambda descriptor: "far" if descriptor < 10 else "flood")
    for descriptor in (1, 2, *range(10, 20)):
        door.accept(descriptor, 0.0)
    assert shut == list(range(10, 18))
    assert set(door.unproven) == {1, 2, 18, 19}
    door.proven(1, "")
    assert door.networks == {"far": {2: None}, "flood": {18: None, 19: None}}
    for descriptor in (1, 2, 18, 19):
        door.forget(descriptor)
    assert not (door.networks or door.unproven or door.inside)
    router.disable_monitor()
    door.monitor.close(0)
    router.close(0)


def test_the_id_of_a_connection_is_known_no_longer_than_the_connection(
    context: zmq.Context[Socket], sockets: Sockets
) -> None:
    """A later connection may have the same id, and is as half open as any until something arrives on it."""
    for turn in range(2):
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.ROUTING_ID, b"chosen")
        dealer.connect(f"tcp://{sockets.bind_address}")
        dealer.send(b"%d" % turn)
        tend(sockets, lambda: sockets.door.shown == {b"chosen": ""} and not sockets.door.unproven)
        dealer.close(0)
        tend(sockets, lambda: not sockets.door.inside)
        assert not (sockets.door.shown or sockets.door.ids or sockets.door.keys)


def test_at_a_path_nobody_who_has_said_something_is_half_open(context: zmq.Context[Socket], tmp_path: Path) -> None:
    made = Sockets(f"ipc://{tmp_path}/n1.sock", {}, 1 << 20, 2.0, 4096)
    try:
        dealer = context.socket(zmq.DEALER)
        dealer.connect(made.bind_address)
        dealer.send(b"frame")
        tend(made, lambda: bool(made.door.keys) and not made.door.unproven)
        assert list(made.door.shown.values()) == [""]
        dealer.close(0)
    finally:
        made.close()


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
    for soft, allowed in (
        (1024, (427, 213)),
        (100, (RESERVE, RESERVE)),
        (1 << 20, (4096, 4096)),
        (resource.RLIM_INFINITY, (4096, 4096)),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, soft=soft: (soft, soft))
        assert connections_allowed(4096) == allowed


def test_a_door_is_closed_with_its_router(context: zmq.Context[Socket]) -> None:
    router = context.socket(zmq.ROUTER)
    router.bind("tcp://127.0.0.1:0")
    door = Door(router, 5, 1000)
    router.disable_monitor()
    door.monitor.close(0)
    router.close(0)
