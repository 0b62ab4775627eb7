"""Waiting reads: linearizable reads that wait until a majority confirms that this node still leads (dissertation 6.4).

A leader numbers its rounds of AppendEntries. A read waits for a round that begins after the read was taken; followers
echo the round in their replies, and the replies of a majority to that round or a later one confirm the leader. What
another node asks for its own reads (`RequestReadIndex`) waits as one read.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from forge_consensus.actors.notices import ReadReady
from forge_consensus.actors.runtime.address import SenderAddress


class ReadConfirmed(NamedTuple):
    """An effect: answer the question of another node, its read round `number`, with the read index."""

    asker: SenderAddress
    number: int
    read_index: int


@dataclass(slots=True)
class WaitingRead:
    """One read: `ticket` names it to the gateway, `index` must be applied before it is answered.

    With an `asker` it is the question of that node, whose number is the `ticket`.

    `round` is the first round that began after the read was taken; only that one or a later one confirms it.
    """

    ticket: int
    round: int
    index: int
    asker: SenderAddress | None = None

    @property
    def ready(self) -> ReadReady | ReadConfirmed:
        """The effect that tells that it is confirmed."""
        if self.asker is None:
            return ReadReady(self.ticket, self.index)
        return ReadConfirmed(self.asker, self.ticket, self.index)


class WaitingReads:
    """The waiting reads of one leadership, oldest first, and the number of its newest round.

    Rounds never decrease from one read to the next, so confirmed reads are always at the front.
    """

    def __init__(self) -> None:
        self.round = 0
        self.round_wanted = False
        self.queue: deque[WaitingRead] = deque()
        self.questions: dict[tuple[str, int], WaitingRead] = {}
        """Those in the queue that other nodes ask, by node and number."""

    def add(self, ticket: int, index: int, asker: SenderAddress | None = None) -> None:
        """Add a read. It waits for a round that has not begun yet (I13).

        A question that is asked again while it waits stays where it is, because it is for the same reads as before: no
        number is used twice. Its answer echoes the newest request.
        """
        read = WaitingRead(ticket, self.round + 1, index, asker)
        if asker is not None:
            known = self.questions.setdefault((asker.node, ticket), read)
            if known is not read:
                known.asker = asker
                return
        self.queue.append(read)
        self.round_wanted = True

    def begin_round(self) -> bool:
        """Begin a new round if a read waits for one; returns whether a round began."""
        if not self.round_wanted:
            return False
        self.round_wanted = False
        self.round += 1
        return True

    def confirm(self, round_: int) -> list[ReadReady | ReadConfirmed]:
        """Remove the reads that are confirmed because a majority echoed `round_`; returns whom to tell."""
        ready = []
        while self.queue and self.queue[0].round <= round_:
            read = self.queue.popleft()
            if read.asker is not None:
                del self.questions[read.asker.node, read.ticket]
            ready.append(read.ready)
        return ready
