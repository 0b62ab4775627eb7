"""The ZAP handler (ZeroMQ RFC 27): who may connect to a node's sockets, by the public key that a handshake proved.

ZeroMQ asks it before a connection is made, so whoever is refused reaches no actor. It has no thread: the node's own
loop answers, between two turns, so few requests at once that a flood of them delays no turn.

So many handshakes a second are judged of each client's key, and of all strangers of one network together. Further ones
are put off: ZeroMQ ends the connection without a word, and an honest other end tries again. Members are never put off,
and strangers take nothing from those who are known, so no flood keeps a member or a client out.
"""

from __future__ import annotations

from typing import Any, Final

import zmq
from zmq.utils import z85

from forge_consensus.actors.runtime.access_control import AccessControl
from forge_consensus.actors.runtime.audit import Audit, Who
from forge_consensus.actors.runtime.permits import NOT_PERMITTED, UNKNOWN_KEY
from forge_consensus.actors.runtime.refusals import BAD_HANDSHAKE, TOO_MANY_HANDSHAKES, Refusals
from forge_consensus.actors.transport.allowance import Allowance
from forge_consensus.actors.transport.link import MISMATCH
from forge_consensus.security.curve import be_server
from forge_consensus.security.networks import network_of

ENDPOINT: Final = "inproc://zeromq.zap.01"
NODE: Final = "node"
"""The domain of the socket for members and clients."""
EVENTS: Final = "events"
"""The domain of the publisher of events."""
REQUESTS_A_LOOK: Final = 64
REQUEST_PARTS: Final = 7
NOBLOCK: Final = int(zmq.NOBLOCK)
CURVE: Final = b"CURVE"
YES, LATER, NO = b"200", b"300", b"400"
HANDSHAKES_MAX: Final = 200
"""So many handshakes a second are judged, unless the owner says otherwise."""
UNENCRYPTED: Final = "connection without encryption"
REVOKED_KEY: Final = "revoked key"
HANDSHAKE: Final = "handshake"
"""What the audit calls the attempt to connect."""


class ZapHandler:
    """Answers the requests of one ZeroMQ context; the owner polls `socket` and then calls `answer`.

    Args:
        context: the context of the sockets that it guards; the handler must exist before they listen.
        access: who is known.
        handshakes_max: how many handshakes a second are judged of each client, and of the strangers of each network.

    """

    def __init__(self, context: zmq.Context[Any], access: AccessControl, handshakes_max: int = HANDSHAKES_MAX) -> None:
        self.access = access
        self.of_clients = Allowance(handshakes_max)
        self.of_strangers = Allowance(handshakes_max)
        self.refusals = Refusals()
        """Where refusals are counted and told; the owner puts the node's own in its place."""
        self.audit: Audit | None = None
        """Where denials are recorded; set by the owner."""
        self.socket: zmq.Socket[bytes] = context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(ENDPOINT)

    def answer(self, now: float) -> None:
        """Answer what waits at the monotonic time `now`, at most `REQUESTS_A_LOOK` requests."""
        for _ in range(REQUESTS_A_LOOK):
            try:
                parts = self.socket.recv_multipart(NOBLOCK)
            except zmq.Again:
                return
            self.socket.send_multipart(self.judged(parts, now))

    def judged(self, parts: list[bytes], now: float) -> list[bytes]:
        """Return the answer to a request, whose user id is the public key as text."""
        head = parts[:2] if len(parts) > 1 else [b"1.0", b""]
        key = ""
        if len(parts) == REQUEST_PARTS and parts[5] == CURVE:
            key = z85.encode(parts[6]).decode()
        domain = parts[2].decode("ascii", "replace") if len(parts) > 2 else ""
        principal = self.access.of_key(key) if key else None
        if principal is not None and self.admits(domain, key):
            if principal.is_member or self.of_clients.takes(key, now):
                return [*head, YES, b"", key.encode(), b""]
            self.refusals.report(TOO_MANY_HANDSHAKES, f"those of client {principal.name}")
            return [*head, LATER, b"", b"", b""]
        host = parts[3].decode("ascii", "replace") if len(parts) > 3 else "somewhere"
        if not self.of_strangers.takes(network_of(host), now):
            self.refusals.report(TOO_MANY_HANDSHAKES, f"those of strangers from {network_of(host)}")
            return [*head, LATER, b"", b"", b""]
        if principal is not None:
            self.refusals.report(NOT_PERMITTED, f"{host} wanted the events, which its key {key} may not read")
            self.deny(Who.of(principal, host), "read, for events")
        else:
            self.refusals.report(UNKNOWN_KEY, f"{host} showed the key {key or '(none)'}, which nobody in the list has")
            revoked = key in self.access.current.revoked
            self.deny(Who(key, "unknown", origin=host), REVOKED_KEY if revoked else UNKNOWN_KEY)
        return [*head, NO, b"", b"", b""]

    def deny(self, who: Who, subject: str) -> None:
        """Record that somebody was not let in."""
        if self.audit is not None:
            self.audit.deny(who, HANDSHAKE, subject)

    def admits(self, domain: str, key: str) -> bool:
        """Whether the holder of a key may be connected to the socket of that domain now."""
        principal = self.access.of_key(key)
        return principal is not None and (domain == NODE or (domain == EVENTS and principal.may("read")))

    def guard(self, socket: zmq.Socket[Any], domain: str) -> None:
        """Have a socket accept CURVE only, from those whom this handler admits. Call it before the socket binds."""
        be_server(socket, self.access.keys, domain)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without a handler nobody would be let in, instead of everybody

    def failed(self, detail: int) -> None:
        """Count a handshake that failed before the key of the other side was known; `detail` is ZeroMQ's."""
        if detail == MISMATCH:
            self.refusals.report(UNENCRYPTED, "somebody connected without keys, which clients and nodes need here")
            self.deny(Who("", "unknown"), UNENCRYPTED)
        else:
            self.refusals.count(BAD_HANDSHAKE)
