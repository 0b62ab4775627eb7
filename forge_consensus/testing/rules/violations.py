"""The error that is raised when a rule that must always hold does not."""

from __future__ import annotations

from forge_consensus.storage.machines.machine import RunInterruptError


class ViolationError(RunInterruptError):
    """A rule that must always hold does not.

    It is no `Exception`, because what else a machine raises would only become the result of a command.
    """


def demand(holds: bool, number: str, text: str) -> None:
    """Raise `ViolationError`, with the number of the rule and a text, unless `holds` is true."""
    if not holds:
        raise ViolationError(f"{number}: {text}")
