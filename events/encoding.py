"""The encodings of events: msgpack for the wire and the journal, JSON lines for people and their tools.

The body is a msgpack array: version, kind, the fields of the envelope, and the payload as a map by field name. It can
be extended: a reader skips payload fields that it does not know, makes an `UnknownEvent` of a kind that it does not
know, and ignores elements after the payload, where new envelope fields go. So a field that is added later needs a
default.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final, NoReturn, get_type_hints

import msgpack

from forge_consensus.events.envelope import (
    ENVELOPE_FIELDS,
    ConsensusEvent,
    UnknownEvent,
    payload,
)
from forge_consensus.events.types import EVENT_TYPES

VERSION: Final = 1
BODY_BYTES_MAX: Final = 64 * 1024
LINE_CHARS_MAX: Final = 8 * BODY_BYTES_MAX
"""A JSON line may be longer than a body, because JSON escapes characters."""
KIND_CHARS_MAX: Final = 200
DEPTH_MAX: Final = 8
CLIP_CHARS: Final = 96
CLIP_ITEMS: Final = 64
TIME_MAX: Final = 253_402_300_800.0
"""The end of the year 9999, the last that RFC 3339 can write."""

ENVELOPE_VALUES: Final = attrgetter(*ENVELOPE_FIELDS)
"""Returns the values of the envelope fields of an event, in order; the correlation id is the last."""

Check = Callable[[Any], Any]
"""Returns the value in the form that the field's type has, or raises ValueError."""


class EventDecodeError(ValueError):
    """The bytes or the text are not an encoded event."""


# ---- msgpack


def topic_bytes(event: ConsensusEvent) -> bytes:
    """Return the topic under which ZeroMQ publishes the event; subscribers match a prefix of it."""
    return event.topic.encode()


def to_msgpack(event: ConsensusEvent) -> bytes:
    """Encode an event in at most `BODY_BYTES_MAX` bytes; long texts are shortened if necessary.

    Raises ValueError if shortening is not enough, which happens to no event type of this package.
    """
    body = pack(event)
    if len(body) > BODY_BYTES_MAX:
        body = pack(event, clip)
    if len(body) > BODY_BYTES_MAX:
        raise ValueError(f"{event.topic} takes {len(body)} bytes, more than {BODY_BYTES_MAX}")
    return body


def kind_of(body: bytes) -> str:
    """Return the kind of an encoded event without decoding the rest; an empty text if the body is not an event.

    It takes a tenth of the time of `from_msgpack`, so use it to search through many events.
    """
    head = body[:4]
    if len(head) < 4 or not 0x90 <= head[0] <= 0x9F:  # an array of up to 15 parts, as written here
        return ""
    if head[2] == 0xD9:  # a text of 32 to 255 bytes, its length behind the mark
        return body[4 : 4 + head[3]].decode(errors="replace")
    return body[3 : 3 + (head[2] & 0x1F)].decode(errors="replace") if 0xA0 <= head[2] < 0xC0 else ""


def from_msgpack(body: bytes) -> ConsensusEvent:
    """Decode an event that `to_msgpack` encoded, in this or in another version.

    Raises EventDecodeError for everything else.
    """
    if len(body) > BODY_BYTES_MAX:
        raise EventDecodeError(f"{len(body)} bytes are more than {BODY_BYTES_MAX}")
    try:
        parts = msgpack.unpackb(body, raw=False, strict_map_key=True, max_ext_len=0)
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise EventDecodeError(f"not msgpack: {error!r}") from None
    if not isinstance(parts, list) or len(parts) < len(ENVELOPE_FIELDS) + 3:
        raise EventDecodeError("not an event: too few parts")
    if parts[0] != VERSION:
        raise EventDecodeError(f"encoding version {parts[0]!r}, not {VERSION}")
    kind, *envelope, data = parts[1 : len(ENVELOPE_FIELDS) + 3]
    return build(kind, dict(zip(ENVELOPE_FIELDS, envelope, strict=True)), data)


def pack(event: ConsensusEvent, shorten: Check | None = None) -> bytes:
    """Encode an event; `shorten`, if given, is applied to each payload value and to the client's correlation id."""
    envelope, data = ENVELOPE_VALUES(event), payload(event)
    if shorten is not None:
        envelope = (*envelope[:-1], shorten(envelope[-1]))
        data = {name: shorten(value) for name, value in data.items()}
    # An error text may hold a file name that is no Unicode: it must not stop the event.
    parts = [VERSION, event.topic, *envelope, data]
    body: bytes = msgpack.packb(parts, unicode_errors="backslashreplace")
    return body


def clip(value: Any) -> Any:
    """Return the value with long texts and sequences shortened."""
    if isinstance(value, str) and len(value) > CLIP_CHARS:
        return value[: CLIP_CHARS - 1] + "…"
    if isinstance(value, list | tuple):
        return [clip(item) for item in value[:CLIP_ITEMS]]
    return value


# ---- JSON


def to_json_line(event: ConsensusEvent) -> str:
    """Return the event as one line of JSON, without the line end.

    The time is RFC 3339 in UTC with microseconds. `monotonic` is left out, because it means nothing on another host.
    The line is ASCII, so that every terminal and pipe accepts it. Raises ValueError for a number that is not finite.
    """
    line = {
        "type": event.topic,
        "node_id": event.node_id,
        "cluster_id": event.cluster_id,
        "term": event.term,
        "sequence": event.sequence,
        "time": rfc3339(event.time),
        "correlation_id": event.correlation_id,
        "data": payload(event),
    }
    return json.dumps(line, separators=(",", ":"), default=bytes.hex, allow_nan=False)


def from_json_line(line: str | bytes) -> ConsensusEvent:
    """Decode an event that `to_json_line` encoded, in this or in another version.

    Raises EventDecodeError for everything else.
    """
    if len(line) > LINE_CHARS_MAX:
        raise EventDecodeError(f"{len(line)} characters are more than {LINE_CHARS_MAX}")
    try:
        parts = json.loads(line, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise EventDecodeError(f"not JSON: {error}") from None
    if not isinstance(parts, dict):
        raise EventDecodeError("not an event: no JSON object")
    envelope = {name: parts.get(name) for name in ENVELOPE_FIELDS}
    envelope |= {"time": unix_seconds(parts.get("time")), "monotonic": 0.0}
    return build(parts.get("type"), envelope, parts.get("data"))


def rfc3339(time: float) -> str:
    """Return Unix seconds as `2026-01-02T03:04:05.678901Z`."""
    moment = datetime.fromtimestamp(time, UTC).isoformat(timespec="microseconds")
    return moment.replace("+00:00", "Z")


def unix_seconds(text: object) -> float:
    """Return an RFC 3339 time as Unix seconds. Raises EventDecodeError."""
    try:
        moment = datetime.fromisoformat(check_text(text))
        if moment.tzinfo is None:
            raise ValueError("no time zone")
        return moment.timestamp()
    except (ValueError, OverflowError) as error:
        raise EventDecodeError(f"time: {error}") from None


def refuse_constant(name: str) -> NoReturn:
    """Raise ValueError for NaN and the infinities, which JSON does not have."""
    raise ValueError(f"{name} is no JSON")


# ---- from plain values to events


def build(kind: object, envelope: Mapping[str, object], data: object) -> ConsensusEvent:
    """Make an event from decoded values, each checked against its field. Raises EventDecodeError."""
    if not isinstance(kind, str) or not 0 < len(kind) <= KIND_CHARS_MAX or not kind.isprintable():
        raise EventDecodeError("not an event: its kind is no name")
    if not isinstance(data, dict):
        raise EventDecodeError(f"{kind}: its data is no map")
    event_type = EVENT_TYPES.get(kind)
    try:
        if event_type is None:
            return UnknownEvent(name=kind, data=check_plain(data), **checked(ConsensusEvent, envelope))
        return event_type(**checked(event_type, {**data, **envelope}))
    except ValueError as error:
        raise EventDecodeError(f"{kind}: {error}") from None


def checked(event_type: type[ConsensusEvent], values: Mapping[str, object]) -> dict[str, Any]:
    """Return the values of the fields that the type has. Raises ValueError for a wrong or missing one."""
    known: dict[str, Any] = {}
    for name, check, required in SCHEMAS[event_type]:
        if name in values:
            try:
                known[name] = check(values[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        elif required:
            raise ValueError(f"{name}: missing")
    if not 0 <= known["time"] < TIME_MAX:
        raise ValueError("time: out of range")
    return known


def check_text(value: object) -> str:
    """Return a value that is a text. Raises ValueError for any other."""
    if isinstance(value, str):
        return value
    raise ValueError(f"a text, not {type(value).__name__}")


def check_text_or_none(value: object) -> str | None:
    """Accept a text or None."""
    return None if value is None else check_text(value)


def check_texts(value: object) -> tuple[str, ...]:
    """Accept a list of texts; return a tuple."""
    if isinstance(value, list):
        return tuple(check_text(item) for item in value)
    raise ValueError(f"a list, not {type(value).__name__}")


def check_int(value: object) -> int:
    """Accept a whole number of up to 64 bits; terms, indexes and sizes are never negative."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64:
        return value
    raise ValueError(f"a whole number from 0, not {type(value).__name__}")


def check_float(value: object) -> float:
    """Return a finite number as a float. Raises ValueError for any other value."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1 << 64:
        return float(value)
    raise ValueError("a finite number")


CHECKS: Final[dict[object, Check]] = {
    str: check_text,
    str | None: check_text_or_none,
    tuple[str, ...]: check_texts,
    int: check_int,
    float: check_float,
}
"""The check of each type that a field of an event may have."""


def schema(event_type: type[ConsensusEvent]) -> tuple[tuple[str, Check, bool], ...]:
    """Return for each field of an event class its name, its check, and whether it is required."""
    hints = get_type_hints(event_type)
    return tuple(
        (f.name, CHECKS[hints[f.name]], f.default is MISSING and f.default_factory is MISSING)
        for f in fields(event_type)
    )


SCHEMAS: Final[dict[type[ConsensusEvent], tuple[tuple[str, Check, bool], ...]]] = {
    event_type: schema(event_type) for event_type in EVENT_TYPES.values()
}
SCHEMAS[ConsensusEvent] = schema(ConsensusEvent)


def check_plain(value: Any, depth: int = DEPTH_MAX) -> Any:
    """Accept values that JSON can represent, and bytes, nested at most `depth` deep."""
    if depth == 0:
        raise ValueError(f"nested deeper than {DEPTH_MAX}")
    if isinstance(value, dict):
        return {check_text(name): check_plain(item, depth - 1) for name, item in value.items()}
    if isinstance(value, list):
        return [check_plain(item, depth - 1) for item in value]
    if value is None or isinstance(value, bool | str | bytes):
        return value
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 64:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError(f"a {type(value).__name__} out of place")
