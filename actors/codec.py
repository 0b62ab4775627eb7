"""The codec: a frame of the wire as bytes, and back with every field checked.

A frame is one msgpack array: the header (version, destination actor, cluster id, sender with incarnation and boot,
the boot of the receiver that it is meant for, request number, send time), then the message's tag and its fields.
Checks are made from the message classes' own annotations, so a class is its schema. Never pickle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from operator import attrgetter, call
from typing import Any, get_args, get_origin, get_type_hints

import msgpack

from forge_consensus.actors.messages import WIRE, WireMessage
from forge_consensus.errors import ProtocolError

VERSION = 1
NUMBER_MAX = 1 << 63
TEXT_MAX = 64 * 1024

Check = Callable[[Any], bool]


@dataclass(slots=True)
class Frame:
    """One frame, in or out. A client's frame has no sender and boot 0.

    `sent` is the sender's own clock in nanoseconds (CLOCK_BOOTTIME): only the sender judges it, from the echo in
    the answer. `request` is echoed too.
    """

    to: str
    cluster: str
    sender: str
    incarnation: str
    boot: int
    to_boot: int
    request: int
    sent: int
    message: WireMessage


def number(value: Any) -> bool:
    """Whether the value is an unsigned 63-bit integer."""
    return type(value) is int and 0 <= value < NUMBER_MAX


PLAIN: dict[Any, Check] = {
    int: number,
    bytes: lambda value: type(value) is bytes,
    bool: lambda value: type(value) is bool,
    str: lambda value: type(value) is str and len(value) <= TEXT_MAX,
    dict: lambda value: type(value) is dict,
    Any: lambda value: True,
}


def check_of(annotation: Any) -> Check:
    """The check that a value must pass to be taken for the annotated type."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is not tuple:
        return PLAIN[origin or annotation]
    if args[-1] is Ellipsis:
        each = check_of(args[0])
        return lambda value: type(value) is tuple and all(map(each, value))
    parts = tuple(map(check_of, args))
    return lambda value: type(value) is tuple and len(value) == len(parts) and all(map(call, parts, value))


@dataclass(frozen=True, slots=True)
class Schema:
    """How one message class is written and read."""

    kind: type[WireMessage]
    tag: int
    names: tuple[str, ...]
    checks: tuple[Check, ...]
    required: int
    values: Callable[[WireMessage], tuple[Any, ...]]
    """Returns a message's fields, in order."""


def schema_of(tag: int, kind: type[WireMessage]) -> Schema:
    """The schema of a message class, from its annotations."""
    hints = get_type_hints(kind)
    slots = fields(kind)
    names = tuple(slot.name for slot in slots)
    required = sum(1 for slot in slots if slot.default is MISSING)
    return Schema(kind, tag, names, tuple(check_of(hints[name]) for name in names), required, values_of(names))


def values_of(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """What returns the attributes of these names; `attrgetter` makes a tuple only of two or more."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda message: tuple(getattr(message, name) for name in names)


SCHEMAS = {tag: schema_of(tag, kind) for tag, kind in WIRE.items()}
BY_KIND = {schema.kind: schema for schema in SCHEMAS.values()}
HEADER_FIELDS = 9
HEADER_CHECKS = tuple(map(check_of, (int, str, str, str, str, int, int, int, int)))


def encode(frame: Frame) -> bytes:
    """The bytes of a frame."""
    message = frame.message
    schema = BY_KIND[type(message)]
    data: bytes = msgpack.packb(
        (
            VERSION,
            frame.to,
            frame.cluster,
            frame.sender,
            frame.incarnation,
            frame.boot,
            frame.to_boot,
            frame.request,
            frame.sent,
            schema.tag,
            *schema.values(message),
        )
    )
    return data


def unpacked(data: bytes | memoryview) -> tuple[Any, ...]:
    """The parts of a frame with a good header. Raises `ProtocolError`."""
    try:
        parts = msgpack.unpackb(data, use_list=False, strict_map_key=False)
    except Exception as error:  # msgpack raises a family of its own, ValueError, and more for deep nesting
        raise ProtocolError(f"frame does not decode: {type(error).__name__}") from error
    if type(parts) is not tuple or len(parts) < HEADER_FIELDS + 1:
        raise ProtocolError("frame is not an array with a header")
    if not all(map(call, HEADER_CHECKS, parts)):
        raise ProtocolError("frame has a malformed header")
    if parts[0] != VERSION:
        raise ProtocolError(f"frame of protocol version {parts[0]}, this node speaks {VERSION}")
    return parts


def decode(data: bytes | memoryview, bytes_max: int) -> Frame:
    """The frame in `data`.

    Raises `ProtocolError` for anything that is not exactly a frame of this version: too large, truncated, of
    another version, of an unknown tag, with a field of the wrong type, with too few fields. Fields beyond those
    that this version knows are ignored: a newer node may send them.
    """
    if len(data) > bytes_max:
        raise ProtocolError(f"frame of {len(data)} bytes is above the limit of {bytes_max}")
    parts = unpacked(data)
    tag = parts[HEADER_FIELDS]
    schema = SCHEMAS.get(tag) if type(tag) is int else None
    if schema is None:
        raise ProtocolError("frame with an unknown message tag")
    body = parts[HEADER_FIELDS + 1 : HEADER_FIELDS + 1 + len(schema.names)]
    if len(body) < schema.required:
        raise ProtocolError(f"{schema.kind.__name__} with {len(body)} fields is too short")
    if not all(map(call, schema.checks, body)):
        bad = next(
            name for name, check, part in zip(schema.names, schema.checks, body, strict=False) if not check(part)
        )
        raise ProtocolError(f"{schema.kind.__name__}.{bad} is malformed")
    make: Callable[..., WireMessage] = schema.kind
    to, cluster, sender, incarnation, boot, to_boot, request, sent = parts[1:HEADER_FIELDS]
    return Frame(to, cluster, sender, incarnation, boot, to_boot, request, sent, make(*body))
