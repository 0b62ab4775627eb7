"""Sending a request on to the leader's application: what is sent, what of its answer comes back, and what went wrong.

The transports of httpx are used and not its clients, because a client keeps cookies from one request for the next, and
adds headers of its own. Neither body is held whole. A request that could not be sent is refused with 503; one whose
answer did not come has an unknown outcome, 504.
"""

from __future__ import annotations

import importlib
import ssl
from collections.abc import AsyncIterable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from forge_consensus.errors import InvalidConfigError, OutcomeUnknownError, UnavailableError
from forge_consensus.middleware.request import READS, Request
from forge_consensus.middleware.verdict import BAD_GATEWAY, Refuse, Send, refusal

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS: Final = 2.0
IDLE_SECONDS: Final = 2.0
"""How long an idle connection is kept: less than servers keep theirs, so that a request does not meet its end."""
CONNECTIONS_MAX: Final = 200
IDLE_MAX: Final = 20
HOP_BY_HOP: Final = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
        b"trailer", b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip
"""Headers about one connection, which a proxy does not pass on (RFC 9110 7.6.1)."""
OF_THE_SERVER: Final = frozenset({b"date", b"server"})
"""Headers of an answer that the server here writes itself."""
MISSING: Final = "forwarding needs the package httpx: pip install 'forge-consensus[web]'"
Pairs = list[tuple[bytes, bytes]]


class ClientGoneError(Exception):
    """Whoever sent the request went away before its body was complete."""


@dataclass(frozen=True, slots=True)
class Forwarding:
    """How requests are sent on."""

    timeout: float
    """How many seconds the leader's application may be silent."""
    tls: ssl.SSLContext | None = None
    """What an application at an https address is checked with; None for the authorities that httpx knows."""

    def options(self) -> dict[str, Any]:
        """The arguments of a transport of httpx."""
        limits = imported().Limits(
            max_connections=CONNECTIONS_MAX, max_keepalive_connections=IDLE_MAX, keepalive_expiry=IDLE_SECONDS
        )
        return {"verify": self.tls or True, "limits": limits}

    def request(
        self,
        verdict: Send,
        request: Request,
        headers: Iterable[tuple[bytes, bytes]],
        came: Came,
        body: Iterable[bytes] | AsyncIterable[bytes] | None,
    ) -> httpx.Request:
        """The request to the leader's application, with the path as it came. Raises httpx.InvalidURL."""
        seconds = min(CONNECT_SECONDS, self.timeout)
        timeouts = {"connect": seconds, "pool": seconds, "read": self.timeout, "write": self.timeout}
        target = f"{urlsplit(verdict.url).path}{request.target}".encode("latin-1")
        found: httpx.Request = imported().Request(
            request.method,
            verdict.url,
            headers=[*sent_on(headers), *came.headers(headers), *encoded(verdict.headers)],
            content=body,
            extensions={"timeout": timeouts, "target": target},
        )
        return found


@dataclass(frozen=True, slots=True)
class Came:
    """How a request came to this node."""

    scheme: str
    address: str
    """Of whoever sent it, "" if it is not known."""

    def headers(self, present: Iterable[tuple[bytes, bytes]]) -> Pairs:
        """What the leader's application is told of it; what a proxy before this node said of scheme and host stays."""
        known = {name.lower(): value for name, value in present}
        found = [(b"via", b"1.1 forge-consensus")]
        if self.address:
            found.append((b"x-forwarded-for", self.address.encode("latin-1", "replace")))
        if b"x-forwarded-proto" not in known:
            found.append((b"x-forwarded-proto", self.scheme.encode("latin-1", "replace")))
        if b"x-forwarded-host" not in known and b"host" in known:
            found.append((b"x-forwarded-host", known[b"host"]))
        return found


def imported() -> Any:
    """The module httpx. Raises `InvalidConfigError` where it is not installed."""
    try:
        return importlib.import_module("httpx")
    except ModuleNotFoundError as error:
        if error.name != "httpx":
            raise
        raise InvalidConfigError(MISSING) from error


def encoded(headers: Iterable[tuple[str, str]]) -> Pairs:
    """Headers as bytes, their names in lower case."""
    return [(name.lower().encode("latin-1"), text.encode("latin-1")) for name, text in headers]


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Pairs:
    """The headers that are not about one connection, their names in lower case."""
    pairs = [(name.lower(), value) for name, value in headers]
    named = {word.strip().lower() for name, value in pairs if name == b"connection" for word in value.split(b",")}
    return [(name, value) for name, value in pairs if name not in HOP_BY_HOP | named]


def sent_on(headers: Iterable[tuple[bytes, bytes]]) -> Pairs:
    """The headers of a request that are passed on; a length beside chunks says nothing (RFC 9112 6.3)."""
    pairs = list(headers)
    chunked = any(name.lower() == b"transfer-encoding" for name, _ in pairs)
    return [(name, value) for name, value in end_to_end(pairs) if not (chunked and name == b"content-length")]


def passed_back(headers: Iterable[tuple[bytes, bytes]]) -> Pairs:
    """The headers of an answer that are passed back."""
    return [(name, value) for name, value in end_to_end(headers) if name not in OF_THE_SERVER]


def failure(error: Exception, verdict: Send, request: Request) -> Refuse:
    """The answer where the leader's application gave none; the error is one of httpx."""
    module: Any = imported()
    told = str(error) or type(error).__name__
    if isinstance(error, module.InvalidURL | module.LocalProtocolError | module.UnsupportedProtocol):
        return refusal(InvalidConfigError(f"the request cannot be sent on ({told}): send a shorter or plainer one"))
    if isinstance(error, module.ConnectError | module.ConnectTimeout | module.PoolTimeout):
        text = f"the leader's application at {verdict.url} could not be reached ({told}): try again"
        return refusal(UnavailableError(text), title="leader unreachable")
    text = f"the leader's application at {verdict.url} gave no answer ({told})"
    if request.method in READS:
        return refusal(UnavailableError(f"{text}: try again"), title="no answer")
    unknown = OutcomeUnknownError(f"{text}, and may have carried the request out: look before you repeat it")
    if isinstance(error, module.RemoteProtocolError | module.TimeoutException | module.NetworkError):
        return refusal(unknown)
    found = refusal(unknown, title="bad gateway")
    return Refuse(BAD_GATEWAY, {**found.body, "status": BAD_GATEWAY}, found.headers)
