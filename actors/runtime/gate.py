"""The gate between transport and mailbox: checks every incoming frame, and alone moves the term."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from forge_consensus.actors.codec import STAMP, DamagedFrameError, Frame, OtherVersionError, decode
from forge_consensus.actors.messages import (
    CLIENT_REQUESTS,
    AppendEntries,
    AppendReply,
    CheckPeer,
    CheckPeerReply,
    GetMembers,
    GetStatus,
    Hello,
    HelloReply,
    InstallSnapshot,
    ListSnapshots,
    Locate,
    MakeSnapshot,
    PreVoteReply,
    ReadEvents,
    ReadIndexReply,
    ReadLog,
    ReadSnapshot,
    Refused,
    ReloadConfig,
    RequestPreVote,
    RequestReadIndex,
    RequestVote,
    SnapshotReply,
    TimeoutNow,
    VoteReply,
    WireMessage,
)
from forge_consensus.actors.notices import LeaderContact, TermRaised
from forge_consensus.actors.runtime.address import SenderAddress
from forge_consensus.actors.runtime.audit import AUDITED, Audit
from forge_consensus.actors.runtime.clock import Clock
from forge_consensus.actors.runtime.mailbox import Mailbox
from forge_consensus.actors.runtime.outbox import Outbox
from forge_consensus.actors.runtime.permits import Denial, Permits
from forge_consensus.actors.runtime.refusals import (
    CLIENT_READS_TOO_LITTLE,
    EARLIER_TERM,
    NO_MEMBERS_TERM,
    STRANGER,
    Refusals,
)
from forge_consensus.actors.runtime.shared import SharedState
from forge_consensus.actors.runtime.unread import UNREAD_TEXT, UnreadAnswers
from forge_consensus.config.cluster_id import name_of
from forge_consensus.config.raft import RaftSettings
from forge_consensus.errors import AuthenticationFailedError, BusyError, ClusterNotFoundError, ProtocolError
from forge_consensus.events.types import ConsensusEvent, NodeRefused
from forge_consensus.storage.ledger.ledger import Ledger

DESTINATION: dict[type[WireMessage], str] = {
    Hello: "membership",
    HelloReply: "membership",
    RequestPreVote: "election",
    PreVoteReply: "election",
    RequestVote: "election",
    TimeoutNow: "election",
    VoteReply: "election",
    AppendEntries: "replication",
    AppendReply: "replication",
    RequestReadIndex: "replication",
    ReadIndexReply: "replication",
    InstallSnapshot: "snapshot",
    SnapshotReply: "snapshot",
    CheckPeer: "health",
    CheckPeerReply: "health",
    **dict.fromkeys(CLIENT_REQUESTS, "gateway"),
}
"""The actor that handles each message. A frame for another actor is refused, so a client reaches only the gateway."""

FROM_CLIENTS: Final = frozenset(CLIENT_REQUESTS)
"""`isinstance` would compare each message with all of them, one after the other."""
ANSWERS = (HelloReply, PreVoteReply, VoteReply, AppendReply, SnapshotReply, CheckPeerReply, ReadIndexReply)
"""These arrive on the connection that this node opened; on a connection that others opened, only requests are
accepted."""

TERM_STAYS = (RequestPreVote, RequestReadIndex)
"""The term in these requests is that of another node: it moves no term, and their receiver answers with its own."""

FROM_LEADERS = (AppendEntries, InstallSnapshot)
"""Only a leader sends these. The gate notifies the election actor before each, so that it knows the leader first."""

BY_NAME: Final = (
    Locate, GetMembers, GetStatus, ReadEvents, MakeSnapshot, ReadSnapshot, ListSnapshots, ReadLog,
    ReloadConfig,
)  # fmt: skip
"""What a client may ask that knows only the name of the cluster, or an id that it had before it was made anew."""

DAMAGED: Final = "damaged frame"
"""The reason for a frame that does not fit its checksum: a cable, a memory or a network card spoils bytes."""
KEY: Final = "key"
"""The reason in the answer to a greeting whose sender does not prove by its key that it is the node it claims to be."""
TOLD_MAX: Final = 1000
"""Of so many wrong keys an event tells; all of them are counted."""
TERM_JUMP_MAX: Final = 1 << 32
"""A frame whose term is further ahead of ours is refused: at one election a second no honest node gets there within a
century, and a term near the end of the numbers would leave no later one to elect a leader in."""


class Gate:
    """Accepts a frame that is whole, of this cluster, from a member in its known boot, and meant for the present boot.

    Staleness is decided by cluster id, boots, term and request number, never by comparing the clocks of two hosts.
    """

    def __init__(
        self,
        ledger: Ledger,
        settings: RaftSettings,
        clock: Clock,
        mailbox: Mailbox,
        outbox: Outbox,
        refusals: Refusals,
        shared: SharedState,
        unread: UnreadAnswers,
        audit: Audit,
        permits: Permits | None = None,
    ) -> None:
        self.ledger = ledger
        self.identity = ledger.identity
        self.clock = clock
        self.bytes_max = settings.message_bytes_max
        self.election_timeout_min = settings.election_timeout_min
        self.addresses = mailbox.addresses
        self.outbox = outbox
        self.refusals = refusals
        self.shared = shared
        self.unread = unread
        self.audit = audit
        self.permits = permits
        """None where nobody is asked who they are, because the node has no keys."""
        self.publish: Callable[[ConsensusEvent], None] = lambda event: None
        """Publishes an event with the turn."""
        self.told: set[tuple[str, str, str]] = set()
        """The node ids for which a wrong key was used, each with the key and the reason, of which an event told."""

    def receive(self, data: Any, connection: Any, key: str = "") -> None:
        """Check one frame and put its message into the mailbox.

        `connection` is None for the answer of a peer. `key` is the public key that the connection proved; empty where
        nobody is asked.
        """
        try:
            frame = decode(data, self.bytes_max)
        except ProtocolError as error:
            self.refuse_bytes(error, connection)
            return
        message = frame.message
        kind = type(message)
        destination = DESTINATION.get(kind)
        if destination is None or destination != frame.to:
            self.refusals.report(ProtocolError.code, f"{kind.__name__} is not for {frame.to[:40]!r}")
            return
        sender = SenderAddress(frame.sender, frame.to, connection, frame.request, frame.sent, self.outbox)
        if self.permits is not None and not self.is_permitted(self.permits, frame, sender, key):
            return
        if kind in FROM_CLIENTS:
            self.receive_from_client(frame, sender, connection, key)
        elif connection is not None and kind in ANSWERS:
            self.refusals.report(ProtocolError.code, f"a {kind.__name__} from a node that was not asked")
        elif frame.cluster != self.identity.cluster_id and kind is not HelloReply:
            self.refuse_cluster(frame, sender)
        elif kind is Hello or kind is HelloReply:
            sender.boot_id = (frame.incarnation, frame.boot)
            self.deliver(destination, message, sender)
        elif self.is_known(frame, sender) and self.is_of_our_term(message, sender):
            if isinstance(message, FROM_LEADERS):
                self.deliver("election", LeaderContact(sender.node, message.term), sender)
            self.deliver(destination, message, sender)

    def refuse_bytes(self, error: ProtocolError, connection: Any) -> None:
        """Refuse what is no frame, and answer a request of another protocol version.

        Its sender cannot read the answer, but finds this node's version in it and says so. Without one it would wait,
        and call this node silent. An answer of another version gets none, so this ends.
        """
        self.refusals.report(DAMAGED if type(error) is DamagedFrameError else error.code, str(error))
        if type(error) is OtherVersionError and connection is not None:
            sender = SenderAddress("", DESTINATION[Locate], connection, 0, 0, self.outbox)
            sender.deliver(Refused(error.code, str(error), "", "", 0), sender)

    def deliver(self, destination: str, message: Any, sender: SenderAddress) -> None:
        """Put a message into the mailbox."""
        self.addresses[destination].deliver(message, sender)

    def receive_from_client(self, frame: Frame, sender: SenderAddress, connection: Any, key: str) -> None:
        """Accept a client's request, which may omit the cluster but must not name another one.

        A client that reads too little of what it is sent is told who leads, but otherwise only that it must read.
        """
        if connection is None or frame.sender:
            self.refusals.report(ProtocolError.code, "a client's request from a node")
        elif not self.is_meant(frame):
            self.refuse_cluster(frame, sender)
        else:
            if frame.extension:
                self.unread.note_read(connection, frame.extension.get(STAMP))
            if self.unread.is_full(connection) and type(frame.message) is not Locate:
                self.refusals.count(CLIENT_READS_TOO_LITTLE)
                sender.deliver(Refused(BusyError.code, UNREAD_TEXT, "", "", 0), sender)
            else:
                if type(frame.message) in AUDITED:
                    self.audit.note(frame.message, sender, key)
                self.deliver("gateway", frame.message, sender)

    def is_permitted(self, permits: Permits, frame: Frame, sender: SenderAddress, key: str) -> bool:
        """Leave of a frame what its sender may say, and refuse the rest; returns whether anything is left.

        Nothing of a refused part reaches an actor, so it certainly had no effect.
        """
        if type(frame.message) not in FROM_CLIENTS:
            denial = permits.of_member(frame, key, sender.connection)
            if denial is not None:
                self.refuse_member(frame, sender, key, denial)
            return denial is None
        judged = permits.of_client(frame.message, key)
        sender.identity = permits.access.name_of(key)
        if judged.denial is not None:
            self.refusals.report(judged.denial.reason, judged.denial.text)
            self.audit.deny_frame(judged.denial, frame.message, sender, key)
            refused = Refused(AuthenticationFailedError.code, judged.denial.text, "", "", 0, judged.denied)
            sender.deliver(refused, sender)
        frame.message = judged.message
        return judged.message is not None

    def refuse_member(self, frame: Frame, sender: SenderAddress, key: str, denial: Denial) -> None:
        """Refuse a frame that its sender's key does not cover; a greeting is answered, and an event tells it once."""
        self.refusals.report(denial.reason, denial.text)
        self.audit.deny_frame(denial, frame.message, sender, key)
        if type(frame.message) is Hello:
            sender.deliver(HelloReply(self.identity.boot_token, self.identity.boot, KEY, denial.text), sender)
        told = (frame.sender, key, denial.reason)
        if told not in self.told and len(self.told) < TOLD_MAX:
            self.told.add(told)
            self.publish(NodeRefused(peer=frame.sender, reason=KEY, detail=denial.text))

    def is_meant(self, frame: Frame) -> bool:
        """Whether a client means this cluster, or asks which one it is by the name that the cluster bears.

        A client that knows the cluster by another id than its present one may have a session of before the cluster was
        made anew from its data, and read what was given up. So it has to learn the present id first.
        """
        given, ours = frame.cluster, self.identity.cluster_id
        return given in ("", ours) or (type(frame.message) in BY_NAME and name_of(given) == name_of(ours))

    def refuse_cluster(self, frame: Frame, sender: SenderAddress) -> None:
        """Refuse a frame of another cluster, and send this cluster's name."""
        ours = self.identity.cluster_id
        text = f"this is node {self.identity.node_id} of cluster {ours!r}, not of {frame.cluster[:80]!r}"
        self.refusals.report("another cluster", text)
        if type(frame.message) is Hello:
            reply = HelloReply(self.identity.boot_token, self.identity.boot, "cluster", text)
            sender.deliver(reply, sender)
        elif not frame.sender:
            refused = Refused(ClusterNotFoundError.code, text, "", "", 0)
            sender.deliver(refused, sender)

    def is_known(self, frame: Frame, sender: SenderAddress) -> bool:
        """Whether the frame comes from a member in the boot that this node knows, and is meant for the present boot."""
        if (
            self.identity.boots.get(frame.sender) == (frame.incarnation, frame.boot)
            and frame.to_boot == self.identity.boot
        ):
            return True
        self.refusals.count(STRANGER)
        if sender.connection is not None:
            sender.actor = DESTINATION[HelloReply]  # whatever the frame was for: only this actor handles greetings
            reply = HelloReply(self.identity.boot_token, self.identity.boot, STRANGER, "")
            sender.deliver(reply, sender)
        return False

    # --- the term ----------------------------------------------------------------------------------------------------

    def is_of_our_term(self, message: Any, sender: SenderAddress) -> bool:
        """Enter a higher term that a frame carries; answer or drop one of a lower term. Returns whether to accept it.

        The term does not move for the requests of `TERM_STAYS`, a granted pre-vote reply, a vote request that is
        refused because there is a leader, or an answer of a node that is no member.
        """
        term = getattr(message, "term", None)
        ours = self.ledger.term
        if term is None or term == ours or type(message) in TERM_STAYS:
            return True
        if term > ours:
            return self.enter_higher(term, message, sender)
        if type(message) is RequestVote:
            sender.deliver(VoteReply(term=ours, granted=False), sender)
        elif type(message) is AppendEntries:
            sender.deliver(AppendReply(term=ours, success=False, index=0, entry_term=0, round=0), sender)
        elif type(message) is InstallSnapshot:
            sender.deliver(SnapshotReply(term=ours, index=message.index, offset=0, done=False), sender)
        elif type(message) is PreVoteReply and message.granted:
            return True
        else:
            self.refusals.count(EARLIER_TERM)
        return False

    def enter_higher(self, term: int, message: Any, sender: SenderAddress) -> bool:
        """Enter the higher term before any actor gets the message; returns whether to accept the message."""
        if term > self.ledger.term + TERM_JUMP_MAX:
            self.refusals.report(
                ProtocolError.code, f"term {term} is no term that elections reach from {self.ledger.term}"
            )
            return False
        if type(message) is PreVoteReply and message.granted:
            return True
        if type(message) in ANSWERS and sender.node not in self.ledger.configuration.nodes:
            self.refusals.count(NO_MEMBERS_TERM)
            return False
        if type(message) is RequestVote and not message.transfer and self.is_sticky():
            sender.deliver(VoteReply(term=self.ledger.term, granted=False), sender)
            return False
        self.ledger.advance(term)
        self.deliver("election", TermRaised(term), sender)
        return True

    def is_sticky(self) -> bool:
        """Whether a vote request is refused because there is a leader, and so must not move the term."""
        configuration = self.ledger.configuration
        timeout, lease_reads = configuration.vote_kept(self.election_timeout_min), configuration.lease_reads
        return self.shared.stickiness.holds(self.clock.running(), timeout=timeout, lease_reads=lease_reads)
