"""Values of keys as JSON has them."""

from __future__ import annotations

import math
from typing import Any

from forge_consensus.client.key_records import KeyEntry


def described(value: Any) -> dict[str, Any]:
    """Return a value as JSON can hold it, and its kind."""
    kind = "text" if isinstance(value, str) else "bytes" if isinstance(value, bytes) else "json"
    return {"value": jsonable(value), "kind": kind}


def jsonable(value: Any) -> Any:
    """Return a value without numbers that JSON does not have; they become texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    return [jsonable(item) for item in value] if isinstance(value, list | tuple) else value


def entry_row(entry: KeyEntry) -> dict[str, Any]:
    """Return a key with its value and revisions as JSON can hold it."""
    facts = {"created": entry.created, "modified": entry.modified, "lease": entry.lease}
    return {"key": entry.key, **described(entry.value), **facts}
