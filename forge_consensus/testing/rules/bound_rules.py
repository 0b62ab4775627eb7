"""The rules of bounds: what a node sends to a client in one frame, what a leader takes, and what a refusal costs."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from forge_consensus.actors.messages import ReadResults, Results, SnapshotReply
from forge_consensus.actors.raft.answering import ANSWER_BYTES_MAX, RESULT_OVERHEAD_BYTES
from forge_consensus.storage.ledger.record import Kind, Record, parse
from forge_consensus.testing.rules.violations import demand
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.network import Connection

REFUSALS_MAX = 40
"""A follower refuses snapshots no more often in a while, on one connection: network faults deliver some twice."""
CHUNK_TIMEOUTS = 10
"""How long that while is. With pauses that double, a leader tries again four times in it."""


@dataclass(slots=True)
class Refusals:
    """The snapshots that a node has refused on one connection in one term, by the moment."""

    connection: Connection
    term: int = 0
    moments: deque[float] = field(default_factory=deque)


class RefusalRules:
    """Demands that a leader does not send a follower at full speed what the follower cannot take."""

    def __init__(self) -> None:
        self.refusals: dict[str, Refusals] = {}
        """The newest of each node; a leader that connects anew may try at once."""

    def answers(self, node: SimulatedBase, connection: Connection, message: SnapshotReply) -> None:
        """Note a refusal that leaves a node."""
        now, found = node.timeline.now, self.refusals.get(node.name)
        if found is None or found.connection is not connection or found.term != message.term:
            found = self.refusals[node.name] = Refusals(connection, message.term)
        moments, seconds = found.moments, CHUNK_TIMEOUTS * node.engine.settings.chunk_timeout
        moments.append(now)
        while moments[0] < now - seconds:
            moments.popleft()
        demand(
            len(moments) <= REFUSALS_MAX,
            "refusal",
            f"{connection.owner.name} has sent {node.name} {len(moments)} snapshots in {seconds:.3f} s, and each was "
            f"refused: {message.refusal}",
        )


def check_answer(node: SimulatedBase, message: Results | ReadResults) -> None:
    """Demand that a frame of answers ends at its limit of bytes, which only its last answer exceeds."""
    items = message.items
    if len(items) < 2:
        return
    size = sum([len(payload) for _, _, payload in items[:-1]]) + RESULT_OVERHEAD_BYTES * (len(items) - 1)
    demand(
        size <= ANSWER_BYTES_MAX,
        "answer",
        f"{node.name} adds an answer to a frame that has {size} bytes of answers already",
    )


def check_backlog(node: SimulatedBase) -> None:
    """Demand that a leader took no command of a client for which its state machine has no room."""
    ledger, most = node.engine.ledger, node.engine.settings.backlog_entries_max
    log, waits = ledger.log, ledger.log.last - ledger.applier.index
    if waits <= most:
        return
    newest = parse(log.last, log.get(log.last))
    demand(
        newest.term != ledger.leading_term or not is_of_client(newest),
        "backlog",
        f"{node.name}, leading {ledger.leading_term}, takes command {log.last} while it has applied "
        f"{ledger.applier.index} only: {waits} entries wait for the state machine, at most {most} may",
    )


def is_of_client(entry: Record) -> bool:
    """Whether a leader proposed an entry for a client; a command in no session is its own, by which leases expire."""
    return entry.kind == Kind.SESSION or (entry.kind == Kind.COMMAND and entry.session != 0)
