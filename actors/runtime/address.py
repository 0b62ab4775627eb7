"""The addresses to which an actor can send: on this node, on another one, or behind a connection.

An address knows where its messages go, so an actor sends without knowing whether the receiver is local or remote.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from thespian.actors import ActorAddress


class Receiver(Protocol):
    """The receiver of the messages for one actor."""

    def receive(self, message: Any, sender: Address) -> None:
        """Hand the actor a message."""


class Holder(Protocol):
    """Holds the frames of a turn until they may leave the node."""

    def request(self, to: PeerAddress, message: Any) -> None:
        """Hold a request to a peer."""

    def answer(self, to: SenderAddress, message: Any) -> None:
        """Hold an answer to the sender of a frame."""


class Address(ActorAddress):  # type: ignore[misc]
    """An address that can be a key of a dict; Thespian's own cannot be hashed."""

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def deliver(self, message: Any, sender: Address) -> None:
        """Send a message to this address; `sender` is the address for an answer."""
        raise NotImplementedError


Delivery = tuple[Receiver, Any, Address]
"""A message in the mailbox: its receiver, the message, its sender."""


class LocalAddress(Address):
    """An actor of this node: a message to it joins `queue`, the mailbox.

    The address outlives the actor. `cell` is the receiver behind it, None while there is none.
    """

    def __init__(self, name: str, queue: deque[Delivery]) -> None:
        super().__init__(name)
        self.queue = queue
        self.cell: Receiver | None = None

    def deliver(self, message: Any, sender: Address) -> None:
        """Put the message into the mailbox; drop it if there is no such actor."""
        if self.cell is not None:
            self.queue.append((self.cell, message, sender))


class PeerAddress(Address):
    """An actor of another node: a message to it is a request, held until the turn is committed."""

    def __init__(self, node: str, actor: str, holder: Holder) -> None:
        super().__init__(f"{node}/{actor}")
        self.node = node
        self.actor = actor
        self.holder = holder

    def deliver(self, message: Any, sender: Address) -> None:
        """Hold the request until the turn is committed."""
        self.holder.request(self, message)


class SenderAddress(Address):
    """The sender of a frame: an answer returns on the same connection and echoes request number and send time.

    `node` is empty for a client. `connection` is None for the sender of an answer, which cannot be answered. `boot_id`
    is the (incarnation, boot) that a greeting names, ("", 0) for every other frame. `identity` is the name in the list
    of access of whoever proved a key on the connection; empty where nobody is asked. `act` is what the audit records
    when the answer is known, `commands` under which keys it waits for outcomes of commands.
    """

    __slots__ = ("act", "actor", "boot_id", "commands", "connection", "holder", "identity", "node", "request", "sent")

    def __init__(self, node: str, actor: str, connection: Any, request: int, sent: int, holder: Holder) -> None:
        super().__init__(None)
        self.node = node
        self.actor = actor
        self.connection = connection
        self.request = request
        self.sent = sent
        self.holder = holder
        self.boot_id: tuple[str, int] = ("", 0)
        self.identity = ""
        self.act: Any = None
        self.commands: tuple[Any, ...] = ()

    def deliver(self, message: Any, sender: Address) -> None:
        """Hold the answer until the turn is committed."""
        if self.connection is not None:
            self.holder.answer(self, message)
