"""A value as it was given: in a file, in the environment, as an argument or an option; and the faults of those."""

from __future__ import annotations

from dataclasses import dataclass, field

from forge_consensus.errors import InvalidConfigError


@dataclass(frozen=True, slots=True)
class Given:
    """One value, not yet read: every place gives texts, so that one function reads them all."""

    name: str
    """The whole name as it was given, such as ``raft.heartbeat_interval``."""
    text: str
    origin: str
    """Where it was given: ``config.yaml:12:5``, ``FORGE_CONSENSUS_NODE_ID``, ``--listen``."""
    secret: bool = False
    """Whether it must not be shown."""


@dataclass(slots=True)
class Layer:
    """What one place gives, and what is wrong there."""

    givens: list[Given] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """One line each: where, which name, what is wrong, what to do."""


class ConfigProblemsError(InvalidConfigError):
    """A configuration with faults, all of them told at once."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        """One line each."""
        lines = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(problems[0] if len(problems) == 1 else f"{len(problems)} faults in the configuration\n{lines}")
