"""What ``${...}`` in a configuration file stands for: a variable, a default, or what another file holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from forge_consensus.errors import InvalidConfigError

BYTES_MAX: Final = 1 << 20
SUBSTITUTION: Final = re.compile(r"\$\$\{|\$\{(?P<what>[^}]*)(?P<end>\}?)")
FILE: Final = "file:"


def expanded(text: str, environment: Mapping[str, str]) -> tuple[str, bool]:
    """Return the text with what its substitutions stand for, and whether one of them came from a file.

    ``$${`` stands for the two characters themselves. Raises `InvalidConfigError`.
    """
    parts: list[str] = []
    secret, at = False, 0
    for found in SUBSTITUTION.finditer(text):
        parts.append(text[at : found.start()])
        at = found.end()
        what = found["what"]
        if what is None:
            parts.append("${")
            continue
        if not found["end"]:
            raise InvalidConfigError(
                f"{found[0]!r} has no closing brace: write ${{NAME}}, or $${{ for the characters themselves"
            )
        if "${" in what:
            raise InvalidConfigError(f"{found[0]!r}: substitutions do not stand inside one another")
        secret = secret or what.startswith(FILE)
        parts.append(substituted(what, environment))
    return "".join((*parts, text[at:])), secret


def substituted(what: str, environment: Mapping[str, str]) -> str:
    """Return what stands for ``NAME``, ``NAME:-default`` or ``file:/path``. Raises `InvalidConfigError`."""
    if what.startswith(FILE):
        return text_of_file(Path(what.removeprefix(FILE))).rstrip("\r\n")
    name, dash, default = what.partition(":-")
    if value := environment.get(name, ""):
        return value
    if dash:
        return default
    if name in environment:
        return ""
    raise InvalidConfigError(f"the variable {name!r} is not set: set it, or give a default: ${{{name}:-value}}")


def text_of_file(path: Path) -> str:
    """Return what the file holds. Raises `InvalidConfigError` if it cannot be read, is too large, or is no text."""
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidConfigError(f"{str(path)!r} cannot be read: {what}") from error
    if len(data) > BYTES_MAX:
        raise InvalidConfigError(f"{str(path)!r} has more than {BYTES_MAX} bytes: it is no text of a configuration")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidConfigError(
            f"{str(path)!r} is not UTF-8: byte {error.start} is {data[error.start]:#04x}"
        ) from error
