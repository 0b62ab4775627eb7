"""Queries in steps: a generator that does a part of the work with each step, and returns the answer in the end.

A query may also wait until there is something to answer: then the machine returns a `WaitingQuery`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Encoded:
    """An answer that is msgpack already, because a long one would be encoded in one piece at the end of all steps."""

    data: bytes


class WaitingQuery:
    """A query that the node keeps while there is nothing to answer."""

    wait_ms: int
    """For how long it waits, in milliseconds of real time."""
    goes_on: bool
    """Whether the last `answer` ended before it had looked at everything."""

    def answer(self, *, over: bool) -> Encoded | None:
        """Return the answer from the present state, None if there is nothing to answer yet.

        With `over` the wait is over, and what there is is the answer. The query may have looked at a part of the state
        only: then it `goes_on`, and is to be asked again soon.
        """
        raise NotImplementedError


class WaitingQueries(Protocol):
    """The queries that wait at one machine."""

    def add(self, query: WaitingQuery) -> None:
        """Let a query wait. It was asked since the last command."""

    def remove(self, query: WaitingQuery) -> None:
        """Forget a query, also if it does not wait."""

    def woken(self) -> Iterable[WaitingQuery]:
        """Take out the queries that may have an answer now, because of commands since the last call."""

    def clear(self) -> None:
        """Forget all."""


def finished(steps: Generator[Any, None, Answer]) -> Answer:
    """Take all steps at once; returns the answer. Raises what a step raises."""
    try:
        while True:
            next(steps)
    except StopIteration as end:
        return cast("Answer", end.value)
