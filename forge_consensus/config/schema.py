"""The JSON schema of a configuration file, made from the descriptions of the settings and of the original's fields."""

from __future__ import annotations

from dataclasses import MISSING
from typing import Any, Final

from forge_consensus.config.node import JOIN_AS
from forge_consensus.config.original import ANY, BY_NAME
from forge_consensus.config.program import LOG_FORMATS, LOG_LEVELS
from forge_consensus.config.resolving import ALIASES, ROWS
from forge_consensus.config.rows import plain
from forge_consensus.config.setting import Setting
from forge_consensus.config.two_names import HALVES

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
NUMBER: Final = r"^\s*[0-9.]+\s*$"
TEXTS: Final = {
    "s": r"^\s*([0-9.]+ *(us|ms|s|m|h)?)+\s*$",
    "ms": r"^\s*([0-9.]+ *(us|ms|s|m|h)?)+\s*$",
    "bytes": r"^\s*[0-9.]+ *([kKmMgGtT]i?)?[bB]?\s*$",
}
"""Unit -> the texts that stand for a number of it, besides the number itself."""
SUBSTITUTED: Final = {"type": "string", "pattern": r"\$\{"}
"""Any value may come from a variable or a file."""
MEMBER: Final = {
    "type": "object",
    "properties": {
        "id": {"type": ["string", "integer"]},
        "address": {"type": "string"},
        "port": {"type": ["string", "integer"]},
    },
    "required": ["id", "address"],
    "additionalProperties": False,
}
KINDS: Final[dict[str, dict[str, Any]]] = {
    "bool": {"type": "boolean"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "str": {"type": ["string", "integer"]},
    "optional str": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
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


CHOICES: Final = {"log_level": LOG_LEVELS, "log_format": LOG_FORMATS, "join_as": JOIN_AS}
NULL: Final[dict[str, Any]] = {"type": "null"}


def schema() -> dict[str, Any]:
    """Return the schema of a file, whose settings are at the top or in one of the two sections for them."""
    settings = settings_schema()
    reference = {"$ref": "#/$defs/settings"}
    inside = {"type": "object", "properties": {"consensus": reference}, "required": ["consensus"]}
    return {
        "$schema": DIALECT,
        "title": "The configuration of a forge-consensus node",
        "$defs": {"settings": settings},
        "anyOf": [
            reference,
            inside,
            {"type": "object", "properties": {"extensions": inside}, "required": ["extensions"]},
        ],
    }


def settings_schema() -> dict[str, Any]:
    """Return the schema of the settings themselves; ``x-reload`` says when a running node takes another value."""
    root: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
    for name, row in {**ROWS, **{alias: ROWS[name] for alias, name in ALIASES.items()}, **HALVES}.items():
        text = row.described.what if name in ROWS else f"The original's name of {row.name}. {row.described.what}"
        put(root, name, {**of_row(row), "description": text, "x-reload": row.described.reload})
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
    """Return the schema of a setting, with its default; that of `bind` depends on the peers."""
    default = {} if row.default is MISSING or row.name == "bind" else {"default": plain(row.default)}
    if row.name in CHOICES:
        return {"anyOf": [{"enum": list(CHOICES[row.name])}, SUBSTITUTED, NULL], **default}
    return {**of_kind(row, row.kind), **default}


def of_kind(row: Setting, kind: str) -> dict[str, Any]:
    """Return the schema of a value: what YAML reads as the type, a text for it, a substitution, or null for none."""
    body = dict(KINDS[kind])
    if kind in ("int", "float"):
        low, high = row.described.minimum, row.described.maximum
        body |= {key: bound for key, bound in (("minimum", low), ("maximum", high)) if bound is not None}
    texts = [{"type": "string", "pattern": TEXTS.get(row.described.unit, NUMBER)}] if kind in ("int", "float") else []
    return {"anyOf": [body, *texts, SUBSTITUTED, NULL]}
