"""The cell: what Thespian requires of a system base for one actor; and all cells of a node."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

from thespian.actors import ActorExitRequest, WakeupMessage

from forge_consensus.actors.runtime.address import Address, LocalAddress
from forge_consensus.actors.runtime.mailbox import Mailbox
from forge_consensus.actors.runtime.timers import Timers


class ActorCell:
    """One actor with its address: Thespian's ``_myRef``, through which an actor sends, creates and sets timers.

    The names of the methods under "what Thespian's Actor calls" are Thespian's.
    """

    def __init__(self, cells: Cells, actor: Any, address: LocalAddress, parent: Address) -> None:
        self.cells = cells
        self.actor = actor
        self.address = address
        self.parent = parent
        self.globalName = address.actorAddressString  # Thespian's spelling
        self.handle: Callable[[Any, Address], None] = actor.receiveMessage
        address.cell = self
        actor._myRef = self

    def receive(self, message: Any, sender: Address) -> None:
        """Hand the actor a message; a request to exit ends the actor."""
        if self.address.cell is not self:
            return
        if type(message) is ActorExitRequest:
            self.leave()
            return
        self.handle(message, sender)

    def leave(self) -> None:
        """End the actor; messages that are still in the mailbox for it are dropped."""
        self.address.cell = None

    # --- what Thespian's Actor calls ---------------------------------------------------------------------------------

    def actor_send(self, target: Address, message: Any) -> None:
        """Send a message, for `Actor.send`."""
        target.deliver(message, self.address)

    def createActor(self, kind: type, requirements: Any, global_name: str | None, source_hash: Any) -> Address:
        """Create a child, for `Actor.createActor`."""
        return self.cells.create(kind, global_name, self.address)

    def wakeupAfter(self, period: timedelta, payload: Any) -> None:
        """Set a timer, for `Actor.wakeupAfter`."""
        self.cells.timers.after(period.total_seconds(), self.address, WakeupMessage(period, payload))

    def handleDeadLetters(self, address: Address, enable: bool) -> None:
        """Do nothing: there are no dead letters, because a message without a handler is a fault of the actor."""

    def notifyOnSystemRegistrationChanges(self, address: Address, enable: bool) -> None:
        """Do nothing: there is one actor system and it does not change."""

    def actorSystemShutdown(self) -> None:
        """Stop the node, for `Actor.actorSystemShutdown`."""
        self.cells.stop("an actor asked for it")


class Cells:
    """The actors of one node. `bind` gives a new actor its context; `stop` ends the node for a reason.

    `generation` increases whenever the actors are forgotten, so that a report to an earlier generation can be
    recognized.
    """

    def __init__(
        self, mailbox: Mailbox, timers: Timers, bind: Callable[[Any], None], stop: Callable[[str], None]
    ) -> None:
        self.mailbox = mailbox
        self.timers = timers
        self.bind = bind
        self.stop = stop
        self.by_name: dict[str, ActorCell] = {}
        self.generation = 0
        self.unnamed = itertools.count(1)

    def create(self, kind: type, name: str | None, parent: Address) -> Address:
        """Create an actor; an actor that is created again under its `name` keeps its address.

        The actor is made here, because Thespian's own way passes only `capabilities` and changes the warning filters of
        the process.
        """
        name = name or f"{kind.__name__}-{next(self.unnamed)}"
        actor = cast("Any", kind())
        address = self.mailbox.claim(name)
        self.by_name[name] = ActorCell(self, actor, address, parent)
        self.bind(actor)
        return address

    def actor(self, name: str) -> Any:
        """Return the actor of that name itself, None while there is none; for rules and tests that look inside."""
        cell = self.by_name.get(name)
        return None if cell is None else cell.actor

    def hearing(self, kind: type) -> list[LocalAddress]:
        """Return the addresses of the actors that have a handler for a message class, in the order of their creation.

        That order is the one of the supervisor's table, so a simulation replays.
        """
        return [cell.address for cell in self.by_name.values() if kind in getattr(cell.actor, "handlers", ())]

    def forget(self, but: str) -> None:
        """End every actor but the one of the name `but`."""
        self.generation += 1
        for name, cell in list(self.by_name.items()):
            if name != but:
                cell.leave()
                del self.by_name[name]
