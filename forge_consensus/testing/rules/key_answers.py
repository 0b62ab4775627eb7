"""The answers to queries of the key-value machine, found by looking at a whole state of the model."""

from __future__ import annotations

from typing import Any

from forge_consensus.testing.rules.key_model import State


def answer_of(state: State, query: Any) -> Any:
    """Return the answer of a state to a query, except one for changes. Raises `ValueError` for what is no query."""
    if isinstance(query, str):
        query = {"get": query}
    keys, leases = state.keys, state.leases
    if "get" in query:
        return keys[query["get"]].value if query["get"] in keys else None
    if "entry" in query:
        return row_of(state, query["entry"]) if query["entry"] in keys else None
    if "count" in query:
        return sum(key.startswith(query["count"]) for key in keys)
    if "scan" in query:
        return [[key, keys[key].value] for key in page_of(state, query, query["scan"])]
    if "entries" in query:
        return [row_of(state, key) for key in page_of(state, query, query["entries"])]
    if "lease" in query:
        lease = query["lease"]
        return [*lease_row(state, lease), state.attached(lease)] if lease in leases else None
    if "leases" in query:
        found = sorted(lease for lease in leases if lease > query["leases"])[: query.get("limit", 1000)]
        return [[*lease_row(state, lease), len(state.attached(lease))] for lease in found]
    raise ValueError(f"the model does not know the query {query!r}")


def page_of(state: State, query: dict[str, Any], prefix: str) -> list[str]:
    """Return the keys of a page, in its order."""
    reverse, after = query.get("reverse", False), query.get("after")
    found = sorted((key for key in state.keys if key.startswith(prefix)), reverse=reverse)
    if query.get("start") is not None:
        found = [key for key in found if key >= query["start"]]
    if query.get("end") is not None:
        found = [key for key in found if key < query["end"]]
    if after is not None:
        found = [key for key in found if (key < after if reverse else key > after)]
    return found[: query.get("limit", 1000)]


def row_of(state: State, key: str) -> list[Any]:
    """Return [key, value, created, modified, lease]."""
    return [key, *state.keys[key]]


def lease_row(state: State, lease: int) -> list[int]:
    """Return [id, ttl_ms, left_ms]."""
    held = state.leases[lease]
    return [lease, held.ttl_ms, max(0, held.ends_ms - state.now_ms)]
