"""Queries to single nodes: who leads, what is your status, who are the members; and changes of the members.

They are asked again until answered or late, but for a change of which the outcome is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from typing import Any

from forge_consensus.actors.messages import Located, Refused
from forge_consensus.client.endpoints import Directory, Endpoint
from forge_consensus.client.outcome import refused_error, retried
from forge_consensus.client.pending import NodeAnswer, NodeRequest, PendingNodeQuery
from forge_consensus.errors import OutcomeUnknownError

AGAIN_SECONDS = 0.05
"""How long after a useless answer a node is asked again."""
LOOK = "it may have been begun; look at the members and the leader before it is asked for again"
LOST_SECONDS = 1.0
"""How long a node is left without an answer before it is asked again."""


class NodeQueries:
    """The node queries that are not answered."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.waiting: list[PendingNodeQuery[Any]] = []
        self.asked: dict[int, PendingNodeQuery[Any]] = {}

    def __bool__(self) -> bool:
        """Whether any is not answered."""
        return bool(self.waiting or self.asked)

    def add(self, query: PendingNodeQuery[Any]) -> None:
        """Take a query; its endpoint is added to the directory if it is new."""
        if query.endpoint:
            self.directory.add(query.endpoint)
        self.waiting.append(query)

    def answer(self, request: int, message: NodeAnswer, now: float) -> PendingNodeQuery[Any] | None:
        """Take an answer; returns the query that it ends. A query for the leader is asked again while nobody leads."""
        query = self.asked.pop(request, None)
        if query is None:
            return None
        if isinstance(message, Located) and not message.leader:
            self.later(query, now)
            return None
        query.answer = message
        return query

    def refuse(self, request: int, message: Refused, now: float) -> PendingNodeQuery[Any] | None:
        """Take a refusal; returns the query that it ends. One that can yet succeed is asked again.

        What changes something is not if another refusal would come too late: the caller would then learn only that
        nobody knows what became of it.
        """
        query = self.asked.pop(request, None)
        if query is None:
            return None
        query.refusal = message
        took = now - (query.again_at - LOST_SECONDS)
        in_time = not query.once or now + AGAIN_SECONDS + took < query.deadline
        if retried(message.code) and in_time:
            self.later(query, now)
            return None
        query.error = refused_error(message, outcome_unknown=False)
        return query

    def later(self, query: PendingNodeQuery[Any], now: float) -> None:
        """Ask it again in a while."""
        query.again_at, query.asked = now + AGAIN_SECONDS, ""
        self.waiting.append(query)

    def unsent(self, request: int, now: float) -> None:
        """Ask a query again in a while, because the frame with it never left."""
        query = self.asked.pop(request, None)
        if query is not None:
            self.later(query, now)

    def lost(self, name: str) -> list[PendingNodeQuery[Any]]:
        """The endpoint was disconnected: what was asked there is asked again; returns what may have been done there."""
        unknown = []
        for request, query in list(self.asked.items()):
            if query.asked == name:
                del self.asked[request]
                if query.once:
                    query.error = OutcomeUnknownError(f"the connection to {name} was lost: {LOOK}")
                    unknown.append(query)
                else:
                    self.waiting.append(query)
        return unknown

    def expired(self, now: float) -> list[PendingNodeQuery[Any]]:
        """Take out the queries whose deadline has passed."""
        late = [query for query in self.all() if query.deadline <= now]
        if late:
            self.waiting = [query for query in self.waiting if query.deadline > now]
            self.asked = {r: query for r, query in self.asked.items() if query.deadline > now}
        return late

    def all(self) -> list[PendingNodeQuery[Any]]:
        """The queries that have no answer, sent or not; none is taken out."""
        return [*self.waiting, *self.asked.values()]

    def name(self, endpoint: str) -> bool:
        """Whether any is meant for this endpoint, or waits for its answer."""
        return any(endpoint in (query.endpoint, query.asked) for query in self.all())

    def clear(self) -> list[PendingNodeQuery[Any]]:
        """Take out all queries, sent or not, without answering them; the caller must."""
        taken = self.all()
        self.waiting, self.asked = [], {}
        return taken

    def earliest(self) -> float:
        """The next deadline; infinity if there is none."""
        return min((query.deadline for query in self.all()), default=inf)

    def outgoing(
        self, now: float, nearest: Endpoint | None, leader: Endpoint | None, requests: Iterator[int]
    ) -> Iterator[tuple[str, NodeRequest, int]]:
        """The frames to send now; a query without an endpoint goes to the nearest one, a change to the leader."""
        for request, query in list(self.asked.items()):
            if query.again_at <= now and not query.once:
                del self.asked[request]
                self.waiting.append(query)
        pick: Callable[[str], Endpoint | None] = self.directory.endpoints.get
        kept: list[PendingNodeQuery[Any]] = []
        for query in self.waiting:
            target = pick(query.endpoint) if query.endpoint else leader if query.once else nearest
            if query.again_at > now or target is None or not target.answers:
                kept.append(query)
                continue
            request = next(requests)
            query.asked, query.again_at = target.name, now + LOST_SECONDS
            self.asked[request] = query
            yield target.name, query.message, request
        self.waiting = kept
