"""The members of a cluster as a client is told of them, and the plan of a change of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from forge_consensus.actors.messages import Members, MembersPlanned
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.quorum import majority

POLL_SECONDS = 0.05
"""How often the members are looked at while a change of them is under way."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a cluster."""

    id: str
    """The node's id."""
    address: str
    """Where its cluster looks for it, HOST:PORT or ipc://PATH."""
    part: str
    """``voter``, ``learner``, or ``leaving`` for one that votes only until the present change is complete."""
    joining: bool
    """Whether it is a learner that will vote by itself once it has caught up."""
    priority: int = 0
    """How much it is preferred as the leader; 0 is usual."""
    may_lead: bool = True
    """Whether it is not marked never to lead."""
    http_url: str = ""
    """Where its application answers HTTP, as it told the cluster; "" if it told nothing."""


@dataclass(frozen=True, slots=True)
class Step:
    """A configuration of the members on the way of a change."""

    members: tuple[Member, ...]
    joint: bool
    """Whether it needs a majority of the voters before the change and one of those after it."""
    voters: int
    """How many members vote."""
    required: int
    """How many of them must at least agree."""
    can_lose: int
    """How many of them may fail, whichever they are, and the others agree."""

    @classmethod
    def of(cls, configuration: Configuration) -> Self:
        """The step that this configuration is."""
        members = tuple(
            Member(
                node,
                address,
                configuration.part_of(node),
                node in configuration.joining,
                configuration.priority_of(node),
                configuration.may_lead(node),
                configuration.url_of(node),
            )
            for node, address in configuration.members
        )
        quorum = configuration.quorum
        return cls(members, configuration.is_joint, quorum.total, quorum.required, quorum.can_lose(quorum.voters))


@dataclass(frozen=True, slots=True)
class ClusterMembers:
    """The members of a cluster, as one node knows them (the original's `ClusterInfo`)."""

    node: str
    """The node that told it."""
    cluster: str
    leader: str | None
    members: tuple[Member, ...]
    index: int
    """The index of the log entry that made them members."""
    committed: bool
    """Whether that entry is committed."""
    settled: bool
    """Whether no change is under way: the entry is committed, needs no majority of earlier voters, and no learner is to
    become a voter by itself."""

    @classmethod
    def of(cls, told: Members) -> Self:
        """The members of which a node told. Raises `CorruptionError`, `UnsupportedVersionError`."""
        configuration = Configuration.decode(told.configuration)
        committed = told.index <= told.commit
        settled = committed and not configuration.is_joint and not configuration.joining
        step = Step.of(configuration)
        leader = told.leader or None
        return cls(told.node, told.cluster, leader, step.members, told.index, committed, settled)

    def part_of(self, node: str) -> str:
        """The part of a node, "" if it is no member."""
        return next((member.part for member in self.members if member.id == node), "")


@dataclass(frozen=True, slots=True)
class MembersPlan:
    """What a change of members does, step by step."""

    index: int
    """The index of the first step's log entry; 0 if nothing was changed."""
    before: Step
    steps: tuple[Step, ...]

    @classmethod
    def of(cls, told: MembersPlanned) -> Self:
        """The plan of which a leader told. Raises `CorruptionError`, `UnsupportedVersionError`."""
        before, *path = (Step.of(Configuration.decode(data)) for data in told.configurations)
        return cls(told.index, before, tuple(path))

    @property
    def after(self) -> Step:
        """What the change leads to in the end: the last step, with the learners that vote once they have caught up."""
        last = self.steps[-1]
        members = tuple(replace(each, part="voter", joining=False) if each.joining else each for each in last.members)
        voters = last.voters + sum(each.joining for each in last.members)
        required = majority(voters)
        return replace(last, members=members, voters=voters, required=required, can_lose=voters - required)

    def is_done(self, members: ClusterMembers) -> bool:
        """Whether the nodes that the change names are what it makes of them, for good; others do not matter.

        Another leader may have taken back what the one that answered had begun; then it is never done.
        """
        before, after = ({each.id: each for each in step.members} for step in (self.before, self.steps[-1]))
        present = {each.id: each for each in members.members}
        changed = [node for node in before.keys() | after.keys() if before.get(node) != after.get(node)]
        return members.committed and all(is_as_meant(present.get(node), after.get(node)) for node in changed)


def is_as_meant(present: Member | None, meant: Member | None) -> bool:
    """Whether a node is what a change makes of it; a learner that is to vote has to. Its URL it tells itself."""
    if present is None or meant is None:
        return present is meant
    part = "voter" if meant.joining else meant.part
    return replace(present, joining=False) == replace(meant, joining=False, part=part, http_url=present.http_url)
