"""The notices: what the actors of one node tell each other; they never leave it."""

from __future__ import annotations

from typing import Any

from forge_consensus.actors.messages import AppendEntries, message
from forge_consensus.storage.ledger.applying import Applied
from forge_consensus.storage.ledger.ledger import Proposal
from forge_consensus.storage.snapshots.file import SnapshotInfo

# --- from the turn loop ----------------------------------------------------------------------------------------------


@message
class Start:
    """Begin: the ledger is open and everybody exists. `again` after the actors were rebuilt."""

    again: bool = False


@message
class Rebuild:
    """An actor failed: make all of them anew, from the ledger."""

    reason: str


@message
class TermRaised:
    """The term moved: whatever role was held in an earlier one is over."""

    term: int


@message
class Persisted:
    """The log up to `index` is on disk; only this moves a leader's own match index."""

    term: int
    index: int


@message
class CommitWasSlow:
    """A commit took so many seconds, longer than the minimal election timeout."""

    seconds: float


@message
class LinkUp:
    """The connection to a peer stands; nobody was greeted yet."""

    node: str


@message
class PeerUp:
    """A peer answered the greeting: it may be spoken to."""

    node: str


@message
class PeerDown:
    """The connection to a peer broke."""

    node: str


# --- about leading ---------------------------------------------------------------------------------------------------


@message
class LeaderContact:
    """A leader of the present term was heard."""

    leader: str
    term: int


@message
class LeaderChanged:
    """Who leads is known, or no longer known (None)."""

    leader: str | None
    term: int


@message
class LeadershipBegan:
    """This node leads the term."""

    term: int


@message
class LeadershipEnded:
    """This node led the term and no longer does."""

    term: int
    reason: str


@message
class Resign:
    """Stop leading the term."""

    term: int
    reason: str


@message
class FirstEntries:
    """A leader's entries that wait until the election actor has heard of it; `sender` is who gets the answer."""

    entries: AppendEntries
    sender: Any


# --- proposing, reading, applying ------------------------------------------------------------------------------------


@message
class Propose:
    """Put these into the log, if this node leads `term`."""

    ticket: int
    term: int
    proposals: list[Proposal]


@message
class Proposed:
    """They are in the log as entries first..last."""

    ticket: int
    term: int
    first: int
    last: int


@message
class ProposeRefused:
    """They are not in the log, and why."""

    ticket: int
    code: str
    text: str


@message
class ReadIndex:
    """Say from which index on reads that were taken before this may be answered (dissertation 6.4)."""

    ticket: int
    lease: bool


@message
class ReadReady:
    """From `index` on."""

    ticket: int
    index: int


@message
class AppliedEntries:
    """These entries were applied, in order."""

    entries: list[Applied]


# --- snapshots -------------------------------------------------------------------------------------------------------


@message
class PeerNeedsSnapshot:
    """What the peer needs next is compacted away."""

    node: str


@message
class SnapshotSent:
    """The peer has the state of `index`, durably."""

    node: str
    index: int


@message
class HoldApplying:
    """A user's machine is being restored elsewhere: apply nothing until told otherwise."""

    hold: bool


@message
class SnapshotInstalled:
    """The state is that of a received snapshot."""

    index: int


@message
class TakeSnapshot:
    """Take a snapshot now."""


@message
class CaptureSnapshot:
    """The checkpoint is on disk: take the state."""


@message
class SnapshotSaved:
    """The snapshot's file is durable, or `error` says why not."""

    info: SnapshotInfo | None
    error: str
    began: float


@message
class CompactLog:
    """Cut the log behind the newest snapshot."""


@message
class SweepLog:
    """Delete one slice of what was cut."""


@message
class SnapshotChecked:
    """A file that a follower did not take was read again; `error` says what is wrong with it."""

    info: SnapshotInfo
    error: str


@message
class SnapshotReceived:
    """A received file is complete and durable, or `error` says why not."""

    info: SnapshotInfo | None
    error: str


@message
class InstallStep:
    """Move the next piece of a received snapshot into the ledger."""


@message
class MachineRestored:
    """A user's machine took the snapshot, or `error` says why not."""

    error: str


# --- an actor's own alarms -------------------------------------------------------------------------------------------


@message
class ElectionTimeout:
    """Perhaps the leader is gone."""


@message
class HeartbeatDue:
    """Time to be heard; `term` is that of the leadership that set it."""

    term: int


@message
class SendEntries:
    """Send what followers lack."""


@message
class ApplyCommitted:
    """Apply one slice."""


@message
class CheckHealth:
    """Ask the peers, and judge."""


@message
class CheckSnapshots:
    """Look whether a snapshot is due or a chunk overdue."""


@message
class LocateExpired:
    """The asker's patience is over."""

    number: int


@message
class HelloDue:
    """Greet a peer again."""

    node: str
