"""The membership actor: exchanges greetings with the peers, admits or refuses them, and reports a formed cluster."""

from __future__ import annotations

from typing import Any

from forge_consensus.actors.messages import Hello, HelloReply
from forge_consensus.actors.notices import (
    HelloDue,
    LeaderChanged,
    LinkUp,
    PeerDown,
    PeerUp,
    Start,
)
from forge_consensus.actors.raft.handshake import IDENTITY, Handshake, is_fatal
from forge_consensus.actors.runtime.actor import ConsensusActor, Context
from forge_consensus.actors.runtime.gate import STRANGER
from forge_consensus.actors.runtime.shared import Greeted
from forge_consensus.actors.runtime.timers import Timer
from forge_consensus.errors import IdentityError
from forge_consensus.events.types import ClusterFormed
from forge_consensus.process.log import LogLines
from forge_consensus.storage.ledger.transaction import get_meta

LINES = LogLines(__name__)

FORMED = b"formed"
"""The key of the ledger's record that `ClusterFormed` was published."""
ANSWER_SECONDS = 1.0
"""A greeting without an answer is repeated after this time: the greeting, or the turn that received it, may be lost."""
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
        self.handshake = Handshake(self.ledger.identity, context.opened.initial, context.bind_address)

    def receiveMsg_Start(self, message: Start, sender: Any) -> None:
        """Read whether the cluster has formed before, because that is published once in the life of a folder."""
        self.formed = get_meta(self.ledger.tables, FORMED) is not None

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
        self.tell_peer(node, "membership", self.handshake.hello())
        self.wait(node, ANSWER_SECONDS)

    def receiveMsg_Hello(self, message: Hello, sender: Any) -> None:
        """Answer a greeting. The sender's boot is on disk before the answer leaves."""
        node = sender.node
        refusal = self.handshake.judge(node, message, self.ledger.configuration, lambda hello: self.admit(node, hello))
        if refusal.reason:
            self.context.refuse(f"greeting refused: {refusal.reason}", refusal.detail)
        else:
            self.note(node, message)
        self.send(sender, self.handshake.reply(refusal))

    def note(self, node: str, message: Hello | HelloReply) -> None:
        """Note what a member said of itself, for the status and for decisions that need all members."""
        program, level = message.program
        self.shared.greeted[node] = Greeted(program, level)

    def admit(self, node: str, message: Hello | HelloReply) -> str:
        """Record a peer's boot; returns why the peer is not the member that was known, or ""."""
        ledger = self.ledger
        return ledger.identity.admit(ledger.turn, node, message.incarnation, message.boot, message.earlier)

    def receiveMsg_HelloReply(self, message: HelloReply, sender: Any) -> None:
        """Introduce the peer that accepted the greeting, or handle its refusal."""
        node = sender.node
        if message.reason == STRANGER:
            if node not in self.waiting:  # otherwise a greeting is in progress
                self.greet(node)
        elif message.reason:
            self.refused(node, message)
        elif stranger := self.admit(node, message):
            self.context.refuse(f"greeting refused: {IDENTITY}", stranger)
            self.wait(node, REGREET_SECONDS)
        else:
            self.cancel(node)
            self.note(node, message)
            self.context.introduce(node, message.boot)
            self.tell_all(PeerUp(node))

    def refused(self, node: str, message: HelloReply) -> None:
        """Handle a peer's refusal. Raises `IdentityError`, which ends the node, if running on could do harm."""
        text = f"{node} refused this node: {message.detail}"
        stranger = self.admit(node, message) if message.reason == IDENTITY else ""
        if is_fatal(message.reason, stranger, joined=self.ledger.commit_index > 1):
            raise IdentityError(text)
        if stranger:
            self.context.refuse(f"greeting refused: {IDENTITY}", stranger)
        LINES.error("{}", text)
        self.wait(node, REGREET_SECONDS)
