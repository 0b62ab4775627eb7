"""A scripted cluster: a tiny machine with sessions, and nodes of it on real sockets."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgpack
import zmq

from forge_consensus.actors.codec import Frame, decode, encode
from forge_consensus.actors.messages import (
    GetStatus,
    Locate,
    Located,
    OpenSession,
    Read,
    ReadResults,
    Refused,
    Results,
    SessionOpened,
    Status,
    Submit,
    WireMessage,
)
from forge_consensus.storage.machines.machine import Command

Hook = Callable[[str, WireMessage], list[WireMessage] | None]


@dataclass
class Session:
    """The machine's data of one session."""

    done_below: int = 1
    results: dict[int, tuple[str, bytes]] = field(default_factory=dict)


class FakeGroup:
    """A group whose machine is shared: entries that any leader appends are committed at once."""

    def __init__(self, nodes: dict[str, str]) -> None:
        self.nodes = nodes
        self.leader = next(iter(nodes))
        self.term = 1
        self.index = 0
        self.sessions: dict[int, Session] = {}
        self.data: dict[str, Any] = {}
        self.applied: Counter[bytes] = Counter()
        self.submits: list[tuple[str, Submit]] = []
        self.reads: list[tuple[str, Read]] = []
        self.hook: Hook = lambda node, message: None
        self.frame_bytes_max = 0
        self.history: list[list[Any]] = []
        self.oldest = dict.fromkeys(nodes, 1)
        """The first index of which each node has the changes."""
        self.leases: dict[int, float] = {}
        """The times to live of the leases, in milliseconds; nothing ends them."""

    def elect(self, node: str) -> None:
        """Make that node the leader; "" for none."""
        self.leader = node
        if node:
            self.term += 1

    def located(self, node: str) -> Located:
        """The leader as a node knows it."""
        address = self.nodes.get(self.leader, "")
        members = tuple(self.nodes.items())
        return Located(node, "fake", self.leader, address, self.term, members, self.frame_bytes_max)

    def refusal(self, code: str, text: str = "") -> Refused:
        """A refusal that names the leader."""
        return Refused(code, text, self.leader, self.nodes.get(self.leader, ""), self.term)

    def handle(self, node: str, message: WireMessage) -> list[WireMessage] | None:
        """The answers of a node; None if it holds the request."""
        scripted = self.hook(node, message)
        if scripted is not None:
            return scripted
        if isinstance(message, Locate):
            known = self.leader and self.term > message.known_term
            return [self.located(node)] if known else None
        if isinstance(message, GetStatus):
            return [Status({"node": node, "leader": self.leader})]
        if isinstance(message, Read) and message.consistency == "stale":
            return [self.read(node, message, 7)]
        if isinstance(message, Read) and message.by_follower and self.leader:
            return [self.read(node, message, 0)]
        if node != self.leader:
            return [self.refusal("CONSENSUS_NOT_LEADER" if self.leader else "CONSENSUS_NO_LEADER")]
        if isinstance(message, OpenSession):
            self.index += 1
            self.sessions[self.index] = Session()
            return [SessionOpened(self.index)]
        if isinstance(message, Submit):
            self.submits.append((node, message))
            return [self.submit(message)]
        if isinstance(message, Read):
            return [self.read(node, message, 0)]
        return []

    def submit(self, message: Submit) -> Results:
        """Apply the new commands, and answer all."""
        session = self.sessions.get(message.session)
        items = []
        for number, payload in message.commands:
            if session is None:
                items.append((number, "CONSENSUS_SESSION_EXPIRED", msgpack.packb(["", "expired"])))
                continue
            if number < session.done_below:
                items.append((number, "CONSENSUS_OPERATION_FAILED", msgpack.packb(["", "below"])))
                continue
            if number not in session.results:
                self.index += 1
                self.applied[payload] += 1
                session.results[number] = self.apply(Command.decode(payload))
            items.append((number, *session.results[number]))
        if session is not None:
            session.done_below = max(session.done_below, message.done_below)
            for number in [n for n in session.results if n < session.done_below]:
                del session.results[number]
        return Results(message.session, tuple(items), self.index)

    def apply(self, command: Command) -> tuple[str, bytes]:
        """The outcome of one command."""
        key, payload = command.payload.get("key", ""), command.payload
        value: Any = None
        if command.type == "set":
            self.data[key] = payload["value"]
            self.history.append([self.index, key, payload["value"], self.index, payload.get("lease", 0), "put"])
        elif command.type == "delete":
            value = self.data.pop(key, self) is not self
            self.history += [[self.index, key, None, 1, 0, "delete"]] if value else []
        elif command.type.startswith("lease_"):
            return self.apply_lease(command)
        elif command.type == "cas":
            value = self.data.get(key) == payload["expected"]
            if value:
                self.data[key] = payload["value"]
        elif command.type == "delete_prefix":
            gone = [each for each in self.data if each.startswith(payload["prefix"])]
            value = len([self.data.pop(each) for each in gone])
        elif command.type == "batch":  # not all or none: that is the real machine's affair
            value = [msgpack.unpackb(self.apply(Command(op.pop("type"), op))[1]) for op in payload["ops"]]
        elif command.type == "increment":
            if not isinstance(self.data.get(key, 0), int):
                return "CONSENSUS_COMMAND_FAILED", msgpack.packb(["TypeError", "not a number"])
            value = self.data[key] = self.data.get(key, 0) + payload["by"]
        return "", msgpack.packb(value)

    def apply_lease(self, command: Command) -> tuple[str, bytes]:
        """The outcome of a command on a lease."""
        number = command.payload.get("lease", self.index)
        if command.type == "lease_grant":
            self.leases[number] = command.payload["ttl_ms"]
            return "", msgpack.packb(number)
        if command.type == "lease_revoke":
            return "", msgpack.packb(int(self.leases.pop(number, None) is not None))
        if number not in self.leases:
            return "CONSENSUS_COMMAND_FAILED", msgpack.packb(["ValueError", f"lease {number} does not exist"])
        return "", msgpack.packb(self.leases[number])

    def changes(self, node: str, query: dict[str, Any]) -> bytes | None:
        """The answer to a query for changes; None if there is none yet."""
        since, oldest, text = query["since"], self.oldest[node], query["changes"]
        if since < oldest:
            return bytes(msgpack.packb({"changes": [], "next": since, "oldest": oldest}))
        found = [row for row in self.history if row[0] >= since and row[1].startswith(text)]
        found = [row for row in found if not query.get("key") or row[1] == text]
        return msgpack.packb({"changes": found, "next": self.index + 1, "oldest": oldest}) if found else None

    def read(self, node: str, message: Read, stale_ms: int) -> ReadResults:
        """The answers to queries."""
        self.reads.append((node, message))
        items = []
        for number, packed in message.queries:
            query: Any = msgpack.unpackb(packed) if packed else None
            if not packed:
                items.append((number, "", msgpack.packb(None)))
            elif isinstance(query, dict):
                pairs = [(k, v) for k, v in sorted(self.data.items()) if k.startswith(query["scan"])]
                items.append((number, "", msgpack.packb(pairs[: query["limit"]])))
            else:
                items.append((number, "", msgpack.packb(self.data.get(query))))
        return ReadResults(self.index, stale_ms, tuple(items))


class FakeCluster:
    """Nodes of a `FakeGroup` on real ROUTER sockets, all on one thread."""

    def __init__(self, count: int = 3) -> None:
        self.context = zmq.Context()
        self.sockets: dict[str, Any] = {}
        nodes = {}
        for number in range(1, count + 1):
            socket = self.context.socket(zmq.ROUTER)
            socket.setsockopt(zmq.LINGER, 0)
            port = socket.bind_to_random_port("tcp://127.0.0.1")
            self.sockets[f"n{number}"] = socket
            nodes[f"n{number}"] = f"127.0.0.1:{port}"
        self.group = FakeGroup(nodes)
        self.mute: set[str] = set()
        self.orders: list[Callable[[], None]] = []
        self.held: list[tuple[float, str, bytes, Frame]] = []
        self.kept: list[tuple[float, str, bytes, Frame, int, dict[str, Any]]] = []
        """Queries for changes that have no answer yet."""
        self.asked: list[tuple[str, dict[str, Any], Read]] = []
        """All queries for changes."""
        self.doubled = False
        self.stopped = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    @property
    def addresses(self) -> list[str]:
        """The addresses of the nodes."""
        return list(self.group.nodes.values())

    def do(self, order: Callable[[], None]) -> None:
        """Call a function on the cluster's thread and wait for it."""
        done = threading.Event()

        def run_order() -> None:
            order()
            done.set()

        self.orders.append(run_order)
        assert done.wait(5)

    def kill(self, node: str) -> None:
        """Close a node's socket, so that its connections are lost."""
        self.do(lambda: self.sockets.pop(node).close(0))

    def revive(self, node: str) -> None:
        """Bind the node's address again."""

        def bind() -> None:
            socket = self.context.socket(zmq.ROUTER)
            socket.setsockopt(zmq.LINGER, 0)
            socket.bind(f"tcp://{self.group.nodes[node]}")
            self.sockets[node] = socket

        self.do(bind)

    def elect(self, node: str) -> None:
        """Make that node the leader."""
        self.do(lambda: self.group.elect(node))

    def run(self) -> None:
        """Serve until stopped."""
        while not self.stopped:
            while self.orders:
                self.orders.pop(0)()
            poller = zmq.Poller()
            for socket in self.sockets.values():
                poller.register(socket, zmq.POLLIN)
            ready = dict(poller.poll(5))
            for node, socket in list(self.sockets.items()):
                if socket in ready:
                    client, data = socket.recv_multipart()
                    if data:
                        self.serve(node, client, decode(data, 1 << 26))
                    else:  # a ping, which comes when nothing was sent for long
                        socket.send_multipart((client, data))
            self.release()
        for socket in self.sockets.values():
            socket.close(0)
        self.context.term()

    def serve(self, node: str, client: bytes, frame: Frame) -> None:
        """Answer one frame."""
        if node in self.mute:
            return
        if isinstance(frame.message, Read) and b"changes" in b"".join(data for _, data in frame.message.queries):
            for number, data in frame.message.queries:
                query = msgpack.unpackb(data)
                until = time.monotonic() + query["wait_ms"] / 1000
                self.asked.append((node, query, frame.message))
                self.kept.append((until, node, client, frame, number, query))
            return
        answers = self.group.handle(node, frame.message)
        if answers is None:
            wait_ms = frame.message.wait_ms if isinstance(frame.message, Locate) else 0
            self.held.append((time.monotonic() + wait_ms / 1000, node, client, frame))
            return
        for answer in answers * (2 if self.doubled else 1):
            self.reply(node, client, frame, answer)

    def release(self) -> None:
        """Send the answers whose delay is over, and those to queries that were kept."""
        kept, self.kept = self.kept, []
        for item in kept:
            until, node, client, frame, number, query = item
            answer = self.group.changes(node, query)
            if answer is None and time.monotonic() >= until:
                answer = msgpack.packb({"changes": [], "next": self.group.index + 1, "oldest": 1})
            if answer is None:
                self.kept.append(item)
            elif node in self.sockets and node not in self.mute:
                self.reply(node, client, frame, ReadResults(self.group.index, 0, ((number, "", answer),)))
        held, self.held = self.held, []
        for until, node, client, frame in held:
            asked = frame.message
            assert isinstance(asked, Locate)
            known = self.group.leader and self.group.term > asked.known_term
            if node not in self.sockets:
                continue
            if known or time.monotonic() >= until:
                if node not in self.mute:
                    self.reply(node, client, frame, self.group.located(node))
            else:
                self.held.append((until, node, client, frame))

    def reply(self, node: str, client: bytes, frame: Frame, answer: WireMessage) -> None:
        """Send one answer."""
        data = encode(Frame("", "fake", node, "i", 1, 0, frame.request, frame.sent, answer))
        self.sockets[node].send_multipart([client, data])

    def stop(self) -> None:
        """End the thread."""
        self.stopped = True
        self.thread.join(5)
