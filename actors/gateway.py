"""The gateway actor: receives the requests of clients, and packs the answers of a turn into few frames."""

from __future__ import annotations

from typing import Any, Final

from forge_consensus.actors.backups import BackupDesk
from forge_consensus.actors.messages import (
    ChangeMembers,
    ConfigReport,
    GetMembers,
    GetStatus,
    Locate,
    Members,
    OpenSession,
    ReadEvents,
    ReadLog,
    Refused,
    ReloadConfig,
    Results,
    SessionOpened,
    Status,
    Submit,
    TransferLeadership,
)
from forge_consensus.actors.notices import (
    Appended,
    AppliedEntries,
    ConfigRead,
    LeaderChanged,
    LeadershipEnded,
    LocateExpired,
    MembersRequested,
    Start,
    TransferFailed,
    TransferRequested,
)
from forge_consensus.actors.raft.admission import Admission
from forge_consensus.actors.raft.answering import ANSWER_BYTES_MAX, RESULT_OVERHEAD_BYTES
from forge_consensus.actors.raft.failed_commands import FailedCommands
from forge_consensus.actors.raft.journal_pages import page_of
from forge_consensus.actors.raft.log_pages import log_page
from forge_consensus.actors.raft.session_claims import ANOTHERS, is_anothers
from forge_consensus.actors.raft.waiting import Applications, Result, WaitingBatch
from forge_consensus.actors.runtime.actor import Context
from forge_consensus.actors.runtime.address import SenderAddress
from forge_consensus.actors.runtime.status import NodeStatus
from forge_consensus.actors.runtime.timers import Timer
from forge_consensus.errors import (
    BusyError,
    CommandTooLargeError,
    ConsensusError,
    CorruptionError,
    InvalidConfigError,
    OperationFailedError,
    OutcomeUnknownError,
    ProtocolError,
    SessionExpiredError,
    StorageFullError,
)
from forge_consensus.storage.ledger.ledger import Proposal
from forge_consensus.storage.ledger.levels import LEVEL_OF_KIND
from forge_consensus.storage.ledger.record import Kind
from forge_consensus.storage.machines.session_owner import opening, owner_of
from forge_consensus.storage.machines.sessions import TTL_MS_MAX

HELD_BYTES_MAX: Final = 16 << 20
HELD_MAX: Final = 10_000
"""So many frames of clients wait at most for the end of a handover; further ones are refused as busy."""
LOCATE_WAIT_MS_MAX: Final = 60_000
LOCATORS_MAX: Final = 10_000
"""While so many clients wait for a leader, further ones are answered at once with what is known."""
RELOADS_MAX: Final = 16
"""So many clients wait at most for the configuration to be read; further ones are refused as busy."""
PROBLEMS_CHARS_MAX: Final = 32_000
"""Faults of a configuration are told up to this length, because a frame's text has a bound."""
NO_SOURCE: Final = (
    "this node was given its settings by a program, and nothing that it could read again: change them there"
)
NOT_YET: Final = (
    "the cluster is below feature level {}, which this needs: it rises when all members run the newer program"
)


class GatewayActor(BackupDesk):
    """Owns the clients' requests in flight. Losing them is safe, because a session makes retries safe."""

    def __init__(self) -> None:
        super().__init__()
        self.failed_commands = FailedCommands()
        self.held: list[tuple[SenderAddress, int, list[Proposal]]] = []
        """The commands that wait for the end of a handover."""
        self.held_bytes = 0
        self.locators: dict[int, tuple[SenderAddress, int, Timer]] = {}
        self.reloads = 0
        """How many clients wait for the configuration to be read."""

    def bind(self, context: Context) -> None:
        """Take the context, and with it the machine that may refuse commands."""
        super().bind(context)
        self.admission = Admission(self.ledger.applier.machine)

    def receiveMsg_Start(self, message: Start, sender: Any) -> None:
        """Answer the clients whose requests the failed actors had taken: the outcome of these requests is unknown."""
        for asker in list(self.unanswered):
            self.refuse(asker, OutcomeUnknownError.code, "an actor failed and was rebuilt: ask again")

    # --- who leads ---------------------------------------------------------------------------------------------------

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
        ttl_ms = min(max(message.ttl_ms, 1), TTL_MS_MAX)
        self.propose(sender, 0, [Proposal(Kind.SESSION, 0, 0, 0, opening(ttl_ms, owner_of(sender.identity)))])

    def propose(self, asker: SenderAddress, session: int, proposals: list[Proposal]) -> None:
        """Append proposals if this node leads, and keep the client waiting until they are applied.

        The ledger checks that only a leader of the present term appends. The replication actor is notified, because it
        sends the entries to the followers and publishes `LogAppended`.
        """
        ledger, waiting = self.ledger, self.waiting
        term = ledger.leading_term
        if term is None or is_anothers(ledger, session, asker.identity):
            self.refuse_proposals(asker, session)
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

    def refuse_proposals(self, asker: SenderAddress, session: int) -> None:
        """Refuse all proposals of a client, because this node does not lead, or the session is somebody else's."""
        if self.ledger.leading_term is None:
            self.refuse_leader(asker)
            return
        self.context.refuse(ANOTHERS, f"client {asker.identity} sent commands in session {session} of somebody else")
        self.refuse(asker, SessionExpiredError.code, f"{asker.identity} has no session {session}: open one of your own")

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
            applied = message.entries[-1].index if message.entries else 0
            self.answer_batches(waiting.take_applied(message.entries), applied)
        if waiting.confirmed:
            self.answer_reads()
        if waiting.kept:
            self.wake_soon()

    def answer_batches(self, found: Applications, applied: int) -> None:
        """Send the outcomes of entries up to `applied` to the clients, and count them."""
        for asker, index in found.opened:
            self.send(asker, SessionOpened(index))
        for batch in found.finished:
            self.unanswered.settle(batch.asker)
            if batch.began and batch.session:
                self.context.observation.answered(batch.began, batch.count)
        for (_, session), (asker, results) in found.results.items():
            self.totals.commands += len(results)
            self.send_results(asker, session, results, applied)
        if found.failed:
            self.totals.commands_failed += len(found.failed)
            self.failed_commands.tell(self.ledger.log, found.failed, self.clock.now())

    def send_results(self, asker: SenderAddress, session: int, results: list[Result], applied: int = 0) -> None:
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
            self.send(asker, Results(session, tuple(results[start:end]), applied))
            start, size = end, 0

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

    def receiveMsg_ReloadConfig(self, message: ReloadConfig, sender: Any) -> None:
        """Have the configuration read again, elsewhere, because a disk may be slow."""
        reload = self.context.reload_configuration
        if reload is None:
            self.refuse(sender, InvalidConfigError.code, NO_SOURCE)
            return
        if self.reloads >= RELOADS_MAX:
            self.refuse(sender, BusyError.code, f"{RELOADS_MAX} clients wait for the configuration already: try again")
            return
        self.reloads += 1

        def read() -> tuple[dict[str, Any] | None, str, str]:
            try:
                return reload(message.dry_run), "", ""
            except ConsensusError as error:
                return None, error.code, str(error)

        def done(found: tuple[dict[str, Any] | None, str, str] | None, error: str) -> ConfigRead:
            return ConfigRead(*(found or (None, OperationFailedError.code, error)), sender)

        self.offload(read, done)

    def receiveMsg_ConfigRead(self, message: ConfigRead, sender: Any) -> None:
        """Tell a client what became of the configuration."""
        self.reloads -= 1
        if message.fields is None:
            text = message.text
            if len(text) > PROBLEMS_CHARS_MAX:
                text = f"{text[:PROBLEMS_CHARS_MAX]}... (the node's log and forge-consensus config validate tell all)"
            self.refuse(message.asker, message.code, text)
        else:
            self.send(message.asker, ConfigReport(message.fields))

    def receiveMsg_ReadEvents(self, message: ReadEvents, sender: Any) -> None:
        """Send a page of past events from the journal."""
        page = page_of(message, self.ledger, self.context.events_address)
        if self.unread.takes(sender.connection, sum(len(data) + RESULT_OVERHEAD_BYTES for _, data in page.rows)):
            self.send(sender, page)
        else:
            self.refuse_unread(sender, BusyError.code)

    def receiveMsg_ReadLog(self, message: ReadLog, sender: Any) -> None:
        """Send a page of the log."""
        try:
            page = log_page(message, self.ledger)
        except CorruptionError as error:  # a look at old entries ends no node
            self.refuse(sender, error.code, str(error))
            return
        if self.unread.takes(sender.connection, sum(len(data) + RESULT_OVERHEAD_BYTES for *_, data in page.rows)):
            self.send(sender, page)
        else:
            self.refuse_unread(sender, BusyError.code)
