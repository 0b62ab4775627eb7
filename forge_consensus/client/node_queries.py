"""NodeQueries to single nodes: who leads, how are you; asked again until answered or late."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from typing import Any

from forge_consensus.actors.messages import GetStatus, Locate, Located, Refused, Status
from forge_consensus.client.endpoints import Directory, Endpoint
from forge_consensus.client.outcome import refused_error, retried
from forge_consensus.client.pending import PendingAsk

AGAIN_S = 0.05
"""After a useless answer."""
LOST_S = 1.0
"""Without any answer."""


class NodeQueries:
    """The questions that are not answered yet."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.waiting: list[PendingAsk[Any]] = []
        self.asked: dict[int, PendingAsk[Any]] = {}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.waiting or self.asked)

    def add(self, question: PendingAsk[Any]) -> None:
        """Take a question; its endpoint becomes known if it was not."""
        if question.endpoint:
            self.directory.add(question.endpoint)
        self.waiting.append(question)

    def answer(self, request: int, message: Located | Status, now: float) -> PendingAsk[Any] | None:
        """The question that this answers; one that learned of no leader is asked again."""
        question = self.asked.pop(request, None)
        if question is None:
            return None
        if isinstance(message, Located) and not message.leader:
            self.later(question, now)
            return None
        question.answer = message
        return question

    def refuse(self, request: int, message: Refused, now: float) -> PendingAsk[Any] | None:
        """The question that fails by this refusal; one that may yet succeed is asked again."""
        question = self.asked.pop(request, None)
        if question is None:
            return None
        question.refusal = message.code
        if retried(message.code):
            self.later(question, now)
            return None
        question.error = refused_error(message, outcome_unknown=False)
        return question

    def later(self, question: PendingAsk[Any], now: float) -> None:
        """Ask it again in a while."""
        question.again_at = now + AGAIN_S
        self.waiting.append(question)

    def unsent(self, request: int, now: float) -> None:
        """It never left."""
        question = self.asked.pop(request, None)
        if question is not None:
            self.later(question, now)

    def lost(self, name: str) -> None:
        """The endpoint was disconnected: what was asked there is asked again."""
        for request, question in list(self.asked.items()):
            if question.asked == name:
                del self.asked[request]
                self.waiting.append(question)

    def expired(self, now: float) -> list[PendingAsk[Any]]:
        """Take out what is late."""
        late = [question for question in self.all() if question.deadline <= now]
        if late:
            self.waiting = [question for question in self.waiting if question.deadline > now]
            self.asked = {r: question for r, question in self.asked.items() if question.deadline > now}
        return late

    def all(self) -> list[PendingAsk[Any]]:
        """Every question."""
        return [*self.waiting, *self.asked.values()]

    def clear(self) -> list[PendingAsk[Any]]:
        """Take out everything."""
        taken = self.all()
        self.waiting, self.asked = [], {}
        return taken

    def earliest(self) -> float:
        """The next deadline; infinity if there is none."""
        return min((question.deadline for question in self.all()), default=inf)

    def outgoing(
        self, now: float, nearest: Endpoint | None, requests: Iterator[int]
    ) -> Iterator[tuple[str, Locate | GetStatus, int]]:
        """What to ask now; a question for anyone goes to the nearest endpoint."""
        for request, question in list(self.asked.items()):
            if question.again_at <= now:
                del self.asked[request]
                self.waiting.append(question)
        pick: Callable[[str], Endpoint | None] = self.directory.endpoints.get
        kept: list[PendingAsk[Any]] = []
        for question in self.waiting:
            target = pick(question.endpoint) if question.endpoint else nearest
            if question.again_at > now or target is None or not target.connected:
                kept.append(question)
                continue
            request = next(requests)
            question.asked, question.again_at = target.name, now + LOST_S
            self.asked[request] = question
            yield target.name, question.message, request
        self.waiting = kept
