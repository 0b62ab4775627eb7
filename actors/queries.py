"""The queries of clients: taken, confirmed as their consistency asks, and answered in slices."""

from __future__ import annotations

from math import ceil, inf
from typing import Any, Final

from forge_consensus.actors.client_desk import ClientDesk
from forge_consensus.actors.messages import CONSISTENCIES, LEASE, NEVER_MS, STALE, Read, ReadResults
from forge_consensus.actors.notices import (
    AnswerQueries,
    ApplyCommitted,
    QueriesAnswered,
    ReadIndex,
    ReadReady,
    ReadRefused,
    ReadsDue,
    Retire,
    WakeQueries,
)
from forge_consensus.actors.raft.answering import RESULT_OVERHEAD_BYTES, Answering, Answers, Worked
from forge_consensus.actors.raft.slow_work import SlowWork
from forge_consensus.actors.raft.waiting import IN_TIME, PendingRead
from forge_consensus.actors.runtime.actor import Context
from forge_consensus.actors.runtime.timers import Timer
from forge_consensus.errors import (
    BusyError,
    InvalidConfigError,
    NoLeaderError,
    OperationFailedError,
    StaleReadError,
)
from forge_consensus.events.types import QuerySlow
from forge_consensus.storage.ledger.time_slice import NS

READ_WAIT_MS_MAX: Final = 600_000
LOOK_SECONDS_MIN: Final = 0.001
"""A shorter wait may be nothing beside the clock's own value, and would be over at once for ever."""
WAKE_SECONDS: Final = 0.01
"""Queries that wait for a change are woken so often at most, however often something changes."""
LENT_SECONDS: Final = 0.01
"""How soon queries are tried again if another thread uses the machine: for actors that failed, or to restore it."""


class QueryDesk(ClientDesk):
    """The part of the gateway that answers queries. They change nothing, so losing them is safe."""

    def __init__(self) -> None:
        super().__init__()
        self.slice_began = 0.0
        """When the last slice of queries was ordered, in seconds of real time."""
        self.answer_due = self.look_due = False
        self.wake_timer: Timer | None = None
        self.woken_at = -inf
        """When it was last looked which queries have waited for what changed, in seconds of real time."""
        self.slow_work = SlowWork()

    def bind(self, context: Context) -> None:
        """Take the context, and with it the machine that answers."""
        super().bind(context)
        self.answering = Answering(self.ledger.applier)

    def receiveMsg_Read(self, message: Read, sender: Any) -> None:
        """Take the queries of a client; all but stale ones wait until the leader is confirmed or holds a lease.

        A node that does not lead asks its leader for those, if the client allows it. Stale ones wait only for the entry
        that they name, if they name one.
        """
        stale = message.consistency == STALE
        if message.consistency not in CONSISTENCIES:
            text = f"consistency {message.consistency[:40]!r} is none of {', '.join(CONSISTENCIES)}"
            self.refuse(sender, InvalidConfigError.code, text)
            return
        leading = self.ledger.leading_term is not None
        if not (stale or leading or (message.by_follower and self.shared.leader is not None)):
            self.refuse_leader(sender)
            return
        queries = self.waiting.fresh_queries(sender.connection, message.queries)
        if not queries:
            if not message.queries:
                self.send(sender, ReadResults(self.ledger.applied, self.staleness_ms() if stale else 0, ()))
            return
        if busy := self.capacity.queries(sender, len(queries)):
            self.refuse_as_busy(sender, busy, len(queries))
            return
        wait_ms = min(message.wait_ms or READ_WAIT_MS_MAX, READ_WAIT_MS_MAX)
        read = PendingRead(sender, queries, stale, self.clock.boottime_ns() + wait_ms * 1_000_000)
        read.index, read.stale_ms_max = message.after_index, message.stale_ms_max
        if message.after_index or not (stale or leading):
            read.due = self.clock.now() + min(IN_TIME * wait_ms / 1000, self.settings.election_timeout_max)
        self.waiting.add_read(read)
        self.unanswered.add(sender)
        if not stale:
            self.ticket += 1
            self.waiting.unconfirmed[self.ticket] = read
            self.tell("replication", ReadIndex(self.ticket, lease=message.consistency == LEASE))
        elif read.index > self.ledger.applied:
            self.waiting.confirmed.append(read)
            self.look_after_reads()
        elif (stale_ms := self.staleness_ms()) > read.stale_ms_max:
            self.refuse_too_old(read, stale_ms)
        else:
            self.may_be_answered(read)

    def receiveMsg_ReadReady(self, message: ReadReady, sender: Any) -> None:
        """Note that the leader is confirmed, and answer the read if its index is applied."""
        self.waiting.confirm(message.ticket, message.index)
        self.answer_reads()
        self.look_after_reads()

    def receiveMsg_ReadRefused(self, message: ReadRefused, sender: Any) -> None:
        """Refuse the read, because nobody confirms it. The end of a leadership may have refused it already."""
        read = self.waiting.unconfirmed.pop(message.ticket, None)
        if read is None:
            return
        self.waiting.drop_read(read)
        if message.reason:
            self.refuse(read.asker, NoLeaderError.code, message.reason)
        else:
            self.refuse_leader(read.asker)

    def look_after_reads(self) -> None:
        """Look soon whether a read has waited for too long until its index is applied."""
        if self.look_due or not self.waiting.confirmed:
            return
        earliest = min(read.due for read in self.waiting.confirmed)
        if earliest < inf:
            self.look_due = True
            wait = max(LOOK_SECONDS_MIN, earliest - self.clock.now())
            self.after(min(wait, self.settings.heartbeat_interval), ReadsDue())

    def receiveMsg_ReadsDue(self, message: ReadsDue, sender: Any) -> None:
        """Refuse the reads whose index was not applied in time: another node may have it."""
        self.look_due = False
        for read in self.waiting.take_overdue(self.clock.now()):
            text = f"{self.node_id} has applied entry {self.ledger.applied}, and this read must see entry {read.index}"
            self.refuse_stale(read, text)
        self.look_after_reads()

    def refuse_stale(self, read: PendingRead, text: str) -> None:
        """Refuse what is left of a read, because the state is too old for it."""
        numbers = self.waiting.left_of(read)
        self.waiting.drop_read(read)
        self.unanswered.settle(read.asker)
        self.refuse_some(read.asker, StaleReadError.code, text, numbers)

    def answer_reads(self) -> None:
        """Answer the confirmed reads whose index is applied."""
        for read in self.waiting.take_readable(self.ledger.applied):
            self.may_be_answered(read)

    def may_be_answered(self, read: PendingRead) -> None:
        """Answer a read with the next slice of queries, which is worked on once the mailbox is otherwise empty."""
        self.answering.add(read)
        if not self.answer_due:
            self.answer_due = True
            self.send(self.myAddress, AnswerQueries())

    def receiveMsg_AnswerQueries(self, message: AnswerQueries, sender: Any) -> None:
        """Answer one slice of queries; the next slice is left to the next turn.

        A user's machine is lent to a helper thread, because nobody knows how long its queries take, and heartbeats must
        leave meanwhile. Nothing else uses the machine until it is given back.
        """
        applier, settings, clock_ns = self.ledger.applier, self.settings, self.clock.boottime_ns
        self.answer_due = bool(self.answering)
        if not self.answer_due:
            return
        if applier.lent:  # by an actor that failed
            self.after(LENT_SECONDS, AnswerQueries())
            return
        applied, stale_ms = self.ledger.applied, self.staleness_ms()
        self.slice_began = self.clock.reading()
        work, seconds, slow_seconds = self.answering.work, settings.slice_seconds, settings.heartbeat_interval
        if not applier.elsewhere or applier.replacing:
            self.send_answers(work(clock_ns, seconds, slow_seconds, applied, stale_ms))
            self.answer_more(LENT_SECONDS if applier.is_handed_a_snapshot else 0.0)
            return

        def give_back() -> None:
            applier.lent = False

        def work_elsewhere() -> Worked:
            try:
                return work(clock_ns, seconds, slow_seconds, applied, stale_ms)
            except BaseException as error:  # what is no `Exception` would end the helper without a report
                raise OperationFailedError(f"{type(error).__name__}: {error}") from error
            finally:
                give_back()

        applier.lent = True
        self.offload(work_elsewhere, QueriesAnswered, give_back)

    def receiveMsg_QueriesAnswered(self, message: QueriesAnswered, sender: Any) -> None:
        """Send the answers, and apply what has waited, for as long as the queries took, before the next slice of them.

        A snapshot that waits for the machine looks for it every `LENT_SECONDS`, and gets its turn too.

        Raises `OperationFailedError` if answering itself failed.
        """
        worked: Worked | None = message.worked
        if worked is None:
            raise OperationFailedError(f"queries could not be answered: {message.error}")
        self.send_answers(worked)
        self.tell("replication", ApplyCommitted())
        rest = min(worked.seconds, 1.0) if self.ledger.more_to_apply else 0.0
        self.answer_more(max(rest, 2 * LENT_SECONDS) if self.ledger.applier.wanted_back else rest)

    def answer_more(self, seconds: float) -> None:
        """Continue to answer queries after so many seconds, if there are more."""
        self.answer_due = bool(self.answering)
        if self.answer_due and seconds:
            self.after(seconds, AnswerQueries())
        elif self.answer_due:
            self.next_turn(AnswerQueries())

    # --- queries that wait for a change ------------------------------------------------------------------------------

    def wake_soon(self) -> None:
        """Look which of the queries that wait have an answer now: at once, but not too often."""
        wait = self.woken_at + WAKE_SECONDS - self.clock.now()
        self.wake_in(max(0.0, wait))

    def wake_in(self, seconds: float) -> None:
        """Look for such queries after so many seconds, or earlier if that is ordered already."""
        timer, at = self.wake_timer, self.clock.now() + seconds
        if timer is not None and timer.at <= at:
            return
        if timer is not None:
            timer.cancel()
        self.wake_timer = self.after(seconds, WakeQueries())

    def receiveMsg_WakeQueries(self, message: WakeQueries, sender: Any) -> None:
        """Answer the queries for which there is something, or that have waited for long enough."""
        self.wake_timer, self.woken_at = None, self.clock.now()
        self.answering.wake(self.clock.boottime_ns())
        self.answer_woken()

    def receiveMsg_Retire(self, message: Retire, sender: Any) -> None:
        """Answer the queries that wait with what there is, because the node stops soon."""
        self.answering.wake_all()
        self.answer_woken()

    def answer_woken(self) -> None:
        """Answer the queries that were woken, and look for the others when the first of them has waited long enough."""
        if self.answering and not self.answer_due:
            self.answer_due = True
            self.send(self.myAddress, AnswerQueries())
        self.look_after_kept()

    def look_after_kept(self) -> None:
        """Wake the next query when its wait is over."""
        self.waiting.kept = len(self.answering.kept)
        end_ns = self.answering.next_end_ns
        if end_ns is not None:
            self.wake_in(max(WAKE_SECONDS, (end_ns - self.clock.boottime_ns()) / NS))

    def send_answers(self, worked: Worked) -> None:
        """Send the answers of a slice, and count them."""
        waiting, totals = self.waiting, self.totals
        self.capacity.query_pace.note(worked.asked, worked.seconds)
        self.look_after_kept()
        for answers in worked.answers:
            read, items = answers.read, answers.items
            size = sum(len(payload) + RESULT_OVERHEAD_BYTES for _, _, payload in items)
            if not self.unread.takes(read.asker.connection, size):
                self.refuse_reads(read.asker.connection)
                continue
            stale_ms = self.stale_ms_of(answers) if read.stale else 0
            if stale_ms > read.stale_ms_max:
                self.refuse_too_old(read, stale_ms)
                continue
            totals.reads += len(items)
            if waiting.answered(read, [number for number, _, _ in items]):
                self.unanswered.settle(read.asker)
            self.send(read.asker, ReadResults(answers.applied, stale_ms, tuple(items)))
        for read in worked.late:
            waiting.drop_read(read)
            self.unanswered.settle(read.asker)
        if worked.slow:
            totals.slow_queries += worked.slow
            untold = self.slow_work.tell(self.clock.now(), worked.slow)
            if untold is not None:
                more = untold + worked.slow - 1
                self.publish(QuerySlow(query=worked.slowest, duration=worked.slowest_seconds, untold=more))

    def refuse_too_old(self, read: PendingRead, stale_ms: int) -> None:
        """Refuse what is left of a stale read, because the state may be older than its client accepts."""
        if read in self.waiting.reads:
            age = "of unknown age" if stale_ms >= NEVER_MS else f"up to {stale_ms} ms old"
            self.refuse_stale(
                read, f"the state of {self.node_id} is {age}, and at most {read.stale_ms_max} ms are accepted"
            )

    def refuse_reads(self, connection: Any) -> None:
        """Answer what is left of a connection's reads with busy, because too many answers are unread there."""
        for read in [read for read in self.waiting.reads if read.asker.connection == connection]:
            numbers = self.waiting.left_of(read)
            self.waiting.drop_read(read)
            self.unanswered.settle(read.asker)
            self.totals.busy += len(numbers)
            self.refuse_unread(read.asker, BusyError.code, numbers)

    def stale_ms_of(self, answers: Answers) -> int:
        """How old the state of these answers is now, at most: asking the machine may have taken a while.

        A helper may begin long after its slice was ordered, with reads that came meanwhile. An age that is not known
        stays `NEVER_MS`, so a read without a bound takes it.
        """
        if answers.applied != self.ledger.applied:
            later_ms = ceil((self.clock.reading() - self.slice_began) * 1000)
            return min(answers.stale_ms + later_ms, NEVER_MS)
        return max(answers.stale_ms, self.staleness_ms())

    def staleness_ms(self) -> int:
        """How old the applied state is at most: what was committed earlier than so many milliseconds ago is in it.

        It goes by what the state covers, not by when a leader was heard: a follower may hear its leader and take or
        apply nothing, and a leader that is cut off knows no more than its followers.
        """
        alone = self.ledger.leading_term is not None and not self.others
        if alone and self.ledger.applied == self.ledger.commit_index:
            return 0
        as_of = self.shared.freshness.as_of(self.ledger.applied)
        if as_of is None:
            return NEVER_MS
        return max(0, ceil((self.clock.reading() - as_of) * 1000))
