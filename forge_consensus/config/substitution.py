"""What ``${...}`` in a configuration file stands for: a variable, a default, or what another file holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from forge_consensus.config.file_reads import FileReads
from forge_consensus.errors import InvalidConfigError

SUBSTITUTION: Final = re.compile(r"\$\$\{|\$\{(?P<what>[^}]*)(?P<end>\}?)")
FILE: Final = "file:"
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""What the name of a variable may be."""


def expanded(text: str, environment: Mapping[str, str], reads: FileReads) -> tuple[str, bool]:
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
            told = repr(found[0]) if NAME.fullmatch(what) else "'${'"
            raise InvalidConfigError(
                f"{told} has no closing brace: write ${{NAME}}, or $${{ for the characters themselves"
            )
        if "${" in what:
            raise InvalidConfigError("${...${...}}: substitutions do not stand inside one another")
        secret = secret or what.startswith(FILE)
        parts.append(substituted(what, environment, reads))
    return "".join((*parts, text[at:])), secret


def substituted(what: str, environment: Mapping[str, str], reads: FileReads) -> str:
    """Return what stands for ``NAME``, ``NAME:-default`` or ``file:/path``. Raises `InvalidConfigError`."""
    if what.startswith(FILE):
        return reads.text(Path(what.removeprefix(FILE))).rstrip("\r\n")
    name, dash, default = what.partition(":-")
    if value := environment.get(name, ""):
        return value
    if dash:
        return default
    if name in environment:
        return ""
    if not NAME.fullmatch(name):  # a part of a secret may stand there, so it is not told
        raise InvalidConfigError(
            "what stands in ${...} is no name of a variable: write $${ for the characters themselves"
        )
    raise InvalidConfigError(f"the variable {name!r} is not set: set it, or give a default: ${{{name}:-value}}")
