"""The preference: whether another voter should lead in this leader's place, by itself. Pure logic.

A leader hands over when it is marked never to lead, when a voter of a higher priority is ready, or when its own disk
has been slow for a while and a voter's has not. It never does so to and fro: the target must have been the better one
all of a calm time, in which it answered and held all that was committed; its disk must not be slow; and if this node is
back soon after it handed over to a target, the next calm time for that target is twice as long.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import inf
from typing import Final, NamedTuple

from forge_consensus.storage.ledger.configuration import Configuration

CALM_TIMEOUTS: Final = 5
"""For so many of the longest election timeouts a target must have been the better leader."""
UNWILLING_TIMEOUTS: Final = 1
"""The same for a leader that is marked never to lead."""
BACK_CALMS: Final = 10
"""Whoever leads again within so many calm times of handing over did so in vain."""
DOUBLINGS_MAX: Final = 6
FASTER: Final = 2
"""A leader whose disk is slow hands over to a voter whose disk is faster by this factor, in its worst commit."""


class Disk(NamedTuple):
    """The extremes of the commits of the last seconds, in seconds; 0 where there were too few to say."""

    fastest: float
    slowest: float


class Fellow(NamedTuple):
    """What a leader knows of another voter that answers and takes entries."""

    match: int
    commit_seconds: float
    """Its slowest commit of the last seconds, as it tells."""


@dataclass(slots=True)
class Handed:
    """The last handover to a node that this one began by itself, and how many before it were in vain."""

    at: float
    vain: int


class Preference:
    """Chooses the target, and remembers since when it is the better leader. It outlives a leadership."""

    def __init__(self, node_id: str, election_timeout_max: float, slow_seconds: float) -> None:
        self.node_id = node_id
        self.timeout = election_timeout_max
        self.slow_seconds = slow_seconds
        """A disk whose every commit takes longer is slow."""
        self.target, self.since = "", inf
        self.handed: dict[str, Handed] = {}

    def look(
        self, configuration: Configuration, commit: int, fellows: Mapping[str, Fellow], own: Disk, now: float
    ) -> tuple[str, str] | None:
        """The voter to hand over to now and why, as a sentence; None if there is none.

        `fellows` are the voters that answer and take entries, `commit` is up to where they have to have the log, `own`
        is this node's disk.
        """
        found = self.better(configuration, commit, fellows, own)
        target, why, timeouts = found or ("", "", 0)
        if target != self.target:
            self.target, self.since = target, now
        if not target or now - self.since < self.calm(target, timeouts * self.timeout):
            return None
        self.note_handed(target, timeouts * self.timeout, now)
        return target, why

    def calm(self, target: str, seconds: float) -> float:
        """For how long the target must have been the better one."""
        handed = self.handed.get(target)
        return seconds * (2**handed.vain if handed else 1)

    def note_handed(self, target: str, seconds: float, now: float) -> None:
        """Note a handover that begins now; the one before was in vain if this node leads again so soon."""
        before = self.handed.get(target)
        soon = before is not None and now - before.at < BACK_CALMS * self.calm(target, seconds)
        self.handed[target] = Handed(now, min(DOUBLINGS_MAX, before.vain + 1) if before and soon else 0)
        self.target, self.since = "", inf

    def better(
        self, configuration: Configuration, commit: int, fellows: Mapping[str, Fellow], own: Disk
    ) -> tuple[str, str, int] | None:
        """The better leader, why, and for how many timeouts it must have been."""
        passable = max(self.slow_seconds, own.slowest)  # where all disks are slow, none of them is worse
        willing = {
            node: fellow
            for node, fellow in fellows.items()
            if configuration.may_lead(node) and fellow.match >= commit and fellow.commit_seconds <= passable
        }
        first = self.first_of(configuration, willing)
        if first and not configuration.may_lead(self.node_id):
            return first, f"this node is marked never to lead, and {first} may", UNWILLING_TIMEOUTS
        if own.fastest > self.slow_seconds:
            faster = {node for node, fellow in willing.items() if fellow.commit_seconds * FASTER < own.fastest}
            target = self.first_of(configuration, faster)
            why = f"every commit takes this node's disk longer than {self.slow_seconds:g} s, and {target}'s less"
            return (target, why, CALM_TIMEOUTS) if target else None
        if first and configuration.priority_of(first) > configuration.priority_of(self.node_id):
            priority = configuration.priority_of(first)
            return first, f"{first} has the higher priority {priority} and the whole log", CALM_TIMEOUTS
        return None

    def first_of(self, configuration: Configuration, nodes: Collection[str]) -> str:
        """The node with the highest priority; "" for none."""
        return min(nodes, key=lambda node: (-configuration.priority_of(node), node), default="")
