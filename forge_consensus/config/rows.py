"""Settings as rows and as texts: one pair of functions for JSON, one for the command line and files.

A row is a dictionary that JSON can hold, with one dictionary inside for each section. Texts are pairs of a whole name
and a value, such as ``raft.heartbeat_interval`` and ``50ms``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeVar, get_type_hints

from forge_consensus.config.secret_text import NOT_TOLD, looks_like_secret
from forge_consensus.config.setting import Setting, describe, is_section, section_of
from forge_consensus.errors import InvalidConfigError

Settings = TypeVar("Settings")

TIMES: Final = {
    "us": Decimal("0.000001"), "ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600),
}  # fmt: skip
SIZES: Final = {"k": Decimal(1 << 10), "m": Decimal(1 << 20), "g": Decimal(1 << 30), "t": Decimal(1 << 40)}
NUMBERS: Final = re.compile(r"(\d+\.?\d*|\.\d+)( *)([a-z]*)")
NUMBER_CHARS_MAX: Final = 40
TOLD_CHARS_MAX: Final = 100
ON: Final = frozenset({"true", "yes", "on", "1"})
OFF: Final = frozenset({"false", "no", "off", "0"})


# --- rows ------------------------------------------------------------------------------------------------------------


def to_row(settings: Any) -> dict[str, Any]:
    """Return the settings as a dictionary that JSON can hold; `from_row` makes equal settings of it."""
    row: dict[str, Any] = {}
    for slot in fields(settings):
        value = getattr(settings, slot.name)
        if is_section(type(value)):
            row[slot.name] = to_row(value)
        else:
            row[slot.name] = plain(value)
    return row


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    if isinstance(value, Path):
        return str(value)
    return dict(value) if isinstance(value, Mapping) else value


def from_row(kind: type[Settings], row: Mapping[str, Any]) -> Settings:
    """Make settings of a dictionary; what it lacks has its default.

    Raises `InvalidConfigError` for an unknown name, a missing one that has no default, and a value that cannot be.
    """
    prefix, hints = section_of(kind), get_type_hints(kind)
    slots = {slot.name: slot for slot in fields(kind)}  # type: ignore[arg-type]  # it is a settings class
    given: dict[str, Any] = {}
    for name, value in row.items():
        if name not in slots:
            raise unknown(f"{prefix}{name}", [f"{prefix}{known}" for known in slots])
        if is_section(hints[name]):
            if not isinstance(value, Mapping):
                raise InvalidConfigError(f"{name} is {value!r}: it is a section, give its settings by name")
            given[name] = from_row(hints[name], value)
        else:
            given[name] = value
    for name, slot in slots.items():
        if name not in given and slot.default is MISSING and slot.default_factory is MISSING:
            raise InvalidConfigError(f"{prefix}{name} is missing: it has no default, so give a value")
    return kind(**given)


# --- texts -----------------------------------------------------------------------------------------------------------


def row_of_texts(kind: type, texts: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return the row that pairs of whole names and texts stand for.

    Raises `InvalidConfigError` for an unknown name, one given twice, and a text that stands for no such value.
    """
    known = {setting.name: setting for setting in describe(kind)}
    row: dict[str, Any] = {}
    seen: set[str] = set()
    for name, text in texts:
        if name not in known:
            raise unknown(name, known)
        if name in seen:
            raise InvalidConfigError(f"{name} is given twice: give it once")
        seen.add(name)
        section, dot, last = name.rpartition(".")
        place = row.setdefault(section, {}) if dot else row
        place[last] = parse(known[name], text)
    return row


def texts_of(settings: Any) -> dict[str, str]:
    """Return the whole name and the text of every setting that differs from its default."""
    found: dict[str, str] = {}
    for setting in describe(type(settings)):
        value: Any = settings
        for part in setting.name.removeprefix(section_of(type(settings))).split("."):
            value = getattr(value, part)
        if value != setting.default:
            found[setting.name] = text_of(value)
    return found


def text_of(value: Any) -> str:
    """Return the text that `parse` reads as this value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = repr(value)
        return f"{value:.20f}".rstrip("0") if "e" in text else text  # no exponents in what people read and write
    if isinstance(value, Mapping):
        return ",".join(f"{node}={address}" for node, address in value.items())
    return "" if value is None else str(value)


def parse(setting: Setting, text: str) -> Any:
    """Return the value that a text stands for: ``0.2``, ``250ms``, ``4MiB``, ``true``, ``n1=host:port,n2=host:port``.

    Numbers without a unit are in the setting's own. Sizes are powers of 1024, with or without "iB". The bounds are
    checked when settings are made of the value. Raises `InvalidConfigError`.
    """
    text = text.strip()
    value = PARSERS[setting.kind](setting, text)
    if value is None and setting.kind != "optional str":
        example = EXAMPLES.get(setting.described.unit) or EXAMPLES.get(setting.kind, "")
        hint = f", such as {example}" if example else ""
        told = repr(text if len(text) <= TOLD_CHARS_MAX else f"{text[:TOLD_CHARS_MAX]}...")
        told = NOT_TOLD if looks_like_secret(text) else told
        raise InvalidConfigError(f"{setting.name} is {told}: write {setting.expected}{hint}")
    return value


def parse_number(setting: Setting, text: str) -> float | int | None:
    """Return the number in a text, in the setting's unit; None if there is none, or none of the setting's type.

    A time may have several parts, as Go writes it: ``1m30s``.
    """
    own = setting.described.unit
    units = {name: factor / TIMES[own] for name, factor in TIMES.items()} if own in TIMES else {}
    if own == "bytes":
        units, text = SIZES, re.sub("i?b$", "", text.lower())
    parts = NUMBERS.findall(text)
    alone = len(parts) == 1
    if len(text) > NUMBER_CHARS_MAX or not parts or "".join("".join(part) for part in parts) != text:
        return None
    if any(unit not in units and not (alone and not unit) for _, _, unit in parts) or not (alone or own in TIMES):
        return None
    number = sum((Decimal(digits) * units.get(unit, Decimal(1)) for digits, _, unit in parts), Decimal(0))
    if setting.kind == "float":
        return float(number)
    whole = number == int(number) and not (alone and "." in parts[0][0])
    return int(number) if whole else None


def parse_switch(setting: Setting, text: str) -> bool | None:
    """Return the switch's position, None if the text names none."""
    return True if text.lower() in ON else False if text.lower() in OFF else None


def parse_text(setting: Setting, text: str) -> str | None:
    """Return the text itself; an empty one is nothing where nothing is allowed."""
    return None if setting.kind == "optional str" and not text else text


def parse_addresses(setting: Setting, text: str) -> dict[str, str]:
    """Return the map in a text like ``n1=host:port,n2=host:port``. Raises `InvalidConfigError`."""
    addresses: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        node, equals, address = (piece.strip() for piece in part.partition("="))
        if not (node and equals and address):
            raise InvalidConfigError(
                f"{part!r} in {setting.name} is not ID=HOST:PORT: write n1=127.0.0.1:7001,n2=127.0.0.1:7002"
            )
        if node in addresses:
            raise InvalidConfigError(f"node {node!r} is twice in {setting.name}: give each member an id of its own")
        addresses[node] = address
    return addresses


PARSERS: Final[dict[str, Any]] = {
    "bool": parse_switch,
    "int": parse_number,
    "float": parse_number,
    "str": parse_text,
    "optional str": parse_text,
    "path": parse_text,
    "addresses": parse_addresses,
}
EXAMPLES: Final = {
    "s": "0.25, 250ms or 2m",
    "ms": "60000, 60s or 1m",
    "bytes": "1048576, 64MiB or 2GiB",
}


def unknown(name: str, known: Iterable[str]) -> InvalidConfigError:
    """Return the error for a setting that does not exist, with what may have been meant."""
    names = sorted(known)
    last = {whole.rpartition(".")[2]: whole for whole in names}
    meant = difflib.get_close_matches(name, names, 1)
    meant = meant or [last[close] for close in difflib.get_close_matches(name.rpartition(".")[2], last, 1, 0.5)]
    hint = f"did you mean {meant[0]}?" if meant else "see them all with: forge-consensus settings"
    return InvalidConfigError(f"there is no setting {name!r}: {hint}")
