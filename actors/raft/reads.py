"""Waiting reads: linearizable reads that wait until a majority confirms that this node still leads (dissertation 6.4).

A leader numbers its rounds of AppendEntries. A read waits for a round that begins after the read was taken; followers
echo the round in their replies, and the replies of a majority to that round or a later one confirm the leader.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from forge_consensus.actors.notices import ReadReady


@dataclass(slots=True)
class WaitingRead:
    """One read: `ticket` names it to the gateway, `index` must be applied before it is answered.

    `round` is the first round that began after the read was taken; only that one or a later one confirms it.
    """

    ticket: int
    round: int
    index: int


class WaitingReads:
    """The waiting reads of one leadership, oldest first, and the number of its newest round.

    Rounds never decrease from one read to the next, so confirmed reads are always at the front.
    """

    def __init__(self) -> None:
        self.round = 0
        self.round_wanted = False
        self.queue: deque[WaitingRead] = deque()

    def add(self, ticket: int, index: int) -> None:
        """Add a read. It waits for a round that has not begun yet (I13)."""
        self.queue.append(WaitingRead(ticket, self.round + 1, index))
        self.round_wanted = True

    def begin_round(self) -> bool:
        """Begin a new round if a read waits for one; returns whether a round began."""
        if not self.round_wanted:
            return False
        self.round_wanted = False
        self.round += 1
        return True

    def confirm(self, round_: int) -> list[ReadReady]:
        """Remove the reads that are confirmed because a majority echoed `round_`; returns them for the gateway."""
        ready = []
        while self.queue and self.queue[0].round <= round_:
            read = self.queue.popleft()
            ready.append(ReadReady(read.ticket, read.index))
        return ready
