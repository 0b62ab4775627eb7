"""The addresses: who may be written to, on this node, on another one, or behind a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thespian.actors import ActorAddress

if TYPE_CHECKING:
    from forge_consensus.actors.runtime.cell import ActorCell
    from forge_consensus.actors.runtime.engine import Engine


class Address(ActorAddress):  # type: ignore[misc]
    """An address that can be a key; Thespian's own cannot be hashed."""

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def deliver(self, engine: Engine, message: Any, sender: Address) -> None:
        """Take a message on its way."""
        raise NotImplementedError


class LocalAddress(Address):
    """An actor of this node: a message to it joins the mailbox."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.room: ActorCell | None = None

    def deliver(self, engine: Engine, message: Any, sender: Address) -> None:
        """Join the mailbox."""
        if self.room is not None:
            engine.mailbox.append((self.room, message, sender))


class PeerAddress(Address):
    """An actor of another node: a message to it is a request, held until the turn is committed."""

    def __init__(self, node: str, actor: str) -> None:
        super().__init__(f"{node}/{actor}")
        self.node = node
        self.actor = actor

    def deliver(self, engine: Engine, message: Any, sender: Address) -> None:
        """Be held."""
        engine.outbox.request(self, message)


class SenderAddress(Address):
    """Who sent a frame: an answer to it goes back by the same connection and echoes number and send time.

    `node` is empty for a client. `connection` is None for what was itself an answer.
    """

    __slots__ = ("actor", "boot_id", "connection", "node", "request", "sent")

    def __init__(self, node: str, actor: str, connection: Any, request: int, sent: int) -> None:
        super().__init__(None)
        self.node = node
        self.actor = actor
        self.connection = connection
        self.request = request
        self.sent = sent
        self.boot_id = ("", 0)

    def deliver(self, engine: Engine, message: Any, sender: Address) -> None:
        """Be held."""
        if self.connection is not None:
            engine.outbox.answer(self, message)
