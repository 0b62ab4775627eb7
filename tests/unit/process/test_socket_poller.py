"""The poller of sockets: no frame is overlooked, whoever took the note of its arrival, and nothing is asked in vain."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from forge_consensus.process.socket_poller import EVENTS, SocketPoller

Socket = zmq.Socket[Any]
SECONDS_MAX = 10.0
UNTHROTTLED_SECONDS = 0.02
"""libzmq looks for notes at a send only if it has not looked for a millisecond."""


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    made: zmq.Context[Any] = zmq.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
def poller() -> Iterator[SocketPoller]:
    made = SocketPoller()
    yield made
    made.close()


@pytest.fixture
def pair(context: zmq.Context[Any], poller: SocketPoller) -> tuple[Socket, Socket, bytes]:
    """A ROUTER that the poller watches and is sure of, a DEALER that is connected to it, and the connection's id."""
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    router.bind("tcp://127.0.0.1:0")
    dealer.connect(router.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode())
    dealer.send(b"first")
    poller.register(router)
    assert poller.wait(SECONDS_MAX) == [router]
    connection, _ = router.recv_multipart()
    assert not poller.has_more(router)
    return router, dealer, connection


def until_noted(poller: SocketPoller) -> None:
    """Wait until a descriptor is readable, without any call on a socket."""
    assert poller.epoll.poll(SECONDS_MAX)


def send(router: Socket, connection: bytes) -> None:
    """Send, as a node does with an answer."""
    time.sleep(UNTHROTTLED_SECONDS)
    router.send_multipart([connection, b"an answer"])


def ask(router: Socket, connection: bytes) -> None:
    """Ask for the state, as a door does."""
    router.getsockopt(EVENTS)


@pytest.mark.parametrize("use", [send, ask])
def test_a_frame_is_found_although_another_call_has_taken_the_note_of_it(
    poller: SocketPoller, pair: tuple[Socket, Socket, bytes], use: Callable[[Socket, bytes], None]
) -> None:
    router, dealer, connection = pair
    dealer.send(b"second")
    until_noted(poller)
    use(router, connection)
    assert poller.epoll.poll(0.05) == [], "the descriptor does not tell of it any more"
    poller.used(router)
    assert poller.wait(0.0) == [router]
    assert router.recv_multipart(zmq.NOBLOCK)[1] == b"second"


def test_what_had_arrived_before_a_socket_was_registered_is_found(
    poller: SocketPoller, pair: tuple[Socket, Socket, bytes]
) -> None:
    router, dealer, _ = pair
    poller.unregister(router)
    dealer.send(b"second")
    end = time.monotonic() + SECONDS_MAX
    while not poller.has_more(router):
        assert time.monotonic() < end
    poller.unsure.clear()
    poller.register(router)
    assert poller.wait(0.0) == [router]


def test_what_was_left_unread_is_told_again(poller: SocketPoller, pair: tuple[Socket, Socket, bytes]) -> None:
    router, dealer, _ = pair
    for number in range(3):
        dealer.send(b"%d" % number)
    read: list[bytes] = []
    while len(read) < 3:
        assert poller.wait(SECONDS_MAX) == [router]
        assert poller.has_more(router)
        read.append(router.recv_multipart(zmq.NOBLOCK)[1])
    assert read == [b"0", b"1", b"2"]
    assert poller.wait(0.0) == []


def test_it_sleeps_while_nothing_has_come_and_asks_each_socket_once(
    poller: SocketPoller, pair: tuple[Socket, Socket, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    router, dealer, connection = pair
    router.send_multipart([connection, b"an answer"])
    poller.used(router)
    asked: list[Socket] = []
    has_more = poller.has_more

    def noted(socket: Socket) -> bool:
        asked.append(socket)
        return has_more(socket)

    monkeypatch.setattr(poller, "has_more", noted)
    began = time.monotonic()
    assert poller.wait(0.05) == []
    assert time.monotonic() - began >= 0.05
    assert asked == [router]
    assert poller.wait(0.0) == []
    assert asked == [router], "it is sure of the socket now"
    dealer.send(b"second")
    assert poller.wait(SECONDS_MAX) == [router]


def test_a_file_is_told_by_its_descriptor_for_as_long_as_it_can_be_read(poller: SocketPoller) -> None:
    reader, writer = os.pipe()
    try:
        poller.register_file(reader)
        assert poller.wait(0.0) == []
        os.write(writer, b"x")
        assert poller.wait(SECONDS_MAX) == poller.wait(0.0) == [reader]
        os.read(reader, 1)
        assert poller.wait(0.0) == []
    finally:
        os.close(reader)
        os.close(writer)


def test_a_socket_that_is_watched_no_more_is_not_told(poller: SocketPoller, pair: tuple[Socket, Socket, bytes]) -> None:
    router, dealer, _ = pair
    poller.used(router)
    poller.unregister(router)
    dealer.send(b"second")
    assert poller.wait(0.1) == []
