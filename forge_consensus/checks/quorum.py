"""Which voters of a cluster are critical: if such a one stops, the cluster serves no longer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forge_consensus.errors import NodeNotFoundError
from forge_consensus.service.cluster_report import ClusterReport, MemberReport
from forge_consensus.storage.ledger.configuration import LEARNER, VOTER, quorum_of


@dataclass(frozen=True, slots=True)
class CriticalVoters:
    """What a cluster report says about stopping one voter."""

    is_ok: bool
    """Whether every voter that was asked about can be stopped, one at a time, and the cluster serves on."""
    critical: tuple[str, ...]
    """The ids of those that cannot, of all voters."""
    voters: int
    taking: int
    """How many voters take entries, so that they are of help to a majority."""
    required: int
    """How many a majority takes."""
    can_lose: int
    """How many voters may fail, whichever they are, as the cluster report has it."""
    text: str
    """The answer as a sentence for people."""


def critical_voters(report: ClusterReport, node: str = "") -> CriticalVoters:
    """Judge which voters can be stopped.

    Args:
        report: the cluster, as its nodes see it now.
        node: the only node that is to be stopped, which may be a learner; "" for each of the voters in its turn.

    Raises `NodeNotFoundError` if no member has that id.

    """
    voters = [member for member in report.nodes if member.part not in (None, LEARNER)]
    if node and node not in {member.node_id for member in report.nodes if member.part is not None}:
        members = ", ".join(str(member.node_id) for member in report.nodes if member.part is not None)
        raise NodeNotFoundError(f"{node!r} is no member of this cluster: it has {members}")
    critical = tuple(str(member.node_id) for member in voters if is_critical(member, voters))
    serves = report.health != "unhealthy"
    return CriticalVoters(
        is_ok=serves and (node not in critical if node else not critical),
        critical=critical,
        voters=len(voters),
        taking=sum(member.takes_entries for member in voters),
        required=report.required,
        can_lose=report.can_lose,
        text=sentence(report, voters, critical, node) if serves else no_quorum(report),
    )


def is_critical(voter: MemberReport, voters: Sequence[MemberReport]) -> bool:
    """Whether the others would be no quorum without this voter, or none of them might lead."""
    if not voter.takes_entries:
        return False  # it is of no help now
    quorum = quorum_of((str(member.node_id), member.part or VOTER, member.outgoing) for member in voters)
    if not quorum.has(str(member.node_id) for member in voters if member.takes_entries and member is not voter):
        return True
    return voter.may_lead and not any(
        member.may_lead and member.takes_entries for member in voters if member is not voter
    )


def no_quorum(report: ClusterReport) -> str:
    """Return the sentence for a cluster that does not serve."""
    why = report.warnings[0] if report.warnings else "it does not serve"
    return f"the cluster has no quorum to lose: {why}" + (f"; {report.advice}" if report.advice else "")


def sentence(report: ClusterReport, voters: Sequence[MemberReport], critical: Sequence[str], node: str) -> str:
    """Return the answer for a cluster that serves."""
    taking = sum(member.takes_entries for member in voters)
    count = f"{taking} of {len(voters)} voters take entries and {report.required} are a quorum"
    if node:
        if node not in critical:
            return f"{node} can be stopped: {count}"
        return f"{node} is critical: if it stops, the cluster serves no longer ({count}). {what_first(voters)}"
    if not critical:
        return f"each of the voters can be stopped, one at a time: {count}"
    names = ", ".join(critical)
    which = "it stops" if len(critical) == 1 else "one of them stops"
    are = "is" if len(critical) == 1 else "are"
    return f"{names} {are} critical: if {which}, the cluster serves no longer ({count}). {what_first(voters)}"


def what_first(voters: Sequence[MemberReport]) -> str:
    """Return what to do before a critical voter is stopped."""
    missing = [str(member.node_id) for member in voters if not member.takes_entries]
    if missing:
        return f"First bring back {', '.join(missing)}"
    if sum(member.may_lead for member in voters) == 1 < len(voters):
        return "First allow another voter to lead: forge-consensus members update NODE --may-lead"
    return "First add a voter: forge-consensus members add ID=HOST:PORT"
