"""The middleware of the Go original's README, for every ASGI and WSGI application, and as dependencies of FastAPI."""

from __future__ import annotations

import importlib
import inspect
import ssl
from dataclasses import replace
from typing import Any, Final, Literal

from forge_consensus.client.calls import check_timeout
from forge_consensus.errors import InvalidConfigError
from forge_consensus.middleware import rules
from forge_consensus.middleware.asgi import AsgiApp, AsgiMiddleware, request_of
from forge_consensus.middleware.forwarding import Forwarding, imported
from forge_consensus.middleware.request import MAX_STALENESS, Consistency
from forge_consensus.middleware.rules import Rule
from forge_consensus.middleware.settling import settle
from forge_consensus.middleware.verdict import Confirmed, Pass, Refuse, with_headers
from forge_consensus.middleware.wsgi import WsgiApp, WsgiMiddleware
from forge_consensus.security.tls import client_context
from forge_consensus.service.leadership import LeadershipChecker, Standing

Elsewhere = Literal["refuse", "redirect", "forward"]
FORWARD_SECONDS: Final = 30.0
CONFIRM_SECONDS: Final = 2.0
"""How long a request waits for its state: a few elections, and short enough that many such requests do no harm."""


class Middleware:
    """One rule, to be put in front of an application or a route.

    - ASGI (FastAPI, Starlette, and whatever else): ``app = middleware(app)``, or ``app.add_middleware(middleware)``.
    - WSGI (Flask, Django): ``app.wsgi_app = middleware.wsgi(app.wsgi_app)``.
    - A route of FastAPI: ``dependencies=[Depends(middleware)]``; its value is a `Standing`, a `Confirmed` or None, and
      a refusal is an HTTPException. Those that send a request on cannot be used so.

    An application finds the same in ``scope["consensus.standing"]`` and ``scope["consensus.confirmed"]``, or under
    these names in its environment.
    """

    def __init__(self, name: str, rule: Rule, checker: LeadershipChecker, forwarding: Forwarding | None = None) -> None:
        if forwarding is not None:
            imported()
        self.name = name
        self.rule = rule
        self.checker = checker
        self.forwarding = forwarding or Forwarding(FORWARD_SECONDS)
        self.sends_on = forwarding is not None

    def __repr__(self) -> str:
        """What it does for which node."""
        return f"<middleware {self.name} of node {self.checker.service.settings.node_id}>"

    def __call__(self, app: AsgiApp | None = None, *, connection: Any = None, response: Any = None) -> Any:
        """Return an ASGI application with the rule in front of it; FastAPI calls it with a connection instead."""
        if connection is not None:
            return self.check(connection, response)
        if not callable(app):
            raise InvalidConfigError(f"{self.name} was given {app!r}: give it an ASGI application")
        return AsgiMiddleware(app, self.rule, self.checker, self.forwarding)

    def wsgi(self, app: WsgiApp) -> WsgiApp:
        """Return a WSGI application with the rule in front of it."""
        if not callable(app):
            raise InvalidConfigError(f"{self.name} was given {app!r}: give it a WSGI application")
        return WsgiMiddleware(app, self.rule, self.checker, self.forwarding)

    def __getattr__(self, name: str) -> Any:
        """What FastAPI looks for to learn what a dependency wants: a connection and a response of Starlette."""
        if name != "__signature__":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if self.sends_on:
            raise InvalidConfigError(f"{self.name} answers requests itself: use it as middleware, not as a dependency")
        try:
            found = [("connection", importlib.import_module("starlette.requests").HTTPConnection)]
            found.append(("response", importlib.import_module("starlette.responses").Response))
        except ModuleNotFoundError:
            raise AttributeError(name) from None
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Signature([inspect.Parameter(name, kind, annotation=noted) for name, noted in found])

    def check(self, connection: Any, response: Any) -> Standing | Confirmed | None:
        """Decide about a connection of Starlette, on a thread that may wait. Raises its HTTPException for a refusal.

        The index is told where the request only reads, because what it will write is not known yet.
        """
        request = request_of(connection.scope)
        verdict = settle(self.rule, request, self.checker)
        if isinstance(verdict, Refuse):
            raised = importlib.import_module("starlette.exceptions").HTTPException
            raise raised(verdict.status, verdict.body, dict(verdict.headers))
        assert isinstance(verdict, Pass), "what sends requests on is no dependency"
        if response is not None:
            told = verdict if request.reads else replace(verdict, tells_index=False)
            for name, text in with_headers((), told, self.checker.last_index()):
                response.headers[name] = text
        return verdict.confirmed or verdict.standing


class LeadershipMiddleware:
    """Makes middleware that knows who leads (NewLeadershipMiddleware of the Go original).

    Refusals have a body as RFC 9457 has it with the fields of the Go original, and the leader in headers. They are 503
    with ``Retry-After`` where nothing was done and the same request may succeed later.

    Args:
        checker: answers for the node of this application.

    """

    def __init__(self, checker: LeadershipChecker) -> None:
        if not isinstance(checker, LeadershipChecker):
            raise InvalidConfigError(f"{checker!r} is no checker: give a LeadershipChecker(service)")
        self.checker = checker

    def require_leader(self) -> Middleware:
        """Pass requests where this node leads, and refuse them elsewhere."""
        return Middleware("require_leader", rules.require_leader, self.checker)

    def add_leader_header(self) -> Middleware:
        """Pass all requests; answers tell who leads, in ``X-Raft-*`` and, as the original, ``X-Consensus-*``.

        ``X-Raft-Index`` is the newest log entry that callers of this node have seen: a request with it in
        ``X-Raft-Min-Index``, to any node behind `consistency`, sees what was written before.
        """
        return Middleware("add_leader_header", rules.add_leader_header, self.checker)

    def read_only_routing(
        self,
        writes: Elsewhere = "refuse",
        *,
        timeout: float = FORWARD_SECONDS,
        tls: ssl.SSLContext | None = None,
    ) -> Middleware:
        """Pass GET, HEAD and OPTIONS on every node, and everything else, websockets too, where this node leads.

        Args:
            writes: what happens to everything else elsewhere: "refuse" with 503 as the original does, "redirect" or
                "forward".
            timeout: how many seconds the leader may be silent, with "forward".
            tls: what its application is checked with if its `http_url` is an https one; None for what the
                node's settings say (`security.ca_file`), and without those for the usual authorities.

        Raises `InvalidConfigError` for another word, and where "forward" lacks its package.

        """
        found = {"refuse": rules.require_leader, "redirect": rules.redirect, "forward": rules.forward}.get(writes)
        if found is None:
            raise InvalidConfigError(f"writes is {writes!r}: expected 'refuse', 'redirect' or 'forward'")
        forwarding = self.forwarding(timeout, tls) if writes == "forward" else None
        return Middleware("read_only_routing", rules.read_only_routing(found), self.checker, forwarding)

    def require_quorum(self) -> Middleware:
        """Pass requests where a majority of the voters is alive, as this node sees it, and refuse them elsewhere."""
        return Middleware("require_quorum", rules.require_quorum, self.checker)

    def redirect(self) -> Middleware:
        """Pass requests where this node leads; elsewhere answer 307 with the leader's `http_url` in ``Location``.

        The path and the query are kept, and by 307 the method and the body too.
        """
        return Middleware("redirect", rules.redirect, self.checker)

    def forward(self, *, timeout: float = FORWARD_SECONDS, tls: ssl.SSLContext | None = None) -> Middleware:
        """Pass requests where this node leads; elsewhere have the leader's application answer, at its `http_url`.

        Bodies pass through piece by piece. A request that could not be sent gets 503, one without an answer that may
        have changed something 504. A request that was sent on once goes no further. Websockets are refused.

        Args:
            timeout: how many seconds the leader may be silent.
            tls: what its application is checked with if its `http_url` is an https one; None for what the
                node's settings say (`security.ca_file`), and without those for the usual authorities.

        Raises `InvalidConfigError` without the package httpx (the extra ``web``).

        """
        return Middleware("forward", rules.forward, self.checker, self.forwarding(timeout, tls))

    def forwarding(self, timeout: float, tls: ssl.SSLContext | None) -> Forwarding:
        """Return how requests are sent on; see `forward`."""
        return Forwarding(check_timeout(timeout), tls or client_context(self.checker.service.settings.security))

    def consistency(
        self,
        level: Consistency | str = Consistency.STRONG,
        *,
        max_staleness: float = 5.0,
        override: bool = True,
        timeout: float = CONFIRM_SECONDS,
    ) -> Middleware:
        """Pass requests once this node's state is as new as asked for, on whichever node they came in.

        After that the application may read this node's state directly: its own state machine, or
        ``service.read(query, "stale", after_index=confirmed.applied)``.

        Args:
            level: how new the state must be; the words of the original are understood too.
            max_staleness: how many seconds old the state may be with `Consistency.BOUNDED`.
            override: whether a request may ask for another level (``?consistency=`` or ``X-Raft-Consistency``, or the
                original's ``X-Consistency-Level``) and age (``?max_staleness=500ms``, ``X-Raft-Max-Staleness``). Each
                may ask for a log entry in ``X-Raft-Min-Index`` anyway.
            timeout: how many seconds a request waits at most, also for a state that is not new enough yet.

        Raises `InvalidConfigError` for what is no level, age or time.

        """
        MAX_STALENESS.check(max_staleness)
        found = level if isinstance(level, Consistency) else Consistency.of(level)
        rule = rules.consistency(found, max_staleness, check_timeout(timeout), override=override)
        return Middleware("consistency", rule, self.checker)
