"""A link against whatever may stand at the other end: nobody, rubbish, silence, names with several addresses."""

from __future__ import annotations

import ctypes
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import zmq

from forge_consensus.actors.transport.endpoint import is_number
from forge_consensus.actors.transport.link import DealerOptions, Link, dealer_of, plain_url
from forge_consensus.actors.transport.liveness import PING, SILENCE_TIMES
from forge_consensus.actors.transport.names import Name, urls_of

Socket = zmq.Socket[bytes]
OPTIONS = DealerOptions(1 << 20, 100, None, 20, 100, link_timeout=0.4)
SECONDS_MAX = 10.0
ROUTERS: list[Socket] = []
"""Those that a test opened, to be closed behind it."""


@pytest.fixture
def context() -> Iterator[zmq.Context[Socket]]:
    made: zmq.Context[Socket] = zmq.Context()
    yield made
    for router in ROUTERS:
        router.close(0)
    ROUTERS.clear()
    made.destroy(linger=0)


def run(link: Link, done: Callable[[], bool], seconds: float = SECONDS_MAX) -> list[bool]:
    """Tend a link as its owner does until `done`; returns its changes."""
    found: list[bool] = []
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"{link.problem or 'no problem'}, at {link.url or 'no URL'}"
        now = time.monotonic()
        if link.wake_at <= now:
            link.tick(now)
        link.monitor.poll(int(1000 * min(max(link.wake_at - now, 0.0), 0.01)))
        found += link.changes()
        answer_pings(link)
    return found


def answer_pings(link: Link) -> None:
    """Do what nodes and owners of links do with pings."""
    for router in ROUTERS:
        while not router.closed and router.poll(0):
            connection, data = router.recv_multipart()
            assert data == PING
            router.send_multipart([connection, PING])
    while link.socket.poll(0):
        link.heard = True
        link.socket.recv()


def node_at(context: zmq.Context[Socket], host: str = "127.0.0.1", port: int = 0) -> tuple[Socket, int]:
    """A ROUTER that listens there, and its port."""
    router = context.socket(zmq.ROUTER)
    ROUTERS.append(router)
    router.setsockopt(zmq.LINGER, 0)
    router.setsockopt(zmq.IPV6, int(host.startswith("[")))
    end = time.monotonic() + SECONDS_MAX
    while True:
        try:
            router.bind(f"tcp://{host}:{port}")
            return router, int(router.getsockopt(zmq.LAST_ENDPOINT).rpartition(b":")[2])  # type: ignore[union-attr]
        except zmq.ZMQError:  # the port is not free yet
            assert time.monotonic() < end
            time.sleep(0.02)


class Stranger:
    """Something that listens and is no node: `greet` gets every connection."""

    def __init__(self, greet: Callable[[socket.socket], object]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.kept: list[socket.socket] = []
        self.greet = greet
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        """Accept until closed."""
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.kept.append(connection)
                self.greet(connection)

    def close(self) -> None:
        """Close all of it."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()
        for connection in self.kept:
            connection.close()


STRANGERS: dict[str, Callable[[socket.socket], object]] = {
    "zeros": lambda connection: connection.sendall(b"\0" * 200),
    "rubbish": lambda connection: connection.sendall(b"\xff" * 200),
    "http": lambda connection: connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n" * 9),
    "closes": lambda connection: connection.close(),
    "silent": lambda connection: None,
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_link_finds_the_node_that_takes_the_place_of_a_stranger(context: zmq.Context[Socket], kind: str) -> None:
    stranger = Stranger(STRANGERS[kind])
    link = Link(context, f"127.0.0.1:{stranger.port}", OPTIONS, "test")
    run(link, lambda: bool(link.problem) and bool(stranger.kept))
    assert "does not answer as a node does" in link.problem
    with suppress(AssertionError):
        run(link, lambda: False, 1.0)  # long enough to give up in
    stranger.close()
    node_at(context, port=stranger.port)
    run(link, lambda: link.stands)
    assert link.problem == ""
    link.close()


def test_a_link_finds_the_node_that_takes_the_place_of_another_socket(context: zmq.Context[Socket]) -> None:
    publisher = context.socket(zmq.XPUB)
    port = publisher.bind_to_random_port("tcp://127.0.0.1")
    link = Link(context, f"127.0.0.1:{port}", OPTIONS, "test")
    run(link, lambda: "does not answer as a node" in link.problem)
    publisher.close(0)
    node_at(context, port=port)
    assert run(link, lambda: link.stands) == [True]
    link.close()


def test_a_link_that_got_too_large_a_frame_is_made_again(context: zmq.Context[Socket]) -> None:
    router, port = node_at(context)
    link = Link(context, f"127.0.0.1:{port}", OPTIONS, "test")
    run(link, lambda: link.stands)
    link.socket.send(b"who are you")
    connection, _ = router.recv_multipart()
    router.send_multipart([connection, b"x" * (2 << 20)])
    assert run(link, lambda: not link.stands) == [False]
    assert run(link, lambda: link.stands) == [True]
    link.socket.send(b"again")
    assert router.recv_multipart()[1] == b"again"
    link.close()


def test_a_node_that_comes_and_goes_is_connected_each_time(context: zmq.Context[Socket]) -> None:
    router, port = node_at(context)
    link = Link(context, f"127.0.0.1:{port}", OPTIONS, "test")
    for _ in range(3):
        run(link, lambda: link.stands)
        router.close(0)
        run(link, lambda: "nobody answers" in link.problem)
        router, _ = node_at(context, port=port)
    run(link, lambda: link.stands)
    link.close()


# --- names -----------------------------------------------------------------------------------------------------------


def answering(*hosts: str) -> Callable[..., Any]:
    """A resolver that knows these addresses of every name."""

    def ask(host: str, port: int, **kind: Any) -> list[Any]:
        return [
            (socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in hosts
        ]

    return ask


@pytest.mark.parametrize("hosts", [("127.0.0.1", "::1"), ("::1", "127.0.0.1"), ("127.0.0.9", "127.0.0.8", "127.0.0.1")])
def test_every_address_of_a_name_is_tried(context: zmq.Context[Socket], hosts: tuple[str, ...]) -> None:
    router, port = node_at(context)
    link = Link(context, f"somewhere:{port}", OPTIONS, "test", answering(*hosts))
    run(link, lambda: link.stands)
    assert link.url == f"tcp://127.0.0.1:{port}"
    router.close(0)
    run(link, lambda: not link.stands)
    node_at(context, port=port)
    run(link, lambda: link.stands)
    link.close()


def test_an_address_that_swallows_everything_does_not_hide_the_next_one(context: zmq.Context[Socket]) -> None:
    _, port = node_at(context, "127.0.0.1")
    silent = socket.create_server(("127.0.0.7", port))  # accepts and says nothing
    link = Link(context, f"somewhere:{port}", OPTIONS, "test", answering("127.0.0.7", "127.0.0.1"))
    run(link, lambda: link.stands)
    link.close()
    silent.close()


def test_a_name_that_moves_is_looked_up_again_after_the_loss(context: zmq.Context[Socket]) -> None:
    router, port = node_at(context, "127.0.0.1")
    places = ["127.0.0.1"]

    def ask(host: str, number: int, **kind: Any) -> Any:
        return answering(*places)(host, number)

    link = Link(context, f"somewhere:{port}", OPTIONS, "test", ask)
    run(link, lambda: link.stands)
    places[:] = ["127.0.0.5"]
    node_at(context, "127.0.0.5", port)
    router.close(0)
    run(link, lambda: link.stands and link.url == f"tcp://127.0.0.5:{port}")
    link.close()


def test_a_name_server_that_is_silent_harms_its_own_link_only(context: zmq.Context[Socket]) -> None:
    _, port = node_at(context)
    answered = threading.Event()

    def silent(host: str, number: int, **kind: Any) -> Any:
        answered.wait(SECONDS_MAX)
        return answering("127.0.0.1")(host, number)

    hung = Link(context, f"hung:{port}", OPTIONS, "test", silent)
    other = Link(context, f"127.0.0.1:{port}", OPTIONS, "test")
    run(other, lambda: other.stands, 2.0)
    run(hung, lambda: bool(hung.problem))
    assert "the name hung does not resolve: the name server does not answer" in hung.problem
    names = [thread for thread in threading.enumerate() if thread.name == "forge-names"]
    assert len(names) == 1, "one question at a time"
    answered.set()
    run(hung, lambda: hung.stands)
    assert hung.problem == ""
    hung.close()
    other.close()


def test_a_name_that_nobody_knows_is_told_and_asked_for_again(context: zmq.Context[Socket]) -> None:
    _, port = node_at(context)
    known: list[str] = []

    def ask(host: str, number: int, **kind: Any) -> Any:
        if not known:
            raise socket.gaierror(-2, "Name or service not known")
        return answering(*known)(host, number)

    link = Link(context, f"nowhere:{port}", OPTIONS, "test", ask)
    run(link, lambda: bool(link.problem))
    assert link.problem == "the name nowhere does not resolve: Name or service not known"
    known.append("127.0.0.1")
    run(link, lambda: link.stands)
    link.close()


def test_localhost_is_reached_whatever_it_stands_for(context: zmq.Context[Socket]) -> None:
    _, port = node_at(context)
    link = Link(context, f"localhost:{port}", OPTIONS, "test")
    run(link, lambda: link.stands)
    link.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[fe80::1%lo]", "10.1.2.3"])
def test_numbers_are_never_asked_for(host: str) -> None:
    def ask(*_: Any, **__: Any) -> Any:
        raise AssertionError("asked")

    name = Name(f"{host}:7001", ask)
    name.look_up(5.0)
    assert is_number(host)
    assert name.urls == [f"tcp://{host}:7001"]
    assert name.question is None


def test_both_families_take_turns_and_no_address_comes_twice() -> None:
    asked = answering("::1", "::2", "127.0.0.1", "::1", "127.0.0.2")
    urls = [url.removeprefix("tcp://") for url in urls_of("x", "5", asked)]
    assert urls == ["[::1]:5", "127.0.0.1:5", "[::2]:5", "127.0.0.2:5"]


def test_the_url_of_an_event_is_the_one_that_was_given() -> None:
    assert plain_url("tcp://[::ffff:10.0.0.1]:7001") == "tcp://10.0.0.1:7001"
    assert plain_url("tcp://[::1]:7001") == "tcp://[::1]:7001"
    assert plain_url("tcp://[fe80::1%eth0]:7001") == plain_url("tcp://[fe80::1%2]:7001") == "tcp://[fe80::1]:7001"
    assert plain_url("ipc:///tmp/x") == "ipc:///tmp/x"


def test_what_is_no_address_is_an_error_at_once(context: zmq.Context[Socket]) -> None:
    with pytest.raises(zmq.ZMQError):
        Link(context, "[::1]:port", OPTIONS, "test", answering("nowhere else"))


# --- silence ---------------------------------------------------------------------------------------------------------


class Forwarder:
    """Stands before a node, forwards bytes both ways, and can go silent on a connection without closing it."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.silent: set[socket.socket] = set()
        self.made: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        """Accept until closed."""
        with suppress(OSError):
            while True:
                here, _ = self.listener.accept()
                there = socket.create_connection(("127.0.0.1", self.target))
                self.made += [here, there]
                for one, other in ((here, there), (there, here)):
                    threading.Thread(target=self.forward, args=(one, other), daemon=True).start()

    def forward(self, one: socket.socket, other: socket.socket) -> None:
        """Forward one direction, unless it is silent; closing is never forwarded."""
        with suppress(OSError):
            while data := one.recv(1 << 16):
                if one not in self.silent:
                    other.sendall(data)

    def hush(self) -> None:
        """Go silent on the connections that there are; new ones are forwarded."""
        self.silent.update(self.made)

    def close(self) -> None:
        """Close all of it."""
        for one in (self.listener, *self.made):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def test_what_stands_between_and_goes_silent_is_left(context: zmq.Context[Socket]) -> None:
    router, port = node_at(context)
    forwarder = Forwarder(port)
    link = Link(context, f"127.0.0.1:{forwarder.port}", OPTIONS, "test")
    run(link, lambda: link.stands)
    forwarder.hush()
    began = time.monotonic()
    once = len(forwarder.made)
    assert run(link, lambda: len(forwarder.made) > once and link.stands) == [False, True]
    assert time.monotonic() - began < OPTIONS.link_timeout * (SILENCE_TIMES + 3)
    while link.socket.poll(0):  # no answer of before may be left
        link.socket.recv()
    link.socket.send(b"through")
    while True:
        assert router.poll(5000)
        if data := router.recv_multipart()[1]:
            break
    assert data == b"through"
    link.close()
    forwarder.close()


def test_a_link_that_hears_nothing_asks_and_stands_while_it_is_answered(context: zmq.Context[Socket]) -> None:
    node_at(context)
    link = Link(context, f"127.0.0.1:{node_at(context)[1]}", OPTIONS, "test")
    run(link, lambda: link.stands)
    end = time.monotonic() + OPTIONS.link_timeout * (SILENCE_TIMES + 2)
    assert run(link, lambda: time.monotonic() > end) == []
    assert link.pings <= 1
    link.close()


def test_a_link_that_hears_something_sends_no_ping(context: zmq.Context[Socket]) -> None:
    router, port = node_at(context)
    link = Link(context, f"127.0.0.1:{port}", OPTIONS, "test")
    run(link, lambda: link.stands)
    link.socket.send(b"something")
    connection, _ = router.recv_multipart()
    for _ in range(10):
        router.send_multipart([connection, b"an answer"])
        time.sleep(OPTIONS.link_timeout / 2)
        run(link, lambda: True)
        answer_pings(link)
        link.tick(time.monotonic())
    assert link.pings == 0
    link.close()


def test_a_name_that_moves_while_the_connection_stands_is_a_loss(context: zmq.Context[Socket]) -> None:
    _, port = node_at(context)
    _, other = node_at(context)
    link = Link(context, f"127.0.0.1:{port}", OPTIONS, "test")
    run(link, lambda: link.stands)
    link.name.urls[:] = [f"tcp://127.0.0.1:{other}"]
    link.move(link.name.urls[0])
    assert not link.stands
    assert run(link, lambda: link.stands) == [False, True]
    link.close()


def test_a_thread_that_holds_the_interpreter_is_no_silence(context: zmq.Context[Socket]) -> None:
    _, port = node_at(context)
    link = Link(context, f"127.0.0.1:{port}", OPTIONS, "test")
    run(link, lambda: link.stands)
    seconds = OPTIONS.link_timeout * SILENCE_TIMES + 0.5
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))  # does not let go of the interpreter
    assert run(link, lambda: True) == []
    assert list(link.changes()) == []
    assert link.stands
    link.close()


def test_a_host_that_vanished_is_noticed_while_nothing_is_sent(context: zmq.Context[Socket]) -> None:
    socket_made = dealer_of(context, OPTIONS)
    ms = int(OPTIONS.link_timeout * 1000)
    assert socket_made.getsockopt(zmq.TCP_KEEPALIVE) == 1
    assert socket_made.getsockopt(zmq.TCP_KEEPALIVE_IDLE) == 1
    assert socket_made.getsockopt(zmq.HEARTBEAT_IVL) == 0, "libzmq aborts with its own pings, see `liveness`"
    assert socket_made.getsockopt(zmq.TCP_MAXRT) == ms
    assert socket_made.getsockopt(zmq.CONNECT_TIMEOUT) == ms // 2
    socket_made.close(0)
