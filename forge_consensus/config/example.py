"""A commented configuration file with every setting: those that are given, and the others with their defaults."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING
from typing import Final

from forge_consensus.config.resolving import ROWS
from forge_consensus.config.rows import text_of
from forge_consensus.config.setting import Setting
from forge_consensus.errors import InvalidConfigError

WIDTH_CHARS: Final = 110
UNITS: Final = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
BARE: Final = re.compile(r"[A-Za-z0-9/][\w./:-]*(?<!:)", re.ASCII)
"""A text that YAML reads as itself without quotation marks."""
NOTHING: Final = frozenset({"null"})
"""Words, in small letters, that YAML takes for no value."""


def example_text(head: str, given: Mapping[str, str | Mapping[str, str]]) -> str:
    """Return the text of a configuration file.

    Args:
        head: comments with which it begins.
        given: setting -> its value; all others are commented out and show their defaults.

    Raises `InvalidConfigError` for a value that no file can hold.

    """
    lines = [head]
    section = ""
    for name, row in ROWS.items():
        here, _, last = name.rpartition(".")
        if here != section:
            section = here
            lines.append(f"{here}:")
        indent = "  " if here else ""
        for sentence in (row.described.what, f"Default: {row.described.why}"):
            lines += textwrap.wrap(sentence, WIDTH_CHARS, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        lines += [f"{indent}{line}" for line in setting_lines(last, row, given.get(name))] + [""]
    return "\n".join(lines).rstrip() + "\n"


def setting_lines(name: str, row: Setting, value: str | Mapping[str, str] | None) -> list[str]:
    """Return the lines of one setting; it is commented out if no value is given."""
    if isinstance(value, Mapping):
        return [f"{name}:", *(f"  {quoted(key)}: {value_text(text)}" for key, text in value.items())]
    if value is not None:
        return [f"{name}: {value_text(value)}"]
    text = "{}" if row.kind == "addresses" else default_text(row)
    return [f"# {name}: {'' if text == '-' else text}".rstrip()]


def value_text(text: str) -> str:
    """Return a value as a file has it, where ``${`` would stand for a variable. Raises `InvalidConfigError`."""
    return quoted(text.replace("${", "$${"))


def quoted(text: str) -> str:
    """Return a text as YAML reads it back, in quotation marks if need be. Raises `InvalidConfigError`."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidConfigError(f"{text!r} is no valid text: a file cannot hold it, so choose another one") from error
    if BARE.fullmatch(text) and text.lower() not in NOTHING:
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def default_text(row: Setting) -> str:
    """Return the default of a setting for people; sizes in the largest unit that is exact."""
    if row.default is MISSING:
        return "(required)"
    if row.described.unit == "bytes":
        for size, unit in UNITS:
            if row.default and row.default % size == 0:
                return f"{row.default // size}{unit}"
    return text_of(row.default) or "-"
