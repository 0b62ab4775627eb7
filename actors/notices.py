"""The notices: what the actors of one node tell each other; they never leave it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forge_consensus.actors.messages import AppendEntries
from forge_consensus.storage.applying import Applied
from forge_consensus.storage.ledger import Proposal
from forge_consensus.storage.snapshot_file import SnapshotInfo

# --- from the turn loop ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Begin: the ledger is open and everybody exists. `again` after the actors were rebuilt."""

    again: bool = False


@dataclass(frozen=True, slots=True)
class Rebuild:
    """An actor failed: make all of them anew, from the ledger."""

    reason: str


@dataclass(frozen=True, slots=True)
class TermRaised:
    """The term moved: whatever role was held in an earlier one is over."""

    term: int


@dataclass(frozen=True, slots=True)
class Persisted:
    """The log up to `index` is on disk; only this moves a leader's own match index."""

    term: int
    index: int


@dataclass(frozen=True, slots=True)
class CommitWasSlow:
    """A commit took so many seconds, longer than the minimal election timeout."""

    seconds: float


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The connection to a peer stands; nobody was greeted yet."""

    node: str


@dataclass(frozen=True, slots=True)
class PeerUp:
    """A peer answered the greeting: it may be spoken to."""

    node: str


@dataclass(frozen=True, slots=True)
class PeerDown:
    """The connection to a peer broke."""

    node: str


# --- about leading ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LeaderContact:
    """A leader of the present term was heard."""

    leader: str
    term: int


@dataclass(frozen=True, slots=True)
class LeaderChanged:
    """Who leads is known, or no longer known (None)."""

    leader: str | None
    term: int


@dataclass(frozen=True, slots=True)
class LeadershipBegan:
    """This node leads the term."""

    term: int


@dataclass(frozen=True, slots=True)
class LeadershipEnded:
    """This node led the term and no longer does."""

    term: int
    reason: str


@dataclass(frozen=True, slots=True)
class Resign:
    """Stop leading the term."""

    term: int
    reason: str


@dataclass(frozen=True, slots=True)
class FirstEntries:
    """A leader's entries that wait until the election actor has heard of it; `sender` is who gets the answer."""

    entries: AppendEntries
    sender: Any


# --- proposing, reading, applying ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Propose:
    """Put these into the log, if this node leads `term`."""

    ticket: int
    term: int
    proposals: list[Proposal]


@dataclass(frozen=True, slots=True)
class Proposed:
    """They are in the log as entries first..last."""

    ticket: int
    term: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class ProposeRefused:
    """They are not in the log, and why."""

    ticket: int
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class ReadIndex:
    """Say from which index on reads that were taken before this may be answered (dissertation 6.4)."""

    ticket: int
    lease: bool


@dataclass(frozen=True, slots=True)
class ReadReady:
    """From `index` on."""

    ticket: int
    index: int


@dataclass(frozen=True, slots=True)
class AppliedEntries:
    """These entries were applied, in order."""

    entries: list[Applied]


# --- snapshots -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerNeedsSnapshot:
    """What the peer needs next is compacted away."""

    node: str


@dataclass(frozen=True, slots=True)
class SnapshotSent:
    """The peer has the state of `index`, durably."""

    node: str
    index: int


@dataclass(frozen=True, slots=True)
class HoldApplying:
    """A user's machine is being restored elsewhere: apply nothing until told otherwise."""

    hold: bool


@dataclass(frozen=True, slots=True)
class SnapshotInstalled:
    """The state is that of a received snapshot."""

    index: int


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    """Take a snapshot now."""


@dataclass(frozen=True, slots=True)
class CaptureSnapshot:
    """The checkpoint is on disk: take the state."""


@dataclass(frozen=True, slots=True)
class SnapshotSaved:
    """The snapshot's file is durable, or `error` says why not."""

    info: SnapshotInfo | None
    error: str
    began: float


@dataclass(frozen=True, slots=True)
class CompactLog:
    """Cut the log behind the newest snapshot."""


@dataclass(frozen=True, slots=True)
class SweepLog:
    """Delete one slice of what was cut."""


@dataclass(frozen=True, slots=True)
class SnapshotChecked:
    """A file that a follower did not take was read again; `error` says what is wrong with it."""

    info: SnapshotInfo
    error: str


@dataclass(frozen=True, slots=True)
class SnapshotReceived:
    """A received file is complete and durable, or `error` says why not."""

    info: SnapshotInfo | None
    error: str


@dataclass(frozen=True, slots=True)
class InstallStep:
    """Move the next piece of a received snapshot into the ledger."""


@dataclass(frozen=True, slots=True)
class MachineRestored:
    """A user's machine took the snapshot, or `error` says why not."""

    error: str


# --- an actor's own alarms -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ElectionTimeout:
    """Perhaps the leader is gone."""


@dataclass(frozen=True, slots=True)
class HeartbeatDue:
    """Time to be heard; `term` is that of the leadership that set it."""

    term: int


@dataclass(frozen=True, slots=True)
class SendEntries:
    """Send what followers lack."""


@dataclass(frozen=True, slots=True)
class ApplyCommitted:
    """Apply one slice."""


@dataclass(frozen=True, slots=True)
class CheckHealth:
    """Ask the peers, and judge."""


@dataclass(frozen=True, slots=True)
class CheckSnapshots:
    """Look whether a snapshot is due or a chunk overdue."""


@dataclass(frozen=True, slots=True)
class LocateExpired:
    """The asker's patience is over."""

    number: int


@dataclass(frozen=True, slots=True)
class HelloDue:
    """Greet a peer again."""

    node: str


Notice = Any
"""Any of the above."""
