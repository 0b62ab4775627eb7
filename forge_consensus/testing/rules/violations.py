"""What is raised when something that must always hold does not."""

from __future__ import annotations


class ViolationError(BaseException):
    """An invariant does not hold. No `Exception`: what a machine raises would only become a command's result."""


def demand(holds: bool, number: str, text: str) -> None:
    """Raise `ViolationError` unless it holds."""
    if not holds:
        raise ViolationError(f"{number}: {text}")
