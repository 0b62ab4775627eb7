"""Settling a request: carrying out a rule's steps with a checker, blocking or on an event loop."""

from __future__ import annotations

from typing import Any

from forge_consensus.errors import ConsensusError
from forge_consensus.middleware.request import Request
from forge_consensus.middleware.rules import AskQuorum, AskStanding, Rule, Step, decided
from forge_consensus.middleware.verdict import Verdict
from forge_consensus.service.leadership import LeadershipChecker


def settle(rule: Rule, request: Request, checker: LeadershipChecker) -> Verdict:
    """Decide about a request; waits on this thread, at most as long as the steps of the rule allow."""
    steps = decided(rule, request)
    answer: Any = None
    failed: ConsensusError | None = None
    while True:
        try:
            step = steps.send(answer) if failed is None else steps.throw(failed)
        except StopIteration as end:
            verdict: Verdict = end.value
            return verdict
        try:
            answer, failed = take(step, checker), None
        except ConsensusError as error:
            failed = error


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
    steps = decided(rule, request)
    answer: Any = None
    failed: ConsensusError | None = None
    while True:
        try:
            step = steps.send(answer) if failed is None else steps.throw(failed)
        except StopIteration as end:
            verdict: Verdict = end.value
            return verdict
        try:
            answer, failed = await take_async(step, checker), None
        except ConsensusError as error:
            failed = error


async def take_async(step: Step, checker: LeadershipChecker) -> Any:
    """Find the answer to one step."""
    if isinstance(step, AskStanding):
        return await checker.standing_async()
    if isinstance(step, AskQuorum):
        return await checker.require_quorum_async()
    return await checker.confirm_async(
        step.consistency, step.timeout, max_staleness=step.max_staleness, after_index=step.after_index
    )
