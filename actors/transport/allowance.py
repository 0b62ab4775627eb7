"""The allowance: how often each of many may do something in a second, with a bounded memory of them. Pure logic."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

NAMES_MAX: Final = 10_000
"""So many names are remembered; of more the one that was heard of least lately is forgotten."""
BURST_SECONDS: Final = 1.0
"""After a pause the acts of so long a time may come at once."""
ROUNDING_SECONDS: Final = 1e-6


class Allowance:
    """So many acts a second are allowed for each name, on the average; moments are seconds of one clock.

    Args:
        per_second: how many, at least 1.
        names_max: of how many names it is remembered.

    """

    def __init__(self, per_second: int, names_max: int = NAMES_MAX) -> None:
        self.per_second = per_second
        self.names_max = names_max
        self.due: OrderedDict[str, float] = OrderedDict()
        """Name -> when its acts so far would be over if they came evenly, the one heard of last at the end."""

    def takes(self, name: str, now: float) -> bool:
        """Whether one more act of that name is allowed now; then it is counted."""
        due = max(self.due.pop(name, now), now)
        each = 1.0 / self.per_second
        allowed = due - now <= BURST_SECONDS - each + ROUNDING_SECONDS
        self.due[name] = due + each if allowed else due
        if len(self.due) > self.names_max:
            self.due.popitem(last=False)
        return allowed
