"""Sockets that speak CURVE: who is let in, whose key a link accepts, and how connections end when the list changes."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import zmq
from zmq.utils import z85

from forge_consensus.actors.runtime.access_control import AccessControl
from forge_consensus.actors.runtime.permits import NOT_PERMITTED, UNKNOWN_KEY
from forge_consensus.actors.runtime.refusals import BAD_HANDSHAKE, TOO_MANY_HANDSHAKES
from forge_consensus.actors.transport import door as door_module
from forge_consensus.actors.transport import link as link_module
from forge_consensus.actors.transport.allowance import Allowance
from forge_consensus.actors.transport.link import DealerOptions, Link
from forge_consensus.actors.transport.sockets import Sockets
from forge_consensus.actors.transport.zap import HANDSHAKES_MAX, UNENCRYPTED
from forge_consensus.security.access import AccessList, Principal
from forge_consensus.security.curve import KeyPair, be_client

Socket = zmq.Socket[bytes]
OPTIONS = DealerOptions(1 << 20, 100, None, 20, 100, link_timeout=2.0)
SECONDS_MAX = 30.0
NODE, READER, METER, STRANGER, OTHER = (KeyPair.made() for _ in range(5))
ROLES: dict[str, Any] = {"n1": "peer", "reader": "read", "meter": "metrics"}


def listed(**keys: tuple[str, ...]) -> AccessList:
    """The list with these keys, and those of the node and of two clients."""
    found = {"n1": (NODE.public,), "reader": (READER.public,), "meter": (METER.public,), **keys}
    return AccessList(
        [Principal(name, frozenset({ROLES.get(name, "peer")}), keys=each) for name, each in found.items()]
    )


@pytest.fixture
def context() -> Iterator[zmq.Context[Socket]]:
    made: zmq.Context[Socket] = zmq.Context()
    yield made
    made.destroy(linger=0)


class Listener:
    """The sockets of a node, tended as a node does."""

    def __init__(self) -> None:
        self.control = AccessControl(NODE, listed())
        self.sockets = Sockets("127.0.0.1:0", {}, 1 << 20, 2.0, 4096, access=self.control)
        self.frames: list[tuple[Any, ...]] = []
        assert self.sockets.zap is not None
        self.zap = self.sockets.zap

    def tend(self, seconds: float = 0.0) -> None:
        """Take what arrives, for so long or once."""
        end = time.monotonic() + seconds
        while True:
            self.sockets.poller.wait(0.005)
            self.sockets.let_in(time.monotonic())
            self.sockets.take_subscriptions()
            self.frames += self.sockets.from_anyone(100, 1 << 20)
            if time.monotonic() >= end:
                return

    def until(self, done: Callable[[], bool], *links: Link) -> None:
        """Tend until something is so; links too."""
        end = time.monotonic() + SECONDS_MAX
        while not done():
            assert time.monotonic() < end, [link.problem for link in links]
            self.tend()
            tend(*links)

    def count(self, reason: str) -> int:
        return self.zap.refusals.counts[reason]

    def link(self, context: zmq.Context[Socket], keys: KeyPair | None, *servers: str) -> Link:
        return Link(context, self.sockets.bind_address, OPTIONS, "test", keys=keys, servers=servers)


def tend(*links: Link) -> None:
    """Let links do what is due."""
    for link in links:
        if link.wake_at <= time.monotonic():
            link.tick(time.monotonic())
        list(link.changes())
        link.wake_at = min(link.wake_at, link.next_at)


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.sockets.close()


def test_a_frame_comes_with_the_key_that_its_connection_proved(
    listener: Listener, context: zmq.Context[Socket]
) -> None:
    link = listener.link(context, READER, NODE.public)
    listener.until(lambda: link.stands, link)
    link.socket.send(b"frame")
    listener.until(lambda: bool(listener.frames))
    ((data, _, key),) = listener.frames
    assert (data, key) == (b"frame", READER.public)
    assert list(listener.sockets.door.keys.values()) == [READER.public]
    assert listener.sockets.door.unproven == {}
    link.close()


def test_who_takes_the_id_of_a_connection_does_not_take_its_key(
    listener: Listener, context: zmq.Context[Socket]
) -> None:
    """Whoever connects may choose an id, and so that of one that is gone: the key is that of the handshake."""
    for keys in (READER, METER):
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.ROUTING_ID, b"chosen")
        be_client(dealer, keys, NODE.public)
        dealer.connect(f"tcp://{listener.sockets.bind_address}")
        dealer.send(b"frame")
        listener.until(lambda keys=keys: any(key == keys.public for *_, key in listener.frames))  # type: ignore[misc]
        dealer.close(0)
        listener.until(lambda: not listener.sockets.door.inside)
    assert [(connection, key) for _, connection, key in listener.frames] == [
        (b"chosen", READER.public),
        (b"chosen", METER.public),
    ]


@pytest.mark.parametrize(
    ("keys", "servers", "reason", "problem"),
    [
        (STRANGER, (NODE.public,), UNKNOWN_KEY, "does not know the key of this side"),
        (None, (), UNENCRYPTED, "speaks only with those who have keys"),
        (READER, (OTHER.public,), BAD_HANDSHAKE, "does not prove the key"),
    ],
    ids=["unknown key", "no keys", "another node's key"],
)
def test_who_is_not_let_in_learns_why_and_reaches_nobody(
    listener: Listener,
    context: zmq.Context[Socket],
    keys: KeyPair | None,
    servers: tuple[str, ...],
    reason: str,
    problem: str,
) -> None:
    link = listener.link(context, keys, *servers)
    listener.until(lambda: problem in link.problem and listener.count(reason) > 0, link)
    assert not link.stands
    assert link.denied == (reason == UNKNOWN_KEY)
    assert keys is None or keys.public in link.problem or not link.denied
    with suppress(zmq.Again):
        link.socket.send(b"frame", zmq.NOBLOCK)
    listener.tend(0.3)
    assert listener.frames == []
    link.close()


def test_a_node_without_encryption_is_not_trusted(context: zmq.Context[Socket]) -> None:
    """No key of ours is told to it, and no frame."""
    plain = Sockets("127.0.0.1:0", {}, 1 << 20, 2.0, 100)
    link = Link(context, plain.bind_address, OPTIONS, "test", keys=READER, servers=(NODE.public,))
    end = time.monotonic() + SECONDS_MAX
    while "does not speak encrypted" not in link.problem:
        assert time.monotonic() < end, link.problem
        tend(link)
        time.sleep(0.01)
    assert not link.stands
    link.close()
    plain.close()


def test_a_link_tries_the_keys_of_the_other_end_one_after_the_other(
    listener: Listener, context: zmq.Context[Socket]
) -> None:
    """So a node can be restarted with its next key, and whoever knows both finds it."""
    link = listener.link(context, READER, OTHER.public, STRANGER.public, NODE.public)
    listener.until(lambda: link.stands, link)
    assert link.server == NODE.public
    link.close()


def test_a_link_stays_while_its_key_is_valid_and_is_begun_anew_when_it_is_not(
    listener: Listener, context: zmq.Context[Socket]
) -> None:
    link = listener.link(context, READER, NODE.public)
    listener.until(lambda: link.stands, link)
    link.take_servers((OTHER.public, NODE.public))
    listener.tend(0.1)
    tend(link)
    assert link.stands
    link.take_servers((OTHER.public,))
    listener.until(lambda: not link.stands, link)
    listener.until(lambda: "does not prove" in link.problem, link)
    link.take_servers((NODE.public,))
    listener.until(lambda: link.stands, link)
    link.close()


def test_who_was_denied_is_let_in_once_the_list_knows_it(
    listener: Listener, context: zmq.Context[Socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "DENIED_SECONDS", 0.1)
    link = listener.link(context, STRANGER, NODE.public)
    listener.until(lambda: link.denied, link)
    listener.control.take_log(listed(n2=(STRANGER.public,)))
    listener.until(lambda: link.stands, link)
    assert not link.denied
    link.close()


def test_when_the_list_changes_the_connections_of_others_stay(listener: Listener, context: zmq.Context[Socket]) -> None:
    """Only that of the key that is known no more ends, and one that has proven nothing."""
    links = [listener.link(context, keys, NODE.public) for keys in (READER, METER)]
    listener.until(lambda: all(link.stands for link in links), *links)
    for link in links:
        link.socket.send(b"frame")
    host, _, port = listener.sockets.bind_address.rpartition(":")
    half_open = socket.create_connection((host, int(port)))
    half_open.settimeout(SECONDS_MAX)
    listener.until(lambda: len(listener.frames) == 2 and len(listener.sockets.door.inside) == 3)
    listener.control.take_log(AccessList(revoked=[READER.public]))
    listener.sockets.judge_anew(time.monotonic())
    listener.until(lambda: not links[0].stands, *links)
    assert links[1].stands
    listener.until(lambda: links[0].denied, links[0])
    while half_open.recv(1000):
        pass
    half_open.close()
    for link in links:
        link.close()


def test_the_connections_of_a_member_end_in_both_directions_when_nothing_vouches_for_its_key(
    listener: Listener, context: zmq.Context[Socket]
) -> None:
    """They are made anew at once, because its key is known all the same; others stay."""
    listener.control.take_log(listed(n2=(OTHER.public,)))
    dialling = Sockets("127.0.0.1:0", {"n1": listener.sockets.bind_address}, 1 << 20, 2.0, 100, access=n2_control())
    reader = listener.link(context, READER, NODE.public)
    to_n1 = dialling.links["n1"]
    listener.until(lambda: to_n1.stands and reader.stands, to_n1, reader)
    for link in (to_n1, reader):
        link.socket.send(b"frame")
    listener.until(lambda: len(listener.sockets.door.keys) == 2)
    assert listener.sockets.part_with({OTHER.public}, time.monotonic()) == [], "there is no link to it"
    listener.until(lambda: not to_n1.stands, to_n1, reader)
    assert reader.stands
    listener.until(lambda: to_n1.stands, to_n1, reader)
    assert dialling.part_with({STRANGER.public}, time.monotonic()) == []
    assert dialling.part_with({NODE.public}, time.monotonic()) == ["n1"]
    assert next(iter(dialling.changes("n1"))) is False
    listener.until(lambda: to_n1.stands, to_n1, reader)
    assert reader.stands
    reader.close()
    dialling.close()


def n2_control() -> AccessControl:
    """The access control of another node, which knows this one."""
    return AccessControl(OTHER, listed(n2=(OTHER.public,)))


def subscriber(context: zmq.Context[Socket], listener: Listener, keys: KeyPair) -> Socket:
    made = context.socket(zmq.SUB)
    made.setsockopt(zmq.RECONNECT_IVL, 50)
    made.setsockopt(zmq.SUBSCRIBE, b"")
    be_client(made, keys, NODE.public)
    made.connect(f"tcp://{listener.sockets.events_address}")
    return made


def test_events_are_for_those_who_may_read(listener: Listener, context: zmq.Context[Socket]) -> None:
    """And no longer than they may."""
    reader, meter = (subscriber(context, listener, keys) for keys in (READER, METER))
    listener.until(lambda: bool(listener.sockets.topics) and listener.count(NOT_PERMITTED) > 0)
    listener.sockets.publish(b"topic", b"event")
    assert reader.poll(int(SECONDS_MAX * 1000))
    reader.recv_multipart()
    assert not meter.poll(100)
    events_door = listener.sockets.events_door
    assert READER.public in events_door.keys.values()
    listener.control.take_log(AccessList(revoked=[READER.public]))
    listener.sockets.judge_anew(time.monotonic())
    listener.until(lambda: READER.public not in events_door.keys.values())
    listener.until(lambda: listener.count(UNKNOWN_KEY) > 0)
    listener.sockets.publish(b"topic", b"later")
    assert not reader.poll(200)
    for each in (reader, meter):
        each.close(0)


def test_half_open_connections_give_way_to_those_that_prove_a_key(
    listener: Listener, context: zmq.Context[Socket]
) -> None:
    """However many there are, and also where the limit of connections is reached."""
    listener.sockets.door.half_open_max = 5
    listener.sockets.door.limit = 8
    host, _, port = listener.sockets.bind_address.rpartition(":")
    first = listener.link(context, READER, NODE.public)
    listener.until(lambda: first.stands, first)
    first.socket.send(b"first")
    held = []
    for _ in range(40):
        held.append(socket.create_connection((host, int(port))))
        listener.tend()
    listener.until(lambda: len(listener.sockets.door.unproven) <= 5)
    second = listener.link(context, METER, NODE.public)
    listener.until(lambda: second.stands, first, second)
    second.socket.send(b"second")
    listener.until(lambda: {data for data, *_ in listener.frames} == {b"first", b"second"})
    assert first.stands
    assert len(listener.sockets.door.inside) <= 8
    for each in held:
        each.close()
    first.close()
    second.close()


def test_a_peer_finds_a_place_although_clients_and_half_open_connections_have_taken_all(
    listener: Listener, context: zmq.Context[Socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_module, "PROBATION_SECONDS", 60.0)
    door = listener.sockets.door
    door.limit = 2
    clients = [listener.link(context, keys, NODE.public) for keys in (READER, METER)]
    listener.until(lambda: all(link.stands for link in clients), *clients)
    for link in clients:
        link.socket.send(b"frame")
    listener.until(lambda: len(door.keys) == 2)
    host, _, port = listener.sockets.bind_address.rpartition(":")
    held = []
    for _ in range(door_module.RESERVE + 10):
        held.append(socket.create_connection((host, int(port))))
        listener.tend()
    listener.until(lambda: len(door.probation) == door_module.RESERVE)
    listener.control.take_log(listed(n2=(OTHER.public,)))
    peer = listener.link(context, OTHER, NODE.public)
    listener.until(lambda: peer.stands, peer)
    peer.socket.send(b"membership")
    listener.until(lambda: OTHER.public in door.keys.values())
    assert len(door.inside) == 3
    assert all(link.stands for link in clients)
    for each in held:
        each.close()
    for link in (*clients, peer):
        link.close()


def test_a_peer_without_a_key_is_not_dialled() -> None:
    """Without a key it could be anybody."""
    control = AccessControl(NODE, listed(n2=(OTHER.public,)))
    made = Sockets("127.0.0.1:0", {"n2": "127.0.0.1:1", "n3": "127.0.0.1:2"}, 1 << 20, 2.0, 100, access=control)
    assert set(made.links) == {"n2"}
    assert not made.connect("n3", "127.0.0.1:2")
    control.take_file(listed())
    made.judge_anew(time.monotonic())
    assert set(made.links) == set()
    control.take_file(listed(n3=(OTHER.public,)))
    assert made.connect("n3", "127.0.0.1:2")
    made.close()


# --- how often -------------------------------------------------------------------------------------------------------


def asked(listener: Listener, key: str, now: float = 100.0, host: str = "192.0.2.1") -> bytes:
    """How the request of somebody who proved a key is answered."""
    request = [b"1.0", b"1", b"node", host.encode(), b"", b"CURVE", z85.decode(key)]
    return listener.zap.judged(request, now)[2]


def test_strangers_of_a_network_are_put_off_when_they_are_too_many_and_nobody_else_is(listener: Listener) -> None:
    answers = [asked(listener, STRANGER.public) for _ in range(HANDSHAKES_MAX + 50)]
    assert answers == [b"400"] * HANDSHAKES_MAX + [b"300"] * 50
    assert asked(listener, STRANGER.public, host="192.0.2.2") == b"400"
    assert asked(listener, READER.public) == asked(listener, NODE.public) == b"200"
    assert asked(listener, STRANGER.public, 100.5) == b"400"
    assert listener.count(TOO_MANY_HANDSHAKES) == 50
    assert listener.count(UNKNOWN_KEY) == HANDSHAKES_MAX + 2


def test_a_client_that_connects_without_end_is_put_off_and_a_member_never_is(listener: Listener) -> None:
    assert [asked(listener, READER.public) for _ in range(HANDSHAKES_MAX + 1)][-2:] == [b"200", b"300"]
    assert asked(listener, METER.public) == b"200"
    assert {asked(listener, NODE.public) for _ in range(3 * HANDSHAKES_MAX)} == {b"200"}


def test_who_is_put_off_tries_again_and_gets_in(
    listener: Listener, context: zmq.Context[Socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unlike who is denied it is told nothing, so that it waits no longer than after any broken connection."""
    monkeypatch.setattr(listener.zap, "of_clients", Allowance(1))
    links = [listener.link(context, READER, NODE.public) for _ in range(2)]
    listener.until(lambda: listener.count(TOO_MANY_HANDSHAKES) > 0, *links)
    assert not any(link.denied for link in links)
    listener.until(lambda: all(link.stands for link in links), *links)
    for link in links:
        link.close()


def test_an_allowance_grows_with_time_and_is_remembered_of_so_many_only() -> None:
    allowance = Allowance(10, names_max=3)
    assert [allowance.takes("a", 5.0) for _ in range(12)] == [True] * 10 + [False] * 2
    assert [allowance.takes("a", 5.35) for _ in range(6)].count(True) == 3  # 0.35 s bring 3.5
    assert allowance.takes("b", 5.4)
    for name in "cd":
        assert allowance.takes(name, 5.4)
    assert list(allowance.due) == ["b", "c", "d"]
    assert [allowance.takes("a", 1000.0) for _ in range(11)] == [True] * 10 + [False]
