"""A setting: a field of a settings class with its unit, its meaning, the reason for its default, and its bounds.

A settings class is a frozen dataclass whose fields are made by `setting`. `describe` lists them, and everything that
reads or shows settings goes by that list: the command line, the service, the test kit and the table that
``forge-consensus settings`` prints. A field that is itself a settings class is a section: `heartbeat_interval` of
`RaftSettings` is called ``raft.heartbeat_interval``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_type_hints

from forge_consensus.errors import InvalidConfigError

Reload = Literal["hot", "restart", "founding"]
"""When a changed value takes effect: at once in a running node, at the node's next start, or never, because the value
is read at the first start of a new cluster only."""

Value = TypeVar("Value")

KINDS: Final[dict[Any, str]] = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    str | None: "optional str",
    str | Path: "path",
    Mapping[str, str]: "addresses",
}
"""The types that a setting may have, and their names in tables."""

UNITS: Final = {"s": "seconds", "ms": "milliseconds", "bytes": "bytes", "entries": "entries"}
METADATA: Final = "setting"
"""The key of a `Described` in the metadata of its field."""
DESCRIBED: Final[dict[type[Any], tuple[Setting, ...]]] = {}
"""What `describe` found, because settings are checked each time they are made."""
HINTS: Final[dict[type[Any], dict[str, Any]]] = {}
"""What `hints_of` found, for the same reason."""
INT_MAX: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Described:
    """What the author of a settings class says of one field, besides its name, type and default."""

    what: str
    """What the setting does, one sentence."""
    why: str
    """Why the default is what it is, one sentence."""
    unit: str = ""
    """"s", "ms", "bytes", "entries", or empty for a plain number or text."""
    reload: Reload = "restart"
    original: str = ""
    """The name in the configuration of the Go original (Forge Consensus), empty where it has none."""
    minimum: float | None = None
    maximum: float | None = None
    """The bounds of a number; both are allowed values."""
    secret: bool = False
    """Whether the value must never be shown."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: a row of the description."""

    name: str
    """The whole name, such as ``raft.heartbeat_interval``."""
    kind: str
    """One of the values of `KINDS`."""
    default: Any
    """`dataclasses.MISSING` where a value must be given."""
    described: Described

    @property
    def expected(self) -> str:
        """What a value must be, for the text of an error."""
        noun = {
            "bool": "true or false",
            "int": f"a whole number of {UNITS[self.described.unit]}" if self.described.unit else "a whole number",
            "float": f"a number of {UNITS[self.described.unit]}" if self.described.unit else "a number",
            "str": "a text",
            "optional str": "a text, or nothing",
            "path": "the path of a folder",
            "addresses": 'a map of node ids to HOST:PORT, such as {"n1": "127.0.0.1:7001"}',
        }[self.kind]
        low, high = self.described.minimum, self.described.maximum
        bounds = [f"at least {low:g}"] if low is not None else []
        bounds += [f"at most {high}"] if high is not None else []
        return " ".join((noun, *([f"of {' and '.join(bounds)}"] if bounds else [])))

    def check(self, value: object) -> None:
        """Raise `InvalidConfigError` for a value of the wrong type or beyond the bounds."""
        if not self.accepts(value):
            usual = "" if self.default is MISSING else f"; the default is {self.default!r}"
            told = "something that is not told" if self.described.secret else repr(value)
            raise InvalidConfigError(f"{self.name} is {told}: it must be {self.expected}{usual}")

    def accepts(self, value: object) -> bool:
        """Whether the value has the right type and lies within the bounds; True is no number here."""
        if self.kind in ("int", "float"):
            return self.accepts_number(value)
        kinds: dict[str, type | tuple[type, ...]] = {
            "bool": bool,
            "str": str,
            "optional str": (str, type(None)),
            "path": (str, Path),
            "addresses": Mapping,
        }
        return isinstance(value, kinds[self.kind]) and (self.kind != "path" or bool(str(value)))

    def accepts_number(self, value: object) -> bool:
        """Whether the value is a finite number of the right type within the bounds."""
        kinds = int if self.kind == "int" else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            return False
        if abs(value) > INT_MAX or not math.isfinite(value):  # in this order: a larger whole number is no float
            return False
        low, high = self.described.minimum, self.described.maximum
        return (low is None or value >= low) and (high is None or value <= high)


def setting(
    default: Value,
    *,
    what: str,
    why: str,
    unit: str = "",
    reload: Reload = "restart",
    original: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    secret: bool = False,
) -> Value:
    """Return the dataclass field of a setting; see `Described` for the arguments.

    The field is an ordinary one: slots and frozen classes stay, and reading it costs what reading any attribute costs.
    """
    described = Described(what, why, unit, reload, original, minimum, maximum, secret)
    return field(default=default, repr=not secret, metadata=described_as(described))


def described_as(described: Described) -> dict[str, Described]:
    """Return the metadata of a field for those that `setting` cannot make: without a default, or with a factory."""
    return {METADATA: described}


def describe(kind: type[Any]) -> tuple[Setting, ...]:
    """List every setting of a settings class, those of its sections included, in the order of their declaration."""
    if kind not in DESCRIBED:
        DESCRIBED[kind] = tuple(rows_of(kind))
    return DESCRIBED[kind]


def rows_of(kind: type[Any]) -> list[Setting]:
    """Read the rows of a settings class from its fields."""
    prefix = section_of(kind)
    hints = hints_of(kind)
    rows: list[Setting] = []
    for slot in fields(kind):
        hint = hints[slot.name]
        if is_section(hint):
            rows += describe(hint)
            continue
        default: Any = slot.default
        if slot.default_factory is not MISSING:
            default = slot.default_factory()
        rows.append(Setting(f"{prefix}{slot.name}", KINDS[hint], default, slot.metadata[METADATA]))
    return rows


def hints_of(kind: type[Any]) -> dict[str, Any]:
    """Return the types of a settings class's fields."""
    if kind not in HINTS:
        HINTS[kind] = get_type_hints(kind)
    return HINTS[kind]


def section_of(kind: type) -> str:
    """Return what stands before the names of a class's settings: ``raft.``, or nothing for those of the node itself."""
    name: str = getattr(kind, "SECTION", "")
    return f"{name}." if name else ""


def is_section(hint: object) -> bool:
    """Whether a field of that type is a settings class of its own."""
    return isinstance(hint, type) and is_dataclass(hint)


def check(settings: Any) -> None:
    """Raise `InvalidConfigError` for the first value that has the wrong type or is beyond its bounds."""
    kind = type(settings)
    prefix = section_of(kind)
    rows = {row.name: row for row in describe(kind)}
    for slot in fields(kind):
        value = getattr(settings, slot.name)
        row = rows.get(f"{prefix}{slot.name}")
        if row is not None:
            row.check(value)
            continue
        wanted = hints_of(kind)[slot.name]
        if not isinstance(value, wanted):
            raise InvalidConfigError(
                f"{slot.name} is {value!r}: it must be {wanted.__module__}.{wanted.__qualname__}(...)"
            )
