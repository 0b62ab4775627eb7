"""The keys of a round: a few at a time, each retired after some calls, because long histories take long to judge."""

from __future__ import annotations

import random
import threading
from typing import Final

CALLS_MIN: Final = 150
CALLS_MAX: Final = 250
COUNTER: Final = "counter"
"""Keys with this text in their name are only incremented and read, so that their sums can be checked too."""


class Keys:
    """Gives keys to all clients of a round; a fourth of them are counters."""

    def __init__(self, prefix: str, at_once: int, dice: random.Random) -> None:
        self.prefix = prefix
        self.dice = dice
        self.lock = threading.Lock()
        self.made: list[str] = []
        self.values = 0
        self.left: dict[str, int] = {}
        """The keys in use, and the number of calls left for each."""
        for _ in range(at_once):
            self.make()

    def make(self) -> None:
        """Add one key."""
        number = len(self.made)
        name = f"{self.prefix}-{COUNTER if number % 4 == 3 else 'key'}-{number}"
        self.made.append(name)
        self.left[name] = self.dice.randint(CALLS_MIN, CALLS_MAX)

    def take(self, dice: random.Random) -> str:
        """Return a key for one call."""
        with self.lock:
            key = dice.choice(list(self.left))
            self.left[key] -= 1
            if not self.left[key]:
                del self.left[key]
                self.make()
            return key

    def value(self) -> int:
        """Return a value that no call sets twice, with room for increments before the next one."""
        with self.lock:
            self.values += 1
            return self.values * 1_000_000
