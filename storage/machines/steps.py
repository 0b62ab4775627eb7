"""Queries in steps: a generator that does a part of the work with each step, and returns the answer in the end."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Encoded:
    """An answer that is msgpack already, because a long one would be encoded in one piece at the end of all steps."""

    data: bytes


def finished(steps: Generator[Any, None, Answer]) -> Answer:
    """Take all steps at once; returns the answer. Raises what a step raises."""
    try:
        while True:
            next(steps)
    except StopIteration as end:
        return cast("Answer", end.value)
