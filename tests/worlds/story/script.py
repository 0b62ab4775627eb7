"""The script of a story: blocks of commands, each above a line `----` with the observed events below it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import unified_diff

RULE = "----"
LINES_SHOWN = 30
NOTHING = "ok"
"""The text below the line if nothing was observed."""


class StoryError(AssertionError):
    """A script that cannot be carried out, or an expectation that is not met; regenerating does not repair that."""


@dataclass(slots=True)
class Block:
    """Comments and empty lines, commands with their line numbers, and the expected text."""

    before: list[str] = field(default_factory=list)
    commands: list[tuple[int, str]] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)


def blocks_of(text: str) -> Iterator[Block]:
    """The blocks of a script. The expected text ends at an empty line. Raises `StoryError`."""
    block, below = Block(), False
    for number, line in enumerate(text.splitlines(), 1):
        if below and line:
            block.expected.append(line)
        elif below:
            yield block
            block, below = Block(before=[line]), False
        elif line == RULE:
            if not block.commands:
                raise StoryError(f"line {number}: there is no command above {RULE}")
            below = True
        elif not block.commands and (not line or line.startswith("#")):
            block.before.append(line)
        elif not line or line.startswith("#"):
            raise StoryError(f"line {number}: commands end with a line {RULE}")
        else:
            block.commands.append((number, line))
    if block.commands and not below:
        raise StoryError(f"the last commands lack a line {RULE}")
    if block.before or block.commands:
        yield block


def retold(text: str, tell: Callable[[str], list[str]]) -> str:
    """The script with the observed text; `tell` executes one command. Raises `StoryError` with the line."""
    lines: list[str] = []
    for block in blocks_of(text):
        lines += block.before
        if not block.commands:
            continue
        lines += [command for _, command in block.commands]
        happened: list[str] = []
        for number, command in block.commands:
            try:
                happened += tell(command)
            except StoryError as error:
                so_far = "\n".join(["", *happened[-LINES_SHOWN:]]) if happened else ""
                raise StoryError(f"line {number}: {command}: {error}{so_far}") from error
        lines += [RULE, *(happened or [NOTHING])]
    return "\n".join(lines).rstrip("\n") + "\n"


def difference(name: str, expected: str, happened: str) -> str:
    """The difference of two scripts, for people."""
    lines = unified_diff(expected.splitlines(), happened.splitlines(), f"{name} as written", f"{name} now", lineterm="")
    return "\n".join(lines)
