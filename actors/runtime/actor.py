"""The actor: a plain Thespian actor that finds its handlers by message class and uses the node by its context."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, cast

from thespian.actors import Actor, ActorAddress

from forge_consensus.actors import messages, notices
from forge_consensus.actors.runtime.address import Address, LocalAddress, PeerAddress
from forge_consensus.actors.runtime.audit import Audit
from forge_consensus.actors.runtime.clock import Clock
from forge_consensus.actors.runtime.observation import TurnObservation
from forge_consensus.actors.runtime.peers import Peers
from forge_consensus.actors.runtime.refusals import Refusals
from forge_consensus.actors.runtime.reported import Reported
from forge_consensus.actors.runtime.shared import SharedState
from forge_consensus.actors.runtime.slowest import Slowest
from forge_consensus.actors.runtime.status import Totals
from forge_consensus.actors.runtime.timers import Timer
from forge_consensus.actors.runtime.unanswered import Unanswered
from forge_consensus.actors.runtime.unread import UnreadAnswers
from forge_consensus.config.raft import RaftSettings
from forge_consensus.events.types import ConsensusEvent
from forge_consensus.storage.ledger.ledger import Ledger
from forge_consensus.storage.ledger.tips import Tip
from forge_consensus.storage.opening import Opened
from forge_consensus.storage.snapshots.store import Snapshots

Handler = Callable[[Any, Any, Any], None]
ReloadConfiguration = Callable[[bool], dict[str, Any]]
"""Reads the configuration again, and has the node take what can change at once; with True it only says what would be.
It returns a report for clients, and raises `ConsensusError`. It waits for the node, so helper threads call it."""
PREFIX = "receiveMsg_"


class Context(Protocol):
    """Everything outside itself that an actor may use. No part of it names a base, a socket or a real clock."""

    settings: RaftSettings
    opened: Opened
    ledger: Ledger
    clock: Clock
    random: random.Random
    """The only source of chance, so that a simulation replays."""
    shared: SharedState
    reported: Reported
    totals: Totals
    refusals: Refusals
    audit: Audit
    unanswered: Unanswered
    """Kept by the gateway. It outlives the actors, so that every client is answered."""
    unread: UnreadAnswers
    observation: TurnObservation
    peers: Peers
    commit_times: Slowest
    acting_times: Slowest
    started_at: float
    """When the node started, in seconds of real time."""
    bind_address: str
    advertised: str
    """Where the node says that it is reached, empty if it does not know."""
    events_address: str
    http_url: str
    """Where the node's application answers HTTP, empty if it does not."""
    pending_restart: tuple[str, ...]
    """The settings that were given other values and wait for a restart of the node."""
    reload_configuration: ReloadConfiguration | None
    """None for a node that was given no configuration which can be read again."""

    def actor(self, name: str) -> LocalAddress:
        """Return the address of an actor of this node."""

    def peer(self, node: str, actor: str) -> PeerAddress:
        """Return the address of an actor of another node; a frame that it does not take is counted and dropped."""

    def hearing(self, kind: type) -> list[LocalAddress]:
        """Return the addresses of the actors that have a handler for a message class, in the supervisor's order."""

    def after(self, seconds: float, to: Address, message: Any) -> Timer:
        """Deliver a message this many seconds after this turn began."""

    def next_turn(self, to: Address, message: Any) -> None:
        """Deliver a message in the next turn, which then starts without waiting."""

    def offload(
        self, job: Callable[[], Any], to: Address, done: Callable[[Any, str], Any], drop: Callable[[], None]
    ) -> None:
        """Run a job elsewhere, once the turn is committed; `done(result, error text)` makes the report of its end.

        A report to actors that were rebuilt meanwhile is dropped. A job of a turn that is rolled back is not started:
        `drop` is called instead.
        """

    def publish(self, event: ConsensusEvent) -> None:
        """Publish an event, once the turn is committed."""

    def introduce(self, node: str, boot: int) -> None:
        """Allow frames to a peer: it was greeted and is in that boot."""

    def refuse(self, reason: str, detail: str) -> None:
        """Count and report a frame or request that was not accepted."""

    def stop(self, reason: str) -> None:
        """Stop the node after this turn."""

    def linked(self) -> list[str]:
        """Return the peers with an established connection, sorted."""


class ConsensusActor(Actor):  # type: ignore[misc]
    """The base class of a node's actors.

    A handler is a method ``receiveMsg_<Message>(message, sender)``, Thespian's own spelling. The table of handlers is
    made once for each class, because looking the name up for each message costs more than twice as much. An actor
    receives every notice that it has a handler for.
    """

    handlers: ClassVar[dict[type, Handler]] = {}
    context: Context

    def __init_subclass__(cls) -> None:
        """Make the table of handlers. Raises `TypeError` for a handler of a class that is no message."""
        cls.handlers = {}
        for name in dir(cls):
            if not name.startswith(PREFIX):
                continue
            word = name.removeprefix(PREFIX)
            kind = getattr(messages, word, None) or getattr(notices, word, None)
            if kind is None:
                raise TypeError(f"{cls.__name__}.{name} handles no known message")
            cls.handlers[kind] = getattr(cls, name)

    def bind(self, context: Context) -> None:
        """Take the context; the engine calls this after the constructor."""
        self.context = context
        self.settings = context.settings
        self.ledger = context.ledger
        self.snapshots: Snapshots = context.opened.snapshots
        self.clock = context.clock
        self.shared = context.shared
        self.reported = context.reported
        self.totals = context.totals
        self.node_id = self.ledger.identity.node_id

    def receiveMsg_SettingsChanged(self, message: notices.SettingsChanged, sender: Any) -> None:
        """Go by the settings that the node has now."""
        self.settings = self.context.settings

    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:
        """Hand the message to its handler; Thespian's entry. Raises `LookupError` if there is none."""
        handler = self.handlers.get(type(message))
        if handler is None:
            raise LookupError(f"{type(self).__name__} has no handler for {type(message).__name__}")
        handler(self, message, sender)

    # --- sending -----------------------------------------------------------------------------------------------------

    def tell(self, actor: str, message: Any) -> None:
        """Send a message to another actor of this node."""
        self.send(self.context.actor(actor), message)

    def tell_all(self, notice: Any) -> None:
        """Send a notice to every actor of this node that has a handler for it, in the supervisor's order."""
        for address in self.context.hearing(type(notice)):
            self.send(address, notice)

    def tell_peer(self, node: str, actor: str, message: messages.Request) -> None:
        """Send a request to an actor of another node."""
        self.send(self.context.peer(node, actor), message)

    def after(self, seconds: float, message: Any) -> Timer:
        """Send this actor a message this many seconds after this turn began."""
        return self.context.after(seconds, cast("Address", self.myAddress), message)

    def next_turn(self, message: Any) -> None:
        """Send this actor a message in the next turn."""
        self.context.next_turn(cast("Address", self.myAddress), message)

    def offload(
        self, job: Callable[[], Any], done: Callable[[Any, str], Any], drop: Callable[[], None] = lambda: None
    ) -> None:
        """Run a job elsewhere; this actor receives `done(result, error)`; `drop` frees the job's resources."""
        self.context.offload(job, cast("Address", self.myAddress), done, drop)

    def publish(self, event: ConsensusEvent) -> None:
        """Publish an event, once the turn is committed."""
        self.context.publish(event)

    def may_use(self, level: int) -> bool:
        """Whether a configuration of this feature level is committed, so that no member runs without it.

        A leader asks before it proposes what that level brought. That a level is in the log is not enough, because a
        later leader may not have it there, and truncate it.
        """
        ledger = self.ledger
        return ledger.configurations.at(ledger.commit_index).level >= level

    @property
    def tip(self) -> Tip:
        """The tip of this node's disk as it is when this turn is committed and its frames leave."""
        log = self.ledger.log
        return Tip(self.ledger.term, log.last_term, log.last)

    @property
    def others(self) -> list[str]:
        """The other members of the configuration in force, voters and learners, sorted."""
        return sorted(self.ledger.configuration.nodes - {self.node_id})

    @property
    def other_voters(self) -> list[str]:
        """The other members that vote, in either set of a joint configuration, sorted."""
        return sorted(self.ledger.configuration.voters - {self.node_id})
