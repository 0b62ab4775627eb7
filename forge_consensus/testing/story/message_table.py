"""The message table: the last messages of a simulation, and the events of its nodes, in words."""

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
"""The number of lines between nodes that are printed."""
KEPT_OF_CLIENTS = 12
FRAMES_PER_LINE = 10
"""More frames are kept than lines are printed, because health checks are left out and heartbeats are merged."""
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
"""The kinds of notes of the timeline, besides frames, that are shown, and the text for each."""

Line = tuple[float, str, str, Any]
"""One event in memory: moment, from, to, and a frame, its bytes, or a text about a node.

Nothing is decoded until the table is printed."""
Roles = tuple[int, str, int | None]
"""The facts about a node that are shown when they change: term, vote, and the term that it leads."""
Arrivals = dict[tuple[str, str, bytes], list[float]]


class MessageTable:
    """Observes a cluster and keeps its last events, at little cost; `text` prints them.

    It must be among the watchers of a cluster before those that raise: `MessageTable.of(cluster)` puts it there.
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
        """Return a table that observes the cluster from now on."""
        messages = cls(cluster, kept)
        cluster.watchers.insert(0, messages)
        return messages

    # --- looking on --------------------------------------------------------------------------------------------------

    def began(self, node: SimulatedBase) -> None:
        """Note that a process of a node began, and which term, vote and log it found on its disk."""
        ledger = node.engine.ledger
        log = ledger.log
        self.roles[node.name] = (ledger.term, ledger.vote, None)
        text = f"starts, boot {ledger.identity.boot}: term {ledger.term}, vote {ledger.vote or '-'}, "
        self.happened(node, text + f"log {log.base_index}..{log.last}, commit {ledger.commit_index}")

    def ended(self, node: SimulatedBase, error: BaseException | None) -> None:
        """Note the end of a process."""
        why = type(error).__name__ if error is not None else "in order"
        if why == "SimulatedCrashError":
            why = node.crash_at.value if node.crash_at is not None else "between two turns"
        elif str(error):
            why += f": {error}"
        self.happened(node, f"ends: {why}")

    def replaced(self, name: str) -> None:
        """Note that the disk of a node that is down was replaced."""
        self.happenings.append((self.timeline.now, name, "", "its disk is replaced: by nothing, or by an older copy"))

    def durable(self, node: SimulatedBase, batch: Batch) -> None:
        """Record nothing, because the following messages show the purpose of the commit."""

    def asks(self, node: SimulatedBase, to: str, data: bytes) -> None:
        """Note a request that leaves."""
        self.frames.append((node.timeline.now + node.clock.ahead, node.name, to, data))

    def answers(self, node: SimulatedBase, connection: Connection, frame: Frame) -> None:
        """Note an answer that leaves."""
        self.frames.append((node.timeline.now + node.clock.ahead, node.name, connection.owner.name, frame))

    def turned(self, node: SimulatedBase) -> None:
        """Note a change of term, vote or role."""
        ledger = node.engine.ledger
        now = (ledger.term, ledger.vote, ledger.leading_term)
        if self.roles[node.name] != now:
            text = change(node.name, self.roles[node.name], now)
            self.roles[node.name] = now
            self.happened(node, text)

    def happened(self, node: SimulatedBase, text: str) -> None:
        """Record an event of a node."""
        self.happenings.append((node.timeline.now + node.clock.ahead, node.name, "", text))

    # --- printing ----------------------------------------------------------------------------------------------------

    def text(self) -> str:
        """Return the table, oldest line first."""
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
        """Return one line of the table, with its message decoded."""
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
    """A line of the table as it is printed; if it is about a node, `message` holds the whole text."""

    at: float
    sender: str
    receiver: str
    message: str
    says: str = ""
    fate: str = ""
    more: int = 0
    until: float = 0.0

    def repeats(self, other: Row) -> bool:
        """Return whether the other row is equal apart from its read round, and arrived likewise."""
        alike = self.says.split(ROUND)[0] == other.says.split(ROUND)[0]
        return alike and (self.fate == LOST) == (other.fate == LOST)

    def cells(self) -> tuple[str, ...]:
        """Return the texts of the columns: time, sender, receiver, message, and if known what it says and its fate."""
        who = f"{self.at:.6f}", self.sender, self.receiver
        if not self.says and not self.fate:
            return (*who, self.message)
        more = f"; {self.more} more like it until {self.until:.6f}" if self.more else ""
        return (*who, self.message, self.says, (self.fate + more).removeprefix("; "))


def collapsed(rows: Sequence[Row]) -> list[Row]:
    """Merge rows that repeat the last message of the same sender to the same receiver, as heartbeats do."""
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
    """Return the sort key of a line."""
    return line[0]


def of_health(what: Frame | bytes) -> bool:
    """Return whether a frame is a health check or its answer."""
    return b"\xa6health" in what[:16] if isinstance(what, bytes) else type(what.message) is CheckPeerReply


def change(name: str, before: Roles, now: Roles) -> str:
    """Return a change of term, vote or role in words."""
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
    """Align the columns of rows, head first; the last cell of a short row uses the space that is left."""
    lines = [head, *rows]
    widths = [
        max((len(line[column]) for line in lines if column < len(line) - (len(line) < len(head))), default=0)
        for column in range(len(head))
    ]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
