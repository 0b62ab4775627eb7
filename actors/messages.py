"""The messages: everything that nodes and clients send to each other, as closed sets on one page.

Requests are imperative, answers between nodes are noun + ``Reply``. `WIRE_TAGS` lists every message with the tag under
which the codec writes it. A new field goes last and has a default, and a tag is never used again, because nodes of
different versions exchange messages. Terms, indexes, boots and numbers are unsigned; the names are those of the Raft
paper (figures 2 and 13). The messages between the actors of one node are in `forge_consensus.actors.notices`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def message(kind: type[T]) -> type[T]:
    """Make a class of messages: a dataclass that is frozen for type checkers.

    It is not frozen at run time, because a frozen object takes three times as long to make and a turn makes twenty.
    """
    return dataclass(slots=True, unsafe_hash=True)(kind)


FULL = "full"
UNSUPPORTED = "unsupported"
DAMAGED = "damaged"
FAILED = "failed"
REFUSALS = {
    FULL: "it has no room",
    UNSUPPORTED: "what it is sent is of a later version than it reads",
    DAMAGED: "what it is sent arrives damaged",
    FAILED: "its disk refuses what it is sent",
}
"""Why a node refuses what its leader sends: the word on the wire, and what it means; later versions may have others."""


# --- between nodes ---------------------------------------------------------------------------------------------------


@message
class Hello:
    """The first request on a connection: the sender's identity, and the members that it was started with."""

    incarnation: str
    boot: int
    address: str
    configuration_hash: str
    configuration: str
    """The initial configuration as text, so that a refusal can show both."""
    earlier: str = ""
    """The random draws of the newest boots before this one, newest first. They prove from which boots this one
    descends."""
    program: tuple[str, int] = ("", 0)
    """The version of the sender's program, and its feature level (`forge_consensus.storage.ledger.levels`)."""
    machine: tuple[str, int] = ("", 0)
    """The name of the sender's state machine, and its version."""
    tip: tuple[int, int, int] = (0, 0, 0)
    """Its term, and term and index of the last entry of its log, as they are on its disk
    (`forge_consensus.storage.ledger.tips`)."""
    known: int = 0
    """The boot of the receiver that the sender met last, 0 if it met none. The answer proves that it descends from
    it."""
    proof: tuple[int, str] = (0, "")
    """An earlier boot of the sender that the receiver asked for, and its draw."""
    settings: tuple[tuple[str, str], ...] = ()
    """The sender's settings that are not its own affair: names and the texts of their values
    (`forge_consensus.config.agreement`)."""
    skipped: str = ""
    """The log entries that the sender skips, each as index:term:checksum, with commas."""
    joins: bool = False
    """Whether the sender's folder was made to join the cluster: it is the member's only if the members' entry names
    it."""
    statement: bytes = b""
    """What the sender's certificate says of its key of CURVE (`forge_consensus.security.statements`); empty without."""


@message
class HelloReply:
    """The answer to a greeting; `reason` is empty if the greeting was accepted, `detail` is a sentence for people.

    The other fields say of the sender what those of `Hello` say. `proof` is of the boot that the greeting named as
    `known`. With the reason "ancestor", `known` is the boot whose draw the next greeting has to prove. `removed_at` is
    the index of an entry as of which the greeter is no member for certain, 0 if it may be one.
    """

    incarnation: str
    boot: int
    reason: str
    detail: str
    program: tuple[str, int] = ("", 0)
    tip: tuple[int, int, int] = (0, 0, 0)
    known: int = 0
    proof: tuple[int, str] = (0, "")
    joins: bool = False
    removed_at: int = 0
    clock_ns: int = 0
    """What the sender's CLOCK_BOOTTIME read when it answered, in nanoseconds; 0 tells nothing."""
    statement: bytes = b""
    """As in `Hello`."""


@message
class RequestPreVote:
    """Ask whether the receiver would vote in `term`, which the sender has not entered yet (dissertation 9.6)."""

    term: int
    round: int
    last_index: int
    last_term: int


@message
class PreVoteReply:
    """Whether the responder would vote. `term` is its own; only replies to the asker's present round count."""

    term: int
    round: int
    granted: bool


@message
class RequestVote:
    """Ask for a vote in `term` (paper 5.2); the tip of the sender's log lets the receiver compare logs (5.4.1)."""

    term: int
    last_index: int
    last_term: int
    transfer: bool = False
    """Whether the leader itself has asked the sender to stand, so that nobody keeps its vote back for it."""


@message
class VoteReply:
    """A vote or its refusal. A vote was on the sender's disk before this left."""

    term: int
    granted: bool


@message
class AppendEntries:
    """Entries that follow the entry (prev_index, prev_term) (paper 5.3). Without entries it is the heartbeat."""

    term: int
    prev_index: int
    prev_term: int
    commit: int
    round: int
    """The read round (dissertation 6.4): replies that echo it confirm the leader for reads taken before it began."""
    records: tuple[bytes, ...]
    elapsed_ms: int = 0
    """For how long the cluster has been running, as the leader measures it; 0 tells nothing."""
    covered: int = 0
    """Whatever was committed before `confirmed_ns` has at most this index; see `Freshness`."""
    confirmed_ns: int = 0
    """The newest send time that a majority has answered, by the leader's clock; 0 tells nothing."""


@message
class AppendReply:
    """The answer to `AppendEntries`.

    On success `index` is the last entry that the request verified, and the sender has it on its disk. On refusal
    (index, entry_term) is a hint: the follower's last entry at or before the request's previous entry whose term is not
    above that entry's term. It resolves a divergence with one round trip for each term.
    """

    term: int
    success: bool
    index: int
    entry_term: int
    round: int
    refusal: str = ""
    """Why the sender took none of the entries, or would take none: one of `REFUSALS`, or empty. A node that is full
    says so in its replies to heartbeats too, so that its leader knows when it has room again."""


@message
class InstallSnapshot:
    """One chunk of the snapshot of (index, entry_term), from `offset` on in its file of `size` bytes (paper 7)."""

    term: int
    index: int
    entry_term: int
    offset: int
    size: int
    data: bytes
    digest: bytes = b""
    """The checksum of the whole file, its last bytes. A follower goes on with the part of a file that it has if index,
    entry term, size and digest are the same, whoever sends it; without a digest, only if leader and term are."""
    crc: int = 0
    """The crc32 of `data`."""


@message
class SnapshotReply:
    """The follower wants the chunk at `offset` next; `done` says that the snapshot's state is durable there."""

    term: int
    index: int
    offset: int
    done: bool
    refusal: str = ""
    """Why the sender does not take this snapshot, one of `REFUSALS`, or empty. The leader tries again later."""
    chunk_end: int = 0
    """Up to where the chunk reached that is answered. If that is beyond `offset`, something between them is missing."""


@message
class TimeoutNow:
    """The leader of `term` hands its leadership over: stand at once, without asking for pre-votes (dissertation 3.10).

    It has stopped taking commands, the receiver has all its entries, and it answers no more reads by its lease.
    """

    term: int


@message
class RequestReadIndex:
    """Ask the leader of `term` from which index on this node may answer its reads (dissertation 6.4).

    The leader answers once it is confirmed, as for reads of its own. The receiver's term never moves by it.
    """

    term: int
    number: int
    """The number of the read round: the boot of the sender in its upper half, so that no number is used twice."""
    lease: bool = False
    """Whether the leader may answer at once while its lease holds."""


@message
class ReadIndexReply:
    """The reads of that round may be answered once `index` is applied; 0 if the sender cannot confirm them.

    `term` is the responder's own; only an answer in the term that was asked confirms.
    """

    term: int
    number: int
    index: int


@message
class CheckPeer:
    """Ask whether the receiver is alive. Every node asks every other, in every role."""

    number: int
    statement: bytes = b""
    """As in `Hello`, so that what is stated never ends between members that go on speaking."""


@message
class CheckPeerReply:
    """The reply that the sender is alive; `number` is that of the request, `wall_ms` the sender's wall clock."""

    number: int
    wall_ms: int = 0
    """Milliseconds since 1970; 0 tells nothing."""
    tip: tuple[int, int, int] = (0, 0, 0)
    """As in `Hello`. With it every node knows what the others have on their disks, and so notices an older copy."""
    commit_ms: int = 0
    """How many milliseconds the slowest commit of its last seconds took, rounded up; 0 tells nothing."""
    clock_ns: int = 0
    """As in `HelloReply`. With it the receiver knows how stale a state is of which the sender tells as a leader."""
    statement: bytes = b""
    """As in `CheckPeer`."""


# --- between clients and nodes ---------------------------------------------------------------------------------------


@message
class Locate:
    """Ask for the leader. The node answers when it knows a leader of a term above `known_term`, or after `wait_ms`."""

    known_term: int
    wait_ms: int


@message
class Located:
    """The leader as far as the node knows it, empty while none is known; `members` are (node id, address) pairs."""

    node: str
    cluster: str
    leader: str
    address: str
    term: int
    members: tuple[tuple[str, str], ...]
    frame_bytes_max: int = 0
    """The node takes no larger frame; 0 if it does not say."""


@message
class OpenSession:
    """Open a session, which expires after `ttl_ms` milliseconds without a command."""

    ttl_ms: int


@message
class SessionOpened:
    """A session is open; its id is the index of the log entry that opened it."""

    session: int


@message
class Submit:
    """Commands of one session, each as (sequence number, encoded command).

    The client has the results of all commands with numbers below `done_below`, so nodes may forget them.
    """

    session: int
    done_below: int
    commands: tuple[tuple[int, bytes], ...]
    asked_by: tuple[tuple[int, tuple[str, ...]], ...] = ()
    """For whom the client speaks with some of the commands, by sequence number, as in `ChangeMembers`."""


@message
class Results:
    """Outcomes of a session's commands in one turn, each as (sequence number, error code or "", encoded result)."""

    session: int
    items: tuple[tuple[int, str, bytes], ...]
    applied: int = 0
    """The newest entry that was applied when the outcomes were made, at or behind those of all these commands: a read
    with it as `after_index` sees them. 0 if no entry was."""


LEASE = "lease"
STALE = "stale"
CONSISTENCIES = ("linearizable", LEASE, STALE)
"""The consistency levels of a `Read`, the strictest first."""


NEVER_MS = 1 << 53
"""Longer than any node has run: how stale the state is, is not known."""


@message
class Read:
    """Queries, each as (number, encoded query); `consistency` is one of `CONSISTENCIES`.

    A query that waits for a change (`{"changes": ..., "wait_ms": ...}` of the built-in machine) is answered when there
    is one, or after that time, and before the client's `wait_ms` is over.
    A query without bytes is a barrier: it is answered like any other, with nothing, and the machine is not asked.
    Answers may come in several frames. A number that is asked again on the same connection while it waits is answered
    once.
    """

    consistency: str
    queries: tuple[tuple[int, bytes], ...]
    wait_ms: int = 0
    """For how long the client waits; what is not answered by then is dropped. 0 means that it did not say."""
    by_follower: bool = False
    """Whether a node that does not lead answers too, after it has asked its leader; otherwise it refuses all but stale
    queries."""
    stale_ms_max: int = NEVER_MS
    """A node whose state may be older refuses a stale query (`StaleReadError`) and never answers it."""
    after_index: int = 0
    """The state must have applied that entry. A node waits for it, and refuses (`StaleReadError`) if that takes an
    election timeout."""


@message
class ReadResults:
    """Answers to queries, each as (number, error code or "", encoded result), from the state after entry `applied`.

    Everything that was committed `stale_ms` milliseconds before the answer, or earlier, is in that state; the error of
    this node's clock, which counts them, comes on top. It is 0 for confirmed reads, and `NEVER_MS` while nothing is
    known, as after a start.
    """

    applied: int
    stale_ms: int
    items: tuple[tuple[int, str, bytes], ...]


@message
class GetStatus:
    """Ask for the node's status."""


@message
class Status:
    """The node's status; the keys are those of `forge_consensus.actors.runtime.status`."""

    fields: dict[str, Any]


@message
class Refused:
    """A request was refused; `leader`, `address` and `term` name the leader, as far as the node knows.

    With the code CONSENSUS_OUTCOME_UNKNOWN a part of the request may have been carried out or may still be; with any
    other code nothing was. `numbers` names the commands or queries that are refused; empty means all of the request.
    """

    code: str
    text: str
    leader: str
    address: str
    term: int
    numbers: tuple[int, ...] = ()


@message
class ReadEvents:
    """Ask for past events from the number `since` on, at most `limit`; `kinds` are name patterns, none means all."""

    since: int
    limit: int
    kinds: tuple[str, ...] = ()


@message
class EventPage:
    """A page of past events, each as (number, encoded event), ascending, and of gaps, each as (first, last, reason).

    Numbers are comparable within one incarnation of the node only. The page covers the numbers below `next`. `end` is
    the newest number that the node has assigned, `first` the oldest that it may still have.
    """

    node: str
    cluster: str
    incarnation: str
    boot: int
    events_address: str
    """The address where the node publishes events in this boot."""
    first: int
    next: int
    end: int
    rows: tuple[tuple[int, bytes], ...]
    gaps: tuple[tuple[int, int, str], ...]


@message
class ReadLog:
    """Ask for entries of the node's log from the index `first` on (0: the last ones), at most `limit`.

    Of a command at most `data_bytes` bytes are wanted.
    """

    first: int
    limit: int
    data_bytes: int
    asked_by: tuple[str, ...] = ()
    """As in `ChangeMembers`."""


@message
class LogPage:
    """A page of a log: each entry as (index, length of its record, record without its checksum, perhaps cut).

    The log holds the entries `first` to `last`; those up to `commit` are committed, those up to `applied` applied.
    """

    node: str
    cluster: str
    first: int
    last: int
    commit: int
    applied: int
    rows: tuple[tuple[int, int, bytes], ...]


@message
class ChangeMembers:
    """Ask for a change of members; each of `changes` is (action, node id, address), see `storage.ledger.changes`.

    Those that are named together are made together. The leader answers when the first step is in its log: the client
    then looks at the members until the change is complete, and asks again only if it is not.
    """

    changes: tuple[tuple[str, str, str], ...]
    force: bool = False
    """Whether to make a change even if those that answer would be no quorum."""
    dry_run: bool = False
    """Whether only to say what the change would do."""
    asked_by: tuple[str, ...] = ()
    """For whom the client speaks, if not for itself: name, identity, roles and address, as the audit has them. It gives
    no right to anything."""


@message
class MembersPlanned:
    """The encoded configurations of a change, the one before it first; `index` is that of the first step's entry.

    It is 0 if nothing was changed.
    """

    index: int
    configurations: tuple[bytes, ...]


@message
class GetMembers:
    """Ask for the members of the cluster, as the node knows them."""


@message
class Members:
    """The configuration in force, from the entry `index`, and the one that the cluster began with; both are encoded.

    The first is committed if `index` is at most `commit`.
    """

    node: str
    cluster: str
    leader: str
    index: int
    commit: int
    configuration: bytes
    initial: bytes
    skipped: str = ""
    """The log entries that the cluster skips, as in `Hello`."""


@message
class TransferLeadership:
    """Ask the leader to hand its leadership over to a voter.

    "" stands for the best one: it has all that is committed, then the highest priority, then most of the log.
    """

    target: str
    asked_by: tuple[str, ...] = ()
    """As in `ChangeMembers`."""


@message
class TransferStarted:
    """The leader of `term` hands its leadership over to `target`.

    It leads on if the target does not catch up within an election timeout, or then does not lead within another.
    """

    target: str
    term: int


@message
class MakeSnapshot:
    """Ask for a snapshot file whose state has applied the entry `min_index` at least; answered when it is durable.

    A newest file that has is the answer at once. A client that waits asks again within `WAIT_SECONDS` of
    `forge_consensus.actors.backups`, else the node forgets it.
    """

    min_index: int
    asked_by: tuple[str, ...] = ()
    """As in `ChangeMembers`."""


@message
class SnapshotMade:
    """The newest snapshot file of the node: the last entry that its state has applied, and its length in bytes."""

    node: str
    cluster: str
    index: int
    term: int
    size: int


@message
class ReadSnapshot:
    """Ask for a part of the snapshot file of (index, entry_term), from `offset` on, at most `size` bytes of it."""

    index: int
    entry_term: int
    offset: int
    size: int
    asked_by: tuple[str, ...] = ()
    """As in `ChangeMembers`."""


@message
class SnapshotPart:
    """A part of the snapshot file of (index, entry_term), from `offset` on; empty at the end of the file."""

    index: int
    entry_term: int
    offset: int
    data: bytes


@message
class ListSnapshots:
    """Ask for the snapshot files of the node."""


@message
class SnapshotList:
    """The snapshot files of the node, the newest first, each as (index, term, length in bytes)."""

    node: str
    snapshots: tuple[tuple[int, int, int], ...]


@message
class ReloadConfig:
    """Ask the node to read its own configuration again, from the places where it was given at the node's start.

    `dry_run` asks what would change, and changes nothing. Neither values nor paths come from the asker.
    """

    dry_run: bool = False
    asked_by: tuple[str, ...] = ()
    """As in `ChangeMembers`."""


@message
class ConfigReport:
    """The configuration was read again; the keys are those of `forge_consensus.config.changes.ReloadReport`."""

    fields: dict[str, Any]


Request = (
    Hello
    | RequestPreVote
    | RequestVote
    | AppendEntries
    | InstallSnapshot
    | CheckPeer
    | Locate
    | OpenSession
    | Submit
    | Read
    | GetStatus
    | ReadEvents
    | ChangeMembers
    | GetMembers
    | TransferLeadership
    | MakeSnapshot
    | ReadSnapshot
    | ListSnapshots
    | ReadLog
    | ReloadConfig
    | TimeoutNow
    | RequestReadIndex
)
Answer = (
    HelloReply
    | PreVoteReply
    | VoteReply
    | AppendReply
    | SnapshotReply
    | CheckPeerReply
    | Located
    | SessionOpened
    | Results
    | ReadResults
    | Status
    | Refused
    | EventPage
    | MembersPlanned
    | Members
    | TransferStarted
    | SnapshotMade
    | SnapshotPart
    | SnapshotList
    | LogPage
    | ConfigReport
    | ReadIndexReply
)
WireMessage = Request | Answer

WIRE_TAGS: dict[int, type[WireMessage]] = {
    1: Hello,
    2: HelloReply,
    3: RequestPreVote,
    4: PreVoteReply,
    5: RequestVote,
    6: VoteReply,
    7: AppendEntries,
    8: AppendReply,
    9: InstallSnapshot,
    10: SnapshotReply,
    11: CheckPeer,
    12: CheckPeerReply,
    13: TimeoutNow,
    14: RequestReadIndex,
    15: ReadIndexReply,
    32: Locate,
    33: Located,
    34: OpenSession,
    35: SessionOpened,
    36: Submit,
    37: Results,
    38: Read,
    39: ReadResults,
    40: GetStatus,
    41: Status,
    42: Refused,
    43: ReadEvents,
    44: EventPage,
    45: ChangeMembers,
    46: MembersPlanned,
    47: GetMembers,
    48: Members,
    49: TransferLeadership,
    50: TransferStarted,
    51: MakeSnapshot,
    52: SnapshotMade,
    53: ReadSnapshot,
    54: SnapshotPart,
    55: ListSnapshots,
    56: SnapshotList,
    57: ReadLog,
    58: LogPage,
    59: ReloadConfig,
    60: ConfigReport,
}

CLIENT_REQUESTS = (
    Locate,
    OpenSession,
    Submit,
    Read,
    GetStatus,
    ReadEvents,
    ChangeMembers,
    GetMembers,
    TransferLeadership,
    MakeSnapshot,
    ReadSnapshot,
    ListSnapshots,
    ReadLog,
    ReloadConfig,
)
"""The requests of clients. They reach only the gateway."""
