"""Mutants of changes of members: who is counted, how one configuration follows another, whose folder a member has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from forge_consensus.actors import replication
from forge_consensus.actors.election import ElectionActor
from forge_consensus.actors.raft import leadership, next_configuration
from forge_consensus.actors.raft.handshake import ACCEPTED, Handshake
from forge_consensus.actors.raft.leadership import SEND_SOON, Leadership
from forge_consensus.actors.raft.progress import Progress
from forge_consensus.storage.ledger import history
from forge_consensus.storage.ledger.changes import Draft, left, voters_of
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.history import ConfigurationHistory
from forge_consensus.storage.ledger.identity import Identity
from forge_consensus.storage.ledger.ledger import Ledger
from forge_consensus.storage.ledger.quorum import Quorum
from forge_consensus.testing.simulator.conditions import Conditions
from tests.simulation.mutants.patch import Patch
from tests.simulation.mutants.registry import mutant
from tests.simulation.mutants.snapshots import OFTEN

CHANGING: dict[str, Any] = {"nodes": 5, "clients": 2, "pace": 1.0, "seconds": 12.0, "conditions": Conditions(spares=3)}
"""A cluster large enough to lose two nodes, with spare ones, at a pace at which much happens."""
CUTS = ("isolate", "isolate_leader", "split", "mend")
VOTES = ("change_votes", "replace_members", "add_members")


# --- who is counted ---------------------------------------------------------------------------------------------------


def count_one_set(patch: Patch, which: slice) -> None:
    """Count a majority in one set of voters only."""
    plain_has, plain_reached = Quorum.has, Quorum.reached

    def has(self: Quorum, ids: Iterable[str]) -> bool:
        return plain_has(narrowed(self), ids)

    def reached(self: Quorum, values: Mapping[str, int]) -> int:
        return plain_reached(narrowed(self), values)

    def narrowed(quorum: Quorum) -> Quorum:
        return Quorum(quorum.sets[which][0][0])

    patch.setattr(Quorum, "has", has)
    patch.setattr(Quorum, "reached", reached)


@mutant(**CHANGING, kinds=(*VOTES, *CUTS))
def the_incoming_voters_decide_alone_while_joint(patch: Patch) -> None:
    """In a joint configuration a majority of the voters to come is enough (dissertation 4.3)."""
    count_one_set(patch, slice(0, 1))


@mutant(**CHANGING, kinds=(*VOTES, *CUTS))
def the_outgoing_voters_decide_alone_while_joint(patch: Patch) -> None:
    """In a joint configuration a majority of the voters that go is enough (dissertation 4.3)."""
    count_one_set(patch, slice(-1, None))


class Lenient(Quorum):
    """Lets more nodes make up a majority than vote."""

    __slots__ = ("counted",)

    def __init__(self, plain: Quorum, counted: frozenset[str]) -> None:
        super().__init__(plain.sets[0][0], plain.sets[1][0] if plain.sets[1:] else None)
        self.counted = counted

    def has(self, ids: Iterable[str]) -> bool:
        """Whether as many of them are counted as a majority has."""
        return len(self.counted.intersection(ids)) >= self.sets[0][1]

    def reached(self, values: Mapping[str, int]) -> int:
        """What so many of them have reached."""
        ordered = sorted((values.get(node, 0) for node in self.counted), reverse=True)
        return ordered[self.sets[0][1] - 1]


@mutant(**CHANGING, kinds=("add_members", "change_votes", *CUTS))
def a_learner_is_counted(patch: Patch) -> None:
    """Whoever receives the log counts for a majority, whether it votes or not."""
    plain = Configuration.__dict__["quorum"].func

    patch.setattr(Configuration, "quorum", property(lambda self: Lenient(plain(self), self.nodes)))


@mutant(**CHANGING, kinds=("remove_members", "change_votes", "hand_over", "isolate_leader", "mend"))
def a_leader_counts_itself_although_it_does_not_vote(patch: Patch) -> None:
    """A leader that is being removed takes its own disk for one of the new majority (dissertation 4.2.2)."""

    def on_majority(self: Leadership) -> int:
        return Lenient(self.quorum, self.quorum.voters | {self.node_id}).reached(self.match)

    patch.setattr(Leadership, "on_majority", on_majority)


@mutant(**CHANGING, kinds=("change_votes", "add_members", "kill", "isolate_leader", "mend"))
def a_learner_stands(patch: Patch) -> None:
    """A node that does not vote asks for votes all the same, and leads with the votes of others."""
    patch.setattr(ElectionActor, "is_voter", property(lambda self: self.ledger.may_vote))


# --- one after the other ----------------------------------------------------------------------------------------------


@mutant(**CHANGING, kinds=(*VOTES, *CUTS))
def a_joint_configuration_is_left_before_it_is_committed(patch: Patch) -> None:
    """A leader goes on to the new voters while the joint configuration is on its own disk only."""
    plain = next_configuration.next_configuration

    def hasty(ledger: Ledger, leading: Leadership, *rest: Any) -> Any:
        if ledger.configuration.is_joint and leading.noop <= ledger.commit_index:
            return left(ledger.configuration), "it is joint"
        return plain(ledger, leading, *rest)

    patch.setattr(replication, "next_configuration", hasty)
    check_only(patch, first_entry=True)


def check_only(patch: Patch, *, first_entry: bool = False, no_other: bool = False) -> None:
    """Have a leader look at one of the two conditions for a further configuration only."""
    plain = ConfigurationHistory.check_change

    def check(self: ConfigurationHistory, commit_index: int, *, led: bool) -> None:
        plain(self, commit_index if no_other else self.last, led=led or not first_entry)

    patch.setattr(ConfigurationHistory, "check_change", check)


@mutant(**CHANGING, kinds=(*VOTES, "remove_members", *CUTS))
def a_change_is_made_while_another_is_uncommitted(patch: Patch) -> None:
    """A leader takes the next change although nobody may have the one before it (dissertation 4.1)."""
    check_only(patch, first_entry=True)


@mutant(**CHANGING, kinds=("change_votes", "move_member", "hand_over", "slow_disk_for_long", "kill", "mend"))
def a_change_is_made_before_the_first_entry_of_the_term_is_committed(patch: Patch) -> None:
    """A new leader changes members before it knows what its predecessor left (the erratum of 2015)."""
    check_only(patch, no_other=True)


@mutant(**CHANGING, kinds=(*VOTES, *CUTS))
def several_voters_change_in_one_step(patch: Patch) -> None:
    """No joint configuration is made, however many voters change."""

    def configuration(self: Draft) -> Configuration:
        return replace(
            self.before,
            members=tuple(sorted(self.addresses.items())),
            incoming=voters_of(self.voters, self.addresses),
            joining=tuple(sorted(self.joining)),
            folders=tuple(sorted(self.folders.items())),
        )

    patch.setattr(Draft, "configuration", configuration)
    patch.setattr(history, "check_follows", lambda before, after: None)


@mutant(**CHANGING, kinds=(*VOTES, "kill", "isolate_leader", "mend"))
def only_the_leader_that_made_a_configuration_joint_leaves_it(patch: Patch) -> None:
    """A new leader leaves its predecessor's joint configuration as it is, for ever."""
    plain = next_configuration.next_configuration

    def idle(ledger: Ledger, leading: Leadership, *rest: Any) -> Any:
        if ledger.configuration.is_joint and ledger.configurations.last < leading.noop:
            return None
        return plain(ledger, leading, *rest)

    patch.setattr(replication, "next_configuration", idle)


@mutant(**CHANGING, kinds=VOTES)
def who_goes_stays_when_a_joint_configuration_is_left(patch: Patch) -> None:
    """The voters that a change removes are learners for ever after it."""

    def leave(joint: Configuration) -> Configuration:
        found = left(joint)
        voters = tuple(sorted(found.voters))
        return replace(found, members=joint.members, folders=joint.folders, incoming=voters_of(voters, joint.nodes))

    patch.setattr(next_configuration, "left", leave)


# --- what is in force -------------------------------------------------------------------------------------------------


@mutant(**CHANGING, kinds=(*VOTES, "remove_members", *CUTS))
def a_truncated_configuration_stays_in_force(patch: Patch) -> None:
    """A configuration is not taken back when its entry is truncated (dissertation 4.1)."""
    patch.setattr(ConfigurationHistory, "truncate", lambda self, first: None)


@mutant(**CHANGING, kinds=(*VOTES, "remove_members", "fail_turn", "fail_actor"))
def a_rolled_back_configuration_stays_in_force(patch: Patch) -> None:
    """A configuration is not taken back with the turn that appended it."""
    plain = ConfigurationHistory.load

    def load(self: ConfigurationHistory, *given: Any) -> None:
        kept = self.rows
        plain(self, *given)
        self.rows += [row for row in kept if row[0] > self.last]

    patch.setattr(ConfigurationHistory, "load", load)


@mutant(**CHANGING, kinds=(*VOTES, "remove_members", *CUTS))
def a_configuration_is_in_force_only_once_it_is_committed(patch: Patch) -> None:
    """A node goes by the last committed configuration instead of by the last one in its log (dissertation 4.1)."""
    patch.setattr(Ledger, "configuration", property(lambda self: self.configurations.at(self.commit_index)))


@mutant(**CHANGING, storage=OFTEN, kinds=(*VOTES, "remove_members", "snapshot_everywhere", "kill", "isolate", "mend"))
def a_log_that_is_cut_takes_the_newest_configuration_for_the_one_at_its_start(patch: Patch) -> None:
    """The start of the log keeps a configuration that may not be committed, and is kept when it is truncated."""
    move_base = Ledger.move_base

    def move(self: Ledger, index: int, term: int, configuration: bytes) -> None:
        move_base(self, index, term, self.configuration.encode() if self.configuration.members else configuration)

    patch.setattr(Ledger, "move_base", move)


# --- whose folder -----------------------------------------------------------------------------------------------------


@mutant(**CHANGING, kinds=("lose_folder", "rejoin_member", *CUTS))
def any_folder_is_the_one_of_the_member(patch: Patch) -> None:
    """A node on an empty folder is taken for the member of its id, whose promises it does not know."""
    admit = Identity.admit

    def trust(self: Identity, turn: Any, node: str, token: str, boot: int, shown: str) -> str:
        self.boots.pop(node, None)
        self.expelled.pop(node, None)
        return admit(self, turn, node, token, boot, shown)

    patch.setattr(Identity, "admit", trust)
    patch.setattr(Identity, "is_member_of", lambda self, configuration: True)
    patch.setattr(Handshake, "another_folder", lambda self, node, message, members: ACCEPTED)


@mutant(**CHANGING, kinds=("rejoin_member", "add_members", "remove_members"))
def a_member_that_is_added_again_is_counted_for_what_its_former_folder_had(patch: Patch) -> None:
    """A leader keeps what a member had acknowledged, beyond its removal and its lost folder."""
    plain = Leadership.follow_members
    former: dict[tuple[str, int], dict[str, int]] = {}

    def follow(self: Leadership, now: float) -> None:
        had = former.setdefault((self.node_id, self.term), {})
        had.update({node: max(index, had.get(node, 0)) for node, index in self.match.items()})
        plain(self, now)
        self.match.update({node: max(index, had.get(node, 0)) for node, index in self.match.items()})

    patch.setattr(Leadership, "follow_members", follow)


@mutant(**CHANGING, kinds=("add_members", "replace_members"))
def a_member_is_added_whatever_its_folder_is(patch: Patch) -> None:
    """A configuration does not say with which folder a node was added."""
    add = Draft.add

    def nameless(self: Draft, node: str, address: str, *, joining: bool) -> None:
        add(self, node, address, joining=joining)
        del self.folders[node]

    patch.setattr(Draft, "add", nameless)


# --- coming and going -------------------------------------------------------------------------------------------------


class Forgotten(Progress):
    """The progress of a follower that is sent no entries."""

    @property
    def may_send(self) -> bool:
        """Never."""
        return False


@mutant(**CHANGING, kinds=("add_members", "replace_members"))
def a_new_member_is_sent_nothing(patch: Patch) -> None:
    """A leader sends entries to those only who were members when it began to lead."""
    plain = Leadership.follow_members

    def follow(self: Leadership, now: float) -> None:
        known, began = set(self.progress), bool(self.members.nodes)
        plain(self, now)
        for node in self.progress.keys() - known if began else ():
            self.progress[node] = Forgotten(self.settings, self.ledger.log.last, now)

    patch.setattr(Leadership, "follow_members", follow)


@mutant(**CHANGING, kinds=("remove_members", "change_votes"))
def a_leader_that_was_removed_leads_on(patch: Patch) -> None:
    """A leader that does not vote any more hands over to nobody (dissertation 4.2.2)."""
    patch.setattr(leadership, "HAND_OVER", SEND_SOON)
