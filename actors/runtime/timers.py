"""The alarm: a message that an actor gets later, unless it is called off."""

from __future__ import annotations

from typing import Any

from forge_consensus.actors.runtime.address import Address


class Alarm:
    """A message to be delivered later."""

    __slots__ = ("at", "message", "number", "to")

    def __init__(self, at: float, number: int, to: Address | None, message: Any) -> None:
        self.at = at
        self.number = number
        self.to = to
        self.message = message

    def __lt__(self, other: Alarm) -> bool:
        return (self.at, self.number) < (other.at, other.number)

    def cancel(self) -> None:
        """It shall not ring."""
        self.to = None
