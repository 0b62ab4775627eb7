"""How long a call of a recipe waits, and how long each call of the cluster inside it may take."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from typing import Final

from forge_consensus.errors import ConsensusTimeoutError
from forge_consensus.recipes.names import check_timeout

CALL_SECONDS_MIN: Final = 0.2
"""A call of the cluster that is begun gets so long."""


class NotYetError(ConsensusTimeoutError):
    """What a recipe waited for did not come in time, though the cluster answered."""


class Patience:
    """The time limit of one call.

    Args:
        timeout: how many seconds it waits; None for no limit, 0 for one look.
        usual: how many seconds the client tries a call of the cluster.
        clock: a clock that only goes on, in seconds.

    Raises `InvalidConfigError` for a timeout that is none.

    """

    def __init__(self, timeout: float | None, usual: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeout = check_timeout(timeout)
        self.usual = usual
        self.clock = clock
        self.end = inf if self.timeout is None else clock() + self.timeout

    @property
    def left(self) -> float:
        """How many seconds are left, infinite without limit."""
        return max(0.0, self.end - self.clock())

    @property
    def over(self) -> bool:
        """Whether the time is over."""
        return self.clock() >= self.end

    def to_begin(self) -> float:
        """How many seconds a call may take without which nothing begins: all that is left.

        Without a limit, or with none left at the start, it is what the client usually takes.
        """
        return max(CALL_SECONDS_MIN, self.left) if self.timeout else self.usual

    def to_look(self) -> float:
        """How many seconds a call may take that is made again if it fails."""
        return max(CALL_SECONDS_MIN, min(self.usual, self.left)) if self.timeout else self.usual
