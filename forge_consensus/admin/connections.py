"""Connections over HTTP: bounds in number and in time, so that slow and half-open ones cost nobody else anything."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any, Final, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from forge_consensus.admin.problems import ProblemError
from forge_consensus.middleware.verdict import PROBLEM_TYPE
from forge_consensus.security.x509_names import PeerCertificate

CONNECTIONS_MAX: Final = 1000
HEAD_SECONDS: Final = 10.0
"""A connection on which no whole head of a request arrives for so long is closed."""
JOINED_BYTES_MAX: Final = 64 << 10
STALL_SECONDS: Final = 30.0
"""A connection whose other end takes nothing for so long is closed."""
MALFORMED: Final = (
    "what arrived is no request of HTTP/1.1: its first line, a header or the framing of its body is malformed, or it "
    "does not have one Host header; send it by a client for HTTP. The connection is closed"
)
CERTIFICATE: Final = "forge_consensus.certificate"
"""Where a connection notes the certificate of its other end, in the state of each of its requests."""
QUIET: Final = logging.getLogger("forge_consensus.admin.http")
"""What uvicorn says of single connections goes nowhere: anybody can make it say much."""
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False
QUIET.setLevel(logging.CRITICAL)


class JoinedWrites:
    """A transport that sends what is written one after another at once, because each sending costs more than the bytes.

    So the head of an answer and its body are one packet. What is longer than `JOINED_BYTES_MAX` is sent on the spot.

    Args:
        transport: where the bytes go; all else is asked of it, too.
        loop: the event loop, which sends when it has done what it does now.

    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.transport = transport
        self.loop = loop
        self.parts: list[bytes] = []
        self.size = 0

    def write(self, data: bytes) -> None:
        """Send bytes soon."""
        if not self.parts:
            self.loop.call_soon(self.flush)
        self.parts.append(data)
        self.size += len(data)
        if self.size >= JOINED_BYTES_MAX:
            self.flush()

    def flush(self) -> None:
        """Send what was written."""
        if self.parts:
            data = b"".join(self.parts)
            self.parts, self.size = [], 0
            self.transport.write(data)

    def close(self) -> None:
        """Send what was written, and close the connection behind it."""
        self.flush()
        self.transport.close()

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the transport."""
        return getattr(self.transport, name)


class BoundedConnection(H11Protocol):
    """A connection of uvicorn with limits.

    If there are too many, the one that has waited longest for a request is closed, so that whoever has something to ask
    gets in; if all have requests under way, the new one is closed.
    """

    waiting: dict[BoundedConnection, None]
    """Those without a request under way, the oldest first; one for all connections of a server."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.logger = QUIET
        self.access_log = False
        self.head_alarm: asyncio.TimerHandle | None = None
        self.stall_alarm: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a new connection, if there is room."""
        super().connection_made(cast("asyncio.Transport", JoinedWrites(transport, self.loop)))
        secured = transport.get_extra_info("ssl_object")
        shown = PeerCertificate.of(secured.getpeercert() or {}) if secured is not None else None
        if shown is not None:  # each request finds it in its state
            self.app_state = {**self.app_state, CERTIFICATE: shown}
        if len(self.connections) > CONNECTIONS_MAX:
            oldest = next(iter(self.waiting), None)
            (oldest or self).transport.abort()
            if oldest is None:
                return
            oldest.rest()
        self.note()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.rest()
        self.stop_stall_alarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        super().data_received(data)
        self.note()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self.note()

    def note(self) -> None:
        """Note whether a request is under way."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy or self.transport.is_closing():
            self.rest()
        elif self not in self.waiting:
            self.waiting[self] = None
            self.head_alarm = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def rest(self) -> None:
        """Wait for no request."""
        self.waiting.pop(self, None)
        if self.head_alarm is not None:
            self.head_alarm.cancel()
            self.head_alarm = None

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, if it can be answered, and close the connection.

        Args:
            msg: what uvicorn would say; it is not told.

        """
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            request_id = f"{random.getrandbits(64):016x}"
            body = ProblemError(400, "malformed request", MALFORMED, "MALFORMED_REQUEST").body(None, request_id)
            headers = [
                ("Content-Type", PROBLEM_TYPE), ("Content-Length", str(len(body))), ("Cache-Control", "no-store"),
                ("X-Content-Type-Options", "nosniff"), ("X-Request-ID", request_id), ("Connection", "close"),
            ]  # fmt: skip
            head = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        self.transport.close()

    def pause_writing(self) -> None:
        """The other end takes nothing at present."""
        super().pause_writing()
        self.stop_stall_alarm()
        self.stall_alarm = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The other end takes something again."""
        self.stop_stall_alarm()
        super().resume_writing()

    def stop_stall_alarm(self) -> None:
        """Stop waiting for the other end."""
        if self.stall_alarm is not None:
            self.stall_alarm.cancel()
            self.stall_alarm = None


def bounded_connections() -> type[BoundedConnection]:
    """Return a class of connections for one server, which count together."""
    found: Callable[..., Any] = type
    made: type[BoundedConnection] = found("ServerConnection", (BoundedConnection,), {"waiting": {}})
    return made
