"""Queries by route, with a request window for each; they change nothing, so they can be asked again freely."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

from forge_consensus.actors.messages import CONSISTENCIES, STALE, Read, ReadResults
from forge_consensus.client.endpoints import Directory, Endpoint
from forge_consensus.client.outcome import NOT_LEADING, result_error
from forge_consensus.client.patience import Patience
from forge_consensus.client.pending import PendingRead
from forge_consensus.client.read_window import ReadWindow
from forge_consensus.client.routes import ANY, NEAREST, Route
from forge_consensus.config.client import ClientSettings
from forge_consensus.errors import StaleReadError

WAIT_MS_MAX = 1 << 31
TURNED_AWAY_MAX = 2
"""A query that so many nodes refused, because they cannot answer it now, goes to the leader."""
NOT_HERE = NOT_LEADING | {StaleReadError.code}
"""The codes with which a node refuses a query that another one may answer."""


class Reads:
    """The queries that are not answered, and the choice of the node for those that need not go to the leader."""

    def __init__(
        self, directory: Directory, prefer: str, settings: ClientSettings, random: Callable[[], float], now: float
    ) -> None:
        self.directory = directory
        self.prefer = prefer
        """The nearest endpoint while it is connected, "" for none."""
        self.settings = settings
        self.random = random
        self.numbers = itertools.count(1)
        self.turn = itertools.count()
        self.call_bytes_max, self.bytes_max = inf, settings.frame_bytes_max
        self.windows: dict[Route, ReadWindow] = {}
        self.usual = frozenset[Route]()
        """The routes whose windows stay; others go when they are empty."""
        for consistency in CONSISTENCIES:
            self.window_of(Route.of(consistency), now)
        self.stale = self.windows[Route.of(STALE)]
        self.usual = frozenset(self.windows)

    def __bool__(self) -> bool:
        """Whether any query is unanswered."""
        for window in self.windows.values():  # noqa: SIM110 - each turn asks several times, and `any` costs twice as much
            if window.open or window.queue:
                return True
        return False

    @property
    def kept(self) -> bool:
        """Whether all queries that are unanswered are with nodes that keep them, so that there is nothing to do."""
        return not any(window.sendable() or (window and not route.wait_ms) for route, window in self.windows.items())

    def window_of(self, route: Route, now: float) -> ReadWindow:
        """The window of a route; a new one if there is none."""
        window = self.windows.get(route)
        if window is None:
            window = ReadWindow(route, self.numbers, self.settings, Patience(self.settings, self.random, now))
            window.call_bytes_max, window.bytes_max = self.call_bytes_max, self.bytes_max
            self.windows[route] = window
            if route.by_one:
                self.directory.add(route.read_from)
            if route.wait_ms:  # whom it avoids must outlast a moment in which nobody waits
                self.usual |= {route}
        return window

    def take(self, pending: PendingRead[Any], now: float) -> None:
        """Let a query wait in the window of its route; a route that no other query has gets a window."""
        self.window_of(pending.route, now).take((pending,))

    def forget_empty(self) -> None:
        """Forget the windows of unusual routes in which nothing waits."""
        if len(self.windows) > len(self.usual):
            self.windows = {route: one for route, one in self.windows.items() if one or route in self.usual}

    @property
    def strict(self) -> list[ReadWindow]:
        """The windows of the queries that only the leader is asked."""
        return [window for route, window in self.windows.items() if route.by_leader]

    @property
    def free(self) -> list[ReadWindow]:
        """The windows of the queries that other nodes may answer too."""
        return [window for route, window in self.windows.items() if not route.by_leader]

    def fit(self, call_bytes_max: float, bytes_max: int) -> None:
        """Take the limits of the nodes for what goes into one frame."""
        self.call_bytes_max, self.bytes_max = call_bytes_max, bytes_max

    # --- answers and refusals ---

    def results(self, message: ReadResults, now: float) -> list[PendingRead[Any]]:
        """Take answers; returns the queries that they end."""
        answered = []
        for number, code, payload in message.items:
            for window in self.windows.values():
                pending = window.drop(number)
                if pending is None:
                    continue
                window.answered_sent_at = pending.sent_at
                if window.allowed < window.open_max:
                    window.grow(1, max(0.0, now - pending.sent_at))
                if window.patience.refusals:
                    window.patience.regained(now)
                pending.applied, pending.stale_ms = message.applied, message.stale_ms
                if code:
                    pending.error = result_error(code, payload)
                else:
                    pending.answer = payload
                answered.append(pending)
                break
        return answered

    def refused(self, window: ReadWindow, pendings: list[PendingRead[Any]], name: str, code: str, now: float) -> None:
        """Send queries that a node other than the leader cannot answer now elsewhere, and to the leader in the end.

        The first refusal costs no pause, because another node may do.
        """
        if not pendings:
            return
        window.shun(name, now)
        window.patience.lost(now)
        if code not in NOT_HERE or window.route.by_one:
            return
        others = len(self.directory.answering()) > 1
        if others and window.patience.refusals == 1:
            window.patience.until = now
        for pending in pendings:
            pending.turned_away += 1
            if pending.turned_away >= TURNED_AWAY_MAX or not others:
                window.drop(pending.number)
                pending.number = 0
                pending.route = window.route.at_the_leader
                self.take(pending, now)

    # --- the leader, time and the end ---

    def start_over(self) -> None:
        """Send what the leader owes again, because there is a new leader or a new connection to it."""
        for window in self.strict:
            window.resend_all()

    def disconnected(self, name: str) -> None:
        """Send what an endpoint other than the leader owes again, because the connection to it is lost."""
        for window in self.free:
            window.resend_to(name)

    def resend_overdue(self, now: float, silence_seconds: float, plain_seconds: float, passed_seconds: float) -> None:
        """Mark queries that seem lost for sending again, and avoid an endpoint that leaves one unanswered."""
        for window in self.windows.values():
            if window.route.wait_ms:
                self.resend_kept(window, now, plain_seconds if window.route.by_leader else silence_seconds)
                continue
            if window.route.by_leader:
                window.resend_overdue(now, plain_seconds, passed_seconds)
                continue
            asked = window.asked() if window.open else ""
            if window.resend_overdue(now, silence_seconds, passed_seconds):
                window.shun(asked, now)

    def resend_kept(self, window: ReadWindow, now: float, late_seconds: float) -> None:
        """The same for queries that a node may keep: they need not be answered in the order in which they were sent."""
        seconds = window.route.wait_ms / 1000 + late_seconds
        asked = window.asked() if window.open else ""
        if window.resend_overdue(now, seconds, seconds):
            window.shun(asked, now)

    def expired(self, now: float) -> list[PendingRead[Any]]:
        """Take out the queries whose deadline has passed."""
        return [pending for window in self.windows.values() for pending in window.expired(now)]

    def clear(self) -> list[PendingRead[Any]]:
        """Take out the queries of every route without answering them; the caller must."""
        return [pending for window in self.windows.values() for pending in window.clear()]

    def earliest(self) -> float:
        """No deadline of an unanswered query is earlier."""
        return min(window.earliest for window in self.windows.values())

    def owed_since(self) -> float:
        """Since when the leader owes an answer; infinity if it owes none, later than now if it may keep the query."""
        return min((one.first_sent_at() + one.route.wait_ms / 1000 for one in self.strict), default=inf)

    # --- what is to be sent ---

    def nearest(self, avoid: str = "") -> Endpoint | None:
        """The endpoint for what any node can answer: the preferred one, the leader, or any that answers."""
        answering = self.answering(avoid)
        leader = self.directory.leader
        for wanted in (self.prefer, leader.name if leader is not None else ""):
            for endpoint in answering:
                if endpoint.name == wanted:
                    return endpoint
        return answering[0] if answering else None

    def answering(self, avoid: str) -> list[Endpoint]:
        """The endpoints that answer but the one to avoid, unless it is the only one."""
        answering = self.directory.answering()
        return [one for one in answering if one.name != avoid] or answering

    def target(self, window: ReadWindow, leader: Endpoint | None, now: float) -> Endpoint | None:
        """The endpoint to which the next frame of a window goes, None if there is none now."""
        read_from = window.route.read_from
        if window.route.by_leader:
            return leader
        if window.patience.until > now:
            return None
        if read_from == NEAREST:
            return self.nearest(window.avoided(now))
        if read_from == ANY:
            answering = self.answering(window.avoided(now))
            return answering[next(self.turn) % len(answering)] if answering else None
        endpoint = self.directory.endpoints.get(read_from)
        return endpoint if endpoint is not None and endpoint.answers else None

    def outgoing(self, now: float, leader: Endpoint | None, requests: Iterator[int]) -> Iterator[tuple[str, Read, int]]:
        """The frames to send now; those for the leader only if there is one that may be asked."""
        for window in list(self.windows.values()):
            while window.sendable():
                target = self.target(window, leader, now)
                if target is None:
                    break
                request = next(requests)
                queries = window.pack(target.name, request, now)
                if not queries:
                    continue
                latest = max(window.open[number].deadline for number, _ in queries)
                wait_ms = int(min(max(latest - now, 0.001) * 1000, WAIT_MS_MAX))
                yield target.name, window.route.request(queries, wait_ms), request
