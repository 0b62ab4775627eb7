"""The rules of members (I12): which configuration may follow which, who may lead, whose folder counts.

All of it is counted here by its definition, from the plain fields of a configuration and from the disks.
"""

from __future__ import annotations

from functools import lru_cache

from forge_consensus.actors.raft.leadership import Leadership
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.identity import folder_of
from forge_consensus.testing.rules.disk_model import Disk, majorities_meet, voter_sets
from forge_consensus.testing.rules.violations import demand
from forge_consensus.testing.world.base import SimulatedBase

PAIRS_MAX = 4096
"""So many pairs of configurations are remembered as sound, because every disk gets the same ones."""


@lru_cache(PAIRS_MAX)
def flaw(was: bytes, becomes: bytes) -> str:
    """Return why the second configuration, given by its bytes, must not follow the first one in a log, or ""."""
    before, after = Configuration.decode_any(was), Configuration.decode_any(becomes)
    found = flaw_of_voters(before, after) or flaw_of_members(before, after)
    if not found and not majorities_meet(before, after):
        found = "no majority in common"
    return f"{before.text}, then {after.text}: {found}" if found else ""


def flaw_of_voters(before: Configuration, after: Configuration) -> str:
    """Return what is wrong with the step from one set of voters, or two, to the next (dissertation 4.1, 4.3), or ""."""
    (old, *old_outgoing), (new, *new_outgoing) = voter_sets(before), voter_sets(after)
    if old_outgoing and new_outgoing:
        return "a joint configuration follows a joint one"
    if old_outgoing and new != old:
        return "a joint configuration is left for other voters than it announced"
    if new_outgoing and new_outgoing[0] != old:
        return "the outgoing voters are not those before"
    if not old_outgoing and not new_outgoing and len(old ^ new) > 1:
        return "more than one voter changes in one step"
    known = {node for node, _ in before.members}
    if strangers := sorted(new.union(*new_outgoing) - known):
        return f"{' and '.join(strangers)} votes and was no learner before"
    return ""


def flaw_of_members(before: Configuration, after: Configuration) -> str:
    """Return what is wrong with the members, their folders, or what all of them must agree on, or ""."""
    if before.level > after.level:
        return "the feature level falls"
    agreed = [(each.lease_reads, each.lease_ms, each.drift_ppm, each.machine) for each in (before, after)]
    if agreed[0] != agreed[1]:
        return "what all members agree on changes"
    known, folders, named = {node for node, _ in before.members}, dict(before.folders), dict(after.folders)
    for node, _ in after.members:
        if node not in known and not named.get(node):
            return f"{node} is added, and its folder is not named"
        if node in known and folders.get(node, named.get(node)) != named.get(node):
            return f"another folder takes the place of {node}'s"
    if len(voter_sets(before)) > 1:
        stay = voter_sets(after)[0] | set(before.learners_next) | known.difference(*voter_sets(before))
        if {node for node, _ in after.members} != stay or not set(after.members) <= set(before.members):
            return "members come or go while a joint configuration is left"
    return ""


def in_doubt(disk: Disk, commit: int) -> list[Configuration]:
    """Return the configurations on a disk that may be in force: the newest one, and the last one known committed."""
    committed = [data for index, data in disk.configurations if index <= commit]
    return [
        Configuration.decode_any(data) for data in {disk.configuration, (committed or [disk.base_configuration])[-1]}
    ]


def check_may_lead(name: str, disk: Disk) -> None:
    """Demand that a node that begins to lead votes in one of those: no learner leads, and nobody who was removed."""
    doubtful = in_doubt(disk, disk.commit)
    votes = any(name in voters for each in doubtful for voters in voter_sets(each))
    demand(votes, "I12", f"{name} leads, and does not vote in {' or '.join(each.text for each in doubtful)}")


def check_takes_over(node: SimulatedBase, to: str, target: Disk | None) -> None:
    """Demand that whom a leader tells to stand has its whole log on disk (dissertation 3.10), and votes.

    A folder that was lost a moment ago is no fault of the leader, which cannot know; its message names a boot of the
    lost one, so the new one refuses it.
    """
    ledger = node.engine.ledger
    last, configuration = ledger.log.last, ledger.configuration
    greeted = ledger.identity.boots.get(to)
    lost = target is not None and greeted is not None and folder_of(greeted[0]) != target.incarnation
    there = (target is not None and (target.term > ledger.term or target.holds(last, ledger.log.last_term))) or lost
    demand(there, "transfer", f"{node.name} tells {to} to take over, whose disk lacks entry {last}")
    demand(to in voter_sets(configuration)[0], "transfer", f"{node.name} tells {to} to take over, which does not vote")


def check_lease_over(node: SimulatedBase, leading: Leadership) -> None:
    """Demand that a leader that told another node to stand would answer no read by its lease in that term."""
    if node.engine.ledger.configuration.lease_reads:
        holds = leading.lease_holds(node.engine.clock.boottime_ns())
        demand(not holds, "I13", f"{node.name} told another node to stand in {leading.term} and has a lease")


def is_of_member(disk: Disk, name: str, configuration: Configuration) -> bool:
    """Return whether a disk is that of the member, and not of an earlier or later folder under its name."""
    return not configuration.folders or dict(configuration.folders).get(name, disk.incarnation) == disk.incarnation
