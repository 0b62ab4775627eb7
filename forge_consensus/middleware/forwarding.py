"""Sending a request on to the leader's application and its answer back, piece by piece, with httpx.

Neither body is held whole. A request that could not be sent is refused with 503; one whose answer did not come has an
unknown outcome, 504.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from forge_consensus.errors import ConsensusError, InvalidConfigError, OutcomeUnknownError, UnavailableError
from forge_consensus.middleware.request import READS
from forge_consensus.middleware.verdict import BAD_GATEWAY, Refuse, refusal

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS: Final = 2.0
CONNECTIONS_MAX: Final = 200
CHUNK_BYTES: Final = 64 << 10
HOP_BY_HOP: Final = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip
"""Headers about one connection, which a proxy does not pass on (RFC 9110 7.6.1)."""
MISSING: Final = "forward() needs the package httpx: pip install 'forge-consensus[web]'"
Pairs = list[tuple[bytes, bytes]]


class ClientGoneError(Exception):
    """Whoever sent the request went away before its body was complete."""


def imported() -> Any:
    """The module httpx. Raises `InvalidConfigError` where it is not installed."""
    try:
        return importlib.import_module("httpx")
    except ModuleNotFoundError as error:
        if error.name != "httpx":
            raise
        raise InvalidConfigError(MISSING) from error


def limits(timeout: float) -> dict[str, Any]:
    """The arguments of a client that goes to the leader's application."""
    module: Any = imported()
    return {
        "timeout": module.Timeout(timeout, connect=min(CONNECT_SECONDS, timeout), pool=min(CONNECT_SECONDS, timeout)),
        "limits": module.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=20),
        "follow_redirects": False,
        "trust_env": False,  # the way to another member leads through no proxy of the environment
    }


def end_to_end(pairs: Iterable[tuple[bytes, bytes]], *without: bytes) -> Pairs:
    """The headers that are passed on: not those of one connection, and not these."""
    pairs = [(name.lower(), value) for name, value in pairs]
    named = {
        word.strip().lower()
        for name, value in pairs
        if name == b"connection"
        for word in value.decode("latin-1").split(",")
    }
    dropped = HOP_BY_HOP | named
    return [(name, value) for name, value in pairs if name.decode("latin-1") not in dropped and name not in without]


def failure(error: httpx.HTTPError | httpx.InvalidURL, url: str, method: str) -> Refuse:
    """The answer where the leader's application gave none."""
    module: Any = imported()
    where = url.partition("?")[0]
    if isinstance(error, module.ConnectError | module.ConnectTimeout | module.PoolTimeout):
        text = f"the leader's application at {where} could not be reached ({error or type(error).__name__}): try again"
        return refusal(UnavailableError(text), title="leader unreachable")
    told = f"the leader's application at {where} gave no answer ({error or type(error).__name__})"
    found: ConsensusError
    if method in READS:
        found = UnavailableError(f"{told}: try again")
        return refusal(found, title="no answer")
    if isinstance(error, module.TransportError):
        found = OutcomeUnknownError(f"{told}, and may have carried the request out: look before you repeat it")
        return refusal(found)
    refused = refusal(OutcomeUnknownError(told), title="bad gateway")
    return Refuse(BAD_GATEWAY, {**refused.body, "status": BAD_GATEWAY}, refused.headers)
