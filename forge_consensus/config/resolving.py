"""From given values to settings: who has the last word on each, and what every one of them means here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from forge_consensus.config.address import bind_address
from forge_consensus.config.given import ConfigProblemsError, Given, Layer
from forge_consensus.config.node import NodeSettings, checked_events_bind, checked_peers
from forge_consensus.config.original import ANY, BY_NAME, OriginalField
from forge_consensus.config.program import ProgramSettings
from forge_consensus.config.rows import parse, text_of
from forge_consensus.config.setting import Setting, describe
from forge_consensus.errors import InvalidConfigError

DESCRIBED: Final = (*describe(NodeSettings), *describe(ProgramSettings))
ROWS: Final = {row.name: row for row in sorted(DESCRIBED, key=lambda row: "." in row.name)}
"""Every setting that a file can hold; those without a section come first, as in a file."""
ADDRESSES: Final[dict[str, Callable[[Any], object]]] = {
    "bind": bind_address,
    "peers": checked_peers,
    "events_bind": checked_events_bind,
}
"""What is checked before all settings are put together, so that the error has its place."""
OTHERWISE: Final = ("bind", "metrics", "storage.tail_bytes_max", "log_format")
"""Settings whose counterpart in the original has another type or unit, so it is no second name for them."""
ALIASES: Final = {
    row.described.original: row.name
    for row in ROWS.values()
    if row.described.original and row.name not in OTHERWISE and row.described.original != row.name
}
"""Name in the original -> name of the setting."""
PLACE: Final = ("bind_addr", "bind_port")
STRUCTURED: Final = "observability.logging.enable_structured"
HALVES: Final = {
    "bind_addr": Setting("bind_addr", "str", "127.0.0.1", ROWS["bind"].described),
    "bind_port": Setting("bind_port", "int", 7000, ROWS["bind"].described),
    STRUCTURED: Setting(STRUCTURED, "bool", True, ROWS["log_format"].described),
}
"""Fields of the original that are translated: two of them are one setting here, or a switch is a choice."""
LINE: Final = re.compile(r"(?P<file>.*?):(?P<line>\d+):(?P<column>\d+) ")
LAST: Final = "\U0010ffff"
"""What no name of a file comes after."""
NAMES: Final = frozenset({*ROWS, *ALIASES, *BY_NAME, *HALVES})
"""Every name that a file can hold."""
SECTIONS: Final = frozenset(name.rpartition(".")[0] for name in NAMES if "." in name)


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
        if "bind" in last:
            for half in PLACE:
                chosen.pop(half, None)
        elif last.keys() & set(PLACE):
            chosen.pop("bind", None)
        if "log_format" in last:
            chosen.pop(STRUCTURED, None)
        elif STRUCTURED in last:
            chosen.pop("log_format", None)
        chosen |= last
    for target, given in chosen.items():
        try:
            take(resolved, target, given)
        except InvalidConfigError as error:
            text = str(error)
            if given.secret:
                text = text.replace(repr(given.text.strip()), "a secret value")
            resolved.problems.append(f"{given.origin} {text}")
    put_together(resolved)
    resolved.problems.sort(key=reading_order)
    return resolved


def reading_order(problem: str) -> tuple[str, int, int]:
    """Return by what the faults of one file are sorted: its lines. Faults without a line stay in their order, last."""
    found = LINE.match(problem)
    return (found["file"], int(found["line"]), int(found["column"])) if found else (LAST, 0, 0)


def last_words(layer: Layer, problems: list[str]) -> dict[str, Given]:
    """Return what one layer says of each setting; unknown names, and two names for one setting, are problems."""
    said: dict[str, Given] = {}
    for given in layer.givens:
        target = ALIASES.get(given.name, given.name)
        if target not in NAMES:
            problems.append(unknown_text(given))
            continue
        other = said.get(target) or next((said[name] for name in rivals(target) if name in said), None)
        if other is not None:
            problems.append(f"{given.origin} {given.name}: {other.origin} says the same with {other.name}: give one")
        else:
            said[target] = given
    return said


def rivals(target: str) -> tuple[str, ...]:
    """Return the other names under which the same is said."""
    if target == "bind":
        return PLACE
    if target in PLACE:
        return ("bind",)
    return {STRUCTURED: ("log_format",), "log_format": (STRUCTURED,)}.get(target, ())


def unknown_text(given: Given) -> str:
    """Return the line for a name that does not exist, with what may have been meant."""
    if given.name in SECTIONS:
        return f"{given.origin} {given.name}: it is a section, give the settings in it by name"
    if given.name.startswith("client."):
        return f"{given.origin} {given.name}: it is a setting of clients and not of a node: give it to the client"
    prefix, _, last = given.name.rpartition(".")
    here = [name.rpartition(".")[2] for name in NAMES if name.rpartition(".")[0] == prefix]
    if near := difflib.get_close_matches(last, here, 1):
        hint = f'did you mean "{near[0]}"?'
    elif meant := [name for name in sorted(NAMES) if name.rpartition(".")[2] == last]:
        hint = f"did you mean {' or '.join(meant)}?"
    else:
        hint = "see them all with: forge-consensus settings"
    return f"{given.origin} {given.name}: unknown key, {hint}"


def take(resolved: Resolved, target: str, given: Given) -> None:
    """Read one value. Raises `InvalidConfigError`, whose text begins with the setting's name."""
    if target in BY_NAME:
        judge(resolved, BY_NAME[target], given)
        return
    row = ROWS.get(target) or HALVES[target]
    value = parse(row, given.text)
    if target in ROWS:
        row.check(value)
        if value is not None and target in ADDRESSES:
            ADDRESSES[target](value)
    resolved.values[target] = value
    resolved.origins[target] = given


def judge(resolved: Resolved, original: OriginalField, given: Given) -> None:
    """Compare the value of a field of the original with how it is here. Raises `InvalidConfigError`."""
    value: Any = given.text.strip()
    if original.kind != "texts":
        value = parse(original.as_setting(), given.text)
    if original.choices and value not in original.choices:
        raise InvalidConfigError(f"{original.name} is {value!r}: it is one of {', '.join(original.choices)}")
    if value == original.here:
        return
    shown = "(secret)" if original.secret or given.secret else text_of(value)
    if original.otherwise == "refused":
        raise InvalidConfigError(f"{original.name}: {shown} is refused: {original.why}")
    effect = "has no effect" if original.here is ANY else f"is taken as {text_of(original.here)}"
    resolved.notes.append(f"{given.origin} {original.name}: {shown} {effect}: {original.why}")
    resolved.origins[original.name] = given


def put_together(resolved: Resolved) -> None:
    """Make one setting of the fields of the original that are translated."""
    values, origins = resolved.values, resolved.origins
    given = [origins.pop(half) for half in PLACE if half in origins]
    host = values.pop("bind_addr", HALVES["bind_addr"].default)
    port = values.pop("bind_port", HALVES["bind_port"].default)
    if given:
        values["bind"] = f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
        origins["bind"] = given[0]
    if STRUCTURED in values:
        values["log_format"] = "json" if values.pop(STRUCTURED) else "text"
        origins["log_format"] = origins.pop(STRUCTURED)
    discovery = origins.get("discovery.type")
    if discovery is not None and not values.get("peers") and not values.get("join"):
        resolved.problems.append(
            f"{discovery.origin} discovery.type: {discovery.text} finds nobody here, and neither peers nor join is "
            "given: the node would be a cluster of its own, so name the members in peers"
        )


def placed(error: InvalidConfigError, origins: dict[str, Given]) -> str:
    """Return the text of an error about settings that do not fit together, with the place of one that it names."""
    text = str(error)
    named = [origins[name] for name in re.findall(r"[a-z_.]*[a-z_]", text) if name in origins]
    return f"{named[0].origin} {text}" if named else text
