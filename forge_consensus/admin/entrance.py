"""The entrance over TLS: a connection gets in once both ends have proved what they must, with bounds until then."""

from __future__ import annotations

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from typing import Any, Final, cast

from forge_consensus.security.tls import ServerTls

HANDSHAKES_MAX: Final = 200
"""So many connections are let in at the same time; beyond that the one that has taken longest is closed."""
HANDSHAKE_SECONDS: Final = 10
CLOSE_SECONDS: Final = 2
"""How long the other end may take to close its side."""

Failed = Callable[[str, str], None]
"""Is told of a connection that did not get in: the address that it came from, and why."""


class SmallTls(SSLProtocol):
    """The TLS of asyncio with a smaller buffer for each connection: its own one takes 256 KiB, also of an idle one."""

    max_size = 32 << 10


class Entrance(asyncio.Protocol):
    """One connection, until TLS is agreed on; then it is handed to what `make` makes, which speaks HTTP on it.

    It begins TLS by itself, and not by `create_server(ssl=...)` of asyncio, so that each connection gets the newest
    certificate, and that those which do not get on are counted.

    Args:
        make: returns the protocol that speaks HTTP.
        tls: the server's certificate, and whom it asks for one.
        pending: all connections that are here, the oldest first.
        failed: see `Failed`.

    """

    def __init__(
        self, make: Callable[[], asyncio.Protocol], tls: ServerTls, pending: dict[Entrance, None], failed: Failed
    ) -> None:
        self.make = make
        self.tls = tls
        self.pending = pending
        self.failed = failed
        self.transport: asyncio.Transport | None = None
        self.address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        loop = asyncio.get_running_loop()
        self.transport = raw = cast("asyncio.Transport", transport)
        self.address = address_of(raw)
        if len(self.pending) >= HANDSHAKES_MAX:
            next(iter(self.pending)).give_up()
        self.pending[self] = None
        agreed: asyncio.Future[Any] = loop.create_future()
        agreed.add_done_callback(self.decided)
        made = SmallTls(
            loop,
            self.make(),
            self.tls.context,
            agreed,
            server_side=True,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
            ssl_shutdown_timeout=CLOSE_SECONDS,
        )
        raw.set_protocol(made)
        made.connection_made(raw)

    def give_up(self) -> None:
        """Close a connection that has taken too long."""
        self.pending.pop(self, None)
        if self.transport is not None:
            self.transport.abort()

    def decided(self, agreed: asyncio.Future[Any]) -> None:
        """Note that the connection got in, or why it did not."""
        self.pending.pop(self, None)
        error = None if agreed.cancelled() else agreed.exception()
        if error is not None:
            if self.transport is not None:
                self.transport.abort()
            self.failed(self.address, why(error))
            error.__traceback__ = None  # it would keep the buffers of the connection for a while
        self.transport = None


def address_of(transport: asyncio.BaseTransport) -> str:
    """Return the address of the other end, "" if it is not known any more."""
    found: Any = transport.get_extra_info("peername")
    return str(found[0]) if isinstance(found, tuple) and found else ""


def why(error: BaseException) -> str:
    """Return why a handshake failed, in a few words that the other end cannot choose."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS was agreed on: {error.reason or 'an error of TLS'}"
    return "it left, or took too long"
