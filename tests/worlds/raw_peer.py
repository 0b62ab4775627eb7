"""A raw connection to a node: sends frames unchanged, well-formed or not, and decodes the answers."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import zmq

from forge_consensus.actors.codec import Frame, decode, encode
from forge_consensus.actors.messages import (
    AppendEntries,
    AppendReply,
    CheckPeer,
    GetStatus,
    Hello,
    HelloReply,
    InstallSnapshot,
    Locate,
    OpenSession,
    Read,
    Refused,
    RequestPreVote,
    RequestVote,
    Submit,
    VoteReply,
    WireMessage,
)
from forge_consensus.actors.transport.liveness import PING

FRAME_BYTES_MAX = 64 << 20
TO = {
    Hello: "membership",
    HelloReply: "membership",
    RequestPreVote: "election",
    RequestVote: "election",
    VoteReply: "election",
    AppendEntries: "replication",
    AppendReply: "replication",
    InstallSnapshot: "snapshot",
    CheckPeer: "health",
}
SAMPLES: tuple[WireMessage, ...] = (
    Hello("0123456789abcdef", 1, "127.0.0.1:1", "beef", "n1=127.0.0.1:1"),
    HelloReply("0123456789abcdef", 1, "", ""),
    RequestPreVote(1 << 40, 3, 1 << 40, 1 << 40),
    RequestVote(1 << 40, 1 << 40, 1 << 40),
    VoteReply(1 << 40, True),
    AppendEntries(1 << 40, 0, 0, 1 << 40, 1, (b"x" * 60, b"y" * 60)),
    AppendReply(1 << 40, True, 1 << 40, 0, 1),
    InstallSnapshot(1 << 40, 1 << 30, 1 << 30, 0, 1 << 50, b"z" * 200),
    CheckPeer(7),
    Locate(0, 0),
    OpenSession(1000),
    Submit(99_999_999, 0, ((1, b"junk"), (2, b"\x92\xa3set\x80"))),
    Read("stale", ((1, b"\xa1k"), (2, b"\xc1"))),
    Read("linearizable", ((3, b"\x81\xa4scan\xa0"),)),
    GetStatus(),
    Refused("CONSENSUS_BUSY", "", "n9", "127.0.0.1:9", 1 << 40),
)


class RawPeer:
    """One DEALER to a node. Use it in a `with` statement."""

    def __init__(self, address: str) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 2000)
        self.socket.setsockopt(zmq.SNDHWM, 0)
        self.socket.connect(f"tcp://{address}")
        self.number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()
        self.context.term()

    def send(
        self,
        message: WireMessage,
        *,
        cluster: str,
        sender: str = "",
        incarnation: str = "",
        boot: int = 0,
        to_boot: int = 1,
    ) -> int:
        """Send a well-formed frame; returns its request number."""
        self.number += 1
        to = TO.get(type(message), "gateway")
        self.send_bytes(encode(Frame(to, cluster, sender, incarnation, boot, to_boot, self.number, 0, message)))
        return self.number

    def send_bytes(self, *parts: bytes) -> None:
        """Send a message of these parts."""
        self.socket.send_multipart(parts)

    def receive(self, seconds_max: float = 3.0) -> WireMessage:
        """The next answer, which is none to a ping. Raises `TimeoutError`."""
        data = PING
        while data == PING:
            if not self.socket.poll(int(seconds_max * 1000)):
                raise TimeoutError("the node did not answer")
            data = self.socket.recv()
        return decode(data, FRAME_BYTES_MAX).message

    def ask(self, message: WireMessage, **header: Any) -> WireMessage:
        """Send a frame and return the next answer."""
        self.send(message, **header)
        return self.receive()
