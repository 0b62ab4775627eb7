"""The engine: a node's mailbox and its turns. Take a batch, act, commit once, then speak.

It knows no socket and no real clock: a base brings a wire and clocks, so the same engine and the same actors run in
production and under a simulator.
"""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from loguru import logger

from forge_consensus.actors.codec import Frame
from forge_consensus.actors.notices import (
    CommitWasSlow,
    LinkUp,
    PeerDown,
    Persisted,
    Rebuild,
)
from forge_consensus.actors.runtime.address import Address, LocalAddress, PeerAddress
from forge_consensus.actors.runtime.cell import ActorCell, create_actor
from forge_consensus.actors.runtime.clock import Clock
from forge_consensus.actors.runtime.gate import Gate
from forge_consensus.actors.runtime.outbox import Outbox
from forge_consensus.actors.runtime.shared import Board
from forge_consensus.actors.runtime.timers import Alarm
from forge_consensus.config.raft import RaftSettings
from forge_consensus.errors import OperationFailedError, StaleTermError, is_fatal
from forge_consensus.events.bus import EventBus
from forge_consensus.events.encoding import to_msgpack
from forge_consensus.events.log_range import joined
from forge_consensus.events.metrics.turn_report import TurnReport
from forge_consensus.events.types import ConsensusEvent, LogAppended, LogCommitted, NodeStopped, stamp
from forge_consensus.storage.opening import Opened

SUPERVISOR = "supervisor"
HEAR_OF_PEERS = ("election", "replication", "membership", "health")
MESSAGES_MAX = 1_000_000
"""More messages than this in one turn are a loop, not work."""


class Wire(Protocol):
    """How frames leave; nothing here ever waits for a socket."""

    def send_peer(self, node: str, data: bytes) -> bool:
        """Send a frame to a peer; False when it does not take it."""

    def send_answer(self, connection: Any, frame: Frame) -> bool:
        """Send an answer back by a connection; False when it does not take it."""

    def offload(self, job: Callable[[], Any], done: Callable[[Any, str], None]) -> None:
        """Run a job elsewhere and bring its result, or its error's text, into a later turn."""


class Engine:
    """One node. All of it belongs to one thread; `stopping` alone may be read from others."""

    def __init__(
        self,
        opened: Opened,
        options: RaftSettings,
        clock: Clock,
        wire: Wire,
        bus: EventBus,
        rng: random.Random,
        bind_address: str,
    ) -> None:
        self.opened = opened
        self.ledger = opened.ledger
        self.options = options
        self.clock = clock
        self.wire = wire
        self.bus = bus
        self.random = rng
        self.bind_address = bind_address
        self.board = Board(started_at=clock.now())
        self.told = self.board.told()
        self.sticky: Callable[[], bool] = lambda: False
        self.mailbox: deque[tuple[ActorCell, Any, Address]] = deque()
        self.later: deque[tuple[Address, Any, Address]] = deque()
        self.alarms: list[Alarm] = []
        self.alarm_number = 0
        self.addresses: dict[str, LocalAddress] = {}
        self.peers: dict[tuple[str, str], PeerAddress] = {}
        self.rooms: dict[str, ActorCell] = {}
        self.unnamed = itertools.count(1)
        self.outbox = Outbox(self)
        self.gate = Gate(self)
        self.events: list[tuple[ConsensusEvent, int]] = []
        self.tell_afar: Callable[[ConsensusEvent, bytes], None] | None = None
        """Set by a base while somebody listens in another process: called with each event and its encoding."""
        self.observer: Callable[[TurnReport], None] | None = None
        self.operations: list[tuple[float, int]] | None = None
        """Kept while somebody observes: (`turn_began` of the turn that took it in, commands) of what was answered."""
        self.turn_began = 0.0
        self.counts_before = (0, 0)
        """(commits, applied) when an observed turn began."""
        self.generation = 0
        self.faults: deque[float] = deque()
        self.unanswered: dict[Any, None] = {}
        self.answered: list[Any] = []
        self.links: set[str] = set()
        self.stopping = ""
        self.failure: BaseException | None = None

    # --- the turn ----------------------------------------------------------------------------------------------------

    def turn(self, frames: list[tuple[Any, Any]], notices: list[tuple[str, Any]]) -> None:
        """One turn: `frames` are (bytes, connection) as they arrived, `notices` (actor, message) of the base.

        It happens entirely or not at all. Raises `StorageError` and other fatal errors, after which nothing may
        leave the node (I16).
        """
        self.board.turns += 1
        report = None if self.observer is None else self.begin_report(len(frames))
        self.ledger.begin(self.clock.now())
        try:
            messages = self.act(frames, notices)
        except Exception as fault:
            self.undo(fault)
            return
        if self.outbox.requests:
            self.outbox.send_early()
        began = self.clock.boottime_ns()  # a simulator's disk is slow by its clock
        wrote = self.ledger.commit()
        self.ledger.check_turn()
        if wrote:
            persisted = Persisted(self.ledger.term, self.ledger.log.durable)
            to = self.actor("replication")
            self.later.appendleft((to, persisted, to))
        took = (self.clock.boottime_ns() - began) / 1e9
        if took > self.options.election_timeout_min:
            self.next_turn(self.actor("election"), CommitWasSlow(took))
        if self.outbox.requests or self.outbox.answers or self.outbox.jobs:
            self.outbox.send()
        while self.answered:  # only now, so that who waited is told if this turn had failed
            self.unanswered.pop(self.answered.pop(), None)
        if self.events:
            self.tell_events()
        if report is not None:
            self.finish_report(report, messages, took)

    def act(self, frames: list[tuple[Any, Any]], notices: list[tuple[str, Any]]) -> int:
        """Run the mailbox until it is empty: what was put off, what came in, then the alarms that are due.

        Returns how many messages that were.
        """
        while self.later:
            to, message, sender = self.later.popleft()
            to.deliver(self, message, sender)
        for name, message in notices:
            self.actor(name).deliver(self, message, self.actor(name))
        for data, connection in frames:
            self.gate.take(data, connection)
        messages = self.run_mailbox() if self.mailbox else 0
        alarms = self.alarms
        while alarms and alarms[0].at <= self.clock.now():
            alarm = heapq.heappop(alarms)
            if alarm.to is not None:
                alarm.to.deliver(self, alarm.message, alarm.to)
        return messages + self.run_mailbox() if self.mailbox else messages

    def run_mailbox(self) -> int:
        """Deliver messages until there are none; returns how many there were."""
        mailbox = self.mailbox
        for delivered in range(MESSAGES_MAX):
            if not mailbox:
                return delivered
            room, message, sender = mailbox.popleft()
            try:
                room.take(message, sender)
            except StaleTermError:
                # An ordinary outcome: it was raised before anything was written, and the term has moved on.
                self.board.refused["stale term"] += 1
        raise OperationFailedError(f"more than {MESSAGES_MAX} messages in one turn")

    def undo(self, fault: Exception) -> None:
        """Take the turn back, from disk, memory and what was about to be said, and have the actors rebuilt.

        A fatal error, and more faults than the bound allows, end the node instead.
        """
        self.ledger.rollback()
        self.outbox.drop()
        self.answered.clear()
        self.mailbox.clear()
        self.events.clear()
        self.board.take_back(self.told)
        if is_fatal(fault):
            raise fault
        now = self.clock.now()
        self.faults.append(now)
        while self.faults and now - self.faults[0] > self.options.faults_seconds:
            self.faults.popleft()
        logger.opt(exception=fault).error("an actor failed; the turn is taken back")
        if len(self.faults) > self.options.faults_max:
            raise OperationFailedError(
                f"{len(self.faults)} faults of actors within {self.options.faults_seconds:.0f} s: the node stops. "
                f"The last was {type(fault).__name__}: {fault}"
            ) from fault
        self.forget_actors()
        self.next_turn(self.actor(SUPERVISOR), Rebuild(f"{type(fault).__name__}: {fault}"))

    def tell_events(self) -> None:
        """Publish what happened in this turn, which is on disk by now, and keep it in the journal."""
        if not self.events:
            return
        events, self.events = self.events, []
        identity, journal, tell_afar = self.ledger.identity, self.ledger.journal, self.tell_afar
        self.bus.begin_turn(self.options.heartbeat_interval / 10)
        wall_ms, now = self.clock.wall_ms(), self.clock.boottime_ns() / 1e9
        for event, term in events:
            stamped = stamp(
                event,
                node_id=identity.node_id,
                cluster_id=identity.cluster_id,
                term=term,
                sequence=self.ledger.next_sequence(),
                time=wall_ms / 1000,
                monotonic=now,
            )
            data = to_msgpack(stamped)
            journal.append(stamped.sequence, wall_ms, data)
            self.bus.publish(stamped)
            if tell_afar is not None:
                tell_afar(stamped, data)
        self.told = self.board.told()

    def finish(self) -> None:
        """Tell of the orderly end, and leave a journal without a gap. Raises `StorageError`."""
        self.publish(NodeStopped())
        self.tell_events()
        self.ledger.journal.seal()

    # --- being observed ----------------------------------------------------------------------------------------------

    def observe(self, observer: Callable[[TurnReport], None] | None) -> None:
        """Tell somebody what each turn cost, at its end, on the node's thread; None ends it. One observer at a time.

        Without one a turn pays for a comparison or two.
        """
        self.observer = observer
        self.operations = None if observer is None else []
        self.turn_began = 0.0

    def begin_report(self, frames: int) -> TurnReport:
        """Note what the turn begins with."""
        if self.operations:
            self.operations = []
        self.counts_before = (self.ledger.commits, self.ledger.applied)
        self.turn_began = time.perf_counter()
        return TurnReport(self.turn_began, frames)

    def finish_report(self, report: TurnReport, messages: int, took: float) -> None:
        """Complete the report and hand it over; an observer that raises is told nothing more."""
        report.messages = messages
        commits, applied = self.counts_before
        report.commit_seconds = took if self.ledger.commits > commits else None
        report.applied = self.ledger.applied - applied
        report.operations = self.operations or ()
        report.seconds = time.perf_counter() - report.began
        observer = self.observer
        try:
            if observer is not None:
                observer(report)
        except Exception as fault:
            self.observe(None)
            logger.opt(exception=fault).error("the observer of turns failed; it is told no more")

    def patience(self, seconds_max: float) -> float:
        """For how long the next turn may wait for frames."""
        if self.later:
            return 0.0
        while self.alarms and self.alarms[0].to is None:
            heapq.heappop(self.alarms)
        if not self.alarms:
            return seconds_max
        return min(seconds_max, max(0.0, self.alarms[0].at - self.clock.now()))

    def stop(self, reason: str) -> None:
        """Ask for the end, after this turn."""
        self.stopping = self.stopping or reason

    # --- actors ------------------------------------------------------------------------------------------------------

    def create(self, kind: type, name: str | None, parent: Address) -> Address:
        """Create an actor under a name; its address outlives it, so nobody need be told of a new one."""
        name = name or f"{kind.__name__}-{next(self.unnamed)}"
        actor = create_actor(kind)
        address = self.addresses.setdefault(name, LocalAddress(name))
        self.rooms[name] = ActorCell(self, actor, address, parent)
        if hasattr(actor, "bind"):
            actor.bind(self)
        return address

    def actor(self, name: str) -> LocalAddress:
        """The address of an actor of this node."""
        return self.addresses[name]

    def peer(self, node: str, actor: str) -> PeerAddress:
        """The address of an actor of another node."""
        address = self.peers.get((node, actor))
        if address is None:
            address = self.peers[node, actor] = PeerAddress(node, actor)
        return address

    def forget_actors(self) -> None:
        """End every actor but the supervisor, with all that was on its way to them."""
        self.generation += 1
        for name, room in list(self.rooms.items()):
            if name != SUPERVISOR:
                room.leave()
                del self.rooms[name]
        self.later.clear()
        self.alarms.clear()
        self.sticky = lambda: False

    # --- what actors may do ------------------------------------------------------------------------------------------

    def after(self, seconds: float, to: Address, message: Any) -> Alarm:
        """Deliver a message later, by the running clock."""
        self.alarm_number += 1
        alarm = Alarm(self.clock.now() + seconds, self.alarm_number, to, message)
        heapq.heappush(self.alarms, alarm)
        return alarm

    def next_turn(self, to: Address, message: Any, sender: Address | None = None) -> None:
        """Deliver a message in the next turn."""
        self.later.append((to, message, sender or to))

    def offload(
        self, job: Callable[[], Any], to: Address, done: Callable[[Any, str], Any], drop: Callable[[], None]
    ) -> None:
        """Run a job elsewhere, from this turn's commit on; its report is dropped if the actors were rebuilt meanwhile.

        If the turn is taken back, the job is not begun, and `drop` is called.
        """
        generation = self.generation

        def report(result: Any, error: str) -> None:
            if generation == self.generation:
                self.next_turn(to, done(result, error))

        self.outbox.job(job, report, drop)

    def publish(self, event: ConsensusEvent) -> None:
        """Hold an event until the turn is committed; what it says of the term is the term of now.

        Entries appended, or committed, in several steps of a turn are one event with the whole range.
        """
        term = self.ledger.term
        if isinstance(event, LogAppended | LogCommitted):
            for place, (earlier, of_term) in reversed(list(enumerate(self.events))):
                if not isinstance(earlier, LogAppended | LogCommitted):
                    break
                if type(earlier) is type(event):
                    if of_term == term and earlier.last_index + 1 == event.first_index:
                        del self.events[place]
                        # What is appended comes first, so that nothing is told to be committed before it is there.
                        to = place if isinstance(event, LogAppended) else len(self.events)
                        self.events.insert(to, (joined(earlier, event), term))
                        return
                    break
        self.events.append((event, term))

    def wants(self, kind: type[ConsensusEvent]) -> bool:
        """Whether anybody listens to that kind of event: the journal does, to every one."""
        return True

    def introduce(self, node: str, boot: int) -> None:
        """The peer was greeted: frames to it may leave."""
        self.outbox.boots[node] = boot

    def linked(self) -> list[str]:
        """The peers to which a connection stands."""
        return sorted(self.links)

    def link(self, node: str, stands: bool) -> list[tuple[str, Any]]:
        """The connection to a peer stands, or broke: it must be greeted (again). Returns whom to tell what."""
        self.outbox.boots.pop(node, None)
        if stands:
            self.links.add(node)
            return [("membership", LinkUp(node))]
        self.links.discard(node)
        return [(actor, PeerDown(node)) for actor in HEAR_OF_PEERS]

    def refuse(self, reason: str, detail: str) -> None:
        """Count what was not accepted, and report the first of each reason and every thousandth."""
        count = self.board.refused[reason] = self.board.refused[reason] + 1
        if count == 1 or count % 1000 == 0:
            logger.warning("refused ({} times): {}: {}", count, reason, detail)
