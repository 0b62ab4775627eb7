"""Real nodes whose every connection is encrypted: who gets in, and who does not, over real sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq

from forge_consensus.actors.codec import Frame, decode, encode
from forge_consensus.actors.messages import CheckPeer, Hello, HelloReply, Refused, Submit
from forge_consensus.actors.raft.session_claims import ANOTHERS
from forge_consensus.actors.runtime.gate import KEY
from forge_consensus.client.sync import Client
from forge_consensus.errors import (
    AuthenticationFailedError,
    ConnectionFailedError,
    ConsensusError,
    ConsensusTimeoutError,
    SessionExpiredError,
)
from forge_consensus.events.stream import StreamEndedError
from forge_consensus.events.types import LeaderElected
from forge_consensus.feed.event_feed import EventFeed
from forge_consensus.security.access_changes import RESERVED as ACCESS
from forge_consensus.security.credentials import Credentials
from forge_consensus.security.curve import KeyPair, be_client
from forge_consensus.service.consensus import ConsensusService
from forge_consensus.storage.ledger.changes import Action, Change
from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.local.access import LocalAccess
from forge_consensus.testing.local.cluster import LocalCluster

REFUSED = (AuthenticationFailedError, ConnectionFailedError)
EX_MEMBER = "n9"
"""A member by its key, which was revoked."""
SHORT = 1.5
"""Seconds that a call of somebody who is not let in may take."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Three nodes, with a client of each kind."""
    with LocalCluster(nodes=3, secure=True) as made:
        made.access.add_client("reader", ["read"])
        made.access.add_client("writer", ["write"])
        made.access.add_client("shop", rules=["write shop/*"])
        made.access.add_client("gone", ["admin"])
        made.access.add_member(EX_MEMBER)
        for name in ("gone", EX_MEMBER):
            made.access.revoke(made.access.keys[name].public)
        made.wait_for_leader()
        made.client().put("k", 1)
        wait_until(lambda: all(is_out(made, node, name) for node in made.names for name in ("gone", EX_MEMBER)))
        yield made


def wait_until(done: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def one(cluster: LocalCluster, node: str, credentials: Credentials | None, timeout: float = SHORT) -> Client:
    """A client that asks this node only."""
    return Client([cluster.addresses[node]], timeout, follow=False, credentials=credentials)


def is_out(cluster: LocalCluster, node: str, name: str) -> bool:
    """Whether a node does not let a client in any more."""
    with one(cluster, node, cluster.credentials(name), 1.0) as client:
        try:
            client.status()
        except REFUSED:
            return True
        except ConsensusTimeoutError:  # it is let in, and the machine is busy
            return False
    return False


# --- who gets in -----------------------------------------------------------------------------------------------------


def shown(cluster: LocalCluster, who: str) -> Credentials | None:
    """What somebody shows: keys that the list knows, keys that it does not, or none."""
    if who == "nobody":
        return None
    servers = cluster.access.credentials("admin").servers
    return Credentials(KeyPair.made() if who == "unknown" else cluster.access.pair(who), servers)


def peer_frames(cluster: LocalCluster, credentials: Credentials | None, sender: str = "n2") -> bool:
    """Whether a greeting in the name of `sender` is heard as that of the member."""
    reply = spoken(cluster, "n1", credentials, hello(sender), "membership", sender)
    return type(reply) is HelloReply and reply.reason != KEY


def hello(sender: str) -> Hello:
    return Hello(f"{sender}-forged", 1, "127.0.0.1:1", "", "")


def spoken(
    cluster: LocalCluster, node: str, credentials: Credentials | None, message: Any, to: str, sender: str
) -> Any:
    """What a node answers to one frame of somebody who speaks the protocol of members; None for nothing."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    try:
        if credentials is not None:
            be_client(dealer, credentials.keys, cluster.access.keys[node].public)
        dealer.setsockopt(zmq.SNDTIMEO, int(SHORT * 1000))  # where nobody lets it in there is nowhere to send to
        dealer.connect(f"tcp://{cluster.addresses[node]}")
        cluster_id = cluster.status(node)["cluster_id"]
        dealer.send(encode(Frame(to, cluster_id, sender, f"{sender}-forged", 1, 1, 1, 1, message)))
        return decode(dealer.recv(), 1 << 20).message if dealer.poll(int(SHORT * 1000)) else None
    except zmq.Again:
        return None
    finally:
        context.destroy(linger=0)


def call(cluster: LocalCluster, credentials: Credentials | None, act: Callable[[Client], Any]) -> bool:
    """Whether a call is carried out; every refusal is of the kind that says so."""
    with Client(cluster.endpoints, SHORT, credentials=credentials) as client:
        try:
            act(client)
        except REFUSED:
            return False
        return True


def events(cluster: LocalCluster, credentials: Credentials | None) -> bool:
    """Whether events are read, from the journal and from the publisher."""
    feed = EventFeed(cluster.endpoints, since=0, timeout=SHORT, credentials=credentials, on_silence=print)
    with feed, suppress(TimeoutError, StreamEndedError, AuthenticationFailedError):
        feed.get(SHORT)
        return True
    return False


def plan_a_member(client: Client) -> None:
    """Ask what the addition of a node would come to; nothing is changed."""
    client.change_members(Change(Action.ADD, "n9", "127.0.0.1:9"), dry_run=True)


WIRES: dict[str, Callable[[LocalCluster, Credentials | None], bool]] = {
    "peer frames": peer_frames,
    "peer frames of itself": lambda cluster, shows: peer_frames(cluster, shows, EX_MEMBER),
    "peer frames of another": lambda cluster, shows: peer_frames(cluster, shows, "n3"),
    "commands": lambda cluster, shows: call(cluster, shows, lambda client: client.put("k", 1)),
    "reads": lambda cluster, shows: call(cluster, shows, lambda client: client.get("k")),
    "stale reads": lambda cluster, shows: call(cluster, shows, lambda client: client.read("k", "stale")),
    "members": lambda cluster, shows: call(cluster, shows, plan_a_member),
    "events": events,
    "metrics": lambda cluster, shows: call(cluster, shows, lambda client: client.status()),
}
ALLOWED = {
    "nobody": set[str](),
    "unknown": set[str](),
    "gone": set[str](),
    "reader": {"reads", "stale reads", "events", "metrics"},
    "writer": {"commands", "reads", "stale reads", "events", "metrics"},
    "shop": set[str](),
    "admin": {"commands", "reads", "stale reads", "members", "events", "metrics"},
    "n2": {"peer frames", "metrics"},
    EX_MEMBER: set[str](),
}
"""Who may use which wire. A node may see how far it is with joining, which is in the status."""


@pytest.mark.parametrize("who", ALLOWED)
def test_each_wire_is_open_to_those_who_may_and_to_nobody_else(cluster: LocalCluster, who: str) -> None:
    """Every cell of the table, and the cluster goes on."""
    shows = shown(cluster, who)
    found = {wire for wire, is_open in WIRES.items() if is_open(cluster, shows)}
    assert found == ALLOWED[who]
    cluster.client().put("goes on", who)


def test_a_client_with_rules_writes_and_reads_its_own_keys(cluster: LocalCluster) -> None:
    with Client(cluster.endpoints, 5.0, credentials=cluster.credentials("shop")) as client:
        client.put("shop/1", 7)
        assert client.get("shop/1") == 7
        began = time.monotonic()
        with pytest.raises(AuthenticationFailedError, match="shop"):
            client.put("k", 7)
        with pytest.raises(AuthenticationFailedError):
            client.scan("")
        assert time.monotonic() - began < 2.5, "it is told at once, and not at the deadline"


def test_a_node_that_does_not_prove_its_key_is_not_spoken_to(cluster: LocalCluster) -> None:
    """Whoever answers in its place learns nothing, because nothing is sent."""
    servers = {"n1": (KeyPair.made().public,)}
    client = Client(cluster.endpoints, SHORT, credentials=Credentials(cluster.access.pair("admin"), servers))
    with client, pytest.raises(ConnectionFailedError, match="does not prove the key"):
        client.get("k")


# --- changes while it runs -------------------------------------------------------------------------------------------


class Load:
    """A client that writes all the time on a thread of its own, and remembers what failed."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.done = 0
        self.failures: list[tuple[float, ConsensusError]] = []
        self.ending = False
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while not self.ending:
            try:
                self.client.put("load", self.done)
                self.done += 1
            except ConsensusError as error:
                self.failures.append((time.monotonic(), error))

    def __enter__(self) -> Load:
        self.thread.start()
        wait_until(lambda: self.done > 5)
        return self

    def __exit__(self, *failure: object) -> None:
        self.ending = True
        self.thread.join()

    def goes_on(self) -> None:
        """Wait for further writes."""
        before = self.done
        wait_until(lambda: self.done > before + 5)


def test_a_leader_that_is_killed_is_replaced_and_comes_back(cluster: LocalCluster) -> None:
    with Load(cluster.client(timeout=15.0)) as load:
        old = cluster.kill("leader")
        cluster.wait_for_leader(other_than=old)
        load.goes_on()
        cluster.restart(old)
        load.goes_on()
    cluster.wait_until_settled()
    assert load.failures == []


def test_a_member_changes_its_key_under_load_without_a_failed_call(cluster: LocalCluster) -> None:
    """The new key beside the old one, the node restarted with it, the old one taken out; also of the leader."""
    for name in (cluster.followers()[0], cluster.wait_for_leader()):
        old = cluster.access.keys[name].public
        with Load(cluster.client(timeout=15.0)) as load:
            cluster.access.add_key(name)
            time.sleep(1.0)
            cluster.nodes[name].stop()
            cluster.restart(name)
            load.goes_on()
            cluster.access.forget_key(name, old)
            cluster.access.revoke(old)
            time.sleep(1.0)
            load.goes_on()
            assert load.failures == []
        with one(cluster, name, cluster.credentials()) as client:
            wait_until(lambda client=client: rows_up(client) == len(cluster.names))  # type: ignore[misc]


def rows_up(client: Client) -> int:
    """How many members a node sees as alive."""
    return sum(row["status"] == "active" for row in client.status()["nodes"])


def test_a_client_that_is_revoked_while_it_writes_is_out_within_a_second(cluster: LocalCluster) -> None:
    """On all nodes, though nothing is restarted; nothing that it writes later is in the state."""
    credentials = cluster.access.add_client("leaver", ["write"])
    wait_until(lambda: not any(is_out(cluster, node, "leaver") for node in cluster.names))
    with Client(cluster.endpoints, 3.0, credentials=credentials) as client, Load(client) as load:
        others = [one(cluster, node, credentials, 4.0) for node in cluster.names]
        for other in others:
            other.status()
        cluster.access.revoke(credentials.keys.public)
        revoked = time.monotonic()
        time.sleep(1.0)
        written = load.done
        for other in others:
            with pytest.raises(REFUSED):
                other.status()
            other.close()
        time.sleep(0.5)
        assert load.done == written
    assert time.monotonic() > revoked
    assert isinstance(load.failures[0][1], ConsensusError)
    value = cluster.client().get("load")
    assert value <= written


def test_the_list_in_the_log_lets_in_and_shuts_out_on_all_nodes(cluster: LocalCluster) -> None:
    """Within a second; and a key that it revokes stays out although the file still has it."""
    admin, pair = cluster.client(), cluster.access.pair("logged")
    shows = cluster.credentials("logged")
    assert all(is_out(cluster, node, "logged") for node in cluster.names)
    admin.apply(Command(ACCESS, {"do": "put", "name": "logged", "roles": ["read"], "keys": [pair.public]}))
    wait_until(lambda: not any(is_out(cluster, node, "logged") for node in cluster.names))
    clients = [one(cluster, node, shows, 4.0) for node in cluster.names]
    for client in clients:
        assert client.read("k", "stale") is not None
    cluster.access.add_client("logged", ["read"])
    admin.apply(Command(ACCESS, {"do": "revoke_key", "key": pair.public}))
    time.sleep(1.0)
    for client in clients:
        with pytest.raises(REFUSED):
            client.read("k", "stale")
        client.close()
    old = cluster.kill("leader")
    cluster.restart(old)
    wait_until(lambda: is_out(cluster, old, "logged"))  # a node that starts has to apply what it missed


def test_a_broken_list_changes_nothing_and_is_told(cluster: LocalCluster) -> None:
    whole = cluster.access.file.read_text()
    cluster.access.file.write_text(whole[:-5])
    wait_until(lambda: all("access file was refused" in cluster.log_text(node) for node in cluster.names))
    cluster.client().put("k", 2)
    cluster.access.take(cluster.access.listed)


def test_a_node_joins_with_a_key_that_the_list_knows(cluster: LocalCluster) -> None:
    """And not before its key is there."""
    cluster.join("n4")
    wait_until(lambda: len(cluster.client().members().members) == 4)
    cluster.client().put("with four", 4)
    cluster.wait_until_settled()
    cluster.client().remove_node("n4")
    cluster.leave("n4")


# --- on the wire -----------------------------------------------------------------------------------------------------


class Between:
    """Somebody between a client and a node, who sees all bytes, keeps them, and may change them."""

    def __init__(self, address: str) -> None:
        self.target = address
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.server.getsockname()[1]}"
        self.seen: list[bytearray] = []
        """What each connection sent to the node."""
        self.flips = False
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                here, _ = self.server.accept()
                host, _, port = self.target.rpartition(":")
                there = socket.create_connection((host, int(port)))
                kept = bytearray()
                self.seen.append(kept)
                for source, target, sink in ((here, there, kept), (there, here, bytearray())):
                    threading.Thread(target=self.pump, args=(source, target, sink), daemon=True).start()

    def pump(self, source: socket.socket, target: socket.socket, sink: bytearray) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink += data
                if self.flips:
                    data = data[:-1] + bytes([data[-1] ^ 1])
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.server.close()


@pytest.fixture
def between(cluster: LocalCluster) -> Iterator[Between]:
    made = Between(cluster.addresses[cluster.wait_for_leader()])
    yield made
    made.close()


def through(between: Between, cluster: LocalCluster, timeout: float = 5.0) -> Client:
    return Client([between.address], timeout, follow=False, credentials=cluster.credentials())


SECRET = "a planted value that nobody may see"


def test_who_listens_on_the_wire_sees_no_key_and_no_value(cluster: LocalCluster, between: Between) -> None:
    with through(between, cluster) as client:
        client.put("planted/key", SECRET)
        assert client.get("planted/key") == SECRET
    seen = b"".join(bytes(kept) for kept in between.seen)
    assert len(seen) > 500
    assert SECRET.encode() not in seen
    assert b"planted" not in seen
    assert b"gateway" not in seen


def test_who_changes_bytes_on_the_wire_gets_nothing_through(cluster: LocalCluster, between: Between) -> None:
    """The connection ends, and nothing of what was changed is carried out."""
    with through(between, cluster, 2.0) as client:
        client.put("flipped", 1)
        between.flips = True
        with pytest.raises(ConsensusError):
            client.put("flipped", 2)
    assert cluster.client().get("flipped") == 1


def test_a_recorded_connection_that_is_sent_again_is_not_carried_out(cluster: LocalCluster, between: Between) -> None:
    """Each connection has keys of its own, so what was sent on one is nothing on another."""
    with through(between, cluster) as client:
        client.incr("replayed")
    host, _, port = between.target.rpartition(":")
    for kept in between.seen:
        with socket.create_connection((host, int(port))) as replay, suppress(OSError):
            replay.settimeout(0.5)
            replay.sendall(kept)
            while replay.recv(65536):
                pass
    assert cluster.client().get("replayed") == 1
    assert cluster.client().incr("replayed") == 2


def test_a_stolen_public_key_of_a_member_is_worth_nothing(cluster: LocalCluster) -> None:
    """It is in every client's file. Without the secret key no handshake succeeds."""
    stolen = replace(KeyPair.made(), public=cluster.access.keys["n2"].public)
    shows = Credentials(stolen, cluster.access.credentials("admin").servers)
    assert spoken(cluster, "n1", shows, CheckPeer(1), "health", "n2") is None
    assert not peer_frames(cluster, shows)


def test_a_guessed_session_is_of_no_use(cluster: LocalCluster) -> None:
    """Whoever may write as well can neither take the place of another one's next command nor get its result."""
    leader = cluster.wait_for_leader()
    with cluster.client(timeout=5.0) as client:
        client.put("guessed", 1)
        core = client.driver.core
        taken = ((core.commands.last + 1, Command("set", {"key": "guessed", "value": "wrong"}).encode()),)
        answer = spoken(cluster, leader, cluster.credentials("writer"), Submit(core.session, 1, taken), "gateway", "")
        assert (type(answer), answer.code) == (Refused, SessionExpiredError.code)
        assert client.incr("guessed", 1) == 2
    assert cluster.status(leader)["refused"][ANOTHERS] >= 1


def test_ten_thousand_half_open_connections_keep_nobody_out(cluster: LocalCluster) -> None:
    """Nodes shut the oldest that have proven nothing; the process grows by a bounded amount."""
    node = cluster.wait_for_leader()
    host, _, port = cluster.addresses[node].rpartition(":")
    process = cluster.process(node)
    with one(cluster, node, cluster.credentials(), 10.0) as before:
        before.put("flood", 0)
        memory = process.own_memory_bytes()
        held: list[socket.socket] = []
        try:
            for number in range(10_000):
                held.append(socket.create_connection((host, int(port)), timeout=10.0))
                if len(held) >= 700:  # this process may not have so many files open; they were half open long enough
                    held.pop(0).close()
                if number % 2500 == 2499:
                    before.put("flood", number)
                    with one(cluster, node, cluster.credentials(), 10.0) as late:
                        assert late.get("flood") == number
        finally:
            for each in held:
                each.close()
        grown = process.own_memory_bytes() - memory
    assert grown < 64 << 20, f"{grown >> 20} MiB"
    assert process.running


# --- nodes in applications -------------------------------------------------------------------------------------------


def test_an_application_writes_through_a_node_that_does_not_lead() -> None:
    """By the key of its own, with which the node's program asks the leader."""
    with LocalCluster(nodes=3, mode="thread", secure=True) as threads:
        threads.wait_for_leader()
        follower = threads.service(threads.followers()[0])
        follower.put("k", 1)
        assert follower.read("k", read_from="leader") == 1


def test_an_application_has_one_session_whether_its_node_leads_or_not() -> None:
    """It speaks with its own node inside the process and with the others by its key, and is the same client for all."""
    with LocalCluster(nodes=3, mode="thread", secure=True) as threads:
        threads.wait_for_leader()
        name = threads.followers()[0]
        service = threads.service(name)
        service.put("k", 1)
        assert service.client is not None
        core = service.client.driver.core
        sessions = [core.session]
        for target in (name, threads.followers()[-1], name):
            service.transfer_leadership(target)
            wait_until(lambda target=target: service.leader_report().leader == target)  # type: ignore[misc]
            service.incr("k")
            sessions.append(core.session)
        assert len(set(sessions)) == 1
        assert service.get("k") == 4


def test_an_application_speaks_with_its_node_in_another_process(tmp_path: Path) -> None:
    """Over CURVE too: commands, status and events."""
    access = LocalAccess(tmp_path, ["n1"])
    service = ConsensusService(
        "n1", bind="127.0.0.1:0", storage_path=tmp_path / "data", mode="process", security=access.settings("n1")
    )
    led: list[str] = []
    service.bus.subscribe(LeaderElected, lambda event: led.append(event.leader))
    with service:
        assert service.wait_for_leader(timeout=20.0) == "n1"
        service.put("k", 1)
        assert service.get("k") == 1
        wait_until(lambda: led == ["n1"])
        with pytest.raises(ConnectionFailedError), Client([service.address], SHORT) as stranger:
            stranger.get("k")
