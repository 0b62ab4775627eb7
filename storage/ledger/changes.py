"""The changes of members: which configuration a change leads to, through which steps, and which may follow which.

All of it is pure. A change of at most one voter is one step, because any majority before it shares a node with any
majority after it (dissertation 4.1). Every other change goes through a joint configuration, which decides with a
majority of the old voters and one of the new (4.3); what leaves it is a second step. Members are added as learners,
which never make a quorum larger, and become voters once they hold almost the whole log (4.2.1).

The model for the split into small pure parts is `confchange` and `quorum` of etcd-io/raft.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from forge_consensus.config.node import checked_peers
from forge_consensus.errors import BusyError, ConnectionFailedError, InvalidConfigError, LogInconsistentError
from forge_consensus.storage.ledger.configuration import MEMBERS_MAX, PRIORITY_MAX, Configuration
from forge_consensus.storage.ledger.quorum import Quorum

NOBODY: Final[Mapping[str, str]] = MappingProxyType({})
CHANGES_MAX: Final = 64
"""So many members are changed together at most."""
ADDED: Final = "added"
REMOVED: Final = "removed"
UPDATED: Final = "updated"
"""What became of a member, in the words of the Go original's MembershipChangedEvent."""


class Action(StrEnum):
    """What a change does to one member."""

    ADD = "add"
    """Add a learner that becomes a voter by itself once it has caught up."""
    ADD_LEARNER = "add-learner"
    """Add a learner that stays one."""
    PROMOTE = "promote"
    """Let a learner vote."""
    DEMOTE = "demote"
    """Let a voter be a learner."""
    REMOVE = "remove"
    """Remove a member."""
    UPDATE = "update"
    """Give a member another address."""
    PRIORITY = "priority"
    """Say how much a member is preferred as the leader."""
    NO_LEADER = "no-leader"
    """Mark a member as one that never leads."""
    MAY_LEAD = "may-lead"
    """Take that mark away."""


WISHES: Final = frozenset({Action.UPDATE, Action.PRIORITY, Action.NO_LEADER, Action.MAY_LEAD})
"""What changes no set of voters, so that one change may name a member with several of these."""


class Change(NamedTuple):
    """One change of one member.

    `address` is the address ("host:port") for the actions that name one, the priority as a text for that action,
    otherwise empty.
    """

    action: Action
    node: str
    address: str = ""


def changes_of(rows: Iterable[tuple[str, str, str]]) -> list[Change]:
    """The changes of a request, given as (action, node id, address).

    Raises `InvalidConfigError` for another action, and for an id or an address that cannot be.
    """
    found = []
    for action, node, address in rows:
        if action not in set(Action):
            raise InvalidConfigError(f"{action[:40]!r} is no change of members: there are {', '.join(Action)}")
        if action in (Action.ADD, Action.ADD_LEARNER, Action.UPDATE):
            found.append(Change(Action(action), node, checked_peers({node: address})[node]))
        elif action == Action.PRIORITY:
            found.append(Change(Action.PRIORITY, node, str(priority_of(address))))
        else:
            found.append(Change(Action(action), node))
    return found


def priority_of(text: str) -> int:
    """The priority that a text stands for. Raises `InvalidConfigError`."""
    try:
        priority = int(text)
    except ValueError:
        priority = PRIORITY_MAX + 1
    if abs(priority) > PRIORITY_MAX:
        raise InvalidConfigError(
            f"{text[:40]!r} is no priority: it is a whole number from {-PRIORITY_MAX} to {PRIORITY_MAX}; 0 is usual"
        )
    return priority


class Draft:
    """A configuration while changes are made to it: addresses, voters and learners, without an order of steps."""

    def __init__(self, before: Configuration, met: Mapping[str, str]) -> None:
        self.before = before
        self.met = met
        self.addresses = dict(before.members)
        self.voters = set(before.incoming_voters)
        self.joining = set(before.joining)
        self.priorities = dict(before.priorities)
        self.no_leader = set(before.no_leader)
        self.urls = dict(before.urls)
        self.folders = {node: folder for node, folder in met.items() if node in before.nodes} | dict(before.folders)

    def change(self, change: Change) -> None:
        """Make one change. Raises `InvalidConfigError` if it is impossible."""
        action, node, address = change
        known = node in self.addresses
        if action in (Action.ADD, Action.ADD_LEARNER):
            self.add(node, address, joining=action is Action.ADD)
        elif not known:
            members = ", ".join(sorted(self.addresses))
            raise InvalidConfigError(f"there is no member {node!r} to {action}: the members are {members}")
        elif action is Action.PROMOTE:
            if node in self.voters:
                raise InvalidConfigError(f"member {node!r} votes already")
            self.voters.add(node)
            self.joining.discard(node)
        elif action is Action.DEMOTE:
            if node not in self.voters:
                raise InvalidConfigError(f"member {node!r} is a learner already")
            self.voters.discard(node)
        elif action is Action.REMOVE:
            del self.addresses[node]
            self.voters.discard(node)
            self.joining.discard(node)
            self.folders.pop(node, None)
            self.priorities.pop(node, None)
            self.no_leader.discard(node)
            self.urls.pop(node, None)
        elif action is Action.UPDATE:
            self.update(node, address)
        else:
            self.wish(action, node, address)

    def add(self, node: str, address: str, *, joining: bool) -> None:
        """Add a learner. Raises `InvalidConfigError` for one that is there already, or one more than there may be."""
        if node in self.addresses:
            raise InvalidConfigError(
                f"node {node!r} is a member already, with the address {self.addresses[node]}: remove it first if its "
                "folder is lost, or choose another id"
            )
        if len(self.addresses) >= MEMBERS_MAX:
            raise InvalidConfigError(
                f"a cluster has at most {MEMBERS_MAX} members: remove one before {node!r} is added"
            )
        self.check_free(node, address)
        self.addresses[node] = address
        if node not in self.met:
            raise ConnectionFailedError(
                f"node {node!r} was not met at {address}: start it there with --join, and add it then"
            )
        self.folders[node] = self.met[node]
        if joining:
            self.joining.add(node)

    def update(self, node: str, address: str) -> None:
        """Give a member another address. Raises `InvalidConfigError` unless it is another one, and free."""
        if self.addresses[node] == address:
            raise InvalidConfigError(f"member {node!r} has the address {address} already")
        self.check_free(node, address)
        self.addresses[node] = address

    def wish(self, action: Action, node: str, priority: str) -> None:
        """Note whether a member is to lead. Raises `InvalidConfigError` for what is no priority."""
        if action is Action.NO_LEADER:
            self.no_leader.add(node)
        elif action is Action.MAY_LEAD:
            self.no_leader.discard(node)
        elif number := priority_of(priority):
            self.priorities[node] = number
        else:
            self.priorities.pop(node, None)

    def check_free(self, node: str, address: str) -> None:
        """Raise `InvalidConfigError` for an address that another member has, or for none."""
        taken = next((other for other, its in self.addresses.items() if its == address), None)
        if taken is not None:
            raise InvalidConfigError(f"member {taken!r} has the address {address}: give {node!r} one of its own")
        if not address:
            raise InvalidConfigError(f"no address is given for node {node!r}: name it as host:port")

    def configuration(self) -> Configuration:
        """The configuration after all changes: the next step if it may follow at once, otherwise a joint one.

        Raises `InvalidConfigError` if no voter is left, or none that may lead, or if two members would have one
        address.
        """
        before, voters = self.before, frozenset(self.voters)
        if not voters:
            raise InvalidConfigError("no voter would be left: a cluster has at least one")
        if not voters - self.no_leader:
            raise InvalidConfigError(
                "no voter would be left that may lead: first let one lead, with forge-consensus members update ID "
                "--may-lead"
            )
        old = before.incoming_voters
        remaining = replace(
            before,
            members=tuple(sorted(self.addresses.items())),
            incoming=voters_of(voters, self.addresses),
            joining=tuple(sorted(self.joining)),
            folders=tuple(sorted(self.folders.items())),
            priorities=tuple(sorted(self.priorities.items())),
            no_leader=tuple(sorted(self.no_leader)),
            urls=tuple(sorted(self.urls.items())),
        )
        if len(old ^ voters) <= 1:
            return remaining
        gone = {node: before.addresses[node] for node in old - self.addresses.keys()}
        for node, address in gone.items():
            if (taker := next((other for other, its in self.addresses.items() if its == address), None)) is not None:
                raise InvalidConfigError(
                    f"member {node!r} votes with the address {address} until this change is complete: give {taker!r} "
                    "that address in a change after it"
                )
        addresses = {**gone, **self.addresses}
        folders = {**{node: folder for node, folder in before.folders if node in gone}, **self.folders}
        priorities = {**{node: priority for node, priority in before.priorities if node in gone}, **self.priorities}
        urls = {**{node: url for node, url in before.urls if node in gone}, **self.urls}
        return replace(
            remaining,
            members=tuple(sorted(addresses.items())),
            incoming=voters_of(voters, addresses),
            outgoing=tuple(sorted(old)),
            learners_next=tuple(sorted((old - voters) & self.addresses.keys())),
            folders=tuple(sorted(folders.items())),
            priorities=tuple(sorted(priorities.items())),
            no_leader=tuple(sorted(self.no_leader | (set(before.no_leader) & gone.keys()))),
            urls=tuple(sorted(urls.items())),
        )


def voters_of(voters: Collection[str], nodes: Iterable[str]) -> tuple[str, ...]:
    """The voters as a configuration with these nodes names them: not at all if all nodes vote."""
    return () if set(nodes) == set(voters) else tuple(sorted(voters))


def changed(before: Configuration, changes: Sequence[Change], met: Mapping[str, str] = NOBODY) -> Configuration:
    """The configuration that a leader appends to make these changes together.

    `met` are the nodes that it has met, with the incarnation of the folder of each: others cannot be added. The
    configuration is joint if more than one voter differs. Raises `InvalidConfigError` for changes that are impossible,
    that name a node twice or that leave no voter; `BusyError` while `before` is joint, and
    `ConnectionFailedError` for a node that was not met.
    """
    if before.is_joint:
        raise BusyError("the cluster is still in a joint configuration: wait until it has left it")
    if not changes:
        raise InvalidConfigError("no change is named")
    if len(changes) > CHANGES_MAX:
        raise InvalidConfigError(f"{len(changes)} changes are named at once: at most {CHANGES_MAX} may be")
    named = [change.node for change in changes]
    whole = [change.node for change in changes if change.action not in WISHES]
    same = [change[:2] for change in changes]
    twice = next((each.node for each in changes if each.node in whole and named.count(each.node) > 1), None)
    twice = next((each.node for each in changes if same.count(each[:2]) > 1), twice)
    if twice is not None:
        raise InvalidConfigError(f"node {twice!r} is named twice: make one change of it after the other")
    draft = Draft(before, met)
    # Whoever goes, goes first, so that one change can give the address of a removed member to its successor.
    for change in sorted(changes, key=lambda change: change.action is not Action.REMOVE):
        draft.change(change)
    return draft.configuration()


def left(joint: Configuration) -> Configuration:
    """The plain configuration that leaves a joint one: the incoming voters decide alone."""
    stay = joint.incoming_voters | joint.learners | set(joint.learners_next)
    addresses = {node: address for node, address in joint.members if node in stay}
    return replace(
        joint,
        members=tuple(sorted(addresses.items())),
        incoming=voters_of(joint.incoming_voters, addresses),
        outgoing=(),
        learners_next=(),
        folders=tuple((node, folder) for node, folder in joint.folders if node in stay),
        priorities=tuple((node, priority) for node, priority in joint.priorities if node in stay),
        no_leader=tuple(node for node in joint.no_leader if node in stay),
        urls=tuple((node, url) for node, url in joint.urls if node in stay),
    )


def steps(before: Configuration, changes: Sequence[Change], met: Mapping[str, str] = NOBODY) -> list[Configuration]:
    """The configurations that a leader appends one after the other to make these changes; raises as `changed`."""
    first = changed(before, changes, met)
    return [first, left(first)] if first.is_joint else [first]


def may_follow(before: Quorum, after: Quorum) -> bool:
    """Whether every majority of one configuration shares a voter with every majority of the next one (I12).

    Sets that two configurations have in common make majorities of both meet. So do two sets that differ in one voter.
    Anything else is refused, although some such majorities would meet too.
    """
    if not all(voters for voters, _ in after.sets):
        return False
    return any(len(one ^ other) <= 1 for one, _ in before.sets for other, _ in after.sets)


def check_follows(before: Configuration, after: Configuration) -> None:
    """Raise `LogInconsistentError` if a log must not hold `after` behind `before` (I12).

    A configuration without members stands for a log of which nothing is known yet. One with another token of a recovery
    was written by the operators, and the nodes of the old majority are fenced from it by the id of the cluster. A
    leader never writes another such pair, so whoever meets one has met a fault of the program and stops.
    """
    if before.nodes and before.recovery == after.recovery and not may_follow(before.quorum, after.quorum):
        raise LogInconsistentError(
            f"the configuration {after.text} must not follow {before.text}: majorities of the two need not meet. The "
            "node stops; keep its folder and report this"
        )


def row_of(configuration: Configuration, node: str) -> tuple[str, str, int, bool, str]:
    """What is told of a member: address, part, priority, whether it may lead, and where it answers HTTP."""
    address, priority, url = configuration.addresses[node], configuration.priority_of(node), configuration.url_of(node)
    return address, configuration.part_of(node), priority, configuration.may_lead(node), url


def differences(before: Configuration, after: Configuration) -> list[tuple[str, str]]:
    """What became of the members: (``removed``, ``added`` or ``updated``, node id), the removed ones first.

    A node that was removed and added again is both. A member is updated by another address, part, priority or URL, and
    by the mark never to lead. One that was there from the beginning is bound to its folder by the first change of any
    member: nothing became of it.
    """
    common = before.nodes & after.nodes
    again = {node for node in common if before.folder_of(node) not in ("", after.folder_of(node))}
    removed, added = (before.nodes - after.nodes) | again, (after.nodes - before.nodes) | again
    updated = {node for node in common - again if row_of(before, node) != row_of(after, node)}
    named = ((REMOVED, removed), (ADDED, added), (UPDATED, updated))
    return [(action, node) for action, nodes in named for node in sorted(nodes)]


def why_stuck(configurations: Iterable[Configuration], alive: Collection[str]) -> str:
    """Why these configurations could decide nothing with the nodes that are alive, with the arithmetic; or "".

    `alive` are the ids of the nodes that answer, the asking one among them.
    """
    for configuration in configurations:
        for voters, needed in configuration.quorum.sets:
            answering = sorted(voters.intersection(alive))
            if len(answering) < needed:
                silent = ", ".join(sorted(voters.difference(alive)))
                return (
                    f"with the voters {', '.join(sorted(voters))} a quorum is {needed} of {len(voters)}, and only "
                    f"{len(answering)} would answer: {silent} would not"
                )
    return ""
