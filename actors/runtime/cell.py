"""The room: where one Thespian actor lives in our base, and what Thespian asks of a base for it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from thespian.actors import ActorExitRequest, WakeupMessage

from forge_consensus.actors.runtime.address import Address, LocalAddress

if TYPE_CHECKING:
    from forge_consensus.actors.runtime.engine import Engine


class ActorCell:
    """What Thespian calls an actor's ``_myRef``: it carries sending, creating and waking for one actor."""

    def __init__(self, engine: Engine, actor: Any, address: LocalAddress, parent: Address) -> None:
        self.engine = engine
        self.actor = actor
        self.address = address
        self.parent = parent
        self.globalName = address.actorAddressString  # Thespian's spelling
        self.receive: Callable[[Any, Address], None] = actor.receiveMessage
        address.room = self
        actor._myRef = self

    def take(self, message: Any, sender: Address) -> None:
        """Hand the actor a message; a request to exit ends it."""
        if self.address.room is not self:
            return
        if type(message) is ActorExitRequest:
            self.leave()
            return
        self.receive(message, sender)

    def leave(self) -> None:
        """The actor is gone: what still comes for it is dropped."""
        self.address.room = None

    # --- what Thespian's Actor calls ---------------------------------------------------------------------------------

    def actor_send(self, target: Address, message: Any) -> None:
        """Send, for `Actor.send`."""
        target.deliver(self.engine, message, self.address)

    def createActor(self, kind: type, requirements: Any, global_name: str | None, source_hash: Any) -> Address:
        """Create a child, for `Actor.createActor`."""
        return self.engine.create(kind, global_name, self.address)

    def wakeupAfter(self, period: timedelta, payload: Any) -> None:
        """Set an alarm, for `Actor.wakeupAfter`."""
        wakeup = WakeupMessage(period, payload)
        self.engine.after(period.total_seconds(), self.address, wakeup)

    def handleDeadLetters(self, address: Address, enable: bool) -> None:
        """Nothing is a dead letter here: a message without a handler is a fault of the actor."""

    def notifyOnSystemRegistrationChanges(self, address: Address, enable: bool) -> None:
        """There is one system and it does not change."""

    def actorSystemShutdown(self) -> None:
        """Stop the node."""
        self.engine.stop("an actor asked for it")


def create_actor(kind: type) -> Any:
    """Make an actor. Thespian's own way passes only `capabilities` and touches the process' warning filters."""
    return cast("Any", kind())
