"""How values, tables and events are written for people and for programs, and how JSON of theirs is read."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from forge_consensus.events.envelope import ConsensusEvent
from forge_consensus.events.text import facts_text

INT_EXACT_MAX = 1 << 53
"""A program that reads JSON numbers as doubles would read larger integers wrongly."""
CELL_CHARS_MAX = 80


def plain(value: Any) -> Any:
    """Return the value as JSON can hold it: bytes as ``{"base64": ...}``, integers beyond a double as texts."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) <= INT_EXACT_MAX else str(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def json_text(value: Any) -> str:
    """Return one line of JSON; keys keep their order."""
    return json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"), default=str)


def printable(value: Any, keep: str = "") -> str:
    """Return a value as text that is safe on a terminal: control characters but those in `keep` are escaped.

    Without that, a value could move the cursor, change colors or rename the window of whoever looks at it.
    """
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    elif not isinstance(value, str):
        value = json_text(value)
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode() for char in value
    )


def cell(value: Any) -> str:
    """Return a value as one short line for a table."""
    text = printable(value)
    return text if len(text) <= CELL_CHARS_MAX else text[: CELL_CHARS_MAX - 1] + "…"


def kind_text(value: Any) -> str:
    """Return what kind of value this is, in a word for people; None for a missing one is "nothing"."""
    for kind, word in ((bool, "boolean"), (int, "number"), (float, "number"), (str, "text"), (bytes, "bytes")):
        if isinstance(value, kind):
            return word
    return "nothing" if value is None else "list" if isinstance(value, list | tuple) else "map"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines with the columns aligned, the head first."""
    lines = [tuple(head), *map(tuple, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def bytes_text(count: float | None) -> str:
    """Return a number of bytes for people, in powers of 1000."""
    if count is None:
        return "-"
    units = ["B", "KB", "MB", "GB", "TB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:.0f} {units[0]}" if units[0] == "B" or count >= 10 else f"{count:.1f} {units[0]}"


def moment_text(time: float) -> str:
    """Return date and time of day in UTC, with milliseconds, of a Unix time in seconds."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def clock_text(time: float) -> str:
    """Return the time of day in UTC, with milliseconds, of a Unix time in seconds."""
    return datetime.fromtimestamp(time, UTC).strftime("%H:%M:%S.%f")[:-3]


def event_text(event: ConsensusEvent) -> str:
    """Return an event as one line: its node, kind, term and the fields that are not empty."""
    return f"{event.node_id} {event.topic.removeprefix('consensus.')} term={event.term} {facts_text(event)}".rstrip()


def load_json(text: str) -> Any:
    """Return the value that a JSON text stands for. Raises ValueError and RecursionError."""
    return json.loads(text, parse_constant=refuse_constant, parse_float=finite)


def refuse_constant(name: str) -> None:
    """Refuse NaN and the infinities, which JSON does not have."""
    raise ValueError(f"{name} is not JSON")


def finite(text: str) -> float:
    """Return the number; refuse one such as 1e400, which would become an infinity."""
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is beyond the largest number that can be stored")
    return number
