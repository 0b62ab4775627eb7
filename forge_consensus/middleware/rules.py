"""The rules: each decides about a request in steps, and knows neither a web interface nor whether waiting blocks.

A rule is a generator. It yields what it needs to know, is sent the answer, or has the error thrown in, and returns a
verdict. `LeadershipMiddleware` says what each rule is for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final

from forge_consensus.client.calls import ReadDetail
from forge_consensus.errors import ConsensusError, InvalidConfigError, NoLeaderError, NoQuorumError, NotLeaderError
from forge_consensus.middleware.request import FORWARDED, Consistency, Request
from forge_consensus.middleware.verdict import (
    TEMPORARY_REDIRECT,
    Confirmed,
    Pass,
    Refuse,
    Send,
    Verdict,
    freshness_headers,
    header_text,
    leader_headers,
    refusal,
)
from forge_consensus.service.leadership import Standing


class AskStanding:
    """Who leads? Answered with a `Standing`."""


class AskQuorum:
    """Is a majority alive? Answered with nothing, or `NoQuorumError`."""


@dataclass(frozen=True, slots=True)
class AskState:
    """Is the state as new as this? Answered with a `ReadDetail` once it is; the fields are those of `confirm`."""

    consistency: str
    timeout: float | None
    max_staleness: float | None = None
    after_index: int = 0


Step = AskStanding | AskQuorum | AskState
Steps = Generator[Step, Any, Verdict]
Rule = Callable[[Request], Steps]

QUERY_WORDS: Final = {
    Consistency.STRONG: "linearizable",
    Consistency.LEASE: "lease",
    Consistency.BOUNDED: "stale",
    Consistency.EVENTUAL: "stale",
}
"""Level -> the consistency of a query that fulfils it."""


def decided(rule: Rule, request: Request) -> Steps:
    """Decide by a rule; an error on the way is a refusal."""
    try:
        return (yield from rule(request))
    except ConsensusError as error:
        return refusal(error)


def require_leader(request: Request) -> Steps:
    """Pass where this node leads."""
    standing: Standing = yield AskStanding()
    return Pass(standing) if standing.leading else refusal(standing.not_leading(), standing)


def add_leader_header(request: Request) -> Steps:
    """Pass, and tell who leads."""
    try:
        standing: Standing = yield AskStanding()
    except ConsensusError:  # the application may well answer without its node
        return Pass(headers=(("X-Raft-Known-Leader", "false"),))
    return Pass(standing, headers=leader_headers(standing), tells_index=True)


def require_quorum(request: Request) -> Steps:
    """Pass where a majority is alive, as this node sees it."""
    try:
        yield AskQuorum()
    except NoQuorumError as error:
        # the Go original counts nodes here, and this error voters
        return refusal(error, healthy_nodes=error.available, required_nodes=error.required)
    return Pass()


def redirect(request: Request) -> Steps:
    """Pass where this node leads; else name the leader's address."""
    standing: Standing = yield AskStanding()
    found = elsewhere(standing)
    if not isinstance(found, str):
        return found
    url = f"{found}{path_of(request)}"
    body = {"error": "not the leader", "leader_id": standing.leader, "leader_url": url, "redirect": True}
    return Refuse(TEMPORARY_REDIRECT, body, (("Location", url), *leader_headers(standing)))


def forward(request: Request) -> Steps:
    """Pass where this node leads; else have the leader answer. A request that was sent on already goes no further."""
    standing: Standing = yield AskStanding()
    found = elsewhere(standing)
    if not isinstance(found, str):
        return found
    if request.was_forwarded:
        text = (
            f"{standing.node_id} does not lead, and {request.headers[FORWARDED][:128]} sent it this request: the "
            "leader has just changed, try again"
        )
        return refusal(NotLeaderError(text, leader=standing.leader, term=standing.term), standing)
    path_of(request)
    return Send(found, (("X-Raft-Forwarded", header_text(standing.node_id)),))


def path_of(request: Request) -> str:
    """Path and query. Raises `InvalidConfigError` for a target that another address could be made of."""
    if not request.target.startswith("/"):
        raise InvalidConfigError(f"the request is for {request.target[:80]!r}, which is no path: send it to the leader")
    return request.target


def elsewhere(standing: Standing) -> str | Verdict:
    """Where the leader's application answers; or the verdict where this node leads, or nobody knows the address."""
    if standing.leading:
        return Pass(standing)
    if standing.leader is None:
        return refusal(NoLeaderError(), standing)
    if not standing.leader_url:
        text = (
            f"{standing.leader} leads and has not said where its application answers HTTP: start its node with "
            "http_url (--http-url), or try again if it has just started"
        )
        error = NotLeaderError(text, leader=standing.leader, term=standing.term)
        return refusal(error, standing, title="leader information unavailable")
    return standing.leader_url


def read_only_routing(writes: Rule) -> Rule:
    """Pass what reads; decide about all else by another rule."""

    def rule(request: Request) -> Steps:
        if request.reads:
            return Pass()
        return (yield from writes(request))

    return rule


def consistency(default: Consistency, max_staleness: float, timeout: float | None, *, override: bool) -> Rule:
    """Pass once this node's state is as new as the request asks, or as the default asks."""

    def rule(request: Request) -> Steps:
        level = request.consistency(default) if override else default
        bound = None
        if level is Consistency.BOUNDED:
            bound = request.max_staleness(max_staleness) if override else max_staleness
        detail: ReadDetail = yield AskState(QUERY_WORDS[level], timeout, bound, request.min_index())
        confirmed = Confirmed(level, detail.applied, detail.stale_ms)
        standing = None
        if level is Consistency.EVENTUAL:
            standing = yield AskStanding()
        headers = freshness_headers(level, detail.applied, detail.stale_ms, standing)
        return Pass(confirmed=confirmed, headers=headers, tells_index=True)

    return rule
