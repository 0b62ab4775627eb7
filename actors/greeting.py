"""The greeting: an actor greets the peers on their connections, and admits or refuses those that greet it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from forge_consensus.actors.messages import Hello, HelloReply
from forge_consensus.actors.notices import (
    HelloDue,
    LinkUp,
    MembersChanged,
    PeerDown,
    PeerForgotten,
    PeerUp,
    PeerWentBack,
    SettingsChanged,
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
from forge_consensus.actors.raft.removal import removed_at
from forge_consensus.actors.runtime.actor import ConsensusActor, Context
from forge_consensus.actors.runtime.refusals import STRANGER
from forge_consensus.actors.runtime.shared import Greeted, RefusedGreeting
from forge_consensus.actors.runtime.timers import Timer
from forge_consensus.config.agreement import HTTP_URL, Told, told_settings
from forge_consensus.config.node import checked_http_url
from forge_consensus.errors import IdentityError, InvalidConfigError
from forge_consensus.events.types import (
    AddressDiffers,
    NodeRefused,
    SettingsDiffer,
)
from forge_consensus.process.log import LogLines
from forge_consensus.storage.ledger.identity import BRING_BACK, folder_of
from forge_consensus.storage.ledger.time_slice import NS
from forge_consensus.storage.ledger.tips import Tip
from forge_consensus.storage.machines.naming import name_of

LINES = LogLines(__name__)

ANSWER_SECONDS = 1.0
"""A greeting without an answer is repeated after this time: the greeting, or the turn that received it, may be lost."""
LATE = f"a later process of node {{}} runs: the folder was restored, or its machine set back. {BRING_BACK}"
ADVICE = {
    CONFIGURATION: ". Nothing but its list is in this node's folder: if that is the wrong one, start it with the right "
    "one, and it is taken",
    MACHINE: ". Nothing has happened in this node's folder yet, but it belongs to its state machine: if that is the "
    "wrong one, move the folder away and start the node with the right one",
}
"""By the reason of a refusal: what to do with a node that never took part in a cluster."""
REGREET_SECONDS = 5.0
"""After a refusal the peer is greeted again after this time."""


class Greeting(ConsensusActor):
    """The half of the membership actor that owns the greetings in flight.

    One greeting is sent on every new connection, and repeated until the peer answers. The `Handshake` decides what a
    greeting contains and whether one is accepted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.linked: set[str] = set()
        self.introduced: dict[str, str] = {}
        """By peer: the boot token with which it answered the greeting on the connection to it."""
        self.waiting: dict[str, Timer] = {}
        """By peer: the timer that repeats the greeting unless an answer comes first."""

    def bind(self, context: Context) -> None:
        """Take the context, and make the handshake from this node's identity."""
        super().bind(context)
        opened = context.opened
        machine = name_of(self.ledger.applier.machine)
        level = self.ledger.configurations.level
        told = self.told()
        self.handshake = Handshake(self.ledger.identity, opened.initial, machine, context.advertised, told, level)

    def told(self) -> Told:
        """What this node tells of its settings."""
        return told_settings(self.settings, self.ledger.settings, self.context.http_url)

    def receiveMsg_SettingsChanged(self, message: SettingsChanged, sender: Any) -> None:
        """Tell all peers the new settings by another greeting, and see whether they differ from theirs."""
        super().receiveMsg_SettingsChanged(message, sender)
        before, self.handshake.settings = self.handshake.settings, self.told()
        if self.handshake.settings == before:
            return
        for node, seen in list(self.shared.greeted.items()):
            if seen.hello is not None:
                self.compare(node, seen.hello)
        for node in sorted(self.linked):
            self.greet(node)

    def receiveMsg_Start(self, message: Start, sender: Any) -> None:
        """Forget whoever is no member any more, and see whether the others look for this node where it is."""
        self.forget_former()
        if not message.again:
            self.look_at_oneself()

    def receiveMsg_MembersChanged(self, message: MembersChanged, sender: Any) -> None:
        """Forget earlier members of the ids of those that were added, and greet anew."""
        self.forget_former()

    def forget_former(self) -> None:
        """Forget whoever was met under the id of a member and is not that member, and greet the id again.

        Also before a greeting is judged: the entry that names the sender's folder may be read in the same turn, which
        tells the actors of it at its end only.
        """
        for node in self.ledger.identity.follow(self.ledger.turn, self.ledger.configuration):
            self.meet_again(node)

    def is_met(self, node: str, address: str) -> bool:
        """Whether a node that is to be added was greeted at this address, in its present process."""
        peers = self.context.peers
        return peers.wanted.get(node) == address and peers.is_greeted(node)

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
        self.forget_former()
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
            self.note_http_url(node, message)
            self.ledger.identity.note_ancestors(node, message.incarnation, message.earlier)
            self.shared.greeted[node] = replace(self.shared.greeted[node], hello=message)
            self.compare(node, message)
        elif refusal.reason != ANCESTOR:
            self.refuse(node, message, refusal)
        patience, folder = self.settings.election_timeout_max, folder_of(message.incarnation)
        removed = removed_at(self.ledger, self.shared.freshness, node, folder, patience)
        clock_ns = self.clock.boottime_ns()
        self.send(sender, self.handshake.reply(refusal, node, message, self.tip, removed, clock_ns))

    def note(self, node: str, message: Hello | HelloReply) -> None:
        """Note what a member said of itself, for the status and for decisions that need all members."""
        program, level = message.program
        seen = self.shared.greeted.get(node)
        same = seen is not None and seen.token == message.incarnation
        if not same:
            self.shared.freshness.forget_clock(node)
        known = seen if seen and same else Greeted(message.incarnation, program, level)
        self.shared.greeted[node] = replace(known, program=program, level=level)
        self.shared.refused.pop(node, None)
        ledger = self.ledger
        ledger.identity.tips.note_tip(node, Tip(*message.tip), ledger.log, ledger.commit_index)

    def note_http_url(self, node: str, message: Hello) -> None:
        """Note where a member's application answers HTTP; only greetings tell it, answers to them do not."""
        told = dict(message.settings).get(HTTP_URL, "")
        try:
            told = checked_http_url(told) if told else ""
        except InvalidConfigError:  # a greeting can be forged, and this text goes into answers to browsers
            told = ""
        if told != self.shared.greeted[node].http_url:
            self.shared.greeted[node] = replace(self.shared.greeted[node], http_url=told)

    def compare(self, node: str, message: Hello) -> None:
        """Publish what differs between a peer and this node, once until something else does."""
        seen = self.shared.greeted[node]
        settings = self.handshake.differences(message)
        misplaced = self.misplaced(node, message.address)
        if (settings, misplaced) == (seen.differs, seen.misplaced):
            return
        self.shared.greeted[node] = replace(seen, differs=settings, misplaced=misplaced)
        if settings:
            self.publish(SettingsDiffer(peer=node, differences=settings))
        if misplaced:
            expected = self.ledger.configuration.addresses[node]
            self.publish(AddressDiffers(peer=node, expected=expected, listens=misplaced))

    def misplaced(self, node: str, address: str) -> str:
        """The address with which a member was started, if the members look for it at another one; otherwise ""."""
        expected = self.ledger.configuration.addresses.get(node, "")
        return address if expected and address not in ("", expected) else ""

    def look_at_oneself(self) -> None:
        """Publish that this node was started with another address than the one at which the others look for it."""
        misplaced = self.misplaced(self.node_id, self.context.advertised) if self.others else ""
        program = self.handshake.program
        token, url = self.ledger.identity.boot_token, self.context.http_url
        self.shared.greeted[self.node_id] = Greeted(token, *program, misplaced=misplaced, http_url=url)
        if misplaced:
            expected = self.ledger.configuration.addresses[self.node_id]
            self.publish(AddressDiffers(peer=self.node_id, expected=expected, listens=misplaced))

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
        asks it nothing, so nothing that it says is counted. The same holds for one that joined on a new folder and
        that the configuration in force, which may yet be taken back, no longer names.
        """
        ledger, identity = self.ledger, self.ledger.identity
        other = self.handshake.another_folder(node, message, ledger.configuration)
        known = identity.known(node)
        exchanged = known is not None and folder_of(known[0]) != folder_of(message.incarnation)
        replaced = exchanged and message.joins and node not in ledger.configuration.nodes
        newer = (message.tip[1], message.tip[2]) > (ledger.log.last_term, ledger.log.last)
        if not newer or (other == ACCEPTED and not replaced):
            return False
        if exchanged:
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
        self.forget_former()
        if self.ledger.identity.is_late(node, message.incarnation):
            return
        self.make_way(node, message)
        self.told_removed(node, message.removed_at)
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
            self.met(node, message, sender.sent)

    def met(self, node: str, message: HelloReply, asked_ns: int) -> None:
        """Introduce a peer; one that is introduced was only greeted again to learn what it knows, see `removed_at`."""
        self.cancel(node)
        self.note(node, message)
        if message.clock_ns:
            self.shared.freshness.read_clock(node, asked_ns / NS, message.clock_ns / NS, self.clock.now())
        known = self.context.peers.is_greeted(node) and self.introduced.get(node) == message.incarnation
        self.introduced[node] = message.incarnation
        self.context.introduce(node, message.boot)
        if not known:
            self.tell_all(PeerUp(node))

    def told_removed(self, node: str, index: int) -> None:
        """A peer says that this node is no member as of the entry at `index`, unless that is 0."""
        raise NotImplementedError

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
