"""The queries of the key-value machine: which question it is, and the steps in which it is answered."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Final

import msgpack

from forge_consensus.storage.machines.kv_commands import check_key
from forge_consensus.storage.machines.kv_history import ChangesQuery, is_changes
from forge_consensus.storage.machines.kv_overlay import Row
from forge_consensus.storage.machines.kv_pages import (
    SCAN_ROWS,
    SCAN_ROWS_MAX,
    check_text,
    closed,
    fill,
    filling,
    first_of,
    is_scan,
    merged,
    over,
    page_of,
    whole_number,
)
from forge_consensus.storage.machines.kv_rows import state_of
from forge_consensus.storage.machines.kv_state import KeyValueState
from forge_consensus.storage.machines.kv_tables import TABLE, alone, end_of_keys, table_rows
from forge_consensus.storage.machines.kv_watches import Watch
from forge_consensus.storage.machines.steps import Encoded

COUNT_ROWS: Final = 2000
"""How many keys one step of counting passes or looks up: less than a millisecond."""
ID_MAX: Final = (1 << 64) - 1


def query_steps(state: KeyValueState, query: Any) -> Any:
    """Answer a query, or return a generator that does so in steps; see `KeyValueMachine`.

    Raises `ValueError` or `TypeError` for what is no query.
    """
    if isinstance(query, str):
        query = {"get": query}
    if isinstance(query, dict):
        if query.keys() == {"get"}:
            value = state.read(check_key(query["get"]))
            return None if value is None else msgpack.unpackb(value)
        if query.keys() == {"count"}:
            return counting(state, check_text("count", query["count"]))
        if is_scan(query):
            page = page_of(query)
            done = fill(page, state.merged_rows(page.rest, whole=page.whole))
            return page.encoded() if done else scanning(state, query)
        if query.keys() == {"entry"}:
            return entry(state, check_key(query["entry"]))
        if query.keys() == {"lease"}:
            return state.leases.told(whole_number("lease", query["lease"], 0, ID_MAX))
        if "leases" in query and query.keys() <= {"leases", "limit"}:
            limit = whole_number("limit", query.get("limit", SCAN_ROWS), 1, SCAN_ROWS_MAX)
            return state.leases.page(whole_number("leases", query["leases"], 0, ID_MAX), limit)
        if is_changes(query):
            return changes(state, ChangesQuery(query))
    raise ValueError(
        'a query is a key, {"get": key}, {"count": prefix}, {"scan": prefix, "limit": n, "after": key}, '
        '{"entry": key}, {"entries": prefix, ...}, {"lease": id}, {"leases": id} or {"changes": prefix, "since": index}'
    )


def changes(state: KeyValueState, query: ChangesQuery) -> Encoded | Watch:
    """Return the changes that are asked for; the question itself, to wait, if there is none and it wants to."""
    watch = Watch(query, lambda: (state.history, state.births_below))
    return watch.answer(over=not query.wait_ms) or watch


def entry(state: KeyValueState, key: str) -> list[Any] | None:
    """Return [key, value, created, modified, lease], None for an absent key."""
    row = state.row(key)
    return None if row is None else list(state_of(key, state.whole_row(key, row)))


def counting(state: KeyValueState, prefix: str) -> Generator[None, None, int]:
    """Count the keys with that prefix in the state of the first step."""
    changed: dict[str, bool] = {}
    for overlay in (state.frozen, state.fresh):
        changed.update((key, row is not None) for key, row in overlay.cells.items() if key.startswith(prefix))
    total = sum(changed.values())
    if state.tables is None:
        return total
    leases = state.leases.stored_rows
    with state.tables.view() as view:
        base = state.prefix
        start, stop = base + prefix.encode(), end_of_keys(base, prefix)
        if not prefix and alone(view, base):
            total += view.count(TABLE) - leases
        else:
            count = COUNT_ROWS
            while count == COUNT_ROWS:
                count, last = view.count_range(TABLE, start, stop, COUNT_ROWS)
                total += count
                start = last + b"\0"
                yield
        for number, key in enumerate(changed, 1):
            total -= view.get(TABLE, base + key.encode()) is not None
            if number % COUNT_ROWS == 0:
                yield
    return total


def scanning(state: KeyValueState, query: dict[str, Any]) -> Generator[None, None, Encoded]:
    """Make one page of keys, see `KeyValueMachine.query`, from the state of the first step."""
    page = page_of(query)
    whole, reverse = page.whole, page.span.reverse
    if fill(page, state.merged_rows(page.rest, whole=whole)):
        return page.encoded()
    rest = page.rest
    changed: dict[str, bytes | None] = {}
    for overlay in (state.frozen, state.fresh):
        changed.update(laid_over(changed, overlay.taken(rest)) if whole else overlay.taken(rest))
    layers = [iter(sorted(changed.items(), key=first_of, reverse=reverse))]
    merge = closed if whole else merged
    if state.tables is None:
        yield
        yield from filling(page, merge(*layers, reverse=reverse))
        return page.encoded()
    with state.tables.view() as view:
        layers.append(table_rows(view, state.prefix, rest))
        yield
        yield from filling(page, merge(*layers, reverse=reverse))
    return page.encoded()


def laid_over(below: dict[str, bytes | None], rows: Iterator[Row]) -> Iterator[Row]:
    """Yield rows as they are over those of a layer below."""
    for key, row in rows:
        yield key, over(row, below[key]) if key in below else row
