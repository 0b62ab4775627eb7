"""The rule of questions that nodes ask their leader for reads: what a leader may answer at once, and what not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from forge_consensus.actors.messages import ReadIndexReply
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.testing.rules.forwarded_rounds import ForwardedRounds
from forge_consensus.testing.rules.violations import ViolationError

ALONE = Configuration.of({"n2": "n2:1"})
TWO = Configuration.of({"n2": "n2:1", "n5": "n5:1"})


class Leader:
    """A leader as the rule sees it."""

    name = "n2"

    def __init__(self, configuration: Configuration) -> None:
        cells = SimpleNamespace(actor=lambda name: None)
        ledger = SimpleNamespace(configuration=configuration)
        self.engine = SimpleNamespace(ledger=ledger, cells=cells)

    def becomes(self, configuration: Configuration) -> None:
        """Take another configuration."""
        self.engine.ledger.configuration = configuration


def answer(rule: ForwardedRounds, leader: Leader, number: int, *, waited: bool = False) -> None:
    """Let the leader answer a question of n5."""
    asker = SimpleNamespace(owner=SimpleNamespace(name="n5"))
    reply = ReadIndexReply(3, number, 192)
    rule.answers(cast("Any", leader), cast("Any", asker), reply, waited)


def test_a_leader_with_others_answers_after_a_round_only() -> None:
    rule, leader = ForwardedRounds(), Leader(TWO)
    answer(rule, leader, 1, waited=True)
    answer(rule, leader, 1)  # again, because the question came again
    with pytest.raises(ViolationError, match="without a round after its question"):
        answer(rule, leader, 2)


def test_a_leader_that_was_a_majority_by_itself_may_have_confirmed_before_another_one_voted() -> None:
    rule, leader = ForwardedRounds(), Leader(ALONE)
    answer(rule, leader, 1)
    rule.turned(cast("Any", leader), leads=True)
    leader.becomes(TWO)  # within the turn that took the question
    answer(rule, leader, 2)
    rule.turned(cast("Any", leader), leads=True)
    with pytest.raises(ViolationError, match="without a round after its question"):
        answer(rule, leader, 3)


def test_a_process_that_starts_anew_was_nothing_before() -> None:
    rule, leader = ForwardedRounds(), Leader(ALONE)
    rule.turned(cast("Any", leader), leads=True)
    leader.becomes(TWO)
    rule.began(cast("Any", leader))
    with pytest.raises(ViolationError, match="without a round after its question"):
        answer(rule, leader, 1)
