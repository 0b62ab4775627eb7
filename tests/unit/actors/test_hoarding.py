"""A message without end: whoever sends one is shut before it takes much memory, and nobody else is."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
import zmq

from forge_consensus.actors.runtime.refusals import ENDLESS_MESSAGE
from forge_consensus.actors.transport import hoarding as hoarding_module
from forge_consensus.actors.transport.hoarding import ALL_TIMES, SLACK_BYTES, SMALL_BYTES, Hoarding, bytes_received
from forge_consensus.actors.transport.sockets import Sockets
from tests.cluster.hostile.wires import shaken

SECONDS_MAX = 60.0
LINK_TIMEOUT = 20.0
"""Long enough for a handshake on a busy machine."""
BYTES_MAX = 1 << 20
ONE = BYTES_MAX + SLACK_BYTES


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """How many bytes the kernel has received on each descriptor."""
    told: dict[int, int] = {}
    monkeypatch.setattr(hoarding_module, "bytes_received", lambda descriptor: told.get(descriptor, 0))
    return told


def look(hoarding: Hoarding, received: dict[int, int], ids: dict[int, bytes], *heard: bytes) -> list[int]:
    """One look after everything that was whole was read, from these connections."""
    hoarding.heard.update(heard)
    hoarding.drained = True
    return hoarding.found(list(received), ids)


def test_what_is_read_may_go_on_for_ever_and_what_is_not_may_not(received: dict[int, int]) -> None:
    hoarding, ids = Hoarding(BYTES_MAX), {1: b"honest", 2: b"endless"}
    for turn in range(1, 6):
        received.update({1: turn * 100 * ONE, 2: turn * ONE // 2, 3: 50})
        assert look(hoarding, received, ids, b"honest", *([b"endless"] if turn == 1 else [])) == []
    received[2] += 2 * ONE
    assert look(hoarding, received, ids, b"honest") == [2]


def test_nobody_is_blamed_before_all_that_was_whole_has_been_read(received: dict[int, int]) -> None:
    """A node that was held up finds many messages of honest connections."""
    hoarding = Hoarding(BYTES_MAX)
    received[1] = 0
    assert look(hoarding, received, {1: b"a"}) == []
    received[1] = 10 * ONE
    assert [hoarding.found([1], {1: b"a"}) for _ in range(5)] == [[]] * 5
    assert look(hoarding, received, {1: b"a"}) == []  # what came since the last look may be whole
    assert look(hoarding, received, {1: b"a"}) == [1]


def test_many_beginnings_together_have_a_bound_too(received: dict[int, int]) -> None:
    hoarding = Hoarding(BYTES_MAX)
    received.update((number, ONE + SMALL_BYTES - number) for number in range(ALL_TIMES + 2))
    received.update((number, SMALL_BYTES) for number in range(100, 400))
    assert look(hoarding, received, {}) == []
    assert look(hoarding, received, {}) == [0, 1]


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets("127.0.0.1:0", {}, BYTES_MAX, LINK_TIMEOUT, 100)
    yield made
    made.close()


def tend(sockets: Sockets) -> list[bytes]:
    """One turn of a node."""
    sockets.poller.wait(0.005)
    now = time.monotonic()
    sockets.let_in(now)
    if sockets.wake_at <= now:
        sockets.tick(now)
    sockets.take_subscriptions()
    return [data for data, *_ in sockets.from_anyone(100, 1 << 30)]


@pytest.mark.parametrize("port", ["frames", "events"])
def test_a_connection_whose_message_never_ends_is_shut_and_an_honest_one_is_not(sockets: Sockets, port: str) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    honest = context.socket(zmq.DEALER)
    honest.connect(f"tcp://{sockets.bind_address}")
    address, kind = (sockets.bind_address, b"DEALER") if port == "frames" else (sockets.events_address, b"SUB")
    endless = shaken(address, kind)
    endless.setblocking(False)
    parts, sent, found, end = b"\x01\x01x" * 5000, 0, 0, time.monotonic() + SECONDS_MAX
    while not sockets.refusals.counts[ENDLESS_MESSAGE]:
        assert time.monotonic() < end, sent
        honest.send(bytes(BYTES_MAX // 4))
        try:
            sent += endless.send(parts)
        except BlockingIOError:
            pass
        except OSError:
            assert sent > BYTES_MAX
        found += len(tend(sockets))
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        found += len(tend(sockets))
    assert found > 10
    assert sockets.refusals.counts[ENDLESS_MESSAGE] == 1
    assert len(sockets.door.keys) == 1
    endless.close()
    context.destroy(linger=0)


def test_the_kernel_tells_how_much_came_in() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    there = socket.create_connection(listening.getsockname())
    here, _ = listening.accept()
    one, other = socket.socketpair()
    with listening, there, here, one, other:
        there.sendall(b"x" * 5000)
        assert here.recv(5000, socket.MSG_WAITALL) == b"x" * 5000
        assert bytes_received(here.fileno()) == 5000
        assert bytes_received(one.fileno()) == bytes_received(-1) == bytes_received(99_999) == 0
