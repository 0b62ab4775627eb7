"""The membership actor: changes who the members are, and greets them (`forge_consensus.actors.greeting`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from forge_consensus.actors.greeting import REGREET_SECONDS, Greeting
from forge_consensus.actors.messages import ChangeMembers, MembersPlanned, Refused
from forge_consensus.actors.notices import (
    Appended,
    AskAgain,
    LeaderChanged,
    LeadershipEnded,
    MeetingOver,
    MembersChanged,
    MembersCommitted,
    MembersRequested,
    PeerUp,
    RemovalDue,
    Start,
)
from forge_consensus.actors.raft.removal import belongs, is_removed
from forge_consensus.actors.runtime.shared import PeerStatus
from forge_consensus.actors.runtime.timers import Timer
from forge_consensus.config.address import is_wildcard
from forge_consensus.errors import BusyError, ConsensusError, InvalidConfigError, NotLeaderError
from forge_consensus.events.types import (
    ClusterFormed,
    ClusterUpdated,
    MembershipChanged,
    NodeJoined,
    NodeLeft,
    NodeRemoved,
)
from forge_consensus.process.log import LogLines
from forge_consensus.storage.ledger.changes import ADDED, REMOVED, Action, changes_of, differences, steps, why_stuck
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.identity import folder_of
from forge_consensus.storage.ledger.ledger import Proposal
from forge_consensus.storage.ledger.record import Kind
from forge_consensus.storage.ledger.transaction import get_meta

LINES = LogLines(__name__)

FORMED = b"formed"
"""The key of the ledger's record that `ClusterFormed` was published."""
MEET_SECONDS = 2.0
"""How long a node that is to be added is looked for, before its addition is refused."""
ADDING = (Action.ADD, Action.ADD_LEARNER)
NEAR_ENTRIES = 1000
"""A learner that lacks more entries is not promoted on request."""
REQUESTS_MAX = 64
"""So many changes wait at most until nodes are met."""


class MembershipActor(Greeting):
    """Owns the changes of members that wait, and the greetings in flight.

    A change waits until the nodes that it adds were greeted. The steps of a change are those of
    `forge_consensus.storage.ledger.changes`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.formed = False
        self.asks: Timer | None = None
        """When it greets all again, unless a leader is known before."""
        self.requests: dict[int, MembersRequested] = {}
        """The changes that wait until nodes are met, by number."""
        self.request_number = 0

    def receiveMsg_Start(self, message: Start, sender: Any) -> None:
        """Read whether the cluster has formed before, because that is published once in the life of a folder."""
        self.formed = get_meta(self.ledger.tables, FORMED) is not None
        self.shared.meeting = {}
        super().receiveMsg_Start(message, sender)
        self.ask_later()

    def receiveMsg_MembersChanged(self, message: MembersChanged, sender: Any) -> None:
        """Greet those that were added, and publish that the cluster has formed."""
        super().receiveMsg_MembersChanged(message, sender)
        self.tell_formed()
        if self.belongs():
            self.reported.removed = ""

    def receiveMsg_LeaderChanged(self, message: LeaderChanged, sender: Any) -> None:
        """Publish that the cluster has formed, when its first leader is known; greet again if none is for a while."""
        self.tell_formed()
        if message.leader is None:
            self.ask_later()
            return
        if self.asks is not None:
            self.asks.cancel()
            self.asks = None
        if self.belongs():
            self.reported.removed = ""

    def ask_later(self) -> None:
        """Greet all peers again in a while, if no leader is known then: this node may have been removed."""
        if self.asks is None:
            self.asks = self.after(REGREET_SECONDS, AskAgain())

    def tell_formed(self) -> None:
        """Publish once that the cluster has formed: this node knows its members and who leads them."""
        if self.shared.leader and not self.formed and self.ledger.configuration.nodes:
            self.formed = True
            self.ledger.turn.put_meta(FORMED, b"")
            self.publish(ClusterFormed(members=tuple(sorted(self.ledger.configuration.voters))))

    def receiveMsg_MembersRequested(self, message: MembersRequested, sender: Any) -> None:
        """Change the members, once the nodes that are to be added were met; they are looked for until then."""
        request = message.request
        try:
            if self.ledger.leading_term is not None:
                steps(self.ledger.configuration, changes_of(request.changes), self.every(request))
            if len(self.requests) >= REQUESTS_MAX:
                raise BusyError("too many changes of members wait: try again")
        except ConsensusError as error:
            self.send(message.asker, Refused(error.code, str(error), "", "", self.ledger.term))
            return
        if self.ledger.leading_term is not None and not request.dry_run:
            self.look_again(request)
        unmet = self.unmet(request)
        if unmet and self.ledger.leading_term is not None and not request.dry_run:
            self.shared.meeting = {**self.shared.meeting, **unmet}
            self.request_number += 1
            self.requests[self.request_number] = message
            self.after(MEET_SECONDS, MeetingOver(self.request_number))
        else:
            self.change(message)

    def look_again(self, request: ChangeMembers) -> None:
        """Greet those again that are to be added and were met before: another process may be there by now."""
        for action, node, address in request.changes:
            if action in ADDING and node not in self.ledger.configuration.nodes and self.is_met(node, address):
                self.meet_again(node)

    def every(self, request: ChangeMembers) -> dict[str, str]:
        """All nodes of a change as if they had been met, to see what it would lead to."""
        return {node: "not met yet" for _, node, _ in request.changes}

    def receiveMsg_LeadershipEnded(self, message: LeadershipEnded, sender: Any) -> None:
        """Meet nobody any more, and answer who asked for that: nothing was changed."""
        requests, self.requests, self.shared.meeting = self.requests, {}, {}
        for request in requests.values():
            text = f"this node no longer leads: {message.reason}"
            self.send(request.asker, Refused(NotLeaderError.code, text, "", "", self.ledger.term))

    def unmet(self, request: ChangeMembers) -> dict[str, str]:
        """The nodes that are to be added and were not met yet, with their addresses."""
        members = self.ledger.configuration.nodes
        return {
            node: address
            for action, node, address in request.changes
            if action in ADDING and node not in members and not self.is_met(node, address)
        }

    def receiveMsg_PeerUp(self, message: PeerUp, sender: Any) -> None:
        """Make the changes that have waited for this node."""
        if message.node in self.shared.meeting:
            for number, request in list(self.requests.items()):
                if not self.unmet(request.request):
                    del self.requests[number]
                    self.change(request)

    def receiveMsg_MeetingOver(self, message: MeetingOver, sender: Any) -> None:
        """Make a change without those that were not met, which is refused with their names."""
        request = self.requests.pop(message.number, None)
        if request is not None:
            self.change(request)

    def change(self, message: MembersRequested) -> None:
        """Append the first step of a change of members, and answer with all of them; or say why not.

        The later steps follow by themselves, under any leader (`forge_consensus.actors.raft.next_configuration`).
        """
        ledger, request, asker = self.ledger, message.request, message.asker
        term = ledger.leading_term
        if term is None:
            self.send(asker, Refused(NotLeaderError.code, "this node does not lead any more", "", "", ledger.term))
            return
        present, index = ledger.configuration, ledger.log.last + 1
        try:
            met = self.every(request) if request.dry_run else self.folders_met(request)
            path = steps(present, changes_of(request.changes), met)
            self.check(path, request)
            if not request.dry_run:
                proposal = Proposal(Kind.CONFIGURATION, 0, 0, 0, path[0].encode())
                self.tell("replication", Appended(*ledger.propose(term, [proposal])))
        except ConsensusError as error:
            self.send(asker, Refused(error.code, str(error), "", "", ledger.term))
            return
        finally:
            named = {node for _, node, _ in request.changes}
            self.shared.meeting = {node: at for node, at in self.shared.meeting.items() if node not in named}
        configurations = tuple(each.encode() for each in (present, *path))
        self.send(asker, MembersPlanned(0 if request.dry_run else index, configurations))

    def folders_met(self, request: ChangeMembers) -> dict[str, str]:
        """The incarnations of the folders of the nodes that are to be added and were met, and of all known members.

        A member that founded the cluster is bound to its folder with the first change, because members that join later
        never met that one. Only one of the founding nodes knows it for sure, because they have met each other.
        """
        identity = self.ledger.identity
        others = [] if identity.joins else [node for node in self.others if node in identity.boots]
        boots = {node: folder_of(identity.boots[node][0]) for node in others}
        added = {
            node: folder_of(self.introduced[node])
            for _, node, address in request.changes
            if self.is_met(node, address) and node in self.introduced
        }
        return {**boots, self.node_id: identity.incarnation, **added}

    def check(self, path: list[Configuration], request: ChangeMembers) -> None:
        """Raise `InvalidConfigError` or `BusyError` for a change that is possible and should not be made now."""
        if self.shared.handover is not None:
            raise BusyError(f"the leadership is being handed over to {self.shared.handover.target}: try again")
        for node, address in path[-1].members:
            if is_wildcard(address) and len(path[-1].members) > 1:
                raise InvalidConfigError(
                    f"member {node!r} has the address {address}, at which nobody else can reach it: first give it one "
                    f"with forge-consensus members update {node} --address HOST:PORT"
                )
        self.check_named(request.changes)
        if not request.force:
            self.check_alive(path)
            self.check_near(request.changes)

    def receiveMsg_MembersCommitted(self, message: MembersCommitted, sender: Any) -> None:
        """Publish what the committed configuration changes."""
        ledger, reported = self.ledger, self.reported
        before, after = reported.configuration, ledger.configurations.at(ledger.commit_index)
        reported.configuration = after
        if before == after:
            return
        if belongs(self.ledger.identity, before):
            self.look_whether_removed()
        if before.nodes:  # a node that has just joined tells of the others what they are, not that they came
            for action, node in differences(before, after):
                if action == REMOVED:
                    self.publish(NodeLeft(peer=node))
                elif action == ADDED:
                    self.publish(NodeJoined(peer=node, address=after.addresses[node]))
                old, new = tuple(sorted(before.nodes)), tuple(sorted(after.nodes))
                self.publish(MembershipChanged(action=action, affected_node_id=node, old_members=old, new_members=new))
        self.publish(
            ClusterUpdated(
                voters=tuple(sorted(after.incoming_voters)),
                learners=tuple(sorted(after.learners)),
                outgoing=after.outgoing,
            )
        )

    # --- leaving -----------------------------------------------------------------------------------------------------

    def belongs(self) -> bool:
        """Whether this node is a member, by the configuration in force."""
        return belongs(self.ledger.identity, self.ledger.configuration)

    def look_whether_removed(self) -> None:
        """Find out whether this node is a member no more, and look again later if entries are still missing here."""
        ledger = self.ledger
        if self.belongs() or belongs(ledger.identity, ledger.configurations.at(ledger.commit_index)):
            return
        if ledger.commit_index < self.shared.leader_commit:
            self.after(self.settings.election_timeout_max, RemovalDue())
        else:
            self.removed("")

    def receiveMsg_RemovalDue(self, message: RemovalDue, sender: Any) -> None:
        """Look again, because by now the missing entries may be here, or there is nobody who sends them."""
        self.look_whether_removed()

    def told_removed(self, node: str, index: int) -> None:
        """Believe a peer, unless this node follows a leader as a member or has something newer."""
        follows = self.shared.leader is not None and self.belongs()
        if not follows and is_removed(self.ledger, index):
            self.removed(node)

    def removed(self, by: str) -> None:
        """Note that this node is a member no more, and publish it; `by` is who told it, empty for its own log."""
        if self.reported.removed:
            return
        told = f"{by} says" if by else "its log says"
        self.reported.removed = f"{told} that this node is no member of the cluster any more"
        LINES.warning("{}: it does not stand for election. It can be stopped", self.reported.removed)
        self.publish(NodeRemoved(by=by))

    def receiveMsg_AskAgain(self, message: AskAgain, sender: Any) -> None:
        """Greet all peers, if this node has no leader and would not know whether it was removed."""
        self.asks = None
        if self.shared.leader is None and self.ledger.log.last and not self.reported.removed:
            self.ask_later()
            for node in sorted(self.linked):
                self.greet(node)

    # --- what speaks against a change --------------------------------------------------------------------------------

    def check_named(self, changes: Iterable[tuple[str, str, str]]) -> None:
        """Raise `BusyError` if a learner that is to vote lacks the entry that names its folder: it could not vote."""
        history, log = self.ledger.configurations, self.ledger.log
        named_at = max(history.last, log.base_index)
        for action, node, _ in changes:
            if action == Action.PROMOTE and self.shared.match.get(node, 0) < named_at:
                raise BusyError(f"learner {node} has not got the entry yet that makes it a member: try again")

    def check_near(self, changes: Iterable[tuple[str, str, str]]) -> None:
        """Raise `BusyError` if a learner that is to vote lacks many entries, because commits would wait for it."""
        last = self.ledger.log.last
        for action, node, _ in changes:
            lacks = last - self.shared.match.get(node, 0)
            if action == Action.PROMOTE and lacks > NEAR_ENTRIES:
                raise BusyError(f"learner {node} lacks {lacks:,} entries, which it is being sent: try again")

    def check_alive(self, path: list[Configuration]) -> None:
        """Raise `InvalidConfigError` if those that answer would be no quorum on this path.

        Raise `BusyError` if it depends on nodes that this node has not heard yet, because it may have started just now.
        """
        status = {self.node_id: PeerStatus.ACTIVE} | {node: view.status for node, view in self.shared.peers.items()}
        alive = {node for node, seen in status.items() if seen is PeerStatus.ACTIVE}
        unheard = {node for node, seen in status.items() if seen is PeerStatus.INACTIVE}
        if not (stuck := why_stuck(path, alive)):
            return
        lost = f"this change would leave the cluster without a quorum: {stuck}"
        if not why_stuck(path, alive | unheard):
            raise BusyError(f"{lost}. The leader has not heard {', '.join(sorted(unheard))} yet: try again")
        raise InvalidConfigError(f"{lost}. Bring those nodes back first, or force the change if they will come back")
