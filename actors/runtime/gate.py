"""The gate between wire and mailbox: what comes in is checked here, and here alone the term moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from forge_consensus.actors.codec import Frame, decode
from forge_consensus.actors.messages import (
    CLIENT_REQUESTS,
    AppendEntries,
    AppendReply,
    CheckPeer,
    CheckPeerReply,
    Hello,
    HelloReply,
    InstallSnapshot,
    PreVoteReply,
    Refused,
    RequestPreVote,
    RequestVote,
    SnapshotReply,
    VoteReply,
    WireMessage,
)
from forge_consensus.actors.notices import TermRaised
from forge_consensus.actors.runtime.address import SenderAddress
from forge_consensus.errors import ClusterNotFoundError, ProtocolError

if TYPE_CHECKING:
    from forge_consensus.actors.runtime.engine import Engine

DESTINATION: dict[type[WireMessage], str] = {
    Hello: "membership",
    HelloReply: "membership",
    RequestPreVote: "election",
    PreVoteReply: "election",
    RequestVote: "election",
    VoteReply: "election",
    AppendEntries: "replication",
    AppendReply: "replication",
    InstallSnapshot: "snapshot",
    SnapshotReply: "snapshot",
    CheckPeer: "health",
    CheckPeerReply: "health",
    **dict.fromkeys(CLIENT_REQUESTS, "gateway"),
}
"""Who gets what: a frame that names another actor is refused, so a client reaches only the gateway."""

ANSWERS = (HelloReply, PreVoteReply, VoteReply, AppendReply, SnapshotReply, CheckPeerReply)
"""They come by the connection that we asked on; whoever connects to us may only ask."""

STRANGER = "stranger"
"""The reason in the answer to who must greet (again) before it is listened to."""


class Gate:
    """Lets in what is whole, of this cluster, from a member in its known boot and meant for our present boot.

    Staleness is decided by cluster id, boots, term and request number, never by comparing clocks of two hosts.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.ledger = engine.ledger
        self.identity = engine.ledger.identity

    def take(self, data: Any, connection: Any) -> None:
        """Check one frame and put its message into the mailbox. `connection` is None for answers of peers."""
        try:
            frame = decode(data, self.engine.options.message_bytes_max)
        except ProtocolError as error:
            self.engine.refuse(error.code, str(error))
            return
        message = frame.message
        kind = type(message)
        destination = DESTINATION.get(kind)
        if destination is None or destination != frame.to:
            self.engine.refuse(ProtocolError.code, f"{kind.__name__} is not for {frame.to[:40]!r}")
            return
        sender = SenderAddress(frame.sender, frame.to, connection, frame.request, frame.sent)
        if isinstance(message, CLIENT_REQUESTS):
            self.take_from_client(frame, sender, connection)
        elif connection is not None and kind in ANSWERS:
            self.engine.refuse(ProtocolError.code, f"a {kind.__name__} from who was not asked")
        elif frame.cluster != self.identity.cluster_id and kind is not HelloReply:
            self.refuse_cluster(frame, sender)
        elif kind is Hello or kind is HelloReply:
            sender.boot_id = (frame.incarnation, frame.boot)
            self.deliver(destination, message, sender)
        elif self.is_known(frame, sender) and self.is_of_our_term(message, sender):
            self.deliver(destination, message, sender)

    def deliver(self, destination: str, message: Any, sender: SenderAddress) -> None:
        """Put a message into the mailbox."""
        self.engine.actor(destination).deliver(self.engine, message, sender)

    def take_from_client(self, frame: Frame, sender: SenderAddress, connection: Any) -> None:
        """A client need not name the cluster, but may not name another one."""
        if connection is None or frame.sender:
            self.engine.refuse(ProtocolError.code, "a client's request from a node")
        elif frame.cluster not in ("", self.identity.cluster_id):
            self.refuse_cluster(frame, sender)
        else:
            self.deliver("gateway", frame.message, sender)

    def refuse_cluster(self, frame: Frame, sender: SenderAddress) -> None:
        """Tell who speaks of another cluster which one this is."""
        ours = self.identity.cluster_id
        text = f"this is node {self.identity.node_id} of cluster {ours!r}, not of {frame.cluster[:80]!r}"
        self.engine.refuse("another cluster", text)
        if type(frame.message) is Hello:
            reply = HelloReply(self.identity.boot_token, self.identity.boot, "cluster", text)
            sender.deliver(self.engine, reply, sender)
        elif not frame.sender:
            refused = Refused(ClusterNotFoundError.code, text, "", "", 0)
            sender.deliver(self.engine, refused, sender)

    def is_known(self, frame: Frame, sender: SenderAddress) -> bool:
        """Whether the frame comes from a member in the boot that we know, and is for our present boot."""
        if (
            self.identity.boots.get(frame.sender) == (frame.incarnation, frame.boot)
            and frame.to_boot == self.identity.boot
        ):
            return True
        self.engine.board.refused[STRANGER] += 1
        if sender.connection is not None:
            sender.actor = DESTINATION[HelloReply]  # not whom the frame was for: that one knows no greetings
            reply = HelloReply(self.identity.boot_token, self.identity.boot, STRANGER, "")
            sender.deliver(self.engine, reply, sender)
        return False

    # --- the term ----------------------------------------------------------------------------------------------------

    def is_of_our_term(self, message: Any, sender: SenderAddress) -> bool:
        """Move the term where a frame of a higher one asks for it; answer or drop what is of a lower one.

        The term does not move for a pre-vote request, a granted pre-vote reply, or a vote request that is refused
        because there is a leader.
        """
        term = getattr(message, "term", None)
        ours = self.ledger.term
        if term is None or term == ours or type(message) is RequestPreVote:
            return True
        if term > ours:
            return self.enter_higher(term, message, sender)
        if type(message) is RequestVote:
            sender.deliver(self.engine, VoteReply(ours, False), sender)
        elif type(message) is AppendEntries:
            sender.deliver(self.engine, AppendReply(ours, False, 0, 0, 0), sender)
        elif type(message) is InstallSnapshot:
            sender.deliver(self.engine, SnapshotReply(ours, message.index, 0, False), sender)
        elif type(message) is PreVoteReply and message.granted:
            return True
        else:
            self.engine.board.refused["answer of an earlier term"] += 1
        return False

    def enter_higher(self, term: int, message: Any, sender: SenderAddress) -> bool:
        """Enter the higher term before anybody sees the message; returns whether anybody shall."""
        if type(message) is PreVoteReply and message.granted:
            return True
        if type(message) is RequestVote and self.engine.sticky():
            sender.deliver(self.engine, VoteReply(self.ledger.term, False), sender)
            return False
        self.ledger.advance(term)
        self.deliver("election", TermRaised(term), sender)
        return True
