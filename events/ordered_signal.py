"""A blinker signal that calls its receivers in the order in which they were connected.

blinker keeps them in sets of object ids, so that their order would differ from run to run, and a
simulation with inline handlers would not replay.
"""

from typing import Any

from blinker import ANY, Signal


class ArrivalSet(dict[Any, None]):
    """As much of a set as blinker uses, in order of arrival."""

    def add(self, item: object) -> None:
        """Put the item last, unless it is there."""
        self.setdefault(item)

    def discard(self, item: object) -> None:
        """Take the item out, if it is there."""
        self.pop(item, None)


class OrderedSignal(Signal):
    """A signal with an order."""

    set_class = ArrivalSet  # type: ignore[assignment]  # blinker's own hook for this

    def tell(self, event: object) -> None:
        """Call every receiver: `send` without its asking each time whether a receiver is a coroutine function."""
        for receiver in self.receivers_for(ANY):
            receiver(event)
