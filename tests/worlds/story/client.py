"""The client of a story: it sends single frames to nodes that the story names, and records the answers.

It is driven by hand on purpose and does not use the shipped client's `SessionCore`: a story decides which node receives
which frame and when, also at nodes to which no client would send, and no frame may be sent or repeated that the story
does not contain. The core itself is tested by `tests/unit/client/test_session.py` and by every simulation.
"""

from __future__ import annotations

from typing import Any

import msgpack

from forge_consensus.actors.codec import Frame, decode, encode
from forge_consensus.actors.messages import (
    MembersPlanned,
    OpenSession,
    Read,
    ReadResults,
    Refused,
    Results,
    SessionOpened,
    Submit,
    TransferStarted,
)
from forge_consensus.testing.world.network import Connection
from tests.worlds.story.network import FRAME_BYTES_MAX
from tests.worlds.story.script import StoryError
from tests.worlds.story.trace import Trace
from tests.worlds.story.words import NOTHING, command_of, told, told_value
from tests.worlds.story.world import StoryNode

TTL_MS = 3_600_000
GREATEST = 1 << 20


class StoryClient:
    """One client with one session. `answers` holds the answers to each of its words, in order."""

    name = "client"
    alive = True

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.connections: dict[StoryNode, Connection] = {}
        self.session = 0
        self.seq = self.number = self.query = self.orders = 0
        self.numbers: dict[str, int] = {}
        self.asked: dict[int, list[str]] = {}
        """The words of each request, by its number."""
        self.answers: dict[str, list[str]] = {}

    def take(self, data: bytes, connection: Any, sender: str) -> None:
        """Record the results in an answer."""
        frame = decode(data, FRAME_BYTES_MAX)
        message = frame.message
        if isinstance(message, SessionOpened):
            self.session = message.session
        elif isinstance(message, Results | ReadResults):
            for number, code, payload in message.items:
                self.answered(self.trace.words[number], code or told_value(payload, nothing=NOTHING[type(message)]))
        elif isinstance(message, Refused):
            for word in self.asked[frame.request]:
                self.answered(word, message.code)
        elif isinstance(message, MembersPlanned | TransferStarted):
            self.answered(self.asked[frame.request][0], NOTHING[Results])

    def linked(self, node: str, stands: bool) -> None:
        """Do nothing: the client does not depend on connections."""

    def answered(self, word: str, answer: str) -> None:
        """Record an answer, and write it to the trace."""
        self.answers.setdefault(word, []).append(answer)

    # --- asking ------------------------------------------------------------------------------------------------------

    def send(self, node: StoryNode, message: Any, words: list[str]) -> None:
        """Send a request to a node, which handles it in a turn of its own."""
        self.number += 1
        self.asked[self.number] = words
        self.trace.write(f"client -> {node.name} {told(message)}")
        connection = self.connections.setdefault(node, Connection(self, node.name))
        node.take(encode(Frame("gateway", "", "", "", 0, 0, self.number, 0, message)), connection, "")
        node.settle()

    def open_session(self, node: StoryNode) -> None:
        """Request a session."""
        self.send(node, OpenSession(TTL_MS), ["session"])

    def propose(self, node: StoryNode, words: list[str]) -> None:
        """Submit commands, each under a number of its own, or under its earlier one if it was submitted before."""
        if not self.session:
            raise StoryError("the client has no session: `begin n1` opens one")
        for word in words:
            if word not in self.numbers:
                self.seq += 1
                self.numbers[word] = self.seq
                self.trace.words[self.seq] = word
        commands = tuple((self.numbers[word], command_of(word)) for word in words)
        self.send(node, Submit(self.session, 1, commands), words)

    def order(self, node: StoryNode, message: Any) -> None:
        """Ask for a change of members or a handover; the answer is recorded under `order1`, `order2` and so on."""
        self.orders += 1
        self.send(node, message, [f"order{self.orders}"])

    def read(self, node: StoryNode, key: str, consistency: str) -> None:
        """Query a key."""
        self.query += 1
        number = GREATEST + self.query
        word = f"read{self.query}"
        self.trace.words[number] = word
        query: bytes = msgpack.packb({"get": key})
        self.send(node, Read(consistency, ((number, query),)), [word])
