"""A client's connections: what they tell nodes of what was read, and what is told of a node of another version."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import zmq

from forge_consensus.actors.codec import STAMP, VERSION, Extension, Frame, decode, encode
from forge_consensus.actors.messages import GetMembers, GetStatus, Read, ReadResults, Refused
from forge_consensus.client.connections import FRAME_BYTES_MAX, UNTOLD_BYTES, Connection, Connections, tend_links
from forge_consensus.client.driver import Driver
from forge_consensus.errors import TransportUnavailableError
from forge_consensus.process.socket_poller import SocketPoller
from forge_consensus.process.threads import ForgeThread
from forge_consensus.process.wakeup import Wakeup
from forge_consensus.security.credentials import Credentials
from forge_consensus.security.curve import KeyPair
from tests.unit.actors.test_gate import of_next_version
from tests.worlds.waiting import wait_for

Socket = zmq.Socket[bytes]
MILLISECONDS_MAX = 5000


class Node:
    """The other end of a connection."""

    def __init__(self, context: zmq.Context[Socket]) -> None:
        self.router = context.socket(zmq.ROUTER)
        port = self.router.bind_to_random_port("tcp://127.0.0.1")
        self.poller = SocketPoller()
        self.connection = Connection(context, f"127.0.0.1:{port}", self.poller)
        self.client = b""

    def begin(self) -> bool:
        """Send the first request; returns whether there was a connection that took it."""
        tend_links([self.connection], [])
        return self.connection.ask(GetStatus(), 1, "c")

    def next_request(self) -> Frame:
        """The next request of the client."""
        assert self.router.poll(MILLISECONDS_MAX)
        self.client, data = self.router.recv_multipart()
        return decode(data, FRAME_BYTES_MAX)

    def answer(self, size: int, stamp: int) -> None:
        """Send the client an answer, and have it read."""
        extension: Extension = {STAMP: stamp} if stamp else {}
        message = ReadResults(1, 0, ((1, "", bytes(size)),))
        self.router.send_multipart(
            [self.client, encode(Frame("gateway", "c", "n1", "i", 1, 0, 1, 0, message, extension))]
        )
        assert self.connection.socket.poll(MILLISECONDS_MAX)
        assert [frame.message for frame in self.connection.frames()] == [message]


@pytest.fixture
def node() -> Iterator[Node]:
    context: zmq.Context[Socket] = zmq.Context()
    made = Node(context)
    wait_for(made.begin, 5.0, "the connection")
    assert made.next_request().extension == {}
    yield made
    made.connection.close()
    made.poller.close()
    made.router.close(0)
    context.term()


def test_each_request_repeats_the_last_stamp_that_was_read(node: Node) -> None:
    for stamp in (0, 77, 88, 0):
        node.answer(100, stamp)
    node.connection.ask(GetStatus(), 2, "c")
    assert node.next_request().extension == {STAMP: 88}


def test_after_many_answers_without_a_request_the_node_is_told_by_one_that_asks_for_nothing(node: Node) -> None:
    node.answer(UNTOLD_BYTES, 0)
    assert not node.router.poll(50), "there is no stamp to tell"
    node.answer(100, 77)
    told = node.next_request()
    assert (told.message, told.extension) == (Read("stale", ()), {STAMP: 77})
    node.answer(UNTOLD_BYTES // 2, 88)
    assert not node.router.poll(50)


def test_an_answer_in_another_protocol_version_is_told_and_not_taken_for_silence() -> None:
    context: zmq.Context[Socket] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    address = f"127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}"
    connections = Connections(Wakeup())
    connections.connect(address)

    def asked() -> bool:
        connections.wait(0.01)
        return connections.send(address, GetMembers(), 1, "")

    try:
        wait_for(asked, 5.0, "the connection")
        assert router.poll(MILLISECONDS_MAX)
        client, _ = router.recv_multipart()
        refused = encode(Frame("gateway", "c", "n1", "i", 1, 0, 0, 0, Refused("CODE", "its text", "", "", 0)))
        router.send_multipart([client, of_next_version(refused)])
        told = wait_for(lambda: [each for each in connections.wait(0.1) if type(each[1]) is str], 5.0, "the answer")
        text = f"frame of protocol version {VERSION + 1}, this program speaks {VERSION}: use the same version"
        assert [(name, what.startswith(text)) for name, what, _ in told] == [(address, True)]
    finally:
        connections.close()
        router.close(0)
        context.term()


def test_other_keys_of_a_node_are_calls_on_the_socket_of_which_the_poller_hears() -> None:
    """Ending the connection may take libzmq's note of a frame that has just arrived."""
    context: zmq.Context[Socket] = zmq.Context()
    first, second = KeyPair.made(), KeyPair.made()
    present = {"n1": (first.public,)}
    credentials = Credentials(KeyPair.made(), present, present=lambda: present)
    poller = SocketPoller()
    connection = Connection(context, "127.0.0.1:1", poller, credentials=credentials)
    poller.register(connection.socket)
    assert not poller.has_more(connection.socket)
    connection.renew_keys()
    assert connection.socket not in poller.unsure
    present = {"n1": (second.public,)}
    connection.renew_keys()
    assert connection.link.servers == (second.public,)
    assert connection.socket in poller.unsure
    poller.close()
    connection.close()
    context.term()


def test_closed_connections_do_not_hold_the_descriptor_of_the_wake_up() -> None:
    """A program may hold a client long after it was closed, and its forked children hold it too."""
    wakeup = Wakeup()
    connections = Connections(wakeup)
    descriptor = wakeup.fd
    os.fstat(descriptor)
    del wakeup
    connections.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_driver_that_could_not_begin_holds_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: ForgeThread) -> None:
        raise TransportUnavailableError("no thread could be started")

    monkeypatch.setattr(ForgeThread, "start", refuse)
    driver = Driver(["127.0.0.1:1"])
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(TransportUnavailableError):
        driver.begin()
    assert set(os.listdir("/proc/self/fd")) <= before
