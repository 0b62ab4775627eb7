"""Slots: so many requests of a costly kind at once, and no more."""

from __future__ import annotations

import weakref
from itertools import count

from forge_consensus.admin.problems import ProblemError


class Slot:
    """What a request holds while it is carried out; `free` gives it back, and so does its end as an object."""

    def __init__(self, held: set[int], number: int) -> None:
        held.add(number)
        self.free = weakref.finalize(self, held.discard, number)


class Slots:
    """Slots for one kind of request.

    Args:
        most: how many there are.
        what: what these requests do, for people, such as "backups are made or sent".
        code: the code of the refusal.
        retry_seconds: when to come back.

    """

    def __init__(self, most: int, what: str, code: str, retry_seconds: int) -> None:
        self.most = most
        self.what = what
        self.code = code
        self.retry_seconds = retry_seconds
        self.held: set[int] = set()
        self.numbers = count()

    def take(self) -> Slot:
        """Take a slot. Raises `ProblemError` if there is none."""
        if len(self.held) >= self.most:
            text = f"{self.most} {self.what} at present: try again later, or ask another node"
            headers = {"Retry-After": str(self.retry_seconds)}
            raise ProblemError(503, "too busy", text, self.code, retryable=True, headers=headers)
        return Slot(self.held, next(self.numbers))
