"""The gateway actor: the door for clients; it knows who waits for what and packs their answers a turn."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Any

import msgpack

from forge_consensus.actors.messages import (
    NEVER_MS,
    GetStatus,
    Locate,
    Located,
    OpenSession,
    Read,
    ReadEvents,
    ReadResults,
    Refused,
    Results,
    SessionOpened,
    Status,
    Submit,
)
from forge_consensus.actors.notices import (
    AppliedEntries,
    LeaderChanged,
    LeadershipEnded,
    LocateExpired,
    Propose,
    Proposed,
    ProposeRefused,
    ReadIndex,
    ReadReady,
    Start,
)
from forge_consensus.actors.raft.failed_commands import FailedCommands
from forge_consensus.actors.raft.journal_pages import page_of
from forge_consensus.actors.runtime.actor import ConsensusActor, Context
from forge_consensus.actors.runtime.address import SenderAddress
from forge_consensus.actors.runtime.status import NodeStatus
from forge_consensus.actors.runtime.timers import Timer
from forge_consensus.errors import (
    BusyError,
    CommandTooLargeError,
    InvalidConfigError,
    NoLeaderError,
    NotLeaderError,
    OutcomeUnknownError,
    ProtocolError,
    StaleTermError,
    UnavailableError,
)
from forge_consensus.storage.ledger.applying import Applied
from forge_consensus.storage.ledger.ledger import Proposal
from forge_consensus.storage.ledger.record import Kind
from forge_consensus.storage.machines.machine import Outcome, failure, outcome_of, refusal

TTL_BYTES = 8
TTL_MS_MAX = 24 * 3600 * 1000
ANSWER_BYTES_MAX = 1 << 20
"""One frame of answers holds about so much."""
CONSISTENCIES = ("linearizable", "lease", "stale")


@dataclass(slots=True)
class Run:
    """Entries first..last, proposed for one client's frame."""

    first: int
    last: int
    asker: SenderAddress
    session: int
    began: float = 0.0
    """When the turn that took it in began, if somebody observes turns."""


@dataclass(slots=True)
class Question:
    """Queries of one frame that may be answered from `index` on."""

    asker: SenderAddress
    queries: tuple[tuple[int, bytes], ...]
    index: int = 0


class GatewayActor(ConsensusActor):
    """Owns the requests in flight. What it forgets a client may ask again: its session makes that safe."""

    def __init__(self) -> None:
        super().__init__()
        self.ticket = 0
        self.proposals: dict[int, tuple[SenderAddress, int, int]] = {}
        self.runs: deque[Run] = deque()
        self.outstanding: defaultdict[Any, int] = defaultdict(int)
        self.questions: dict[int, Question] = {}
        self.answerable: list[Question] = []
        self.failed_commands = FailedCommands()
        self.locators: dict[int, tuple[SenderAddress, int, Timer]] = {}

    def bind(self, context: Context) -> None:
        """Take the context."""
        super().bind(context)
        self.unanswered = context.unanswered

    def receiveMsg_Start(self, message: Start, sender: Any) -> None:
        """After a fault nobody knows what became of what was asked."""
        for asker in list(self.unanswered):
            self.refuse(asker, OutcomeUnknownError.code, "an actor failed and was rebuilt: ask again")

    # --- who leads ---------------------------------------------------------------------------------------------------

    def located(self) -> Located:
        """What this node knows of the leader."""
        leader = self.shared.leader or ""
        configuration = self.ledger.configuration
        identity = self.ledger.identity
        return Located(
            identity.node_id,
            identity.cluster_id,
            leader,
            # Alone, a node may listen elsewhere than when its folder was made; with peers the address is a promise.
            self.context.bind_address if not self.others else configuration.addresses.get(leader, ""),
            self.shared.leader_term if leader else self.ledger.term,
            configuration.members,
        )

    def receiveMsg_Locate(self, message: Locate, sender: Any) -> None:
        """Answer when a leader of a higher term is known, or when the asker's patience ends."""
        known = self.shared.leader is not None and self.shared.leader_term > message.known_term
        if known or message.wait_ms == 0:
            self.send(sender, self.located())
            return
        self.ticket += 1
        timer = self.after(min(message.wait_ms, 60_000) / 1000, LocateExpired(self.ticket))
        self.locators[self.ticket] = (sender, message.known_term, timer)

    def receiveMsg_LocateExpired(self, message: LocateExpired, sender: Any) -> None:
        """Say what is known, be it nothing."""
        asker, _, _ = self.locators.pop(message.number)
        self.send(asker, self.located())

    def receiveMsg_LeaderChanged(self, message: LeaderChanged, sender: Any) -> None:
        """Tell those who waited for a leader."""
        if message.leader is None:
            return
        for number, (asker, known_term, timer) in list(self.locators.items()):
            if message.term > known_term:
                timer.cancel()
                del self.locators[number]
                self.send(asker, self.located())

    def receiveMsg_LeadershipEnded(self, message: LeadershipEnded, sender: Any) -> None:
        """What was proposed may still commit under another leader, or may not."""
        for run in self.runs:
            self.refuse(run.asker, OutcomeUnknownError.code, f"this node no longer leads: {message.reason}")
        self.runs.clear()
        self.outstanding.clear()
        for question in [*self.questions.values(), *self.answerable]:
            self.refuse_leader(question.asker)
        self.questions.clear()
        self.answerable.clear()

    def refuse(self, asker: SenderAddress, code: str, text: str) -> None:
        """Refuse a whole request, and help to find the leader."""
        self.unanswered.settle(asker)
        known = self.located()
        self.send(asker, Refused(code, text, known.leader, known.address, known.term))

    def refuse_leader(self, asker: SenderAddress) -> None:
        """This node does not lead; nothing of the request was done."""
        leader = self.shared.leader
        if leader is None:
            text = "no leader is known at this moment: an election goes on, or a majority is out of reach"
            self.refuse(asker, NoLeaderError.code, text)
        else:
            node = self.ledger.identity.node_id
            self.refuse(asker, NotLeaderError.code, f"{node} does not lead, {leader} does")

    # --- commands ----------------------------------------------------------------------------------------------------

    def receiveMsg_Submit(self, message: Submit, sender: Any) -> None:
        """Put a client's commands into the log; outside a session none would be applied at most once (I14)."""
        session, mark = message.session, message.done_below
        if not session:
            self.refuse(sender, ProtocolError.code, "commands are sent in a session: open one first, with OpenSession")
            return
        limit = self.options.command_bytes_max
        large = tuple(seq for seq, data in message.commands if len(data) > limit)
        if large:
            text = f"a command is larger than the limit of {limit} bytes: split it, or raise command_bytes_max"
            self.send(sender, Refused(CommandTooLargeError.code, text, "", "", 0, large))
        proposals = [
            Proposal(Kind.COMMAND, session, seq, mark, data) for seq, data in message.commands if len(data) <= limit
        ]
        if proposals:
            self.propose(sender, session, proposals)

    def receiveMsg_OpenSession(self, message: OpenSession, sender: Any) -> None:
        """A session is opened by a log entry, whose index is its id."""
        ttl = min(max(message.ttl_ms, 1), TTL_MS_MAX).to_bytes(TTL_BYTES)
        self.propose(sender, 0, [Proposal(Kind.SESSION, 0, 0, 0, ttl)])

    def propose(self, asker: SenderAddress, session: int, proposals: list[Proposal]) -> None:
        """Hand proposals to the replication actor, if this node leads and the client has room left."""
        term = self.ledger.leading
        if term is None:
            self.refuse_leader(asker)
            return
        held = self.outstanding[asker.connection] + len(proposals)
        if held > self.options.outstanding_max:
            text = f"{held} commands of this client wait: at most {self.options.outstanding_max} may"
            self.refuse(asker, BusyError.code, text)
            return
        self.outstanding[asker.connection] = held
        self.ticket += 1
        self.proposals[self.ticket] = (asker, session, len(proposals))
        self.unanswered.add(asker)
        self.tell("replication", Propose(self.ticket, term, proposals))

    def receiveMsg_Proposed(self, message: Proposed, sender: Any) -> None:
        """They are entries now; wait until those are applied."""
        asker, session, _ = self.proposals.pop(message.ticket)
        self.runs.append(Run(message.first, message.last, asker, session, self.context.observation.turn_began))

    def receiveMsg_ProposeRefused(self, message: ProposeRefused, sender: Any) -> None:
        """Nothing of it was done."""
        question = self.questions.pop(message.ticket, None)
        if question is not None:
            self.refuse_leader(question.asker)
            return
        if (waiting := self.proposals.pop(message.ticket, None)) is None:
            return  # a read that was refused already, when this node stopped leading
        asker, _, count = waiting
        self.release(asker, count)
        if message.code == StaleTermError.code:
            self.refuse_leader(asker)
        else:
            self.refuse(asker, message.code, message.text)

    def release(self, asker: SenderAddress, count: int) -> None:
        """A client has so many commands less under way."""
        left = self.outstanding[asker.connection] - count
        if left > 0:
            self.outstanding[asker.connection] = left
        else:
            self.outstanding.pop(asker.connection, None)

    def receiveMsg_AppliedEntries(self, message: AppliedEntries, sender: Any) -> None:
        """Answer each client in one frame, and the reads that waited for this."""
        if self.runs:
            self.answer_runs(message.entries)
        if self.answerable:
            self.answer_questions()

    def answer_runs(self, entries: list[Applied]) -> None:
        """Give every outcome to who waits for it; runs and entries are both in the order of the log."""
        runs = self.runs
        packs: defaultdict[tuple[Any, int], list[tuple[int, str, bytes]]] = defaultdict(list)
        askers: dict[tuple[Any, int], SenderAddress] = {}
        failed: list[tuple[int, Outcome]] = []
        for index, _, _, seq, outcome in entries:
            while runs and runs[0].last < index:
                self.finished(runs.popleft())
            if not runs:
                break
            run = runs[0]
            if index < run.first:
                continue
            if not run.session:
                self.send(run.asker, SessionOpened(index))
                continue
            key = (run.asker.connection, run.session)
            askers[key] = run.asker
            packs[key].append((seq, outcome.code, outcome.payload))
            if outcome.code:
                failed.append((index, outcome))
        told = entries[-1].index if entries else 0  # more may be applied, of which we are yet to be told
        while runs and runs[0].last <= told:
            self.finished(runs.popleft())
        for key, items in packs.items():
            self.totals.commands += len(items)
            self.send_results(askers[key], key[1], items)
        if failed:
            self.totals.commands_failed += len(failed)
            self.failed_commands.tell(self.ledger.log, failed, self.clock.now())

    def finished(self, run: Run) -> None:
        """All entries of a run are applied."""
        self.unanswered.settle(run.asker)
        count = run.last - run.first + 1
        self.release(run.asker, count)
        if run.began and run.session:
            self.context.observation.answered(run.began, count)

    def send_results(self, asker: SenderAddress, session: int, items: list[tuple[int, str, bytes]]) -> None:
        """Send results in as few frames as their size allows."""
        start = size = 0
        for place, (_, _, payload) in enumerate(items):
            size += len(payload) + 16
            if size > ANSWER_BYTES_MAX:
                self.send(asker, Results(session, tuple(items[start : place + 1])))
                start, size = place + 1, 0
        if start < len(items):
            self.send(asker, Results(session, tuple(items[start:])))

    # --- reads -------------------------------------------------------------------------------------------------------

    def receiveMsg_Read(self, message: Read, sender: Any) -> None:
        """Answer queries, after as much asking of others as the consistency wants."""
        question = Question(sender, message.queries)
        if message.consistency == "stale":
            self.answer(question, self.staleness_ms())
        elif message.consistency not in CONSISTENCIES:
            text = f"consistency {message.consistency[:40]!r} is none of {', '.join(CONSISTENCIES)}"
            self.refuse(sender, InvalidConfigError.code, text)
        elif self.ledger.leading is None:
            self.refuse_leader(sender)
        else:
            self.ticket += 1
            self.questions[self.ticket] = question
            self.unanswered.add(sender)
            lease = message.consistency == "lease"
            self.tell("replication", ReadIndex(self.ticket, lease))

    def receiveMsg_ReadReady(self, message: ReadReady, sender: Any) -> None:
        """The leader was confirmed: answer once that index is applied."""
        question = self.questions.pop(message.ticket, None)
        if question is not None:
            question.index = message.index
            self.answerable.append(question)
            self.answer_questions()

    def answer_questions(self) -> None:
        """Answer what can be answered from the state as it is."""
        applied = self.ledger.applied
        waiting = []
        for question in self.answerable:
            if question.index <= applied:
                self.answer(question, 0)
            else:
                waiting.append(question)
        self.answerable = waiting

    def answer(self, question: Question, stale_ms: int) -> None:
        """Ask the machine; what one query raises answers only that query."""
        items = []
        applier = self.ledger.applier
        for number, data in question.queries:
            try:
                outcome = outcome_of(applier.query(msgpack.unpackb(data)), self.ledger.applied, "")
            except Exception as error:  # a query changes nothing, so its error is its answer
                outcome = failure(error)
                if applier.replacing and isinstance(error, UnavailableError):  # the node's word, not the machine's
                    outcome = refusal(error.code, type(error).__name__, str(error))
            items.append((number, outcome.code, outcome.payload))
        self.totals.reads += len(items)
        self.unanswered.settle(question.asker)
        self.send(question.asker, ReadResults(self.ledger.applied, stale_ms, tuple(items)))

    def staleness_ms(self) -> int:
        """For how long this node has not heard from a leader."""
        if self.ledger.leading is not None:
            return 0
        if self.shared.leader_heard_at is None:
            return NEVER_MS
        return int((self.clock.boottime_ns() / 1e9 - self.shared.leader_heard_at) * 1000)

    # --- status ------------------------------------------------------------------------------------------------------

    def receiveMsg_GetStatus(self, message: GetStatus, sender: Any) -> None:
        """What the node says of itself."""
        self.send(sender, Status(NodeStatus.whole(self.context, self.snapshots).to_dict()))

    def receiveMsg_ReadEvents(self, message: ReadEvents, sender: Any) -> None:
        """Tell events again, from the journal."""
        self.send(sender, page_of(message, self.ledger, self.context.events_address))
