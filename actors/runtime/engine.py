"""The engine: the turns of a node. Take a batch, act, commit once, then send.

It knows no socket and no real clock: a base supplies a transport and clocks, so the same engine and the same actors run
in production and in a simulation.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from forge_consensus.actors.notices import MembersChanged, Persisted, Rebuild, Retire, SettingsChanged
from forge_consensus.actors.runtime.access_control import AccessControl
from forge_consensus.actors.runtime.actor import ConsensusActor, ReloadConfiguration
from forge_consensus.actors.runtime.address import Address, LocalAddress, PeerAddress
from forge_consensus.actors.runtime.audit import OPERATOR, Act, Audit, record_of
from forge_consensus.actors.runtime.cell import Cells
from forge_consensus.actors.runtime.clock import Clock
from forge_consensus.actors.runtime.faults import Faults
from forge_consensus.actors.runtime.gate import Gate
from forge_consensus.actors.runtime.mailbox import Mailbox
from forge_consensus.actors.runtime.observation import TurnObservation
from forge_consensus.actors.runtime.outbox import Outbox, Transport
from forge_consensus.actors.runtime.peers import PARTING_TIMEOUTS, Peers
from forge_consensus.actors.runtime.permits import Permits
from forge_consensus.actors.runtime.refusals import Refusals
from forge_consensus.actors.runtime.reported import Reported
from forge_consensus.actors.runtime.shared import SharedState
from forge_consensus.actors.runtime.slowest import Slowest
from forge_consensus.actors.runtime.status import Totals
from forge_consensus.actors.runtime.timers import Timer, Timers
from forge_consensus.actors.runtime.turn_events import TurnEvents
from forge_consensus.actors.runtime.unanswered import Unanswered
from forge_consensus.actors.runtime.unread import UnreadAnswers
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.security import SecuritySettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import is_fatal
from forge_consensus.events.bus import EventBus
from forge_consensus.events.types import AuditRecorded, ConsensusEvent, NodeStopped
from forge_consensus.process.log import LogLines
from forge_consensus.security.access import AccessList
from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.storage.backends.encrypted import EncryptedTables
from forge_consensus.storage.ledger.configuration import Configuration, check_lease
from forge_consensus.storage.machines.naming import BUILT_IN, name_of
from forge_consensus.storage.opening import Opened

LINES = LogLines(__name__)

SUPERVISOR: Final = "supervisor"


@dataclass(frozen=True, slots=True)
class SettingsChange:
    """Settings that a running node takes, and what is to be told of them."""

    raft: RaftSettings
    storage: StorageSettings
    pending_restart: tuple[str, ...] = ()
    """The settings that were given other values and wait for a restart of the node."""
    events: tuple[ConsensusEvent, ...] = ()
    """What the node publishes when it has taken them."""
    security: SecuritySettings | None = None
    """Where the node's encryption key is from now on; None leaves it as it is."""
    key: EncryptionKey | None = None
    """That key, which the node reads before the engine takes it."""
    records: tuple[AuditRecorded, ...] = ()
    """What the audit has of the change; nothing where it is recorded for whoever asked."""


class Engine:
    """One node. All of it belongs to one thread; only `stopping` may be read from others.

    `bind_address` and `events_address` are where the node listens and publishes, for its status. `advertised` is where
    it says that it is reached, empty if it does not know; None stands for the address where it listens. `http_url` is
    where the node's application answers HTTP, which the members tell each other. `access` says who may do what. The
    engine is also the actors' `Context`. Raises `InvalidConfigError` for settings with which the cluster's leases would
    not be safe.
    """

    pending_restart: tuple[str, ...] = ()
    """The settings that were given other values and wait for a restart of the node."""
    on_access: Callable[[AccessList], object] | None = None
    """Called with the list of access that is in the log: once at the start, and when an applied entry has changed it.

    That is before anything of the turn leaves, so whoever hears that a key was revoked here is refused here."""
    access_told: AccessList | None = None
    """The list with which it was called last."""
    reload_configuration: ReloadConfiguration | None = None
    """Set by whoever runs the node and can read its configuration again; see `Context`."""
    untold: tuple[ConsensusEvent, ...] = ()
    """What happened between two turns; it is published with the next turn that is not taken back."""

    def __init__(
        self,
        opened: Opened,
        settings: RaftSettings,
        clock: Clock,
        transport: Transport,
        bus: EventBus,
        rng: random.Random,
        bind_address: str,
        events_address: str = "",
        advertised: str | None = None,
        http_url: str = "",
        access: AccessControl | None = None,
    ) -> None:
        check_lease(opened.ledger.configuration, settings.election_timeout_min)
        self.opened = opened
        self.ledger = opened.ledger
        self.settings = settings
        self.clock = clock
        self.random = rng
        self.bind_address = bind_address
        self.advertised = bind_address if advertised is None else advertised
        self.events_address = events_address
        self.http_url = http_url
        clock.begin_turn()
        self.started_at = clock.now()
        self.shared = SharedState()
        committed = self.ledger.configurations.at(self.ledger.commit_index)
        self.reported = Reported(self.shared, committed)
        self.totals = Totals()
        self.refusals = Refusals()
        self.mailbox = Mailbox(self.refusals)
        self.timers = Timers(clock)
        self.outbox = Outbox(self.ledger, clock, transport, self.refusals)
        self.peers = Peers(self.outbox, self.ledger.identity.node_id, PARTING_TIMEOUTS * settings.election_timeout_max)
        self.unread = UnreadAnswers(2 * settings.connections_max)
        self.access = access
        """Who may do what; None where nobody is asked who they are."""
        self.on_access = None if access is None else access.take_log
        self.tell_access()  # before the first frame, so that nobody is let in by a key that was revoked
        self.audit = self.outbox.audit = Audit(self.ledger, self.shared, clock, access)
        self.gate = self.made_gate()
        self.cells = Cells(self.mailbox, self.timers, self.bind, self.stop)
        self.events = TurnEvents(self.ledger, clock, bus, settings)
        self.gate.publish = self.audit.publish = self.events.hold
        self.unanswered = Unanswered()
        self.observation = TurnObservation(self.ledger)
        self.faults = Faults(settings)
        self.commit_times, self.acting_times = Slowest(), Slowest()
        """How long commits take, and turns without them."""
        self.followed: Configuration | None = None
        self.met = self.shared.meeting
        """The configuration and the map that the peers were taken from last."""
        self.configuration = opened.ledger.configuration
        """The configuration in force of which the actors know."""
        self.follow_members()
        self.stopping = ""
        """Why the node is to stop; empty while it is not."""
        self.retiring = ""
        """Why the node is to stop once another one leads; empty while it is not."""

    def made_gate(self) -> Gate:
        """Make the gate, which asks who speaks only if there is an access control."""
        permits = None
        if self.access is not None:
            permits = Permits(self.access, keyed=name_of(self.ledger.applier.machine).name == BUILT_IN)
            self.serve_certificates()
        return Gate(
            self.ledger,
            self.settings,
            self.clock,
            self.mailbox,
            self.outbox,
            self.refusals,
            self.shared,
            self.unread,
            self.audit,
            permits,
        )

    def serve_certificates(self) -> None:
        """Have the members' certificates speak for this node by its clock, if the access control has any."""
        if self.access is not None and self.access.certificates is not None:
            identity, self.outbox.certificates = self.ledger.identity, self.access.certificates
            self.outbox.certificates.serve(identity.cluster_id, identity.node_id, self.clock.wall_ms)

    # --- the turn ----------------------------------------------------------------------------------------------------

    def turn(self, frames: Sequence[tuple[Any, ...]], notices: list[Any]) -> None:
        """Take one turn: `frames` are the arguments of `Gate.receive` as they arrived, `notices` come from the base.

        The turn happens entirely or not at all. Raises `StorageError` and other fatal errors, after which nothing may
        leave the node (I16).
        """
        self.totals.turns += 1
        observation = self.observation
        report = None if observation.observer is None else observation.begin(len(frames))
        self.clock.begin_turn()
        self.ledger.begin(self.clock.now())
        self.hold_untold()
        try:
            messages = self.act(frames, notices)
        except Exception as fault:
            self.undo(fault)
            return
        acted = self.clock.end_acting()
        self.acting_times.note(acted - self.clock.now(), acted)
        outbox = self.outbox
        if outbox.requests:
            outbox.send_early()
        commit_seconds = self.commit(acted)
        if self.ledger.applier.access.current is not self.access_told:
            self.tell_access()
        if outbox.requests or outbox.answers or outbox.jobs:
            outbox.send()
        self.unread.end_turn()
        if self.unanswered.settled:
            self.unanswered.commit()
        self.audit.end_turn()
        if self.events.held:
            self.publish_events()
        if report is not None:
            observation.finish(report, messages, commit_seconds)

    def hold_untold(self) -> None:
        """Hold what happened between two turns, until this one is on disk."""
        if self.audit.is_due:
            self.untold += tuple(self.audit.due())
        for event in self.untold:
            self.events.hold(event)

    def act(self, frames: Sequence[tuple[Any, ...]], notices: list[Any]) -> int:
        """Run the mailbox until it is empty: postponed messages, the frames, then the timers that are due.

        Returns how many messages were received.
        """
        mailbox = self.mailbox
        if mailbox.first or mailbox.later:
            mailbox.deliver_later()
        for notice in notices:
            for address in self.hearing(type(notice)):
                address.deliver(notice, address)
        for frame in frames:
            self.gate.receive(*frame)
        messages = mailbox.run() if mailbox.queue else 0
        self.timers.deliver_due()
        messages += mailbox.run() if mailbox.queue else 0
        while self.configuration is not self.ledger.configuration:
            self.configuration = self.ledger.configuration
            for address in self.hearing(MembersChanged):
                address.deliver(MembersChanged(), address)
            messages += mailbox.run()
        if self.audit.begun:
            self.audit.look()
        if self.audit.told:
            self.audit.hold()
        return messages

    def commit(self, began: float) -> float:
        """Commit the ledger; returns how many seconds have passed since `began`. Raises `StorageError`.

        The actors learn at the beginning of the next turn that the log is durable, see `has_work`.
        """
        commits = self.ledger.commits
        wrote = self.ledger.commit()
        self.ledger.check_turn()
        if wrote:
            persisted = Persisted(self.ledger.term, self.ledger.log.durable)
            self.mailbox.first_in_next_turn(self.actor("replication"), persisted)
        seconds = self.clock.reading() - began  # a simulated disk is slow by the simulated clock
        if self.ledger.commits != commits:
            self.commit_times.note(seconds, began + seconds)
        return seconds

    def tell_access(self) -> None:
        """Hand the list of access that is in the log to whoever decides by it, which tells that of its file beside."""
        logged = self.ledger.applier.access
        self.access_told = logged.current
        if self.access is not None:
            logged.of_file = self.access.listed_in_file
        if self.on_access is not None:
            self.on_access(self.access_told)

    def undo(self, fault: Exception) -> None:
        """Roll the turn back, on disk, in memory and in the outbox, and have the actors rebuilt.

        Raises `fault` if it is fatal, and `OperationFailedError` for more faults than the bound allows: both end the
        node.
        """
        self.ledger.rollback()
        self.ledger.note_fault(fault)
        self.outbox.drop()
        self.unread.end_turn()
        self.unanswered.take_back()
        self.audit.take_back()
        self.mailbox.queue.clear()
        self.events.drop()
        self.reported.take_back()
        self.configuration = self.ledger.configuration
        if is_fatal(fault):
            raise fault
        LINES.error("an actor failed; the turn is taken back", error=fault)
        self.faults.note(fault, self.clock.now())
        self.forget_actors()
        if self.retiring:  # whoever would have handed the leadership over is gone
            self.stop(self.retiring)
        self.next_turn(self.actor(SUPERVISOR), Rebuild(f"{type(fault).__name__}: {fault}"))

    def publish_events(self) -> None:
        """Publish the turn's events; from now on they are not rolled back."""
        self.untold = ()
        self.events.publish()
        self.reported.mark()

    def finish(self) -> None:
        """Publish the orderly end, and leave a journal without a gap and all that is known of the others' disks.

        Raises `StorageError`.
        """
        for event in (*self.untold, *self.audit.rest(), NodeStopped()):
            self.publish(event)
        self.publish_events()
        self.ledger.journal.seal(self.ledger.identity.last_tips())

    def patience(self, seconds_max: float) -> float:
        """For how many seconds the next turn may wait for frames, at most `seconds_max`."""
        return 0.0 if self.has_work else self.timers.patience(seconds_max)

    @property
    def has_work(self) -> bool:
        """Whether the next turn has something to do already, so that it begins without waiting.

        Something was postponed to it, or something follows from the last flush: entries that can be applied now, or
        that a majority has together with this node's own disk. Otherwise the actors learn of the flush with the next
        frame or timer, because a turn for that alone would cost as much and change nothing that others see.
        """
        if self.mailbox.later:
            return True
        if not self.mailbox.first:
            return False
        ledger, durable = self.ledger, self.ledger.log.durable
        if ledger.applied < min(ledger.commit_index, durable):
            return True
        if ledger.leading_term is None:
            return False
        match = {**self.shared.match, ledger.identity.node_id: durable}
        return ledger.configuration.quorum.reached(match) > ledger.commit_index

    def follow_members(self) -> bool:
        """Let the peers be those of the configuration in force; returns whether their addresses changed.

        The base calls this after each turn, and then connects and disconnects.
        """
        peers, configuration, meeting = self.peers, self.ledger.configuration, self.shared.meeting
        if configuration is self.followed and meeting is self.met and not peers.parting:
            return False
        before, self.followed, self.met = peers.wanted, configuration, meeting
        peers.follow({**meeting, **configuration.addresses}, self.clock.now())
        return peers.wanted != before

    def take_settings(self, change: SettingsChange) -> None:
        """Take other settings; call it between two turns. The actors learn of them before anything else of the next.

        Only hot settings may differ: they bound how much is done at once, and when. Nothing that was promised to
        others rests on them, and nothing in the ledger, so this is no part of any turn and is never rolled back:
        actors that are made anew begin with these settings.
        """
        self.settings = self.events.settings = self.faults.settings = change.raft
        self.ledger.take_settings(change.storage)
        tables = self.ledger.tables
        # The ledger sees the same rows as before.
        if change.key is not None and isinstance(tables, EncryptedTables) and tables.take_key(change.key):
            self.audit.take(record_of(Act(OPERATOR, "disk key", change.key.id), "done", ""))
        self.pending_restart = change.pending_restart
        self.untold += change.events
        for record in change.records:
            self.audit.take(record)
        for address in self.hearing(SettingsChanged):
            self.next_turn(address, SettingsChanged())

    def stop(self, reason: str) -> None:
        """Stop the node after this turn; the first reason is kept."""
        self.stopping = self.stopping or reason

    def retire(self, reason: str) -> None:
        """Stop the node soon: if it leads, another one is to lead before, for which an election timeout is allowed.

        A second call stops it after this turn.
        """
        if self.retiring:
            self.stop(reason)
            return
        self.retiring = reason
        for name in ("gateway", "election"):
            self.next_turn(self.actor(name), Retire(reason))

    # --- actors ------------------------------------------------------------------------------------------------------

    def bind(self, actor: Any) -> None:
        """Give a new actor its context; a plain Thespian actor has none."""
        if isinstance(actor, ConsensusActor):
            actor.bind(self)

    def forget_actors(self) -> None:
        """End every actor but the supervisor, with all messages and timers for them."""
        self.cells.forget(SUPERVISOR)
        self.mailbox.forget_later()
        self.timers.clear()
        self.shared.stickiness.leads = False

    # --- the context of actors ---------------------------------------------------------------------------------------

    def actor(self, name: str) -> LocalAddress:
        """Return the address of an actor of this node."""
        return self.mailbox.addresses[name]

    def peer(self, node: str, actor: str) -> PeerAddress:
        """Return the address of an actor of another node."""
        return self.peers.address(node, actor)

    def hearing(self, kind: type) -> list[LocalAddress]:
        """Return the addresses of the actors that have a handler for a message class."""
        return self.cells.hearing(kind)

    def after(self, seconds: float, to: Address, message: Any) -> Timer:
        """Deliver a message this many seconds after this turn began."""
        return self.timers.after(seconds, to, message)

    def next_turn(self, to: Address, message: Any, sender: Address | None = None) -> None:
        """Deliver a message in the next turn, which then starts without waiting."""
        self.mailbox.next_turn(to, message, sender)

    def offload(
        self, job: Callable[[], Any], to: Address, done: Callable[[Any, str], Any], drop: Callable[[], None]
    ) -> None:
        """Run a job elsewhere, after this turn's commit; its report is dropped if the actors were rebuilt meanwhile.

        If the turn is rolled back, the job is not started, and `drop` is called.
        """
        generation = self.cells.generation

        def report(result: Any, error: str) -> None:
            if generation == self.cells.generation:
                self.next_turn(to, done(result, error))

        self.outbox.job(job, report, drop)

    def publish(self, event: ConsensusEvent) -> None:
        """Publish an event once the turn is committed."""
        self.events.hold(event)

    def introduce(self, node: str, boot: int) -> None:
        """Allow frames to a peer: it was greeted and is in that boot."""
        self.peers.introduce(node, boot)

    def linked(self) -> list[str]:
        """Return the peers with an established connection, sorted."""
        return sorted(self.peers.links)

    def refuse(self, reason: str, detail: str) -> None:
        """Count and report a frame or request that was not accepted."""
        self.refusals.report(reason, detail)
