"""The last messages of a simulation as a table that people read: who said what to whom, and what happened to nodes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from forge_consensus.actors.codec import Frame, decode, encode
from forge_consensus.actors.messages import CheckPeerReply
from forge_consensus.errors import ProtocolError
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.testing.story.message_words import ROUND, says
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.cluster import SimulatedCluster
from forge_consensus.testing.world.network import Connection

KEPT = 40
"""So many lines between nodes are printed."""
KEPT_OF_CLIENTS = 12
FRAMES_PER_LINE = 10
"""Of frames more are remembered than printed: health checks are left out and heartbeats taken together."""
LOST = "not yet, or lost"
FRAME_BYTES_MAX = 1 << 30
HAPPENINGS_MAX = 200
NODE_LINES = {
    "strike": "",
    "heal": "all faults end",
    "fault": "an actor raised: the turn is taken back",
    "down": "hears that its connection broke, to",
    "up": "connects to",
}
"""What the timeline notes besides frames and is shown, with what is said of it."""

Line = tuple[float, str, str, Any]
"""What happened, as it lies in memory: moment, from, to, and a frame, its bytes, or a text on what a node did.

Nothing is decoded before somebody reads it.
"""
Roles = tuple[int, str, int | None]
"""What of a node is told when it changes: term, vote, the term that it leads."""
Arrivals = dict[tuple[str, str, bytes], list[float]]


class MessageTable:
    """Looks on and remembers the last of what happened, cheaply; `text` prints it.

    It belongs to the watchers of a cluster, before those that raise: `MessageTable.of(cluster)` puts it there.
    """

    def __init__(self, cluster: SimulatedCluster, kept: int = KEPT) -> None:
        self.cluster = cluster
        self.names = cluster.names
        self.timeline = cluster.timeline
        self.kept = kept
        self.happenings: deque[Line] = deque(maxlen=HAPPENINGS_MAX)
        self.frames: deque[Line] = deque(maxlen=FRAMES_PER_LINE * kept)
        self.roles: dict[str, Roles] = {}

    @classmethod
    def of(cls, cluster: SimulatedCluster, kept: int = KEPT) -> MessageTable:
        """A table that looks on from now on."""
        messages = cls(cluster, kept)
        cluster.watchers.insert(0, messages)
        return messages

    # --- looking on --------------------------------------------------------------------------------------------------

    def began(self, node: SimulatedBase) -> None:
        """A process began."""
        ledger = node.engine.ledger
        log = ledger.log
        self.roles[node.name] = (ledger.term, ledger.vote, None)
        text = f"starts, boot {ledger.identity.boot}: term {ledger.term}, vote {ledger.vote or '-'}, "
        self.happened(node, text + f"log {log.base_index}..{log.last}, commit {ledger.commit_index}")

    def ended(self, node: SimulatedBase, error: BaseException | None) -> None:
        """It ended."""
        why = type(error).__name__ if error is not None else "in order"
        if why == "SimulatedCrashError":
            why = node.crash_at.value if node.crash_at is not None else "between two turns"
        elif str(error):
            why += f": {error}"
        self.happened(node, f"ends: {why}")

    def replaced(self, name: str) -> None:
        """The disk of a node that is down holds something else now."""
        self.happenings.append((self.timeline.now, name, "", "its disk is replaced: by nothing, or by an older copy"))

    def durable(self, node: SimulatedBase, batch: Batch) -> None:
        """A commit alone is no line: what it was for follows in messages."""

    def asks(self, node: SimulatedBase, to: str, data: bytes) -> None:
        """A request leaves."""
        self.frames.append((node.timeline.now + node.clock.ahead, node.name, to, data))

    def answers(self, node: SimulatedBase, connection: Connection, frame: Frame) -> None:
        """An answer leaves."""
        self.frames.append((node.timeline.now + node.clock.ahead, node.name, connection.owner.name, frame))

    def turned(self, node: SimulatedBase) -> None:
        """A turn ended: perhaps with another role, term or vote."""
        ledger = node.engine.ledger
        now = (ledger.term, ledger.vote, ledger.leading_term)
        if self.roles[node.name] != now:
            text = change(node.name, self.roles[node.name], now)
            self.roles[node.name] = now
            self.happened(node, text)

    def happened(self, node: SimulatedBase, text: str) -> None:
        """Remember what happened to a node."""
        self.happenings.append((node.timeline.now + node.clock.ahead, node.name, "", text))

    # --- printing ----------------------------------------------------------------------------------------------------

    def text(self) -> str:
        """The table, oldest line first."""
        nodes: list[Line] = []
        clients: list[Line] = []
        arrivals: Arrivals = {}
        for at, kind, who, data in self.timeline.noted:
            sender, _, receiver = who.partition(">")
            if kind in NODE_LINES:
                text = f"{NODE_LINES[kind]} {receiver}".rstrip()
                nodes.append((at, "", "", f"--- fault {who}") if kind == "strike" else (at, sender, "", text))
            elif kind == "frame" and sender in self.names:
                arrivals.setdefault((sender, receiver, data), []).append(at)
            elif kind == "frame":
                clients.append((at, sender, receiver, data))
        nodes += self.happenings
        for line in self.frames:
            at, sender, receiver, what = line
            if receiver not in self.names:
                clients.append(line)
            elif not of_health(what):
                nodes.append((at, sender, receiver, what if isinstance(what, bytes) else encode(what)))
        rows = collapsed([self.row(line, arrivals) for line in sorted(nodes, key=moment)])[-self.kept :]
        clients = [line for line in sorted(clients, key=moment) if rows and line[0] >= rows[0].at]
        rows += collapsed([self.row(line, arrivals) for line in clients])[-KEPT_OF_CLIENTS:]
        lines = [row.cells() for row in sorted(rows, key=lambda row: row.at)]
        return aligned(("time", "from", "to", "message", "what it says", "arrived after"), lines)

    def row(self, line: Line, arrivals: Arrivals) -> Row:
        """A line of the table."""
        at, sender, receiver, what = line
        if isinstance(what, str):
            return Row(at, sender, receiver, what)
        data = what if isinstance(what, bytes) else encode(what)
        try:
            message = decode(data, FRAME_BYTES_MAX).message
            words = type(message).__name__, says(message)
        except ProtocolError as error:
            words = f"{len(data)} bytes", str(error)
        arrived = [late - at for late in arrivals.get((sender, receiver, data), ()) if late >= at]
        fate = ", ".join(f"{late * 1000:.1f} ms" for late in arrived[:3]) + (" ..." if arrived[3:] else "")
        if not fate and receiver in self.names and sender in self.names:
            fate = LOST
        return Row(at, sender, receiver, *words, fate)


@dataclass(slots=True)
class Row:
    """A line of the table as it is printed; of what happened to a node `message` says all."""

    at: float
    sender: str
    receiver: str
    message: str
    says: str = ""
    fate: str = ""
    more: int = 0
    until: float = 0.0

    def repeats(self, other: Row) -> bool:
        """Whether it says the same, whatever its read round, with as much success."""
        alike = self.says.split(ROUND)[0] == other.says.split(ROUND)[0]
        return alike and (self.fate == LOST) == (other.fate == LOST)

    def cells(self) -> tuple[str, ...]:
        """The columns."""
        who = f"{self.at:.6f}", self.sender, self.receiver
        if not self.says and not self.fate:
            return (*who, self.message)
        more = f"; {self.more} more like it until {self.until:.6f}" if self.more else ""
        return (*who, self.message, self.says, (self.fate + more).removeprefix("; "))


def collapsed(rows: Sequence[Row]) -> list[Row]:
    """The rows without those that repeat what the same node last said to the same one, as heartbeats do."""
    last: dict[tuple[str, str, str], Row] = {}
    kept = []
    for row in rows:
        key = row.sender, row.receiver, row.message
        before = last.get(key)
        if row.says and before is not None and row.repeats(before):
            before.more += 1
            before.until = row.at
        else:
            last[key] = row
            kept.append(row)
    return kept


def moment(line: Line) -> float:
    """What lines are ordered by."""
    return line[0]


def of_health(what: Frame | bytes) -> bool:
    """Whether a frame is a health check or its answer."""
    return b"\xa6health" in what[:16] if isinstance(what, bytes) else type(what.message) is CheckPeerReply


def change(name: str, before: Roles, now: Roles) -> str:
    """What a change of term, vote or role means."""
    said = []
    (old_term, old_vote, old_leading), (term, vote, leading) = before, now
    if old_leading is not None and leading != old_leading:
        said.append(f"no longer leads term {old_leading}")
    if term != old_term:
        said.append(f"enters term {term}")
    if vote and (term, vote) != (old_term, old_vote):
        said.append("votes for itself" if vote == name else f"votes for {vote}")
    if leading is not None and leading != old_leading:
        said.append(f"LEADS term {leading}")
    return ", ".join(said) or f"forgets its vote of term {term}"


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines with the columns aligned, the head first; the last cell of a short row takes the room that is left."""
    lines = [head, *rows]
    widths = [
        max((len(line[column]) for line in lines if column < len(line) - (len(line) < len(head))), default=0)
        for column in range(len(head))
    ]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
