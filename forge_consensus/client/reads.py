"""Queries by consistency, with a request window for each; they change nothing, so they can be asked again freely."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

from forge_consensus.actors.messages import CONSISTENCIES, STALE, Read, ReadResults
from forge_consensus.client.endpoints import Directory, Endpoint
from forge_consensus.client.outcome import result_error
from forge_consensus.client.pending import PendingRead
from forge_consensus.client.request_window import RequestWindow

WAIT_MS_MAX = 1 << 31


class Reads:
    """The queries that are not answered: stale ones go to the nearest endpoint, all others to the leader."""

    def __init__(
        self, directory: Directory, prefer: str, window: Callable[[Iterator[int]], RequestWindow[Any]]
    ) -> None:
        self.directory = directory
        self.prefer = prefer
        """The endpoint that answers stale queries while it is connected, "" for any."""
        numbers = itertools.count(1)
        self.windows: dict[str, RequestWindow[PendingRead[Any]]] = {name: window(numbers) for name in CONSISTENCIES}
        self.stale = self.windows[STALE]
        self.strict = [window for name, window in self.windows.items() if name != STALE]
        self.asked = ""
        self.avoid = ""
        """The endpoint that left a stale query without an answer."""

    def __bool__(self) -> bool:
        """Whether any query is unanswered."""
        return any(self.windows.values())

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
                pending.applied, pending.stale_ms = message.applied, message.stale_ms
                if code:
                    pending.error = result_error(code, payload)
                else:
                    pending.answer = payload
                answered.append(pending)
                break
        return answered

    def start_over(self) -> None:
        """Send what the leader owes again, because there is a new leader or a new connection to it."""
        for window in self.strict:
            window.resend_all()

    def resend_overdue(self, now: float, silence_seconds: float, plain_seconds: float, passed_seconds: float) -> None:
        """Mark queries that seem lost for sending again, and avoid an endpoint that leaves stale ones unanswered."""
        for window in self.strict:
            window.resend_overdue(now, plain_seconds, passed_seconds)
        if self.stale.resend_overdue(now, silence_seconds, passed_seconds):
            self.avoid = self.asked

    def expired(self, now: float) -> list[PendingRead[Any]]:
        """Take out the queries whose deadline has passed."""
        return [pending for window in self.windows.values() for pending in window.expired(now)]

    def clear(self) -> list[PendingRead[Any]]:
        """Take out the queries of every consistency without answering them; the caller must."""
        return [pending for window in self.windows.values() for pending in window.clear()]

    def earliest(self) -> float:
        """No deadline of an unanswered query is earlier."""
        return min(window.earliest for window in self.windows.values())

    def first_sent_at(self) -> float:
        """Since when the leader owes an answer; infinity if it owes none."""
        return min((window.first_sent_at() for window in self.strict), default=inf)

    def nearest(self) -> Endpoint | None:
        """The endpoint for what any node can answer: the preferred one, the leader, or any that is connected."""
        connected = [one for one in self.directory.connected() if one.name != self.avoid]
        if not connected:
            connected = self.directory.connected()
        leader = self.directory.leader
        for wanted in (self.prefer, leader.name if leader is not None else ""):
            for endpoint in connected:
                if endpoint.name == wanted:
                    return endpoint
        return connected[0] if connected else None

    def outgoing(self, now: float, leader: Endpoint | None, requests: Iterator[int]) -> Iterator[tuple[str, Read, int]]:
        """The frames to send now; those for the leader only if there is one that may be asked."""
        for consistency, window in self.windows.items():
            if not window.sendable():
                continue
            target = self.nearest() if window is self.stale else leader
            if target is None:
                continue
            if window is self.stale:
                self.asked = target.name
            while window.sendable():
                request = next(requests)
                queries = window.pack(target.name, request, now)
                if not queries:
                    continue
                latest = max(window.open[number].deadline for number, _ in queries)
                wait_ms = int(min(max(latest - now, 0.001) * 1000, WAIT_MS_MAX))
                yield target.name, Read(consistency, queries, wait_ms), request
