"""Queries in steps: a generator that does a part of the work with each step, and returns the answer in the end."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar, cast

Answer = TypeVar("Answer")


def finished(steps: Generator[Any, None, Answer]) -> Answer:
    """Take all steps at once; returns the answer. Raises what a step raises."""
    try:
        while True:
            next(steps)
    except StopIteration as end:
        return cast("Answer", end.value)
