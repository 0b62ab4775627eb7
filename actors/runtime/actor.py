"""The actor: a plain Thespian actor that finds its handlers by message class and the world through its context."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from thespian.actors import Actor, ActorAddress

from forge_consensus.actors import messages, notices
from forge_consensus.config.raft import RaftSettings

if TYPE_CHECKING:
    from forge_consensus.actors.runtime.clock import Clock
    from forge_consensus.actors.runtime.shared import Board
    from forge_consensus.actors.runtime.stickiness import Stickiness
    from forge_consensus.events.types import ConsensusEvent
    from forge_consensus.storage.ledger.ledger import Ledger
    from forge_consensus.storage.opening import Opened
    from forge_consensus.storage.snapshots.store import Snapshots

Handler = Callable[[Any, Any, Any], None]
PREFIX = "receiveMsg_"


class Timer(Protocol):
    """An alarm that was set."""

    def cancel(self) -> None:
        """It shall not ring."""


class Context(Protocol):
    """What an actor may touch outside itself. Nothing of it names a base, a socket or a real clock."""

    options: RaftSettings
    opened: Opened
    clock: Clock
    board: Board
    random: random.Random
    bind_address: str
    unanswered: dict[Any, None]
    """Kept by the gateway: whose requests are under way; it outlives the actors, so that they can be told."""
    answered: list[Any]
    """Whom this turn answers; they are taken out of `unanswered` when the answers have left, not before."""
    operations: list[tuple[float, int]] | None
    """Kept while somebody observes the node's turns: what was answered, as (`turn_began` when taken in, commands)."""
    turn_began: float
    """When this turn began; 0 while nobody observes."""
    stickiness: Stickiness
    """Written by the election actor: whether a vote request must not move the term. Rebuilt actors get a new one."""

    def actor(self, name: str) -> ActorAddress:
        """The address of an actor of this node."""

    def peer(self, node: str, actor: str) -> ActorAddress:
        """The address of an actor of another node; frames to who is not reachable are counted and dropped."""

    def after(self, seconds: float, to: ActorAddress, message: Any) -> Timer:
        """Have a message delivered later, by the running clock."""

    def next_turn(self, to: ActorAddress, message: Any) -> None:
        """Have a message delivered in the next turn, which then does not wait."""

    def offload(
        self, job: Callable[[], Any], to: ActorAddress, done: Callable[[Any, str], Any], drop: Callable[[], None]
    ) -> None:
        """Run a job elsewhere, once the turn is committed; `done(result, error text)` makes the report of its end.

        A report to actors that were rebuilt meanwhile is dropped. A job of a turn that is taken back is not begun:
        `drop` is called instead.
        """

    def publish(self, event: ConsensusEvent) -> None:
        """Tell the world, once the turn is committed."""

    def wants(self, kind: type[ConsensusEvent]) -> bool:
        """Whether anybody listens to that kind of event."""

    def introduce(self, node: str, boot: int) -> None:
        """The peer was greeted and is in that boot: frames to it may leave."""

    def refuse(self, reason: str, detail: str) -> None:
        """Count and report something that was not accepted."""

    def linked(self) -> list[str]:
        """The peers to which a connection stands."""


class ConsensusActor(Actor):  # type: ignore[misc]
    """What the actors of a node have in common.

    A handler is a method ``receiveMsg_<Message>(message, sender)``, Thespian's own spelling; the table is made
    once for each class, because looking the name up for each message costs more than twice as much.
    """

    handlers: ClassVar[dict[type, Handler]] = {}
    context: Context

    def __init_subclass__(cls) -> None:
        """Make the table of handlers. Raises `TypeError` for a handler of something that is no message."""
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
        """Take the context; called by the base after the constructor."""
        self.context = context
        self.options = context.options
        self.ledger: Ledger = context.opened.ledger
        self.snapshots: Snapshots = context.opened.snapshots
        self.clock = context.clock
        self.board = context.board
        self.node_id = self.ledger.identity.node_id

    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:
        """Thespian's entry: hand the message to its handler."""
        handler = self.handlers.get(type(message))
        if handler is None:
            raise LookupError(f"{type(self).__name__} has no handler for {type(message).__name__}")
        handler(self, message, sender)

    # --- speaking ----------------------------------------------------------------------------------------------------

    def tell(self, actor: str, message: Any) -> None:
        """Send a message to another actor of this node."""
        self.send(self.context.actor(actor), message)

    def tell_peer(self, node: str, actor: str, message: messages.Request) -> None:
        """Send a request to an actor of another node."""
        self.send(self.context.peer(node, actor), message)

    def after(self, seconds: float, message: Any) -> Timer:
        """Send oneself a message later."""
        return self.context.after(seconds, cast("ActorAddress", self.myAddress), message)

    def next_turn(self, message: Any) -> None:
        """Send oneself a message for the next turn."""
        self.context.next_turn(cast("ActorAddress", self.myAddress), message)

    def offload(
        self, job: Callable[[], Any], done: Callable[[Any, str], Any], drop: Callable[[], None] = lambda: None
    ) -> None:
        """Run a job elsewhere and be told of its end; `drop` lets go of what it would have worked on."""
        self.context.offload(job, cast("ActorAddress", self.myAddress), done, drop)

    def publish(self, event: ConsensusEvent) -> None:
        """Tell the world, once the turn is committed."""
        self.context.publish(event)

    @property
    def others(self) -> list[str]:
        """The other members of the configuration in force, sorted."""
        return sorted(self.ledger.configuration.voters - {self.node_id})
