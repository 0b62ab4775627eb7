"""From given values to settings: who has the last word on each, and what every one of them means here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from forge_consensus.config.checks import CHECKS, NOT_EMPTY
from forge_consensus.config.given import ConfigProblemsError, Given, Layer, name_text
from forge_consensus.config.node import NodeSettings
from forge_consensus.config.original import ANY, BY_NAME, OriginalField
from forge_consensus.config.program import ProgramSettings
from forge_consensus.config.rows import parse, text_of
from forge_consensus.config.secret_text import NOT_TOLD, looks_like_secret
from forge_consensus.config.setting import Setting, describe
from forge_consensus.config.two_names import HALVES, TRANSLATED, make_one, make_way
from forge_consensus.errors import InvalidConfigError

DESCRIBED: Final = (*describe(NodeSettings), *describe(ProgramSettings))
ROWS: Final = {row.name: row for row in sorted(DESCRIBED, key=lambda row: "." in row.name)}
"""Every setting that a file can hold; those without a section come first, as in a file."""
OTHERWISE: Final = ("bind", "metrics", "storage.tail_bytes_max", "log_format")
"""Settings whose counterpart in the original has another type or unit, so it is no second name for them."""
ALIASES: Final = {
    row.described.original: row.name
    for row in ROWS.values()
    if row.described.original and row.name not in OTHERWISE and row.described.original != row.name
}
"""Name in the original -> name of the setting."""
NAMES: Final = frozenset({*ROWS, *ALIASES, *BY_NAME, *TRANSLATED})
"""Every name that a file can hold."""
SECTIONS: Final = frozenset(
    ".".join(name.split(".")[:depth]) for name in NAMES for depth in range(1, name.count(".") + 1)
)
FILE: Final = "_file"
"""What the names of settings end with that name a file."""
LINE: Final = re.compile(r"(?P<file>.*?):(?P<line>\d+):(?P<column>\d+) ")


class RefusedError(InvalidConfigError):
    """A value that is understood, and cannot be followed; the text tells no secret."""


@dataclass(slots=True)
class Resolved:
    """What the layers together say."""

    values: dict[str, Any] = field(default_factory=dict)
    """Setting -> value, for those that are given."""
    origins: dict[str, Given] = field(default_factory=dict)
    """Setting -> who had the last word."""
    notes: list[str] = field(default_factory=list)
    """What means something else here, or nothing, one line each."""
    problems: list[str] = field(default_factory=list)
    """What is wrong, one line each."""

    def check(self) -> None:
        """Raise `ConfigProblemsError` if anything is wrong."""
        if self.problems:
            raise ConfigProblemsError(self.problems)


def resolve(layers: Iterable[Layer]) -> Resolved:
    """Merge the layers, of which later ones win setting by setting, and read every value."""
    resolved = Resolved()
    chosen: dict[str, Given] = {}
    for layer in layers:
        resolved.problems += layer.problems
        last = last_words(layer, resolved.problems)
        make_way(chosen, last, resolved.problems)
        chosen |= last
    for target, given in ((target, guarded(target, given)) for target, given in chosen.items()):
        try:
            take(resolved, target, given)
        except InvalidConfigError as error:
            resolved.problems.append(problem_of(given, error))
    make_one(resolved.values, resolved.origins, resolved.problems)
    check_discovery(resolved)
    resolved.problems.sort(key=reading_order(resolved.problems))
    return resolved


def guarded(target: str, given: Given) -> Given:
    """Return what was given, marked as secret if the setting is one, wherever it was given."""
    row = ROWS.get(target)
    return replace(given, secret=True) if row is not None and row.described.secret else given


def problem_of(given: Given, error: InvalidConfigError) -> str:
    """Return the line for a value that is refused; it does not tell a secret."""
    if given.secret and not isinstance(error, RefusedError):
        return f"{given.origin} {given.name}: the secret value is refused, and its text is not told"
    text = str(error)
    if not text.startswith(given.name):
        text = f"{given.name}: {text}"
    return f"{given.origin} {text}"


def reading_order(problems: list[str]) -> Callable[[str], tuple[int, int, int]]:
    """Return by what faults are sorted: the lines of a file, the files as they were read, then what has no line."""
    files: dict[str, int] = {}
    for problem in problems:
        if found := LINE.match(problem):
            files.setdefault(found["file"], len(files))

    def place(problem: str) -> tuple[int, int, int]:
        found = LINE.match(problem)
        return (files[found["file"]], int(found["line"]), int(found["column"])) if found else (len(files), 0, 0)

    return place


def last_words(layer: Layer, problems: list[str]) -> dict[str, Given]:
    """Return what one layer says of each setting; unknown names, and two names for one setting, are problems."""
    said: dict[str, Given] = {}
    for given in layer.givens:
        target = ALIASES.get(given.name, given.name)
        if target not in NAMES:
            if not (target in SECTIONS and isinstance(given.value, Mapping)):  # a section with nothing in it is none
                problems.append(unknown_text(given))
            continue
        other = said.get(target) or next((said[name] for name in TRANSLATED.get(target, ()) if name in said), None)
        if other is not None:
            problems.append(f"{given.origin} {given.name}: {other.origin} says the same with {other.name}: give one")
        else:
            said[target] = given
    return said


def unknown_text(given: Given) -> str:
    """Return the line for a name that does not exist, with what may have been meant."""
    head = f"{given.origin} {name_text(given.name)}"
    if given.name in SECTIONS:
        return f"{head}: it is a section, give the settings in it by name"
    if given.name.startswith("client."):
        return f"{head}: it is a setting of clients and not of a node: give it to the client"
    prefix, _, last = given.name.rpartition(".")
    here = [name.rpartition(".")[2] for name in NAMES if name.rpartition(".")[0] == prefix]
    if near := difflib.get_close_matches(last, sorted(here), 1):
        hint = f'did you mean "{near[0]}"?'
    elif meant := [name for name in sorted(NAMES) if name.rpartition(".")[2] == last]:
        hint = f"did you mean {' or '.join(meant)}?"
    else:
        hint = "see them all with: forge-consensus settings"
    return f"{head}: unknown key, {hint}"


def take(resolved: Resolved, target: str, given: Given) -> None:
    """Read one value. Raises `InvalidConfigError`."""
    if target in BY_NAME:
        judge(resolved, BY_NAME[target], given)
        return
    row = ROWS.get(target) or HALVES[target]
    if target in NOT_EMPTY and isinstance(given.value, str) and not given.value.strip():
        raise InvalidConfigError(f"{target} is empty: give a value, or leave it out")
    value = value_of(row, given)
    if target.endswith(FILE) and isinstance(value, str) and looks_like_secret(value):
        raise RefusedError(f"{target} names a file, and {NOT_TOLD} stands there: {instead_of(target)}")
    row.check(value)
    if value is not None and target in CHECKS:
        CHECKS[target](value)
    resolved.values[target] = value
    resolved.origins[target] = given


def instead_of(target: str) -> str:
    """Return how to give a secret itself that was given as the name of a file."""
    itself = {"security.curve_key_file": "security.curve_secret_key"}.get(target, target.removesuffix(FILE))
    known = ROWS.get(itself)
    if known is None or not known.described.secret:
        return "write it into a file of mode 0600, and name that"
    return f"write it into a file of mode 0600 and name that, or give {itself}"


def value_of(row: Setting, given: Given) -> Any:
    """Return the value that was given: a text is read, anything else must be a value already."""
    if isinstance(given.value, list | tuple) and given.value and row.kind == "optional str":
        return ",".join(map(str, given.value))
    return parse(row, given.value) if isinstance(given.value, str) else given.value


def judge(resolved: Resolved, original: OriginalField, given: Given) -> None:
    """Compare the value of a field of the original with how it is here. Raises `InvalidConfigError`."""
    if original.kind == "texts":
        value = given.value
        if not isinstance(value, str | list | tuple):
            raise InvalidConfigError(f"{original.name} is {value!r}: it is a list of texts")
    else:
        row = original.as_setting()
        value = value_of(row, given)
        row.check(value)
    if isinstance(value, str) and (instead := dict(original.refused).get(value)):
        raise RefusedError(f"{original.name}: {value} is refused: {instead}")
    if original.choices and value not in original.choices:
        raise InvalidConfigError(f"{original.name} is {value!r}: it is one of {', '.join(original.choices)}")
    if value == original.here:
        return
    shown = "(secret)" if given.secret else text_of(value)
    if original.otherwise == "refused":
        raise RefusedError(f"{original.name}: {shown} is refused: {original.why}")
    effect = "has no effect" if original.here is ANY else f"is taken as {text_of(original.here)}"
    resolved.notes.append(f"{given.origin} {original.name}: {shown} {effect}: {original.why}")
    resolved.origins[original.name] = given


def check_discovery(resolved: Resolved) -> None:
    """Refuse a node that would found a cluster of its own, although it was to find the others by a registry."""
    discovery = resolved.origins.get("discovery.type")
    if discovery is not None and not resolved.values.get("peers") and not resolved.values.get("join"):
        resolved.problems.append(
            f"{discovery.origin} discovery.type: {discovery.value} finds nobody here, and neither peers nor join is "
            "given: the node would be a cluster of its own, so name the members in peers"
        )
