"""The membership actor: exchanges greetings with the peers, admits or refuses them, and reports a formed cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from forge_consensus.actors.messages import Hello, HelloReply
from forge_consensus.actors.notices import (
    HelloDue,
    LeaderChanged,
    LinkUp,
    PeerDown,
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
from forge_consensus.actors.runtime.shared import Greeted, RefusedGreeting
from forge_consensus.actors.runtime.timers import Timer
from forge_consensus.config.agreement import told_settings
from forge_consensus.errors import IdentityError
from forge_consensus.events.types import AddressDiffers, ClusterFormed, NodeRefused, SettingsDiffer
from forge_consensus.process.log import LogLines
from forge_consensus.storage.ledger.identity import BRING_BACK
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
REGREET_SECONDS = 5.0
"""After a refusal the peer is greeted again after this time."""


class MembershipActor(ConsensusActor):
    """Owns the greetings in flight: one on every new connection, repeated until the peer answers.

    The `Handshake` decides what a greeting contains and whether one is accepted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.formed = False
        self.linked: set[str] = set()
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
        if not message.again:
            self.look_at_oneself()

    def receiveMsg_LeaderChanged(self, message: LeaderChanged, sender: Any) -> None:
        """Publish that the cluster has formed, when its first leader is known."""
        if message.leader and not self.formed:
            self.formed = True
            self.ledger.turn.put_meta(FORMED, b"")
            self.publish(ClusterFormed(members=tuple(sorted(self.ledger.configuration.voters))))

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
        refusal = self.handshake.judge(node, message, self.ledger.configuration, lambda hello: self.admit(node, hello))
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
        expected = self.ledger.configuration.addresses[node]
        misplaced = message.address not in ("", expected)
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
        if node not in self.ledger.configuration.voters:
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

    def receiveMsg_HelloReply(self, message: HelloReply, sender: Any) -> None:
        """Introduce the peer that accepted the greeting, or handle its refusal."""
        node = sender.node
        if self.ledger.identity.is_late(node, message.incarnation):
            return
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
        elif stranger := self.admit(node, message):
            self.refuse(node, message, Refusal(IDENTITY, stranger))
            self.wait(node, REGREET_SECONDS)
        else:
            self.cancel(node)
            self.note(node, message)
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
