"""The gateway actor: receives the requests of clients, and packs the answers of a turn into few frames."""

from __future__ import annotations

from math import ceil
from typing import Any, Final

from forge_consensus.actors.messages import (
    CONSISTENCIES,
    LEASE,
    NEVER_MS,
    STALE,
    ChangeMembers,
    GetMembers,
    GetStatus,
    Locate,
    Located,
    Members,
    OpenSession,
    Read,
    ReadEvents,
    ReadResults,
    Refused,
    Results,
    SessionOpened,
    Status,
    Submit,
    TransferLeadership,
)
from forge_consensus.actors.notices import (
    AnswerQueries,
    Appended,
    AppliedEntries,
    ApplyCommitted,
    LeaderChanged,
    LeadershipEnded,
    LocateExpired,
    MembersRequested,
    QueriesAnswered,
    ReadIndex,
    ReadReady,
    ReadRefused,
    Start,
    TransferFailed,
    TransferRequested,
)
from forge_consensus.actors.raft.admission import Admission
from forge_consensus.actors.raft.answering import ANSWER_BYTES_MAX, RESULT_OVERHEAD_BYTES, Answering, Answers, Worked
from forge_consensus.actors.raft.capacity import Capacity
from forge_consensus.actors.raft.failed_commands import FailedCommands
from forge_consensus.actors.raft.journal_pages import page_of
from forge_consensus.actors.raft.slow_work import SlowWork
from forge_consensus.actors.raft.waiting import Applications, PendingRead, Result, WaitingBatch, WaitingRequests
from forge_consensus.actors.runtime.actor import ConsensusActor, Context
from forge_consensus.actors.runtime.address import SenderAddress
from forge_consensus.actors.runtime.refusals import CLIENT_READS_TOO_LITTLE
from forge_consensus.actors.runtime.status import NodeStatus
from forge_consensus.actors.runtime.timers import Timer
from forge_consensus.actors.runtime.unread import UNREAD_TEXT
from forge_consensus.errors import (
    BusyError,
    CommandTooLargeError,
    InvalidConfigError,
    NoLeaderError,
    NotLeaderError,
    OperationFailedError,
    OutcomeUnknownError,
    ProtocolError,
    StorageFullError,
)
from forge_consensus.events.types import QuerySlow
from forge_consensus.storage.ledger.ledger import Proposal
from forge_consensus.storage.ledger.levels import LEVEL_OF_KIND
from forge_consensus.storage.ledger.record import Kind
from forge_consensus.storage.machines.sessions import TTL_BYTES, TTL_MS_MAX

HELD_BYTES_MAX: Final = 16 << 20
HELD_MAX: Final = 10_000
"""So many frames of clients wait at most for the end of a handover; further ones are refused as busy."""
LOCATE_WAIT_MS_MAX: Final = 60_000
LOCATORS_MAX: Final = 10_000
"""While so many clients wait for a leader, further ones are answered at once with what is known."""
READ_WAIT_MS_MAX: Final = 600_000
NOT_YET: Final = (
    "the cluster is below feature level {}, which this needs: it rises when all members run the newer program"
)
LENT_SECONDS: Final = 0.01
"""How soon queries are tried again if another thread uses the machine: for actors that failed, or to restore it."""


class GatewayActor(ConsensusActor):
    """Owns the clients' requests in flight. Losing them is safe, because a session makes retries safe."""

    def __init__(self) -> None:
        super().__init__()
        self.ticket = 0
        self.slice_began = 0.0
        """When the last slice of queries was ordered, in seconds of real time."""
        self.waiting = WaitingRequests()
        self.failed_commands = FailedCommands()
        self.answer_due = False
        self.slow_work = SlowWork()
        self.held: list[tuple[SenderAddress, int, list[Proposal]]] = []
        """The commands that wait for the end of a handover."""
        self.held_bytes = 0
        self.locators: dict[int, tuple[SenderAddress, int, Timer]] = {}

    def bind(self, context: Context) -> None:
        """Take the context, and with it the clients that were waiting for an answer before a rebuild."""
        super().bind(context)
        self.unanswered = context.unanswered
        self.unread = context.unread
        self.admission = Admission(self.ledger.applier.machine)
        self.answering = Answering(self.ledger.applier)
        self.capacity = Capacity(self.ledger, self.waiting, self.settings)

    def receiveMsg_Start(self, message: Start, sender: Any) -> None:
        """Answer the clients whose requests the failed actors had taken: the outcome of these requests is unknown."""
        for asker in list(self.unanswered):
            self.refuse(asker, OutcomeUnknownError.code, "an actor failed and was rebuilt: ask again")

    # --- who leads ---------------------------------------------------------------------------------------------------

    def located(self) -> Located:
        """The leader as far as this node knows it, and the members."""
        leader = self.shared.leader or ""
        configuration = self.ledger.configuration
        identity = self.ledger.identity
        # With peers, the configuration's address is binding. A single node may listen at another address than at the
        # one that its folder was created with.
        alone = leader == identity.node_id and not self.others
        address = self.context.bind_address if alone else configuration.addresses.get(leader, "")
        return Located(
            node=identity.node_id,
            cluster=identity.cluster_id,
            leader=leader,
            address=address,
            term=self.shared.leader_term if leader else self.ledger.term,
            members=configuration.members,
            frame_bytes_max=self.settings.message_bytes_max,
        )

    def receiveMsg_Locate(self, message: Locate, sender: Any) -> None:
        """Answer as soon as a leader of a higher term than the client's is known, or when the client's wait is over."""
        known = self.shared.leader is not None and self.shared.leader_term > message.known_term
        if known or message.wait_ms == 0 or len(self.locators) >= LOCATORS_MAX:
            self.send(sender, self.located())
            return
        self.ticket += 1
        timer = self.after(min(message.wait_ms, LOCATE_WAIT_MS_MAX) / 1000, LocateExpired(self.ticket))
        self.locators[self.ticket] = (sender, message.known_term, timer)

    def receiveMsg_LocateExpired(self, message: LocateExpired, sender: Any) -> None:
        """Answer with what is known now, even if no leader is."""
        asker, _, _ = self.locators.pop(message.number)
        self.send(asker, self.located())

    def receiveMsg_LeaderChanged(self, message: LeaderChanged, sender: Any) -> None:
        """Answer the clients that wait for a leader."""
        if message.leader is None:
            return
        for number, (asker, known_term, timer) in list(self.locators.items()):
            if message.term > known_term:
                timer.cancel()
                del self.locators[number]
                self.send(asker, self.located())

    def receiveMsg_LeadershipEnded(self, message: LeadershipEnded, sender: Any) -> None:
        """Answer every waiting client. Its commands may still commit under another leader."""
        for asker, _, _ in self.release():
            self.refuse_leader(asker)
        for asker in self.waiting.drop_batches():
            self.refuse(asker, OutcomeUnknownError.code, f"this node no longer leads: {message.reason}")
        for asker in self.waiting.drop_reads():
            self.refuse_leader(asker)

    def refuse(self, asker: SenderAddress, code: str, text: str) -> None:
        """Refuse a whole request, and include the leader's address."""
        self.unanswered.settle(asker)
        known = self.located()
        self.send(asker, Refused(code, text, known.leader, known.address, known.term))

    def refuse_leader(self, asker: SenderAddress) -> None:
        """Refuse a request because this node does not lead; no part of it was carried out."""
        leader = self.shared.leader
        if leader is None:
            text = "no leader is known at this moment: an election goes on, or a majority is out of reach"
            self.refuse(asker, NoLeaderError.code, text)
        else:
            self.refuse(asker, NotLeaderError.code, f"{self.node_id} does not lead, {leader} does")

    def refuse_as_busy(self, asker: SenderAddress, text: str, count: int, numbers: tuple[int, ...] = ()) -> None:
        """Refuse `count` commands or queries, because too much waits already; no `numbers` mean all of the request."""
        self.totals.busy += count
        if not numbers:
            self.refuse(asker, BusyError.code, text)
            return
        known = self.located()
        self.send(asker, Refused(BusyError.code, text, known.leader, known.address, known.term, numbers))

    # --- commands ----------------------------------------------------------------------------------------------------

    def receiveMsg_Submit(self, message: Submit, sender: Any) -> None:
        """Propose a client's commands. Without a session they are refused, as they could be applied twice (I14)."""
        session, mark = message.session, message.done_below
        if not session:
            self.refuse(sender, ProtocolError.code, "commands are sent in a session: open one first, with OpenSession")
            return
        limit = self.settings.command_bytes_max
        large = tuple(seq for seq, data in message.commands if len(data) > limit)
        if large:
            text = f"a command is larger than the limit of {limit} bytes: split it, or raise command_bytes_max"
            self.send(sender, Refused(CommandTooLargeError.code, text, leader="", address="", term=0, numbers=large))
        refused = self.admission.refused(message.commands) if self.ledger.leading_term is not None else {}
        if refused:
            self.totals.commands_failed += len(refused)
            self.send_results(sender, session, list(refused.values()))
        proposals = [
            Proposal(Kind.COMMAND, session, seq, mark, data)
            for seq, data in message.commands
            if len(data) <= limit and seq not in refused
        ]
        if proposals:
            self.propose(sender, session, proposals)

    def receiveMsg_OpenSession(self, message: OpenSession, sender: Any) -> None:
        """Propose the log entry that opens a session; its index becomes the session's id."""
        ttl = min(max(message.ttl_ms, 1), TTL_MS_MAX).to_bytes(TTL_BYTES)
        self.propose(sender, 0, [Proposal(Kind.SESSION, 0, 0, 0, ttl)])

    def propose(self, asker: SenderAddress, session: int, proposals: list[Proposal]) -> None:
        """Append proposals if this node leads, and keep the client waiting until they are applied.

        The ledger checks that only a leader of the present term appends. The replication actor is notified, because it
        sends the entries to the followers and publishes `LogAppended`.
        """
        ledger, waiting = self.ledger, self.waiting
        term = ledger.leading_term
        if term is None:
            self.refuse_leader(asker)
            return
        room, busy = self.capacity.commands(asker, len(proposals))
        if self.shared.handover is not None and not busy and self.hold(asker, session, proposals):
            return
        if self.shared.handover is not None:
            room, busy = 0, f"the leadership is being handed over to {self.shared.handover.target}: try again"
        level = LEVEL_OF_KIND[proposals[0].kind]
        if not self.may_use(level):
            room, busy = 0, NOT_YET.format(level)
        if busy:
            proposals = self.first_of(asker, session, proposals, room, busy)
            if not proposals:
                return
        try:
            if self.shared.blocked:
                raise StorageFullError(self.shared.blocked)
            appended = self.append(term, asker, session, proposals)
        except StorageFullError as error:
            self.context.refuse(error.code, str(error))
            self.refuse(asker, error.code, str(error))
            return
        if appended is None:
            return
        waiting.add_batch(WaitingBatch(*appended, asker, session, self.context.observation.turn_began))
        self.unanswered.add(asker)
        self.tell("replication", Appended(*appended))

    def hold(self, asker: SenderAddress, session: int, proposals: list[Proposal]) -> bool:
        """Keep proposals until a handover is over, as long as there are not too many; returns whether it did."""
        size = sum(len(proposal.data) for proposal in proposals)
        if len(self.held) >= HELD_MAX or self.held_bytes + size > HELD_BYTES_MAX:
            return False
        self.held.append((asker, session, proposals))
        self.held_bytes += size
        self.unanswered.add(asker)
        return True

    def release(self) -> list[tuple[SenderAddress, int, list[Proposal]]]:
        """Take out what was held."""
        held, self.held, self.held_bytes = self.held, [], 0
        return held

    def append(
        self, term: int, asker: SenderAddress, session: int, proposals: list[Proposal]
    ) -> tuple[int, int] | None:
        """Append proposals, or as many of the first as may be uncommitted, and refuse the others as busy.

        Returns the first and the last index, None if nothing was appended. Raises `StorageFullError`.
        """
        try:
            return self.ledger.propose(term, proposals)
        except BusyError as error:
            first = self.first_of(asker, session, proposals, self.ledger.room_for(proposals), str(error))
            return self.ledger.propose(term, first) if first else None

    def first_of(
        self, asker: SenderAddress, session: int, proposals: list[Proposal], room: int, busy: str
    ) -> list[Proposal]:
        """Refuse all but the first `room` proposals of a client as busy; returns those."""
        numbers = tuple(proposal.seq for proposal in proposals[room:]) if session else ()
        self.refuse_as_busy(asker, busy, len(proposals) - room, numbers)
        return proposals[:room]

    def receiveMsg_AppliedEntries(self, message: AppliedEntries, sender: Any) -> None:
        """Answer the clients that wait for these entries, and the reads that wait for this state."""
        waiting = self.waiting
        if waiting.batches:
            self.answer_batches(waiting.take_applied(message.entries))
        if waiting.confirmed:
            self.answer_reads()

    def answer_batches(self, found: Applications) -> None:
        """Send the outcomes of this turn to the clients, and count them."""
        for asker, index in found.opened:
            self.send(asker, SessionOpened(index))
        for batch in found.finished:
            self.unanswered.settle(batch.asker)
            if batch.began and batch.session:
                self.context.observation.answered(batch.began, batch.count)
        for (_, session), (asker, results) in found.results.items():
            self.totals.commands += len(results)
            self.send_results(asker, session, results)
        if found.failed:
            self.totals.commands_failed += len(found.failed)
            self.failed_commands.tell(self.ledger.log, found.failed, self.clock.now())

    def send_results(self, asker: SenderAddress, session: int, results: list[Result]) -> None:
        """Send results in as few frames as `ANSWER_BYTES_MAX` allows.

        A client that has too much to read is not sent the rest: the session keeps it, and the client asks again.
        """
        start = size = 0
        for end, (_, _, payload) in enumerate(results, 1):
            size += len(payload) + RESULT_OVERHEAD_BYTES
            if size <= ANSWER_BYTES_MAX and end < len(results):
                continue
            if not self.unread.takes(asker.connection, size):
                self.refuse_unread(asker, OutcomeUnknownError.code)
                return
            self.send(asker, Results(session, tuple(results[start:end])))
            start, size = end, 0

    def refuse_unread(self, asker: SenderAddress, code: str, numbers: tuple[int, ...] = ()) -> None:
        """Send no results, because too many are unread on that connection."""
        self.context.refusals.count(CLIENT_READS_TOO_LITTLE)
        known = self.located()
        self.send(asker, Refused(code, UNREAD_TEXT, known.leader, known.address, known.term, numbers))

    # --- reads -------------------------------------------------------------------------------------------------------

    def receiveMsg_Read(self, message: Read, sender: Any) -> None:
        """Take the queries of a client; all but stale ones wait until the leader is confirmed or holds a lease."""
        stale = message.consistency == STALE
        if message.consistency not in CONSISTENCIES:
            text = f"consistency {message.consistency[:40]!r} is none of {', '.join(CONSISTENCIES)}"
            self.refuse(sender, InvalidConfigError.code, text)
            return
        if not stale and self.ledger.leading_term is None:
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
        wait_ns = min(message.wait_ms or READ_WAIT_MS_MAX, READ_WAIT_MS_MAX) * 1_000_000
        read = PendingRead(sender, queries, stale, self.clock.boottime_ns() + wait_ns)
        self.waiting.add_read(read)
        self.unanswered.add(sender)
        if stale:
            self.may_be_answered(read)
        else:
            self.ticket += 1
            self.waiting.unconfirmed[self.ticket] = read
            self.tell("replication", ReadIndex(self.ticket, lease=message.consistency == LEASE))

    def receiveMsg_ReadReady(self, message: ReadReady, sender: Any) -> None:
        """Note that the leader is confirmed, and answer the read if its index is applied."""
        self.waiting.confirm(message.ticket, message.index)
        self.answer_reads()

    def receiveMsg_ReadRefused(self, message: ReadRefused, sender: Any) -> None:
        """Refuse the read, because this node no longer leads. The end of the leadership may have refused it already."""
        read = self.waiting.unconfirmed.pop(message.ticket, None)
        if read is not None:
            self.waiting.drop_read(read)
            self.refuse_leader(read.asker)

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

    def send_answers(self, worked: Worked) -> None:
        """Send the answers of a slice, and count them."""
        waiting, totals = self.waiting, self.totals
        self.capacity.query_pace.note(worked.asked, worked.seconds)
        for answers in worked.answers:
            read, items = answers.read, answers.items
            size = sum(len(payload) + RESULT_OVERHEAD_BYTES for _, _, payload in items)
            if not self.unread.takes(read.asker.connection, size):
                self.refuse_reads(read.asker.connection)
                continue
            totals.reads += len(items)
            if waiting.answered(read, [number for number, _, _ in items]):
                self.unanswered.settle(read.asker)
            stale_ms = self.stale_ms_of(answers) if read.stale else 0
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

        A helper may begin long after its slice was ordered, with reads that came meanwhile.
        """
        if answers.applied != self.ledger.applied:
            return answers.stale_ms + ceil((self.clock.reading() - self.slice_began) * 1000)
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

    # --- handing the leadership over ---------------------------------------------------------------------------------

    def receiveMsg_TransferLeadership(self, message: TransferLeadership, sender: Any) -> None:
        """Hand a request for a handover to the election actor, if this node leads."""
        if self.ledger.leading_term is None:
            self.refuse_leader(sender)
        else:
            self.tell("election", TransferRequested(message.target, sender))

    def receiveMsg_TransferFailed(self, message: TransferFailed, sender: Any) -> None:
        """Propose what clients asked for while this node was about to hand over."""
        for asker, session, proposals in self.release():
            self.propose(asker, session, proposals)

    # --- members -----------------------------------------------------------------------------------------------------

    def receiveMsg_ChangeMembers(self, message: ChangeMembers, sender: Any) -> None:
        """Hand a change of members to the membership actor, if this node leads."""
        if self.ledger.leading_term is None:
            self.refuse_leader(sender)
        else:
            self.tell("membership", MembersRequested(message, sender))

    def receiveMsg_GetMembers(self, message: GetMembers, sender: Any) -> None:
        """Send the members as this node knows them."""
        ledger, opened = self.ledger, self.context.opened
        members = Members(
            node=self.node_id,
            cluster=ledger.identity.cluster_id,
            leader=self.shared.leader or "",
            index=ledger.configurations.last,
            commit=ledger.commit_index,
            configuration=ledger.configuration.encode(),
            initial=opened.initial.encode(),
            skipped=ledger.identity.skipped,
        )
        self.send(sender, members)

    # --- status and events -------------------------------------------------------------------------------------------

    def receiveMsg_GetStatus(self, message: GetStatus, sender: Any) -> None:
        """Send this node's status."""
        self.send(sender, Status(NodeStatus.whole(self.context, self.snapshots).to_dict()))

    def receiveMsg_ReadEvents(self, message: ReadEvents, sender: Any) -> None:
        """Send a page of past events from the journal."""
        page = page_of(message, self.ledger, self.context.events_address)
        if self.unread.takes(sender.connection, sum(len(data) + RESULT_OVERHEAD_BYTES for _, data in page.rows)):
            self.send(sender, page)
        else:
            self.refuse_unread(sender, BusyError.code)
