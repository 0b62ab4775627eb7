"""The attacker's process: it takes its orders as a line of JSON, attacks, and tells in a line of JSON what it did.

It is a process of its own so that the honest client next to it does not wait for this one's interpreter.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import zmq

from forge_consensus.actors.codec import Frame, decode, encode
from forge_consensus.actors.messages import Locate
from forge_consensus.errors import ProtocolError
from forge_consensus.security.curve import KeyPair, be_client
from tests.cluster.hostile.frames import HostileFrames
from tests.cluster.hostile.wires import Endless, HalfOpen
from tests.worlds.raw_peer import FRAME_BYTES_MAX

DESCRIPTORS_KEPT = 300
DEALERS = 3
"""So many connections to each node send frames."""
BATCH = 200
LAST = 987_654_321
"""The number of the request behind the last frame of a connection; no hostile one has it."""
ASK_SECONDS = 2.0
TAKEN_SECONDS_MAX = 60.0
"""A node that takes nothing for so long is told as such."""
SUBSCRIPTIONS = 3000
STRANGERS = 40
"""Each tries ten times a second, so together they are put off."""
QUEUE_FRAMES = 100
SESSIONS_OF_OTHERS = range(2, 10)
"""The first clients of a new cluster have these."""
NO_SESSION = (1 << 40,)
"""Without keys nobody is asked whose a session is, so a session of others would be a hit."""
Socket = zmq.Socket[bytes]


@dataclass
class Orders:
    """What is to be done."""

    seed: int
    cluster: str
    addresses: dict[str, str]
    """Node -> where it listens."""
    events: list[str]
    """Where the nodes publish events."""
    frames: int
    connections: int
    servers: dict[str, str]
    """Node -> its public key; empty where nothing is encrypted."""
    secret: str = ""
    """The secret key of a client that is let in, may read, and may write some keys of its own."""


@dataclass
class Deeds:
    """What was done."""

    frames: int = 0
    frame_seconds: float = 0.0
    connections: int = 0
    """How many connections were opened on which no handshake was ever finished."""
    connections_failed: int = 0
    connections_ended: int = 0
    """How many of them the nodes had ended at the end."""
    connections_limit: int = 0
    """How many this machine allows a process at most."""
    handshakes: int = 0
    """How many strangers' sockets tried to shake hands with a key that nobody knows."""
    subscriptions: int = 0
    endless: int = 0
    """On how many connections a message without end was sent."""
    endless_bytes: int = 0
    endless_ended: int = 0
    """How many of these the nodes had ended."""
    stuck: str = ""


def more_descriptors(wanted: int) -> int:
    """Allow this process as many open files as it may have; returns how many connections that is enough for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < min(wanted + DESCRIPTORS_KEPT, hard):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted + DESCRIPTORS_KEPT, hard), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - DESCRIPTORS_KEPT


class Flood:
    """One attack."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.dice = random.Random(orders.seed)
        self.deeds = Deeds()
        self.context: zmq.Context[Socket] = zmq.Context()
        self.context.set(zmq.MAX_SOCKETS, 4096)
        self.keys = KeyPair.of_secret(orders.secret, "the attacker's key") if orders.secret else None

    def socket(self, kind: int, node: str, address: str, keys: KeyPair | None) -> Socket:
        """A socket that is connected, with these keys where they are needed."""
        made = self.context.socket(kind)
        made.setsockopt(zmq.LINGER, 0)
        made.setsockopt(zmq.SNDHWM, 0 if kind == zmq.XSUB else QUEUE_FRAMES)
        if self.orders.servers:
            be_client(made, keys or KeyPair.made(), self.orders.servers[node])
        made.connect(f"tcp://{address}")
        return made

    def run(self) -> Deeds:
        """Attack in all ways at once, as far as one thread can."""
        orders, deeds = self.orders, self.deeds
        deeds.connections_limit = more_descriptors(orders.connections)
        half_open = HalfOpen([*orders.addresses.values(), *orders.events], self.dice)
        deeds.connections = half_open.open(min(orders.connections, deeds.connections_limit))
        deeds.connections_failed = half_open.failed
        strangers = self.strangers()
        self.subscribe()
        endless = self.endless()
        self.send_frames(endless)
        for connection in endless:
            deeds.endless_bytes += connection.bytes
            deeds.endless_ended += connection.ended
            connection.socket.close()
        deeds.connections_ended = half_open.shut()
        half_open.close()
        for each in strangers:
            each.close(0)
        self.context.destroy(linger=0)
        return deeds

    def strangers(self) -> list[Socket]:
        """Sockets with keys that nobody knows, which try again and again; none where nobody needs keys."""
        if not self.orders.servers:
            return []
        count = min(STRANGERS, self.orders.connections)
        made = [
            self.socket(zmq.DEALER, node, address, KeyPair.made())
            for number, (node, address) in enumerate(list(self.orders.addresses.items()) * count)
            if number < count
        ]
        self.deeds.handshakes = len(made)
        return made

    def endless(self) -> list[Endless]:
        """Messages without end, one to each port; none where they would have to be encrypted."""
        if self.orders.servers:
            return []
        made = [Endless(address, b"DEALER") for address in self.orders.addresses.values()]
        made += [Endless(address, b"SUB") for address in self.orders.events]
        self.deeds.endless = len(made)
        return made

    def subscribe(self) -> None:
        """Subscribe to more topics than anybody needs."""
        for node, address in zip(self.orders.addresses, self.orders.events, strict=True):
            greedy = self.socket(zmq.XSUB, node, address, self.keys)
            for _ in range(SUBSCRIPTIONS):
                greedy.send(b"\x01" + self.dice.randbytes(self.dice.randrange(1000)))
            self.deeds.subscriptions += SUBSCRIPTIONS
            while greedy.poll(20):
                greedy.recv_multipart()

    def send_frames(self, endless: list[Endless]) -> None:
        """Send all frames, as fast as the nodes take them."""
        drawn = HostileFrames(self.orders.seed, self.orders.cluster, SESSIONS_OF_OTHERS if self.keys else NO_SESSION)
        places = list(self.orders.addresses.items()) * DEALERS
        dealers = [self.socket(zmq.DEALER, node, address, self.keys) for node, address in places]
        began = time.monotonic()
        for dealer in self.in_turns(dealers):
            for each in endless:
                each.go_on()
            if self.deeds.stuck or self.deeds.frames >= self.orders.frames:
                break
            for _ in range(min(BATCH, self.orders.frames - self.deeds.frames)):
                try:
                    dealer.send_multipart(drawn.next(), zmq.NOBLOCK)
                except zmq.Again:
                    break
                self.deeds.frames += 1
        self.wait_until_taken(dealers)
        self.deeds.frame_seconds = time.monotonic() - began

    def wait_until_taken(self, dealers: list[Socket]) -> None:
        """Wait until every frame has been read: each connection asks a question behind its last one, and is answered.

        A connection that was broken by what was sent on it has lost what was queued; it is made anew, and answers too.
        """
        question = encode(Frame("gateway", self.orders.cluster, "", "", 0, 0, LAST, 0, Locate(0, 0)))
        waiting, end, ask_at = set(dealers), time.monotonic() + TAKEN_SECONDS_MAX, 0.0
        while waiting and time.monotonic() < end:
            if ask_at <= time.monotonic():
                ask_at = time.monotonic() + ASK_SECONDS
                for dealer in waiting:
                    with suppress(zmq.Again):
                        dealer.send(question, zmq.NOBLOCK)
            for dealer in [each for each in waiting if each.poll(10)]:
                answer = dealer.recv_multipart()[-1]
                with suppress(ProtocolError):
                    if answer and decode(answer, FRAME_BYTES_MAX).request == LAST:
                        waiting.discard(dealer)
        if waiting:
            self.deeds.stuck = f"{len(waiting)} of {len(dealers)} connections gave no answer in {TAKEN_SECONDS_MAX:g} s"

    def in_turns(self, dealers: list[Socket]) -> Iterator[Socket]:
        """Yield the dealers to which frames can be sent, and read what comes back from all."""
        poller = zmq.Poller()
        for dealer in dealers:
            poller.register(dealer, zmq.POLLIN | zmq.POLLOUT)
        taken = time.monotonic()
        while True:
            for dealer, ready in poller.poll(200):
                if ready & zmq.POLLIN:
                    with suppress(zmq.Again):
                        for _ in range(BATCH):
                            dealer.recv_multipart(zmq.NOBLOCK)
                if ready & zmq.POLLOUT:
                    taken = time.monotonic()
                    yield dealer
            if time.monotonic() - taken > TAKEN_SECONDS_MAX:
                self.deeds.stuck = f"no node took a frame for {TAKEN_SECONDS_MAX:g} s"
                yield dealers[0]


def main() -> None:
    """Read the orders, carry them out, and tell."""
    orders: dict[str, Any] = json.loads(sys.stdin.readline())
    print(json.dumps(asdict(Flood(Orders(**orders)).run())), flush=True)


if __name__ == "__main__":
    main()
