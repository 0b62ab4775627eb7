"""The membership actor: greets the peers, admits or refuses them, and changes who the members are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from forge_consensus.actors.messages import ChangeMembers, Hello, HelloReply, MembersPlanned, Refused
from forge_consensus.actors.notices import (
    Appended,
    HelloDue,
    LeaderChanged,
    LeadershipEnded,
    LinkUp,
    MeetingOver,
    MembersChanged,
    MembersCommitted,
    MembersRequested,
    PeerDown,
    PeerForgotten,
    PeerUp,
    PeerWentBack,
    Start,
)
from forge_consensus.actors.raft.handshake import (
    ACCEPTED,
    ANCESTOR,
    CONFIGURATION,
    IDENTITY,
    MACHINE,
    Handshake,
    Refusal,
    is_fatal,
)
from forge_consensus.actors.runtime.actor import ConsensusActor, Context
from forge_consensus.actors.runtime.refusals import STRANGER
from forge_consensus.actors.runtime.shared import Greeted, PeerStatus, RefusedGreeting
from forge_consensus.actors.runtime.timers import Timer
from forge_consensus.config.address import is_wildcard
from forge_consensus.config.agreement import told_settings
from forge_consensus.errors import BusyError, ConsensusError, IdentityError, InvalidConfigError, NotLeaderError
from forge_consensus.events.types import (
    AddressDiffers,
    ClusterFormed,
    ClusterUpdated,
    MembershipChanged,
    NodeJoined,
    NodeLeft,
    NodeRefused,
    SettingsDiffer,
)
from forge_consensus.process.log import LogLines
from forge_consensus.storage.ledger.changes import ADDED, REMOVED, Action, changes_of, differences, steps, why_stuck
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.identity import BRING_BACK, folder_of
from forge_consensus.storage.ledger.ledger import Proposal
from forge_consensus.storage.ledger.record import Kind
from forge_consensus.storage.ledger.tips import Tip
from forge_consensus.storage.ledger.transaction import get_meta
from forge_consensus.storage.machines.naming import name_of

LINES = LogLines(__name__)

FORMED = b"formed"
"""The key of the ledger's record that `ClusterFormed` was published."""
ANSWER_SECONDS = 1.0
"""A greeting without an answer is repeated after this time: the greeting, or the turn that received it, may be lost."""
LATE = f"a later process of node {{}} runs: the folder was restored, or its machine set back. {BRING_BACK}"
MISPLACED = "it was started with the address {} and the members look for it at {}"
ADVICE = {
    CONFIGURATION: ". Nothing but its list is in this node's folder: if that is the wrong one, start it with the right "
    "one, and it is taken",
    MACHINE: ". Nothing has happened in this node's folder yet, but it belongs to its state machine: if that is the "
    "wrong one, move the folder away and start the node with the right one",
}
"""By the reason of a refusal: what to do with a node that never took part in a cluster."""
MEET_SECONDS = 2.0
"""How long a node that is to be added is looked for, before its addition is refused."""
ADDING = (Action.ADD, Action.ADD_LEARNER)
NEAR_ENTRIES = 1000
"""A learner that lacks more entries is not promoted on request."""
REQUESTS_MAX = 64
"""So many changes wait at most until nodes are met."""
REGREET_SECONDS = 5.0
"""After a refusal the peer is greeted again after this time."""


class MembershipActor(ConsensusActor):
    """Owns the changes of members that wait, and the greetings in flight.

    A change waits until the nodes that it adds were greeted. One greeting is sent on every new connection, and repeated
    until the peer answers. The `Handshake` decides what a greeting contains and whether one is accepted; the steps of a
    change are those of `forge_consensus.storage.ledger.changes`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.formed = False
        self.linked: set[str] = set()
        self.requests: dict[int, MembersRequested] = {}
        """The changes that wait until nodes are met, by number."""
        self.request_number = 0
        self.introduced: dict[str, str] = {}
        """By peer: the boot token with which it answered the greeting on the connection to it."""
        self.waiting: dict[str, Timer] = {}
        """By peer: the timer that repeats the greeting unless an answer comes first."""

    def bind(self, context: Context) -> None:
        """Take the context, and make the handshake from this node's identity."""
        super().bind(context)
        opened = context.opened
        machine = name_of(self.ledger.applier.machine)
        settings = told_settings(self.settings, self.ledger.settings)
        level = self.ledger.configurations.level
        self.handshake = Handshake(self.ledger.identity, opened.initial, machine, context.advertised, settings, level)

    def receiveMsg_Start(self, message: Start, sender: Any) -> None:
        """Read whether the cluster has formed before, because that is published once in the life of a folder."""
        self.formed = get_meta(self.ledger.tables, FORMED) is not None
        self.shared.meeting = {}
        self.forget_former()
        if not message.again:
            self.look_at_oneself()

    def receiveMsg_MembersChanged(self, message: MembersChanged, sender: Any) -> None:
        """Forget earlier members of the ids of those that were added, and greet anew."""
        self.forget_former()
        self.tell_formed()

    def forget_former(self) -> None:
        """Forget whoever was met under the id of a member and is not that member, and greet the id again."""
        for node in self.ledger.identity.follow(self.ledger.turn, self.ledger.configuration):
            self.meet_again(node)

    def receiveMsg_LeaderChanged(self, message: LeaderChanged, sender: Any) -> None:
        """Publish that the cluster has formed, when its first leader is known."""
        self.tell_formed()

    def tell_formed(self) -> None:
        """Publish once that the cluster has formed: this node knows its members and who leads them."""
        if self.shared.leader and not self.formed and self.ledger.configuration.nodes:
            self.formed = True
            self.ledger.turn.put_meta(FORMED, b"")
            self.publish(ClusterFormed(members=tuple(sorted(self.ledger.configuration.voters))))

    # --- changing ----------------------------------------------------------------------------------------------------

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

    def is_met(self, node: str, address: str) -> bool:
        """Whether a node that is to be added was greeted at this address, in its present process."""
        peers = self.context.peers
        return peers.wanted.get(node) == address and peers.is_greeted(node)

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

    # --- greeting ----------------------------------------------------------------------------------------------------

    def receiveMsg_LinkUp(self, message: LinkUp, sender: Any) -> None:
        """Greet the peer on its new connection."""
        self.linked.add(message.node)
        self.greet(message.node)

    def receiveMsg_PeerDown(self, message: PeerDown, sender: Any) -> None:
        """Stop greeting the peer until its connection is back."""
        self.linked.discard(message.node)
        self.cancel(message.node)

    def receiveMsg_HelloDue(self, message: HelloDue, sender: Any) -> None:
        """Greet the peer again, if its connection still exists."""
        self.waiting.pop(message.node, None)
        if message.node in self.linked:
            self.greet(message.node)

    def wait(self, node: str, seconds: float) -> None:
        """Greet the node again after this many seconds."""
        self.cancel(node)
        self.waiting[node] = self.after(seconds, HelloDue(node))

    def cancel(self, node: str) -> None:
        """Cancel the repetition of the greeting."""
        if (timer := self.waiting.pop(node, None)) is not None:
            timer.cancel()

    def greet(self, node: str) -> None:
        """Send a greeting, and repeat it if no answer comes."""
        self.tell_peer(node, "membership", self.handshake.hello(node, self.tip))
        self.wait(node, ANSWER_SECONDS)

    def receiveMsg_Hello(self, message: Hello, sender: Any) -> None:
        """Answer a greeting. The sender's boot is on disk before the answer leaves.

        The greeting of a process that ended before a later one was accepted is no fault of anybody, so nothing is
        published. The answer finds nobody, unless a machine was set back to a moment when that process ran.
        """
        node = sender.node
        if self.ledger.identity.is_late(node, message.incarnation):
            self.send(sender, self.handshake.reply(Refusal(IDENTITY, LATE.format(node)), node, message, self.tip))
            return
        self.make_way(node, message)
        newer = self.give_way(node, message)
        refusal = self.handshake.judge(
            node, message, self.ledger.configuration, lambda hello: self.admit(node, hello), newer=newer
        )
        if refusal == ACCEPTED:
            self.note(node, message)
            self.ledger.identity.note_ancestors(node, message.incarnation, message.earlier)
            self.compare(node, message)
        elif refusal.reason != ANCESTOR:
            self.refuse(node, message, refusal)
        self.send(sender, self.handshake.reply(refusal, node, message, self.tip))

    def note(self, node: str, message: Hello | HelloReply) -> None:
        """Note what a member said of itself, for the status and for decisions that need all members."""
        program, level = message.program
        seen = self.shared.greeted.get(node)
        same = seen is not None and seen.token == message.incarnation
        self.shared.greeted[node] = Greeted(message.incarnation, program, level, seen.differs if seen and same else ())
        self.shared.refused.pop(node, None)
        ledger = self.ledger
        ledger.identity.tips.note_tip(node, Tip(*message.tip), ledger.log, ledger.commit_index)

    def compare(self, node: str, message: Hello) -> None:
        """Publish, once for each process of a peer, what differs between it and this node."""
        seen = self.shared.greeted[node]
        settings = self.handshake.differences(message)
        expected = self.ledger.configuration.addresses.get(node, "")
        misplaced = bool(expected) and message.address not in ("", expected)
        differs = (*settings, *([MISPLACED.format(message.address, expected)] if misplaced else ()))
        if differs == seen.differs:
            return
        self.shared.greeted[node] = replace(seen, differs=differs)
        if settings:
            self.publish(SettingsDiffer(peer=node, differences=settings))
        if misplaced:
            self.publish(AddressDiffers(peer=node, expected=expected, listens=message.address))

    def look_at_oneself(self) -> None:
        """Publish that this node was started with another address than the one at which the others look for it."""
        listens, expected = self.context.advertised, self.ledger.configuration.addresses.get(self.node_id, "")
        misplaced = bool(self.others) and bool(expected) and listens not in ("", expected)
        differs = (MISPLACED.format(listens, expected),) if misplaced else ()
        self.shared.greeted[self.node_id] = Greeted(self.ledger.identity.boot_token, *self.handshake.program, differs)
        if misplaced:
            self.publish(AddressDiffers(peer=self.node_id, expected=expected, listens=listens))

    def refuse(self, node: str, message: Hello | HelloReply, refusal: Refusal) -> None:
        """Count the refusal of a greeting, and publish it once for each process of the peer and each reason."""
        self.context.refuse(f"greeting refused: {refusal.reason}", refusal.detail)
        if node not in self.ledger.configuration.nodes:
            return
        last = self.shared.refused.get(node)
        self.shared.refused[node] = RefusedGreeting(message.incarnation, refusal.detail, self.clock.now())
        if last is None or (last.token, last.why) != (message.incarnation, refusal.detail):
            self.publish(NodeRefused(peer=node, reason=refusal.reason, detail=refusal.detail))

    def admit(self, node: str, message: Hello | HelloReply) -> str:
        """Record a peer's boot; returns why the peer is not the member that was known, or "".

        The first greeting of a boot is compared with what the member's earlier boots had on their disk.
        """
        ledger, identity = self.ledger, self.ledger.identity
        tips = identity.tips
        if identity.is_later_boot(node, message.incarnation):
            if ledger.leading_term is not None:
                tips.note_match(node, ledger.leading_term, self.shared.match.get(node, 0), ledger.commit_index)
            back = tips.went_back(node, Tip(*message.tip))
            if back:
                return f"the folder of node {node} is an older copy of its own: {back}. {BRING_BACK}"
            if identity.descends_from_expelled(node, self.handshake.shown_of_expelled(node, message)):
                return identity.expelled[node].why
        shown = self.handshake.shown_draw(node, message) or ""
        return identity.admit(ledger.turn, node, message.incarnation, message.boot, shown)

    def give_way(self, node: str, message: Hello) -> bool:
        """Whether to hear a node on another folder than its member's, because its log is newer than this node's.

        It may lead by a configuration that this node lacks, and nobody else may be able to send it. This node itself
        asks it nothing, so nothing that it says is counted.
        """
        log, identity = self.ledger.log, self.ledger.identity
        other = self.handshake.another_folder(node, message, self.ledger.configuration)
        if other == ACCEPTED or (message.tip[1], message.tip[2]) <= (log.last_term, log.last):
            return False
        known = identity.known(node)
        if known is not None and folder_of(known[0]) != folder_of(message.incarnation):
            self.forget([node])
        return True

    def forget(self, nodes: list[str]) -> None:
        """Forget what is known of nodes that are not the ones that were met under their ids, and greet them anew."""
        self.ledger.identity.forget(self.ledger.turn, nodes)
        for node in nodes:
            self.tell("replication", PeerForgotten(node))
            self.meet_again(node)

    def meet_again(self, node: str) -> None:
        """Send a node nothing more before it is greeted again, which happens at once if there is a connection."""
        self.context.peers.leave(node)
        self.shared.greeted.pop(node, None)
        self.introduced.pop(node, None)
        if node in self.linked:
            self.greet(node)

    def make_way(self, node: str, message: Hello | HelloReply) -> None:
        """Forget what is known of a node that is no member and comes with another folder, and of strangers of old.

        It must be no member by the committed configuration either, because its removal may yet be taken back. A node
        that is being met is not replaced by one that calls.
        """
        ledger, identity = self.ledger, self.ledger.identity
        known, in_doubt = identity.known(node), ledger.configurations.in_doubt(ledger.commit_index)
        exchanged = known is not None and folder_of(known[0]) != folder_of(message.incarnation)
        called = isinstance(message, Hello) and node in self.shared.meeting
        if exchanged and not called and not any(node in configuration.nodes for configuration in in_doubt):
            self.forget([node])
        self.forget(self.handshake.too_many(node, ledger.configuration, self.context.peers.wanted.keys()))

    def receiveMsg_HelloReply(self, message: HelloReply, sender: Any) -> None:
        """Introduce the peer that accepted the greeting, or handle its refusal."""
        node = sender.node
        if node == self.node_id:
            self.context.refuse("greeting refused: unknown", "an address leads to a node with the id of this one")
            return
        if self.ledger.identity.is_late(node, message.incarnation):
            return
        self.make_way(node, message)
        if message.reason == STRANGER:
            if node not in self.waiting:  # otherwise a greeting is in progress
                self.greet(node)
        elif message.reason == ANCESTOR:
            self.prove(node, message.known)
        elif message.reason:
            self.refused(node, message)
        elif (old := self.handshake.too_old(node, message.program, self.ledger.configuration)) != ACCEPTED:
            self.refuse(node, message, old)
            self.wait(node, REGREET_SECONDS)
        elif (other := self.handshake.another_folder(node, message, self.ledger.configuration)) != ACCEPTED:
            self.refuse(node, message, other)
            self.wait(node, REGREET_SECONDS)
        elif stranger := self.admit(node, message):
            self.refuse(node, message, Refusal(IDENTITY, stranger))
            self.wait(node, REGREET_SECONDS)
        else:
            self.cancel(node)
            self.note(node, message)
            self.introduced[node] = message.incarnation
            self.context.introduce(node, message.boot)
            self.tell_all(PeerUp(node))

    def prove(self, node: str, boot: int) -> None:
        """Greet again with the draw of an older boot that the peer met last; at once, if it asks for the first time."""
        if self.handshake.asked.get(node) == boot:
            self.wait(node, REGREET_SECONDS)
        else:
            self.handshake.asked[node] = boot
            self.greet(node)

    def refused(self, node: str, message: HelloReply) -> None:
        """Handle a peer's refusal. Raises `IdentityError`, which ends the node, if running on could do harm."""
        text = f"{node} refused this node: {message.detail}"
        stranger = self.admit(node, message) if message.reason == IDENTITY else ""
        if is_fatal(message.reason, stranger, joined=self.ledger.commit_index > 1):
            if self.ledger.term == 0:
                text += ADVICE.get(message.reason, "")
            raise IdentityError(text)
        if stranger:
            self.refuse(node, message, Refusal(IDENTITY, stranger))
        LINES.error("{}", text)
        self.wait(node, REGREET_SECONDS)

    def receiveMsg_PeerWentBack(self, message: PeerWentBack, sender: Any) -> None:
        """Accept nothing more from a member that lost what it had acknowledged; its next greeting is refused.

        A later boot that was admitted in the same turn, such as that of the true folder, is another one and stays.
        """
        node, identity = message.node, self.ledger.identity
        if identity.boots.get(node) != message.boot:
            return
        why = f"the folder of node {node} is an older copy of its own: {message.detail}. {BRING_BACK}"
        identity.expel(self.ledger.turn, node, why)
        self.shared.refused[node] = RefusedGreeting(message.boot[0], why, self.clock.now())
        self.context.refuse(f"greeting refused: {IDENTITY}", why)
        self.publish(NodeRefused(peer=node, reason=IDENTITY, detail=why))
