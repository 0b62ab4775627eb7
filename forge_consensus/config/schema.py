"""The JSON schema of a configuration file, made from the descriptions of the settings and of the original's fields."""

from __future__ import annotations

from dataclasses import MISSING
from typing import Any, Final

from forge_consensus.config.original import ANY, BY_NAME
from forge_consensus.config.resolving import ALIASES, HALVES, ROWS
from forge_consensus.config.setting import Setting

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
TEXTS: Final = {
    "s": r"^\s*[0-9.]+ *(ms|s|m|h)?\s*$",
    "ms": r"^\s*[0-9.]+ *(ms|s|m|h)?\s*$",
    "bytes": r"^\s*[0-9.]+ *([kKmMgGtT]i?)?[bB]?\s*$",
}
"""Unit -> the texts that stand for a number of it, besides the number itself."""
SUBSTITUTED: Final = {"type": "string", "pattern": r"\$\{"}
"""Any value may come from a variable or a file."""
MEMBER: Final = {
    "type": "object",
    "properties": {"id": {"type": ["string", "integer"]}, "address": {"type": "string"}, "port": {"type": "integer"}},
    "required": ["id", "address"],
    "additionalProperties": False,
}
KINDS: Final[dict[str, dict[str, Any]]] = {
    "bool": {"type": "boolean"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "str": {"type": ["string", "integer"]},
    "optional str": {"type": ["string", "null"]},
    "path": {"type": "string"},
    "addresses": {
        "anyOf": [
            {"type": "array", "items": {"anyOf": [MEMBER, {"type": "string"}]}},
            {"type": "object", "additionalProperties": {"type": "string"}},
            {"type": "string"},
        ]
    },
    "texts": {"type": "array", "items": {"type": "string"}},
}


def schema() -> dict[str, Any]:
    """Return the schema of a file whose settings are at the top."""
    root: dict[str, Any] = {
        "$schema": DIALECT,
        "title": "The configuration of a forge-consensus node",
        "type": "object",
        "properties": {},
        "additionalProperties": False,
    }
    for name, row in {**ROWS, **{alias: ROWS[name] for alias, name in ALIASES.items()}, **HALVES}.items():
        text = row.described.what if name in ROWS else f"The original's name of {row.name}. {row.described.what}"
        put(root, name, {**of_row(row), "description": text})
    for name, original in BY_NAME.items():
        here = "No effect" if original.here is ANY else f"Always {original.here!r} here"
        body = {"enum": list(original.choices)} if original.choices else of_kind(original.as_setting(), original.kind)
        put(root, name, {**body, "description": f"{here}: {original.why}."})
    return root


def put(root: dict[str, Any], name: str, body: dict[str, Any]) -> None:
    """Put the schema of one setting into its section."""
    *sections, last = name.split(".")
    place = root
    for section in sections:
        empty = {"type": ["object", "null"], "properties": {}, "additionalProperties": False}
        place = place["properties"].setdefault(section, empty)
    place["properties"][last] = body


def of_row(row: Setting) -> dict[str, Any]:
    """Return the schema of a setting, with its default."""
    default = (
        {} if row.default is MISSING else {"default": dict(row.default) if row.kind == "addresses" else row.default}
    )
    return {**of_kind(row, row.kind), **default}


def of_kind(row: Setting, kind: str) -> dict[str, Any]:
    """Return the schema of a value: what YAML reads as the type, a text with a unit, or a substitution."""
    plain = dict(KINDS[kind])
    if kind in ("int", "float"):
        low, high = row.described.minimum, row.described.maximum
        plain |= {key: bound for key, bound in (("minimum", low), ("maximum", high)) if bound is not None}
    if kind in ("str", "optional str", "path", "addresses", "texts"):
        return plain
    texts = [{"type": "string", "pattern": TEXTS[unit]}] if (unit := row.described.unit) in TEXTS else []
    return {"anyOf": [plain, *texts, SUBSTITUTED]}
