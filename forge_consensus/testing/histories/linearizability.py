"""The linearizability checker: does an order of the calls, each within its time, explain every answer."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final

from forge_consensus.testing.histories.history import Operation, Outcome
from forge_consensus.testing.histories.intervals import Contradiction, contradiction
from forge_consensus.testing.histories.models import Insightful, Model
from forge_consensus.testing.histories.register import REGISTER
from forge_consensus.testing.histories.search import OutOfTimeError, Search

__all__ = ["REGISTER", "Model", "Verdict", "check"]

SHOWN_MAX: Final = 12
"""The number of calls of each kind that a verdict shows."""
PREFIX_SECONDS: Final = 1.0
"""The time for finding the longest partial order, in seconds, once no complete one is known to exist."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a check; `linearizable` is None if the time limit was reached first, which proves nothing."""

    linearizable: bool | None
    text: str
    """For people: the key, the longest order that was found, and the calls of which none fits next."""
    key: str = ""
    """The key that is not linearizable, or the first one that was not finished in time."""


def check(history: Iterable[Operation], model: Model = REGISTER, *, seconds: float = 10.0) -> Verdict:
    """Check whether a history is linearizable.

    Linearizability is local: a history is linearizable exactly if the history of each key is (Herlihy and Wing 1990).
    So each key is checked alone, the shortest histories first. The rules:

    - an answered call took effect between its beginning and its end; if the end of one equals the beginning of another,
      the two count as concurrent
    - an unanswered write took effect at any time after its beginning, or never
    - not counted: unanswered reads, calls that are certain not to have taken effect, and reads that may be stale. Lease
      reads promise the same as linearizable ones

    Args:
        history: the calls.
        model: the effect of each call on a key, and its result.
        seconds: the time limit for all keys together.

    Raises ValueError for an answered call without an end, or with one before its beginning.

    """
    keys: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in history:
        if counts(operation):
            keys[operation.key].append(operation)
    began = time.monotonic()
    late = ""
    for key, operations in sorted(keys.items(), key=lambda item: (len(item[1]), item[0])):
        case = Case(key, operations, model)
        try:
            if not case.linearizable(began + seconds):
                return Verdict(False, "\n".join(case.refutation()), key)
        except OutOfTimeError:
            late = late or key
    if late:
        return Verdict(
            None, f"key {late!r} was not done within {seconds:g} s: {len(keys[late])} calls, nothing is proven", late
        )
    total = sum(map(len, keys.values()))
    return Verdict(True, f"linearizable: {total} calls of {len(keys)} keys in {time.monotonic() - began:.2f} s")


def counts(operation: Operation) -> bool:
    """Return whether a call has to be checked. Raises ValueError for impossible times."""
    if operation.outcome is Outcome.REFUSED or (operation.kind == "get" and operation.consistency == "stale"):
        return False
    if operation.outcome is Outcome.OPEN:
        return operation.kind != "get"
    if operation.ended is None or operation.ended < operation.began:
        raise ValueError(f"a call with an answer ends, and not before it began: {operation}")
    return True


class Case:
    """The calls of one key, and the result of their check."""

    def __init__(self, key: str, operations: list[Operation], model: Model) -> None:
        self.key = key
        operations = sorted(operations, key=lambda operation: operation.began)
        self.closed = [operation for operation in operations if operation.outcome is Outcome.OK]
        self.opened = [operation for operation in operations if operation.outcome is not Outcome.OK]
        self.model = model
        self.insight = model.insight(operations) if isinstance(model, Insightful) else None
        self.search = self.new_search()
        self.contradiction: Contradiction | None = None

    def new_search(self) -> Search:
        """Return a search that has not begun."""
        closed, opened = self.closed, self.opened
        if self.insight is not None:
            closed = [self.insight.simplified(operation) for operation in closed]
            opened = [self.insight.simplified(operation) for operation in opened]
        return Search(self.model, closed, opened, insight=self.insight)

    def linearizable(self, deadline: float = inf) -> bool:
        """Return whether there is an order. Raises `OutOfTimeError` if the deadline came first."""
        self.contradiction = contradiction(self.search)
        self.search.deadline = deadline
        if self.contradiction is None and self.search.run():
            return True
        self.explore()
        return False

    def explore(self) -> None:
        """Find the longest order that leads nowhere, by a search without lookahead.

        A limited time only makes the order shorter. Raises AssertionError if it finds a complete order, because then
        the checker is wrong.
        """
        self.search = self.new_search()
        self.search.remaining.lookahead_off = True
        self.search.deadline = time.monotonic() + PREFIX_SECONDS
        with contextlib.suppress(OutOfTimeError):
            if self.search.run():
                raise AssertionError(f"the checker contradicts itself on key {self.key!r}")

    def refutation(self) -> Iterator[str]:
        """Yield the lines that explain why there is no order."""
        search = self.search
        placed = sum(closed for closed, _, _ in search.best)
        yield f"key {self.key!r} is not linearizable: {placed} of {len(self.closed)} answered calls fit into an order"
        if self.contradiction is not None:
            calls = self.contradiction.calls[:SHOWN_MAX]
            yield self.contradiction.text + ":"
            yield from table([("", self.closed[number]) for number in calls])
        rows = [
            (str(place), (self.closed if closed else self.opened)[number])
            for place, (closed, number, _) in enumerate(search.best, 1)
        ]
        yield f"the end of the longest order (up to {SHOWN_MAX} calls), and the calls of which none fits next:"
        yield from table(rows[-SHOWN_MAX:] + [("none", self.closed[number]) for number in search.stuck])
        used = {number for closed, number, _ in search.best if not closed}
        unused = [call for number, call in enumerate(self.opened) if number not in used]
        if unused:
            yield f"calls without an answer that may have happened besides: {len(unused)}"
            yield from table([("", call) for call in unused[:SHOWN_MAX]])


def table(calls: Sequence[tuple[str, Operation]]) -> Iterator[str]:
    """Yield calls in columns, each with a word before it."""
    rows = [("", "client", "call", "result", "began", "ended")]
    for word, call in calls:
        ended = "-" if call.ended is None else f"{call.ended:.6f}"
        rows.append((word, call.client, shown(call), answer(call), f"{call.began:.6f}", ended))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def shown(call: Operation) -> str:
    """Return a call as text."""
    if call.argument is None:
        return call.kind
    arguments: tuple[Any, ...] = tuple(call.argument) if call.kind == "cas" else (call.argument,)
    return f"{call.kind} {', '.join(map(repr, arguments))}"


def answer(call: Operation) -> str:
    """Return the result of a call as text."""
    return repr(call.result) if call.outcome is Outcome.OK else "no answer"
