"""The rule of time: while a majority is well, the time of the replicated state passes as it does for everybody."""

from __future__ import annotations

from dataclasses import dataclass

from forge_consensus.testing.rules.violations import demand
from forge_consensus.testing.world.base import SimulatedBase

RATE_MIN, RATE_MAX = 0.8, 1.2
"""Between these rates the state's time must pass, measured by virtual time."""
SLACK_SECONDS = 0.3
"""Entries are stamped within the turn that writes them, and that turn takes time, at pace 1."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The time of the replicated state, as a leader has it, and the moment to which it belongs.

    Time moves with entries, so that is the moment when the last applied entry was written.
    """

    leader: str
    term: int
    index: int
    moment: float
    elapsed_ms: int
    own: bool
    """Whether that entry is of the leader's term; the state's time does not pass while nobody leads."""

    @classmethod
    def of(cls, leader: SimulatedBase, written: dict[tuple[int, int], float]) -> Reading:
        """Read the leader's state; `written` has the moment of each (index, term)."""
        ledger, applier = leader.engine.ledger, leader.engine.ledger.applier
        moment = written[applier.index, applier.term]
        return cls(leader.name, ledger.term, applier.index, moment, applier.elapsed_ms, applier.term == ledger.term)


def check_passed(before: Reading, after: Reading, pace: float) -> None:
    """Demand that the state's time has passed between two readings of one leader. Raises `ViolationError`."""
    if (before.leader, before.term) != (after.leader, after.term) or after.index <= before.index or not before.own:
        return
    virtual, passed = after.moment - before.moment, (after.elapsed_ms - before.elapsed_ms) / 1000
    slack = SLACK_SECONDS * pace
    demand(
        RATE_MIN * virtual - slack <= passed <= RATE_MAX * virtual + slack,
        "time",
        f"{virtual:.3f} s have passed while {after.leader} led {after.term} and everybody was well, and the state's "
        f"time moved by {passed:.3f} s",
    )
