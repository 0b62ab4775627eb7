"""Forwarded reads: the reads of a node that does not lead, which asks its leader from which index on to answer them.

One question is under way at a time, a *read round*. Reads that arrive meanwhile wait for the next one and share it, so
the leader gets few questions however many reads there are, and it serves no data.

Why the answers are linearizable (I13): the question leaves after all reads of its round were taken, and the leader
answers from an index that covers everything that was committed when it got the question, after a majority has confirmed
it in a round of its own that began later. So the index covers everything that was acknowledged before any of those
reads began. This node answers from a state of its own that has applied that index. It stays a right answer however
late it is, in whatever term, because what is committed stays. Only the question is fenced: an answer counts for the
round with its number, from the leader and in the term that were asked. No number is used twice, because it begins with
the boot of this process. A question that is sent again has the same number, because it is for the same reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from forge_consensus.actors.messages import ReadIndexReply, RequestReadIndex
from forge_consensus.actors.notices import ReadIndex, ReadReady


class ForwardedRead(NamedTuple):
    """A read that waits: `asked` is the gateway's request, `since` when it came, in seconds of real time."""

    asked: ReadIndex
    since: float


@dataclass(slots=True)
class ReadRound:
    """One question to a leader, for all reads in it. It is sent again as it is while no answer comes."""

    number: int
    term: int
    leader: str
    reads: list[ForwardedRead]

    @property
    def request(self) -> RequestReadIndex:
        """The question; the leader may answer it by its lease only if every read in it may be."""
        return RequestReadIndex(self.term, self.number, all(read.asked.lease for read in self.reads))


class ForwardedReads:
    """The reads that wait for an answer of the leader: those of the round that is under way, and those behind it."""

    def __init__(self) -> None:
        self.round: ReadRound | None = None
        self.waiting: list[ForwardedRead] = []

    def __bool__(self) -> bool:
        """Whether any read waits."""
        return self.round is not None or bool(self.waiting)

    def add(self, asked: ReadIndex, now: float) -> None:
        """Add a read. It joins the next round that begins, never the one that is under way."""
        self.waiting.append(ForwardedRead(asked, now))

    def begin(self, number: int, term: int, leader: str) -> RequestReadIndex | None:
        """Begin a round of all waiting reads, unless one is under way or none waits; returns the question to send.

        `number` must be one that this node has never used.
        """
        if self.round is not None or not self.waiting:
            return None
        self.round = ReadRound(number, term, leader, self.waiting)
        self.waiting = []
        return self.round.request

    def answered(self, node: str, reply: ReadIndexReply) -> list[ReadReady]:
        """Take a node's answer; returns the reads that it confirms, none if it is not for the round under way.

        A node that does not confirm (index 0) ends the round: its reads wait for another one.
        """
        asked = self.round
        if asked is None or (node, reply.term, reply.number) != (asked.leader, asked.term, asked.number):
            return []
        if not reply.index:
            self.interrupt()
            return []
        self.round = None
        return [ReadReady(read.asked.ticket, reply.index) for read in asked.reads]

    def interrupt(self) -> None:
        """End the round without an answer, because its leader leads no more: its reads wait for another one."""
        if self.round is not None:
            self.waiting = [*self.round.reads, *self.waiting]
            self.round = None

    def take_all(self) -> list[ReadIndex]:
        """Forget the question that is under way, and return every read that waited for an answer."""
        self.interrupt()
        taken, self.waiting = self.waiting, []
        return [read.asked for read in taken]

    def take_late(self, before: float) -> list[ReadIndex]:
        """Take out the reads that came before that second."""
        reads = [*self.waiting, *(self.round.reads if self.round is not None else ())]
        late = [read.asked for read in reads if read.since <= before]
        if late:
            self.waiting = [read for read in self.waiting if read.since > before]
            if self.round is not None:
                self.round.reads = [read for read in self.round.reads if read.since > before]
                if not self.round.reads:
                    self.round = None
        return late
