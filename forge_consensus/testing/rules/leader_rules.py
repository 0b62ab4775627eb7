"""The rules of a leader that cannot work: one that is cut off, or that has no room, soon leads no more."""

from __future__ import annotations

from dataclasses import dataclass

from forge_consensus.testing.rules.disk_model import Disk, decides
from forge_consensus.testing.rules.violations import demand
from forge_consensus.testing.world.base import SimulatedBase

TIMEOUTS = 2.0
"""After so many of its longest election timeouts a leader that cannot work must have resigned."""
CLOCK_ERROR_MAX = 0.1
PLENTY = 3
"""A node with so many times the reserve takes whatever clients send."""
SLACK_SECONDS = 0.5
"""What its own checks may be late by, at pace 1."""


@dataclass(slots=True)
class Reign:
    """What was seen of a leader's turns since it began to lead."""

    term: int
    began: float
    met: float
    """When a majority had last answered it, by the simulation's own record of arrivals."""
    full_since: float | None = None
    """Since when its disk has had no room while others could take over."""
    turned: float = 0.0
    longest_met: float = 0.0
    longest_ended: float = 0.0
    longest_full: float = 0.0
    """The longest time between two turns, since it last met a majority and since it is full: meanwhile it slept."""


class LeaderRules:
    """Follows each leader through its turns."""

    def __init__(self) -> None:
        self.reigns: dict[str, Reign] = {}

    def turned(self, node: SimulatedBase, disks: dict[str, Disk], bases: dict[str, SimulatedBase]) -> None:
        """Check a node at the end of a turn in which it led, or forget its leadership."""
        term = node.engine.ledger.leading_term
        if term is None:
            self.reigns.pop(node.name, None)
            return
        now = node.timeline.now
        reign = self.reigns.get(node.name)
        if reign is None or reign.term != term:
            reign = self.reigns[node.name] = Reign(term, now, now, turned=now)
        asleep, reign.turned = now - reign.turned, now
        reign.longest_full = max(reign.longest_full, asleep)
        if asleep >= reign.longest_met:
            reign.longest_met, reign.longest_ended = asleep, now
        met = self.last_met(node, reign)
        if met > reign.met:
            reign.met = met
            if met >= reign.longest_ended:  # otherwise it has slept since that answer
                reign.longest_met = 0.0
        most = self.patience(node)
        demand(
            now - reign.met <= most + 2 * reign.longest_met,
            "alone",
            f"{node.name} still leads {term}, {now - reign.met:.3f} s after a majority last answered it; its longest "
            f"pause since then was {reign.longest_met:.3f} s",
        )
        self.check_room(node, reign, disks, bases, most)

    def patience(self, node: SimulatedBase) -> float:
        """After how many virtual seconds this leader must have resigned."""
        settings = node.engine.settings
        return TIMEOUTS * settings.election_timeout_max * (1 + CLOCK_ERROR_MAX) + SLACK_SECONDS

    def last_met(self, node: SimulatedBase, reign: Reign) -> float:
        """Return when an answer of the last member that completes a majority arrived."""
        answered = node.network.answered
        configuration, now = node.engine.ledger.configuration, node.timeline.now
        heard = {name: answered.get((node.name, name), reign.began) for name in configuration.addresses}
        heard[node.name] = now
        return max(moment for moment in heard.values() if decides(configuration, since(heard, moment)))

    def check_room(
        self,
        node: SimulatedBase,
        reign: Reign,
        disks: dict[str, Disk],
        bases: dict[str, SimulatedBase],
        most: float,
    ) -> None:
        """Demand that a leader without room resigns while a majority of others has room."""
        now = node.timeline.now
        if has_room(node, 1) or not self.others_could(node, disks, bases):
            reign.full_since = None
            return
        if reign.full_since is None:
            reign.full_since, reign.longest_full = now, 0.0
        demand(
            now - reign.full_since <= most + 2 * reign.longest_full,
            "room",
            f"{node.name} still leads {reign.term}, {now - reign.full_since:.3f} s after its disk became full, and "
            "a majority of others has room",
        )

    def others_could(self, node: SimulatedBase, disks: dict[str, Disk], bases: dict[str, SimulatedBase]) -> bool:
        """Return whether a majority without the leader has room and answers it, and one of them has all commits."""
        ledger, now = node.engine.ledger, node.timeline.now
        recent = now - node.engine.settings.election_timeout_min
        able = [
            name
            for name, base in bases.items()
            if name != node.name
            and has_room(base, PLENTY)
            and not base.disk_is_damaged
            and node.network.answered.get((node.name, name), 0.0) >= recent
        ]
        in_step = any(disks[name].last >= ledger.commit_index for name in able)
        return in_step and decides(ledger.configuration, able)


def since(heard: dict[str, float], moment: float) -> list[str]:
    """Return the nodes that were heard at this moment or later."""
    return [name for name, at in heard.items() if at >= moment]


def has_room(node: SimulatedBase, times: int) -> bool:
    """Return whether disk and quota leave a node so many times its reserve; with less than one it appends nothing."""
    return node.disk.space().room_bytes >= times * node.engine.ledger.room.reserve_bytes
