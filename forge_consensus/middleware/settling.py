"""Settling a request: carrying out a rule's steps with a checker, blocking or on an event loop."""

from __future__ import annotations

from typing import Any

from forge_consensus.errors import ConsensusError
from forge_consensus.middleware.request import Request
from forge_consensus.middleware.rules import AskQuorum, AskStanding, Rule, Step, decided
from forge_consensus.middleware.verdict import Verdict
from forge_consensus.service.leadership import LeadershipChecker


class Settling:
    """One request on its way through a rule: `step` is the present question, until there is a `verdict`."""

    def __init__(self, rule: Rule, request: Request) -> None:
        self.steps = decided(rule, request)
        self.step: Step | None = None
        self.verdict: Verdict | None = None
        self.go_on(None)

    def go_on(self, answer: Any) -> None:
        """Give the rule the answer to its question, or the error with which finding it ended."""
        try:
            self.step = self.steps.throw(answer) if isinstance(answer, ConsensusError) else self.steps.send(answer)
        except StopIteration as end:
            self.step, self.verdict = None, end.value

    @property
    def settled(self) -> Verdict:
        """The verdict, once the rule asks nothing more."""
        assert self.verdict is not None, "the rule asks no more questions"
        return self.verdict


def settle(rule: Rule, request: Request, checker: LeadershipChecker) -> Verdict:
    """Decide about a request; waits on this thread, at most as long as the steps of the rule allow."""
    settling = Settling(rule, request)
    while settling.step is not None:
        try:
            answer = take(settling.step, checker)
        except ConsensusError as error:
            answer = error
        settling.go_on(answer)
    return settling.settled


def take(step: Step, checker: LeadershipChecker) -> Any:
    """Find the answer to one step."""
    if isinstance(step, AskStanding):
        return checker.standing()
    if isinstance(step, AskQuorum):
        return checker.require_quorum()
    return checker.confirm(
        step.consistency, step.timeout, max_staleness=step.max_staleness, after_index=step.after_index
    )


async def settle_async(rule: Rule, request: Request, checker: LeadershipChecker) -> Verdict:
    """Decide about a request without blocking the event loop."""
    settling = Settling(rule, request)
    while settling.step is not None:
        try:
            answer = await take_async(settling.step, checker)
        except ConsensusError as error:
            answer = error
        settling.go_on(answer)
    return settling.settled


async def take_async(step: Step, checker: LeadershipChecker) -> Any:
    """Find the answer to one step."""
    if isinstance(step, AskStanding):
        return await checker.standing_async()
    if isinstance(step, AskQuorum):
        return await checker.require_quorum_async()
    return await checker.confirm_async(
        step.consistency, step.timeout, max_staleness=step.max_staleness, after_index=step.after_index
    )
