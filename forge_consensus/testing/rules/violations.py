"""The error that is raised when a rule that must always hold does not."""

from __future__ import annotations


class ViolationError(BaseException):
    """A rule that must always hold does not.

    It is no `Exception`, because an `Exception` that a machine raises would only become the result of a command.
    """


def demand(holds: bool, number: str, text: str) -> None:
    """Raise `ViolationError`, with the number of the rule and a text, unless `holds` is true."""
    if not holds:
        raise ViolationError(f"{number}: {text}")
