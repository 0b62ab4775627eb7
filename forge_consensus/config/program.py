"""The settings of a program that runs one node: what the node itself, embedded in an application, does not decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from forge_consensus.config.setting import check, setting
from forge_consensus.errors import InvalidConfigError

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("text", "json")


@dataclass(frozen=True, slots=True)
class ProgramSettings:
    """Everything that ``forge-consensus node`` takes besides `NodeSettings`. Raises `InvalidConfigError`."""

    machine: str = setting(
        "",
        what="MODULE:CLASS of the state machine; without it, keys and values.",
        why="Keys and values need no code, and a node says at once if it does not find a machine.",
    )
    log_level: str = setting(
        "info",
        original="observability.logging.level",
        what="From which level on lines go to stderr: debug, info, warning or error.",
        why="The default of the Go original: changes of state, and no line for each command.",
    )
    log_format: str = setting(
        "text",
        original="observability.logging.enable_structured",
        what="text for people, or json: one object a line.",
        why="Whoever starts a node by hand reads the lines; a service's manager sets json.",
    )
    exit_when_removed: bool = setting(
        False,
        what="Whether the program ends with exit code 0 when its node was removed from the cluster.",
        why="A manager of services would start it again and again; who wants its end asks for it.",
    )

    def __post_init__(self) -> None:
        check(self)
        for name, allowed in (("log_level", LOG_LEVELS), ("log_format", LOG_FORMATS)):
            value = getattr(self, name)
            if value.lower() not in allowed:
                raise InvalidConfigError(f"{name} is {value!r}: it is one of {', '.join(allowed)}")
            object.__setattr__(self, name, value.lower())
