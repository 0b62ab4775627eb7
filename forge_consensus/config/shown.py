"""A configuration as it is shown: every setting with its value and where it was given, and no secret."""

from __future__ import annotations

from dataclasses import MISSING
from typing import Any, Final

from forge_consensus.config.loading import LoadedConfig
from forge_consensus.config.resolving import ROWS
from forge_consensus.config.rows import plain, text_of

DEFAULT: Final = "default"
SECRET: Final = "(secret)"


def values_of(loaded: LoadedConfig) -> dict[str, Any]:
    """Return the value of every setting."""
    values = {}
    for name in ROWS:
        value: Any = loaded.program if hasattr(loaded.program, name.partition(".")[0]) else loaded.node
        for part in name.split("."):
            value = getattr(value, part)
        values[name] = plain(value)
    return values


def shown(loaded: LoadedConfig) -> list[dict[str, Any]]:
    """Return name, value, text and origin of every setting, without secrets."""
    rows = []
    for name, value in values_of(loaded).items():
        given = loaded.origins.get(name)
        row = ROWS[name]
        hidden = (given is not None and given.secret) or (row.described.secret and value is not None)
        told = SECRET if hidden else value
        text = text_of(told) or "-"
        rows.append(
            {
                "name": name,
                "value": told,
                "text": text if text.isprintable() else repr(text),
                "default": None if row.default is MISSING else plain(row.default),
                "unit": row.described.unit,
                "reload": row.described.reload,
                "origin": given.origin if given else DEFAULT,
            }
        )
    return rows
