"""The messages: every word that actors, nodes and clients say to each other, as closed sets on one page.

Requests are imperative, answers are noun + ``Reply``. What travels between nodes and to clients is listed in
`WIRE_TAGS`, with the tag under which the codec writes it; new fields go last and have a default, tags are never reused.
Terms, indexes, boots and numbers are unsigned; the names are those of the Raft paper (figure 2 and figure 13).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def message(kind: type[T]) -> type[T]:
    """Make a class of messages: a dataclass that type checkers hold to be frozen.

    At run time it is not, since a frozen object takes three times as long to make, and a turn makes twenty.
    """
    return dataclass(slots=True, unsafe_hash=True)(kind)


# --- between nodes ---------------------------------------------------------------------------------------------------


@message
class Hello:
    """The first frame on a connection: who I am, and what I was started with."""

    incarnation: str
    boot: int
    address: str
    configuration_hash: str
    configuration: str
    """The initial configuration as text, for the error that shows both."""
    earlier: str = ""
    """The draws of the boots before this one, newest first: from which life of the folder this one descends."""


@message
class HelloReply:
    """The answer in kind; `reason` is empty when the greeting was accepted."""

    incarnation: str
    boot: int
    reason: str
    detail: str
    earlier: str = ""


@message
class RequestPreVote:
    """Say whether you would vote for me in `term`, which I have not entered yet (dissertation 9.6)."""

    term: int
    round: int
    last_index: int
    last_term: int


@message
class PreVoteReply:
    """`term` is the responder's own; only replies of the asker's present round count."""

    term: int
    round: int
    granted: bool


@message
class RequestVote:
    """Vote for me in `term` (paper 5.2, 5.4.1)."""

    term: int
    last_index: int
    last_term: int


@message
class VoteReply:
    """A vote, durable before this left."""

    term: int
    granted: bool


@message
class AppendEntries:
    """Entries that follow (prev_index, prev_term); without any it is the heartbeat (paper 5.3)."""

    term: int
    prev_index: int
    prev_term: int
    commit: int
    round: int
    """Read round (dissertation 6.4): a reply that echoes it confirms the leader for reads begun before it."""
    records: tuple[bytes, ...]


@message
class AppendReply:
    """On success `index` is the last entry that this request verified, and it is on the sender's disk.

    On refusal (index, entry_term) is the hint: the last entry of the follower, at or before the previous entry
    asked for, whose term is not above its term; it resolves a divergence in one round trip a term.
    """

    term: int
    success: bool
    index: int
    entry_term: int
    round: int


@message
class InstallSnapshot:
    """One chunk of the snapshot (index, entry_term), `offset` bytes into its file of `size` bytes (paper 7)."""

    term: int
    index: int
    entry_term: int
    offset: int
    size: int
    data: bytes


@message
class SnapshotReply:
    """The receiver wants the chunk at `offset` next; `done` says that the snapshot's state is durable there."""

    term: int
    index: int
    offset: int
    done: bool


@message
class CheckPeer:
    """Are you alive? Asked by every node of every other, whatever their roles."""

    number: int


@message
class CheckPeerReply:
    """I am."""

    number: int


# --- between clients and nodes ---------------------------------------------------------------------------------------


@message
class Locate:
    """Who leads? Held by the node up to `wait_ms` until it knows a leader in a term above `known_term`."""

    known_term: int
    wait_ms: int


@message
class Located:
    """`leader` is empty while nobody is known; `members` are (node id, address) pairs."""

    node: str
    cluster: str
    leader: str
    address: str
    term: int
    members: tuple[tuple[str, str], ...]


@message
class OpenSession:
    """Open a session that expires after `ttl_ms` without a command."""

    ttl_ms: int


@message
class SessionOpened:
    """The session's id is the index of the log entry that opened it."""

    session: int


@message
class Submit:
    """Commands of one session, packed: (sequence number, encoded command) each.

    Below `done_below` the client has every result and keeps none waiting.
    """

    session: int
    done_below: int
    commands: tuple[tuple[int, bytes], ...]


@message
class Results:
    """Outcomes of commands, packed a turn: (sequence number, error code or "", encoded result) each."""

    session: int
    items: tuple[tuple[int, str, bytes], ...]


@message
class Read:
    """Queries: (number, encoded query) each; consistency is ``linearizable``, ``lease`` or ``stale``."""

    consistency: str
    queries: tuple[tuple[int, bytes], ...]


@message
class ReadResults:
    """Answers: (number, error code or "", encoded result) each, as of `applied`, at most `stale_ms` old.

    `stale_ms` is the time since this node last heard from a leader, 0 on a leader and for confirmed reads;
    `NEVER_MS` says that it never heard from one in this boot.
    """

    applied: int
    stale_ms: int
    items: tuple[tuple[int, str, bytes], ...]


@message
class GetStatus:
    """Say how you fare."""


@message
class Status:
    """The node's own account; the keys are those of `forge_consensus.actors.runtime.status`."""

    fields: dict[str, Any]


@message
class Refused:
    """The whole request of that number was refused; `leader`, `address` and `term` help to find the leader.

    With the code CONSENSUS_OUTCOME_UNKNOWN some of it may have been carried out or may still be; with any other
    code nothing was. `numbers` are the commands or queries meant, all of the request's when empty.
    """

    code: str
    text: str
    leader: str
    address: str
    term: int
    numbers: tuple[int, ...] = ()


@message
class ReadEvents:
    """Tell again the events with numbers from `since` on, at most `limit`; `kinds` are patterns, none means all."""

    since: int
    limit: int
    kinds: tuple[str, ...] = ()


@message
class EventPage:
    """Events as (number, encoded event) each, ascending, and gaps as (first, last, reason).

    Numbers hold within one incarnation of the node. The page covers the numbers up to `next`, excluded; the newest
    that the node gave out is `end`, the oldest that it may still have `first`.
    """

    node: str
    cluster: str
    incarnation: str
    boot: int
    events_address: str
    """Where the node's publisher listens in this boot."""
    first: int
    next: int
    end: int
    rows: tuple[tuple[int, bytes], ...]
    gaps: tuple[tuple[int, int, str], ...]


NEVER_MS = 1 << 53
"""Longer than any node has run: it has not heard from a leader at all."""

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
}

CLIENT_REQUESTS = (Locate, OpenSession, Submit, Read, GetStatus, ReadEvents)
"""What a client may ask: it reaches only the gateway."""
