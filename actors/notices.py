"""The notices: the messages between the actors of one node. They never leave the node."""

from __future__ import annotations

from typing import Any

from forge_consensus.actors.messages import ChangeMembers, SnapshotPart, message
from forge_consensus.storage.ledger.applying import Applied
from forge_consensus.storage.snapshots.file import SnapshotInfo

# --- from the turn loop and the gate ---------------------------------------------------------------------------------


@message
class Start:
    """Begin: the ledger is open and every actor exists. `again` is set after the actors were rebuilt."""

    again: bool = False


@message
class Rebuild:
    """An actor failed: create all actors again from the ledger. `reason` names the fault."""

    reason: str


@message
class SettingsChanged:
    """The node's settings, which are the context's, are other ones from this turn on."""


@message
class TermRaised:
    """The ledger entered a higher term, so the role of every earlier term has ended."""

    term: int


@message
class Persisted:
    """The log up to `index` is on disk. Only this moves a leader's own match index."""

    term: int
    index: int


@message
class LinkUp:
    """The connection to a peer is established, but no greeting has been exchanged on it yet."""

    node: str


@message
class PeerUp:
    """A peer accepted the greeting: requests to it may leave."""

    node: str


@message
class PeerDown:
    """The connection to a peer broke."""

    node: str
    moved: bool = False
    """Whether this node itself gave it up, because the peer is at another address from now on."""


@message
class PeerForgotten:
    """A node that is no member came with another folder: what was known of the former one is forgotten."""

    node: str


@message
class MembersChanged:
    """The configuration in force is another one: it was appended in this turn, or an appended one was taken back."""


@message
class MembersCommitted:
    """The commit index moved past a configuration."""


@message
class MembersRequested:
    """A client asks this leader for a change of members."""

    request: ChangeMembers
    asker: Any
    """The sender of the request, which gets the answer."""


@message
class MeetingOver:
    """The nodes that a change adds were looked for long enough; `number` is that of the change."""

    number: int


# --- about leading ---------------------------------------------------------------------------------------------------


@message
class LeaderContact:
    """A request of the present term's leader arrived. The gate delivers this before the request itself."""

    leader: str
    term: int


@message
class LeaderChanged:
    """`leader` leads the term; None means that no leader is known any longer."""

    leader: str | None
    term: int


@message
class LeadershipBegan:
    """This node leads the term, and its no-op is in the log at the index `noop`."""

    term: int
    noop: int


@message
class LeadershipEnded:
    """This node no longer leads the term; `reason` says why."""

    term: int
    reason: str


@message
class Resign:
    """Stop leading the term; `reason` says why."""

    term: int
    reason: str


@message
class TransferRequested:
    """Hand the leadership over to `target`, "" for the best voter; `asker` gets the answer, None for nobody."""

    target: str
    asker: Any


@message
class TransferBegan:
    """The leader takes no entries until its handover, which is in the shared state, is over."""


@message
class TransferFailed:
    """The handover of this term took too long, so this node leads on."""

    term: int


@message
class TransferDue:
    """The time is over in which the target of a `Handover` was to catch up, or to lead once it was `told` to stand."""

    handover: object
    told: bool


@message
class Retire:
    """Stop the node, and before that hand its leadership over if it leads. The engine sends it."""

    reason: str


@message
class RetireDue:
    """The time for a handover before the node stops is over."""

    reason: str


# --- proposing, reading, applying ------------------------------------------------------------------------------------


@message
class Appended:
    """Clients' commands are in the leader's log as the entries `first` to `last`."""

    first: int
    last: int


@message
class ReadIndex:
    """Ask for the index from which on the read `ticket` may be answered (dissertation 6.4).

    With `lease` the leader may answer at once while its lease holds.
    """

    ticket: int
    lease: bool


@message
class ReadReady:
    """The read `ticket` may be answered as soon as `index` is applied."""

    ticket: int
    index: int


@message
class ReadRefused:
    """The read `ticket` cannot be confirmed: `reason` says why, or it is empty because this node does not lead."""

    ticket: int
    reason: str = ""


@message
class AppliedEntries:
    """These entries were applied, in the order of the log. The list is empty after a snapshot was installed."""

    entries: list[Applied]


@message
class QueriesAnswered:
    """A helper thread has answered a slice of queries and gives the machine back.

    `worked` is what `forge_consensus.actors.raft.answering.Answering.work` returned; None if it failed with `error`.
    """

    worked: Any
    error: str


# --- snapshots -------------------------------------------------------------------------------------------------------


@message
class PeerWentBack:
    """That boot of the peer lacks entries that it had acknowledged to this leader; `detail` says which, for people."""

    node: str
    boot: tuple[str, int]
    detail: str


@message
class PeerNeedsSnapshot:
    """The entry that the peer needs next is compacted away."""

    node: str


@message
class SnapshotSent:
    """The peer has durably installed the snapshot up to `index`, or had a newer state already."""

    node: str
    index: int


@message
class SnapshotInstalled:
    """This node's state is that of a received snapshot, durably."""

    index: int


@message
class TakeSnapshot:
    """Take a snapshot of the applied state, unless one is being taken or nothing is applied."""


@message
class CaptureSnapshot:
    """Capture the state, because the checkpoint that the snapshot needs is on disk."""


@message
class SnapshotSaved:
    """The snapshot's file is durable, or `error` says why not. `began` is the running clock (seconds) at its start."""

    info: SnapshotInfo | None
    error: str
    began: float


@message
class LookForBackups:
    """Look whether a snapshot that clients wait for is durable, and close files that nobody reads any more."""


@message
class ConfigRead:
    """The configuration was read again for a client: `fields` are the report, None if it failed with `code`."""

    fields: dict[str, Any] | None
    code: str
    text: str
    asker: Any


@message
class PartRead:
    """A part of a snapshot file was read for a client, or `error` says why not."""

    part: SnapshotPart | None
    error: str
    asker: Any


@message
class CompactLog:
    """Move the start of the log up to the newest snapshot."""

    without_file: bool = False
    """Up to the state in the tables instead, because there is no room for a snapshot file."""


@message
class SweepLog:
    """Delete one slice of what a compaction or an aborted installation left."""


@message
class SnapshotChecked:
    """A file that a follower refused was read again; `error` says what is wrong with it, if anything."""

    info: SnapshotInfo
    error: str


@message
class SnapshotReceived:
    """A received file is complete, verified and durable, or `error` says why not."""

    info: SnapshotInfo | None
    error: str


@message
class InstallStep:
    """Take the next slice of a received snapshot's sessions, or move its next chunk into the ledger."""


@message
class MachineRestored:
    """A user's machine has restored the snapshot, or `error` says why not."""

    error: str


# --- an actor's own alarms -------------------------------------------------------------------------------------------


@message
class ElectionTimeout:
    """The election alarm fired: the leader may be gone."""


@message
class HeartbeatDue:
    """A heartbeat is due; `term` is that of the leadership that set the alarm."""

    term: int


@message
class ExpiryDue:
    """The time has come that the machine waits for; `term` is that of the leadership that set the alarm."""

    term: int


@message
class SendEntries:
    """Send followers the entries that they lack."""


@message
class AskLeader:
    """Ask the leader for the read index of the reads that wait, once the mailbox is otherwise empty."""


@message
class ForwardedReadsDue:
    """Look after the reads that the leader was asked about: ask again, or give them up."""


@message
class ReadsDue:
    """Look after the reads that wait for an entry to be applied, and refuse those that waited for too long."""


@message
class ApplyCommitted:
    """Apply one slice of the committed entries."""


@message
class AnswerQueries:
    """Answer one slice of the queries that may be answered."""


@message
class WakeQueries:
    """Look which of the queries that wait for a change have an answer now, or have waited for long enough."""


@message
class CheckHealth:
    """Ask every peer whether it is alive, and judge this node's health."""


@message
class CheckSnapshots:
    """Check whether a snapshot is due, and send unanswered chunks again."""


@message
class SendChunks:
    """Send the next chunks of snapshots, because the bound of the bandwidth allows it again."""


@message
class LocateExpired:
    """The waiting time of a client's `Locate` is over; `number` names the request."""

    number: int


@message
class RemovalDue:
    """Look again whether this node, which an entry has removed, was added since by one that it lacks."""


@message
class AskAgain:
    """This node has heard no leader for a while since: greet all, because somebody may know that it was removed."""


@message
class HelloDue:
    """Greet a peer again, because it did not answer or refused."""

    node: str
