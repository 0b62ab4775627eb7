"""Verdicts on a request: it goes on, it is refused, or it is sent to the leader; and what their answers look like."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from forge_consensus.errors import (
    BusyError,
    ConnectionFailedError,
    ConsensusError,
    ConsensusTimeoutError,
    InvalidConfigError,
    NoLeaderError,
    NoQuorumError,
    NotLeaderError,
    NotStartedError,
    OutcomeUnknownError,
    StaleReadError,
)
from forge_consensus.middleware.request import Consistency
from forge_consensus.service.leadership import Standing

Headers = tuple[tuple[str, str], ...]
Body = dict[str, Any]

PROBLEM_TYPE: Final = "application/problem+json"
STANDING_KEY: Final = "consensus.standing"
CONFIRMED_KEY: Final = "consensus.confirmed"
"""Where an application finds in its scope or environment what the middleware found out."""
INDEX: Final = "X-Raft-Index"
CONTACT: Final = "X-Raft-Last-Contact-Ms"
BAD_REQUEST: Final = 400
LENGTH_REQUIRED: Final = 411
INTERNAL: Final = 500
BAD_GATEWAY: Final = 502
UNAVAILABLE: Final = 503
OUTCOME_UNKNOWN: Final = 504
TEMPORARY_REDIRECT: Final = 307
SOON_SECONDS: Final = 1
"""When to try again where nobody knows better: an election takes less."""
TITLES: Final[dict[type[ConsensusError], str]] = {
    NotLeaderError: "not the leader",
    NoLeaderError: "no leader available",
    NoQuorumError: "no quorum",
    StaleReadError: "node too far behind",
    BusyError: "too busy",
    ConnectionFailedError: "node not reached",
    ConsensusTimeoutError: "timed out",
    NotStartedError: "not started",
    InvalidConfigError: "invalid request",
    OutcomeUnknownError: "outcome unknown",
}
"""The short names of errors in answers; those that the Go original has are its own."""
PRINTABLE: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What was confirmed of this node's state before a request went on."""

    consistency: Consistency
    applied: int
    """The newest log entry that the state has. A read with it as `after_index` sees no older one."""
    stale_ms: int
    """How old the state may be, in milliseconds; 0 for confirmed ones, 2**53 while the node knows nothing."""


@dataclass(frozen=True, slots=True)
class Pass:
    """The request goes on to the application; its answer gets these headers."""

    standing: Standing | None = None
    """What was known of the leadership; None if nobody asked."""
    confirmed: Confirmed | None = None
    headers: Headers = ()
    tells_index: bool = False
    """Whether the answer also says up to which log entry this node's callers have seen, as it is then."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The request is answered at once."""

    status: int
    body: Body
    headers: Headers = ()

    @property
    def redirects(self) -> bool:
        """Whether the answer names another place."""
        return self.status == TEMPORARY_REDIRECT

    def answer(self, *, head: bool) -> tuple[Headers, bytes]:
        """The headers and the body to send; an answer to HEAD has none of the latter."""
        body = json.dumps(self.body, ensure_ascii=False).encode()
        kinds = (("Content-Type", PROBLEM_TYPE), ("Content-Length", str(len(body))), ("Cache-Control", "no-store"))
        return (*kinds, *self.headers), b"" if head else body


@dataclass(frozen=True, slots=True)
class Send:
    """The request is sent on to the leader, whose answer is the answer."""

    url: str
    """Where its application answers: the `http_url` of its node."""
    headers: Headers
    """What the request gets besides."""


Verdict = Pass | Refuse | Send


def with_headers(present: Iterable[tuple[str, str]], verdict: Pass, seen: int) -> list[tuple[str, str]]:
    """The headers of an answer with those of the verdict.

    What the answer has already stays, because it comes from nearer to where the request was carried out, as the leader.
    Of several indexes the newest is told; `seen` is that of this node's callers.
    """
    found = list(present)
    names = {name.lower() for name, _ in found}
    found += [(name, text) for name, text in verdict.headers if name.lower() not in names]
    if not verdict.tells_index:
        return found
    told = [text for name, text in found if name.lower() == INDEX.lower()]
    indexes = [int(text) for text in told if text.isascii() and text.isdigit()]
    newest = max([seen, verdict.confirmed.applied if verdict.confirmed else 0, *indexes])
    return [(name, text) for name, text in found if name.lower() != INDEX.lower()] + [(INDEX, str(newest))]


def header_text(text: str) -> str:
    """A text as a header can hold it: whatever is not printable ASCII is percent-encoded as UTF-8."""
    return quote(text, safe=PRINTABLE)


def leader_headers(standing: Standing) -> Headers:
    """Who answers, who leads, and how long ago the leader was heard."""
    return (*standing_headers(standing), *contact_headers(standing))


def contact_headers(standing: Standing) -> Headers:
    """How many milliseconds ago a leader was heard, if ever one was."""
    return () if standing.last_contact is None else ((CONTACT, str(max(0, round(standing.last_contact * 1000)))),)


def freshness_headers(level: Consistency, applied: int, stale_ms: int, standing: Standing | None) -> Headers:
    """How new the state is that was read or confirmed, under the names of this package and of the Go original.

    `applied` is the entry that it reflects; `standing` tells what is committed, where the state may be old.
    """
    found: Headers = (("X-Raft-Consistency", str(level)), ("X-Consistency-Level", str(level)))
    if level in {Consistency.BOUNDED, Consistency.EVENTUAL}:
        found += (("X-Raft-Stale-Ms", str(stale_ms)),)
    if level is Consistency.EVENTUAL and standing is not None:
        committed = max(standing.commit_index, applied)
        found += (("X-Commit-Index", str(committed)), ("X-Last-Applied", str(applied)))
    return found


def standing_headers(standing: Standing) -> Headers:
    """Who answers and who leads, under the names of this package and of the Go original."""
    node, cluster, term = header_text(standing.node_id), header_text(standing.cluster_id), str(standing.term)
    found = [
        ("X-Raft-Node", node),
        ("X-Raft-Cluster", cluster),
        ("X-Raft-Role", standing.role),
        ("X-Raft-Term", term),
        ("X-Raft-Known-Leader", "false" if standing.leader is None else "true"),
        ("X-Consensus-Node-ID", node),
        ("X-Consensus-Cluster-ID", cluster),
        ("X-Consensus-Role", standing.role),
        ("X-Consensus-Term", term),
        ("X-Consensus-Leader", "true" if standing.leading else "false"),
    ]
    if standing.leader is not None:
        leader = header_text(standing.leader)
        found += [("X-Raft-Leader", leader), ("X-Consensus-Leader-ID", leader)]
    if standing.leader_url:
        found.append(("X-Raft-Leader-Url", standing.leader_url))
    return tuple(found)


def status_of(error: ConsensusError) -> int:
    """The status for an error: 503 where nothing was done and the same request may succeed later."""
    if isinstance(error, InvalidConfigError):
        return BAD_REQUEST
    if isinstance(error, OutcomeUnknownError):
        return OUTCOME_UNKNOWN
    return UNAVAILABLE if error.retryable or isinstance(error, NotStartedError) else INTERNAL


def refusal(
    error: ConsensusError, standing: Standing | None = None, *, title: str = "", text: str = "", **more: object
) -> Refuse:
    """The answer for an error: RFC 9457 with the fields of the Go original, and who leads if that is known."""
    status = status_of(error)
    title = title or next((name for kind, name in TITLES.items() if isinstance(error, kind)), "failed")
    text = text or str(error)
    body: Body = {
        "type": "about:blank", "title": title, "status": status, "detail": text, "code": error.code,
        "retryable": error.retryable, "error": title, "message": text, **more,
    }  # fmt: skip
    headers: Headers = ()
    if standing is not None:
        body |= {"leader": standing.leader, "leader_id": standing.leader or "", "leader_url": standing.leader_url}
        headers = leader_headers(standing)
    if status == UNAVAILABLE:
        known = isinstance(error, NotLeaderError) and standing is not None and bool(standing.leader_url)
        headers += (("Retry-After", str(0 if known else SOON_SECONDS)),)
    return Refuse(status, body, headers)
