"""The entrance over TLS: a connection gets in once both ends have proved what they must, with bounds until then."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

from forge_consensus.security.tls import ServerTls

HANDSHAKES_MAX: Final = 200
"""So many connections are let in at the same time; beyond that the one that has taken longest is closed."""
HANDSHAKE_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 2.0
"""How long the other end may take to close its side."""

Failed = Callable[[str, str], None]
"""Is told of a connection that did not get in: the address that it came from, and why."""


class Entrance(asyncio.Protocol):
    """One connection, until TLS is agreed on; then `make` makes what speaks on it.

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
        self.task: asyncio.Task[None] | None = None
        self.early: list[bytes] = []
        """What came behind the handshake before somebody could take it."""
        self.ended = False
        """Whether the other end has sent its last byte."""
        self.lost: list[Exception | None] = []
        """Why the connection was lost, if it was."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.pause_reading()  # until TLS reads
        if len(self.pending) >= HANDSHAKES_MAX:
            next(iter(self.pending)).give_up()
        self.pending[self] = None
        self.task = asyncio.get_running_loop().create_task(self.get_in(self.transport))

    def give_up(self) -> None:
        """Close a connection that has taken too long."""
        self.pending.pop(self, None)
        if self.transport is not None:
            self.transport.abort()
        if self.task is not None:
            self.task.cancel()

    async def get_in(self, raw: asyncio.Transport) -> None:
        """Agree on TLS, and hand the connection over."""
        loop = asyncio.get_running_loop()
        try:
            secured = await loop.start_tls(
                raw,
                self,
                self.tls.context,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=CLOSE_SECONDS,
            )
        except (OSError, TimeoutError) as error:  # what TLS refuses is an OSError too
            raw.abort()
            self.failed(address_of(raw), why(error))
            return
        finally:
            self.pending.pop(self, None)
        if secured is None or secured.is_closing():
            raw.abort()
            return
        self.hand_over(secured)

    def hand_over(self, secured: asyncio.Transport) -> None:
        """Have the protocol of HTTP speak from now on, with what has come for it already."""
        inner = self.make()
        secured.set_protocol(inner)
        inner.connection_made(secured)
        if self.early:
            inner.data_received(b"".join(self.early))
        if self.ended:
            inner.eof_received()
        if self.lost:
            inner.connection_lost(self.lost[0])

    def data_received(self, data: bytes) -> None:
        """Keep what comes before somebody can take it; TLS reads no more than a piece until then."""
        self.early.append(data)

    def eof_received(self) -> bool | None:
        """Note that no more comes."""
        self.ended = True
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is lost."""
        self.lost.append(exc)


def address_of(transport: asyncio.BaseTransport) -> str:
    """Return the address of the other end, "" if it is not known any more."""
    found: Any = transport.get_extra_info("peername")
    return str(found[0]) if isinstance(found, tuple) and found else ""


def why(error: Exception) -> str:
    """Return why a handshake failed, in a few words that the other end cannot choose."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS was agreed on: {error.reason or 'an error of TLS'}"
    if isinstance(error, TimeoutError):
        return "it took too long"
    return "it left"
