"""A value as it was given: in a file, in the environment, as an argument or an option; and the faults of those."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from forge_consensus.errors import InvalidConfigError

PEER_KEYS: Final = ("id", "address", "port")
"""What is said of a member in a list, as the Go original has it."""


@dataclass(frozen=True, slots=True)
class Given:
    """One value, not yet checked."""

    name: str
    """The whole name as it was given, such as ``raft.heartbeat_interval``."""
    value: Any = field(repr=False)
    """A text, which the setting reads; or what Python or the form of a file gives besides texts."""
    origin: str
    """Where it was given: ``config.yaml:12:5``, ``FORGE_CONSENSUS_NODE_ID``, ``--listen``."""
    secret: bool = False
    """Whether it must not be shown."""

    def texts(self) -> Iterator[str]:
        """Yield the texts in the value: none of them may be told if it is secret."""
        if isinstance(self.value, Mapping):
            for key, value in self.value.items():
                yield from (str(key), str(value), str(value).rpartition(":")[0])
        elif self.value is not None:
            yield str(self.value).strip()


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


def name_text(name: str) -> str:
    """Return a name as it can stand in a line: as it is, or quoted if it holds what cannot be printed."""
    return name if name.isprintable() else repr(name)
