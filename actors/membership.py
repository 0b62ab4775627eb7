"""The membership actor: who may speak with whom, and the cluster that they form."""

from __future__ import annotations

from typing import Any

from loguru import logger

from forge_consensus.actors.messages import Hello, HelloReply
from forge_consensus.actors.notices import (
    HelloDue,
    LeaderChanged,
    LinkUp,
    PeerDown,
    PeerUp,
    Start,
)
from forge_consensus.actors.runtime.actor import ConsensusActor
from forge_consensus.actors.runtime.gate import STRANGER
from forge_consensus.actors.runtime.timers import Timer
from forge_consensus.errors import IdentityError
from forge_consensus.events.types import ClusterFormed
from forge_consensus.storage.ledger.transaction import get_meta

FORMED = b"formed"
"""A record that says that ClusterFormed was told."""
ANSWER_SECONDS = 1.0
"""A greeting that is not answered for so long is repeated: it, or the turn that took it, may have been lost."""
REGREET_SECONDS = 5.0


class MembershipActor(ConsensusActor):
    """Greets peers on every new connection and judges their greetings.

    Nodes that were started with differing lists of members refuse each other, showing both. A member whose folder
    was wiped or restored is refused too: it has forgotten votes that it gave.
    """

    def __init__(self) -> None:
        super().__init__()
        self.formed = False
        self.linked: set[str] = set()
        self.waiting: dict[str, Timer] = {}
        """Who is to be greeted again, if no answer comes first."""

    def receiveMsg_Start(self, message: Start, sender: Any) -> None:
        """A cluster forms once in a node's life, when the node knows of its first leader."""
        self.formed = get_meta(self.ledger.tables, FORMED) is not None

    def receiveMsg_LeaderChanged(self, message: LeaderChanged, sender: Any) -> None:
        """The first leader makes the cluster."""
        if message.leader and not self.formed:
            self.formed = True
            self.ledger.turn.put_meta(FORMED, b"")
            self.publish(ClusterFormed(members=tuple(sorted(self.ledger.configuration.voters))))

    # --- greeting ----------------------------------------------------------------------------------------------------

    def receiveMsg_LinkUp(self, message: LinkUp, sender: Any) -> None:
        """The first frame on a connection says who we are."""
        self.linked.add(message.node)
        self.greet(message.node)

    def receiveMsg_PeerDown(self, message: PeerDown, sender: Any) -> None:
        """It will be greeted again when it is back."""
        self.linked.discard(message.node)
        self.wait(message.node, 0.0)

    def receiveMsg_HelloDue(self, message: HelloDue, sender: Any) -> None:
        """Greet again."""
        self.waiting.pop(message.node, None)
        if message.node in self.linked:
            self.greet(message.node)

    def wait(self, node: str, seconds: float) -> None:
        """Greet the node again in so many seconds; 0 for not at all."""
        if (timer := self.waiting.pop(node, None)) is not None:
            timer.cancel()
        if seconds:
            self.waiting[node] = self.after(seconds, HelloDue(node))

    def greet(self, node: str) -> None:
        """Send Hello."""
        identity, initial = self.ledger.identity, self.context.opened.initial
        hello = Hello(
            identity.life,
            identity.boot,
            self.context.bind_address,
            initial.digest,
            initial.text,
            identity.earlier,
        )
        self.tell_peer(node, "membership", hello)
        self.wait(node, ANSWER_SECONDS)

    def receiveMsg_Hello(self, message: Hello, sender: Any) -> None:
        """Judge a greeting; its boot is durable before the answer leaves."""
        initial, identity = self.context.opened.initial, self.ledger.identity
        reason = detail = ""
        if message.configuration_hash != initial.digest:
            reason = "configuration"
            detail = (
                f"node {identity.node_id} began with the members {initial.text}, "
                f"node {sender.node} with {message.configuration}: start all with the same list"
            )
        elif sender.node == identity.node_id or sender.node not in self.ledger.configuration.voters:
            reason = "identity"
            detail = f"node {sender.node!r} is not another member of {self.ledger.configuration.text}"
        else:
            detail = self.admit(sender.node, message)
            reason = "identity" if detail else ""
        if reason:
            self.context.refuse(f"greeting refused: {reason}", detail)
        self.send(sender, HelloReply(identity.life, identity.boot, reason, detail, identity.earlier))

    def admit(self, node: str, message: Hello | HelloReply) -> str:
        """Take note of a peer's boot; returns why it is not the member that was known, or ""."""
        ledger = self.ledger
        return ledger.identity.admit(ledger.turn, node, message.incarnation, message.boot, message.earlier)

    def receiveMsg_HelloReply(self, message: HelloReply, sender: Any) -> None:
        """The peer may be spoken to, or says why not."""
        if message.reason == STRANGER:
            if sender.node not in self.waiting:  # else a greeting is on its way
                self.greet(sender.node)
        elif message.reason:
            self.refused(sender.node, message)
        else:
            detail = self.admit(sender.node, message)
            if detail:
                self.context.refuse("greeting refused: identity", detail)
                self.wait(sender.node, REGREET_SECONDS)
                return
            self.wait(sender.node, 0.0)
            self.context.introduce(sender.node, message.boot)
            self.tell_all(PeerUp(sender.node))

    def refused(self, node: str, message: HelloReply) -> None:
        """A peer refused us. Raises `IdentityError`, which ends the node, where going on could do harm.

        Who is not the member that the others knew must not run at all, unless it is the other that is not who it was:
        one node with a folder of an earlier cluster would end all others. Who was started with another list or in
        another cluster stops if it never was part of one; a node in good standing lets the newcomer stop.
        """
        text = f"{node} refused this node: {message.detail}"
        if message.reason == "identity":
            stranger = self.admit(node, message)
            if not stranger:
                raise IdentityError(text)
            self.context.refuse("greeting refused: identity", stranger)
        elif self.ledger.commit_index <= 1:
            raise IdentityError(text)
        logger.error("{}", text)
        self.wait(node, REGREET_SECONDS)
