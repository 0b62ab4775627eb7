"""A handover of the leadership that is under way; `forge_consensus.actors.raft.handover` explains it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Handover:
    """A handover that is under way, shared among the actors of the leader of `term`."""

    target: str
    term: int
    told: bool = False
    """Whether the target was told to stand."""
