"""Problems: every answer of the API that says what went wrong, as RFC 9457 has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from forge_consensus.errors import (
    AlreadyExistsError,
    AuthenticationFailedError,
    CommandError,
    CommandTooLargeError,
    CompactedError,
    ConsensusError,
    InsufficientPeersError,
    InvalidPeerError,
    NodeNotFoundError,
    NotLeaderError,
    PeerExistsError,
    PeerNotFoundError,
)
from forge_consensus.middleware.verdict import (
    SOON_SECONDS,
    TITLES,
    UNAVAILABLE,
    status_of,
)
from forge_consensus.output import json_text
from forge_consensus.service.leadership import Standing

JSON_TYPE: Final = "application/json"
STATUSES: Final[dict[type[ConsensusError], int]] = {
    PeerNotFoundError: 404,
    NodeNotFoundError: 404,
    PeerExistsError: 409,
    AlreadyExistsError: 409,
    InsufficientPeersError: 409,
    CompactedError: 410,
    CommandTooLargeError: 413,
    InvalidPeerError: 422,
    CommandError: 422,
    AuthenticationFailedError: 503,
}
"""The statuses of errors that the middleware never meets; for the others see `verdict.status_of`."""
PROBLEM_TITLES: Final[dict[type[ConsensusError], str]] = {
    PeerNotFoundError: "no such member",
    NodeNotFoundError: "no such node",
    PeerExistsError: "already a member",
    InsufficientPeersError: "too few members would be left",
    CompactedError: "those changes are not kept any more",
    CommandTooLargeError: "too large",
    InvalidPeerError: "invalid member",
    CommandError: "the command failed",
    AuthenticationFailedError: "the other nodes do not let this one ask",
}


class ProblemError(Exception):
    """A request that is answered with a problem.

    Args:
        status: the HTTP status.
        title: what went wrong, in a few words that are the same for every such problem.
        detail: what happened, why, and what to do.
        code: the code of the error, such as ``INVALID_REQUEST``.
        retryable: whether the same request may succeed later.
        headers: what the answer gets besides.
        more: further fields of the answer.

    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        code: str = "INVALID_REQUEST",
        *,
        retryable: bool = False,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.detail = detail
        self.code = code
        self.retryable = retryable
        self.headers = dict(headers or {})
        self.more = dict(more or {})

    def body(self, standing: Standing | None, request_id: str) -> bytes:
        """Return the JSON text; it also has the fields `error` and `message` of the Go original."""
        found: dict[str, Any] = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "retryable": self.retryable,
            "request_id": request_id,
            "error": self.title,
            "message": self.detail,
            **self.more,
        }
        if standing is not None:
            found |= {
                "leader": standing.leader,
                "leader_id": standing.leader or "",
                "leader_url": standing.leader_url,
            }
        return json_text(found).encode()


def invalid(detail: str, *, status: int = 400, title: str = "invalid request") -> ProblemError:
    """Return the problem of a request that is not as it must be."""
    return ProblemError(status, title, detail)


def problem_of(error: ConsensusError) -> ProblemError:
    """Return the problem for an error of this package."""
    status = next((status for kind, status in STATUSES.items() if isinstance(error, kind)), status_of(error))
    titles = {**PROBLEM_TITLES, **TITLES}
    title = next((title for kind, title in titles.items() if isinstance(error, kind)), "failed")
    headers = {}
    if status == UNAVAILABLE:
        known = isinstance(error, NotLeaderError) and error.leader is not None
        headers["Retry-After"] = str(0 if known else SOON_SECONDS)
    return ProblemError(status, title, str(error), error.code, retryable=error.retryable, headers=headers)
