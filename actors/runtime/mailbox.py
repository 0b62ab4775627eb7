"""The mailbox: the messages for the actors of this node, in this turn and in the next."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from forge_consensus.actors.runtime.address import Address, Delivery, LocalAddress
from forge_consensus.actors.runtime.refusals import STALE_TERM, Refusals
from forge_consensus.errors import OperationFailedError, StaleTermError

MESSAGES_MAX: Final = 1_000_000
"""More messages than this in one turn mean a loop."""


class Mailbox:
    """Three queues: `queue` runs until it is empty; `first` and then `later` are delivered when the next turn begins.

    What is in `later` makes the next turn begin at once; what is in `first` waits for it, whenever it begins.
    `addresses` maps actors' names.
    """

    def __init__(self, refusals: Refusals) -> None:
        self.refusals = refusals
        self.queue: deque[Delivery] = deque()
        self.first: list[tuple[Address, Any]] = []
        self.later: deque[tuple[Address, Any, Address]] = deque()
        self.addresses: dict[str, LocalAddress] = {}

    def claim(self, name: str) -> LocalAddress:
        """Return the address of that name, created at first use; a rebuilt actor keeps its address."""
        return self.addresses.setdefault(name, LocalAddress(name, self.queue))

    def next_turn(self, to: Address, message: Any, sender: Address | None = None) -> None:
        """Postpone a message to the next turn; without a `sender` it seems to come from its receiver."""
        self.later.append((to, message, sender or to))

    def first_in_next_turn(self, to: Address, message: Any) -> None:
        """Postpone a message to the next turn, before all others; that turn does not begin for its sake."""
        self.first.append((to, message))

    def deliver_later(self) -> None:
        """Deliver the messages that were postponed to this turn."""
        first, later = self.first, self.later
        for to, message in first:
            to.deliver(message, to)
        first.clear()
        while later:
            to, message, sender = later.popleft()
            to.deliver(message, sender)

    def forget_later(self) -> None:
        """Drop what was postponed to the next turn."""
        self.first.clear()
        self.later.clear()

    def run(self) -> int:
        """Deliver messages until there are none; returns how many there were.

        A `StaleTermError` is an ordinary outcome: it was raised before anything was written, and the term has moved on.
        Raises every other error of an actor, and `OperationFailedError` for more than `MESSAGES_MAX` messages.
        """
        queue = self.queue
        for delivered in range(MESSAGES_MAX):
            if not queue:
                return delivered
            cell, message, sender = queue.popleft()
            try:
                cell.receive(message, sender)
            except StaleTermError:
                self.refusals.count(STALE_TERM)
        raise OperationFailedError(f"more than {MESSAGES_MAX} messages in one turn")
