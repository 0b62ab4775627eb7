"""The codec: turns a frame into bytes, and bytes into a frame whose every field was checked.

A frame is one msgpack array: ten header fields, the message's tag, the message's fields, and the checksum. The header
is

    0  version       int   `VERSION`; a frame of another version is refused
    1  to            str   the actor that the frame is for
    2  cluster       str   the cluster id; a client may leave it empty
    3  sender        str   the sender's node id; empty for a client
    4  incarnation   str   the incarnation of the sender's data folder
    5  boot          int   the sender's boot number
    6  to_boot       int   the receiver's boot that the frame is meant for
    7  request       int   the request number, which an answer echoes
    8  sent          int   when it was sent, by the sender's clock in nanoseconds; an answer echoes it
    9  extension     array header fields of later versions, see below

The checksum is the crc32 of all bytes before it, always in four bytes behind 0xce: TCP's sum of 16 bits misses one
damaged packet in 65,536, and one flipped bit of a commit index would be a lie to a follower. It stands in the array, so
that a node of another version still finds the version and says so.

The checks are made from the annotations of the message classes, so a class is its own schema. Pickle is never used,
because unpickling runs code that the sender chose. A frame holds no map, so nothing in it is hashed: the extension is
an array of (key, value) pairs, and a field of type dict travels as the bytes of its own msgpack. A frame of more than
`COUNTED_BYTES` bytes is refused before it is unpacked if its arrays have more than `ELEMENTS_MAX` elements.

A later version adds to the protocol in two ways without a new `VERSION`. A message gets a further field, with a
default, at its end: a node that does not know the field ignores it. The header gets a key in its extension: pairs of
small numbers with unsigned integers or bytes (a structured value is packed into bytes). The only key is `STAMP`. A
node ignores every key that it does not know, so a field that must be understood needs a new `VERSION` instead. An empty
extension takes one byte; one with more than `EXTENSION_KEYS_MAX` keys, or with more than `EXTENSION_BYTES_MAX` bytes
in its values, is refused with the frame, so that the header of a frame stays small whatever a peer sends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from operator import attrgetter, itemgetter
from typing import Any, Final, get_args, get_origin, get_type_hints
from zlib import crc32

import msgpack

from forge_consensus.actors.messages import WIRE_TAGS, WireMessage
from forge_consensus.errors import ProtocolError
from forge_consensus.storage.unpacking import check_count, no_maps, unpack

VERSION: Final = 3
NUMBER_MAX = 1 << 63
TEXT_MAX = 256 * 1024
"""The longest text that is accepted, in characters; no field has a larger bound of its own."""
EXTENSION_KEYS_MAX = 16
EXTENSION_BYTES_MAX = 1024
"""The limit for the sum of the sizes of an extension's values of type bytes."""
STAMP: Final = 1
"""The key in answers to clients for a random number, and in their requests for the last such number that they read on
that connection; it tells what they have read (`forge_consensus.actors.runtime.unread`)."""
COUNTED_BYTES: Final = 1 << 20
"""The elements of larger frames are counted before they are made; smaller frames cannot hold enough of them to harm."""
ELEMENTS_MAX: Final = 1 << 19
"""Several times what the fullest frame of a node or a client has."""
CHECKSUM_BYTES: Final = 4
CHECKSUM_PLACE: Final = 0xFFFFFFFF
"""What stands in the place of the checksum until it is known; it is packed as a number of four bytes."""

Extension = dict[int, int | bytes]
NO_EXTENSION: Extension = {}
"""The extension of every frame that needs none; never change it."""

Check = Callable[[Any], bool]


class DamagedFrameError(ProtocolError):
    """The checksum of a frame does not fit its bytes."""


class OtherVersionError(ProtocolError):
    """A frame that is whole, as its checksum says, and of another protocol version; the text names both versions."""


@dataclass(slots=True)
class Frame:
    """One frame, on its way in or out; the module's docstring explains the fields. A client's frame has boot 0.

    `sent` comes from the sender's CLOCK_BOOTTIME. Only the sender judges it, from the echo in the answer, because the
    clocks of two hosts are never compared.
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
    extension: Extension = field(default_factory=lambda: NO_EXTENSION)


def is_number(value: Any) -> bool:
    """Whether the value is an unsigned 63-bit integer."""
    return type(value) is int and 0 <= value < NUMBER_MAX


def is_extension(value: Any) -> bool:
    """Whether the value holds pairs of small numbers with numbers or bytes, within the bounds of an extension."""
    if type(value) is not tuple:
        return False
    return (
        len(value) <= EXTENSION_KEYS_MAX
        and all(type(pair) is tuple and len(pair) == 2 for pair in value)
        and all(is_number(key) and (is_number(held) or type(held) is bytes) for key, held in value)
        and sum(len(held) for _, held in value if type(held) is bytes) <= EXTENSION_BYTES_MAX
    )


def kind_of(annotation: Any) -> type:
    """The exact type that a value of this annotation has; every array arrives as a tuple."""
    kind: type = get_origin(annotation) or annotation
    if kind not in (int, str, bytes, bool, tuple):
        raise TypeError(f"{annotation} cannot stand in a frame")
    return kind


def check_of_row(annotations: Sequence[Any]) -> Check:
    """The check that a tuple holds one value of each of these types, in order, and no more.

    A row is checked by one function, because a call for each value costs several times as much as its check.
    """
    kinds = tuple(map(kind_of, annotations))
    numbers = tuple(place for place, kind in enumerate(kinds) if kind is int)
    texts = tuple(place for place, kind in enumerate(kinds) if kind is str)
    arrays = tuple((place, check_of_array(annotations[place])) for place, kind in enumerate(kinds) if kind is tuple)

    def check(row: Any) -> bool:
        if tuple(map(type, row)) != kinds:
            return False
        for place in numbers:
            if not 0 <= row[place] < NUMBER_MAX:
                return False
        for place in texts:
            if len(row[place]) > TEXT_MAX:
                return False
        for place, check_array in arrays:  # noqa: SIM110  # a generator costs more than the loop
            if not check_array(row[place]):
                return False
        return True

    return check


def check_of_array(annotation: Any) -> Check:
    """The check of a tuple: of ``tuple[X, ...]`` it checks each value, of ``tuple[X, Y]`` the row."""
    args = get_args(annotation)
    return check_of_column(args[0]) if args[-1] is Ellipsis else check_of_row(args)


def check_of_column(annotation: Any) -> Check:
    """The check that every value of a tuple has this type, without a call for each: there may be thousands."""
    kind = kind_of(annotation)
    kinds = frozenset([kind])
    if kind is tuple:
        args = get_args(annotation)
        if args[-1] is Ellipsis:
            check_array = check_of_array(annotation)
            return lambda column: kinds.issuperset(map(type, column)) and all(map(check_array, column))
        check, check_row = check_of_columns(args), check_of_row(args)
        return lambda column: (
            kinds.issuperset(map(type, column)) and (check_row(column[0]) if len(column) == 1 else check(column))
        )
    if kind is int:
        return lambda column: (
            kinds.issuperset(map(type, column)) and (not column or (min(column) >= 0 and max(column) < NUMBER_MAX))
        )
    if kind is str:
        return lambda column: kinds.issuperset(map(type, column)) and max(map(len, column), default=0) <= TEXT_MAX
    return lambda column: kinds.issuperset(map(type, column))


def check_of_columns(annotations: Sequence[Any]) -> Check:
    """The check that every tuple of a tuple is a row of these types.

    The columns are taken one after the other. `zip` would take less time, but it makes an iterator for each row, and so
    many new objects at once start Python's garbage collector.
    """
    widths = frozenset([len(annotations)])
    columns = tuple((itemgetter(place), check_of_column(each)) for place, each in enumerate(annotations))

    def check(rows: Any) -> bool:
        if not widths.issuperset(map(len, rows)):
            return False
        for value_of, check_column in columns:  # noqa: SIM110  # a generator costs more than the loop
            if not check_column(tuple(map(value_of, rows))):
                return False
        return True

    return check


def check_of_value(annotation: Any) -> Check:
    """The check of one value of this annotation."""
    check = check_of_row((annotation,))
    return lambda value: check((value,))


@dataclass(frozen=True, slots=True)
class Schema:
    """How one message class is encoded and checked."""

    kind: type[WireMessage]
    tag: int
    names: tuple[str, ...]
    annotations: tuple[Any, ...]
    checks: dict[int, Check]
    """By how many fields a frame has: the check of all of them. Those with a default may be missing at the end."""
    values: Callable[[WireMessage], tuple[Any, ...]]
    """Returns the fields of a message, in order."""
    packed: bool
    """Whether the message's fields are maps, which travel packed into bytes."""


def schema_of(tag: int, kind: type[WireMessage]) -> Schema:
    """The schema of a message class, made from its annotations."""
    hints = get_type_hints(kind)
    slots = fields(kind)
    names = tuple(slot.name for slot in slots)
    required = sum(1 for slot in slots if slot.default is MISSING)
    packed = any(get_origin(hints[name]) is dict for name in names)
    annotations = tuple(bytes if packed else hints[name] for name in names)
    checks = {count: check_of_row(annotations[:count]) for count in range(required, len(names) + 1)}
    values = values_of(names)
    return Schema(kind, tag, names, annotations, checks, packing(values) if packed else values, packed)


def packing(values: Callable[[Any], tuple[Any, ...]]) -> Callable[[Any], tuple[Any, ...]]:
    """The same function, with each value packed into bytes."""
    return lambda message: tuple(map(msgpack.packb, values(message)))


def values_of(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """A function that returns the attributes of these names as a tuple; `attrgetter` makes one only of two or more."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda message: tuple(getattr(message, name) for name in names)


SCHEMAS = {tag: schema_of(tag, kind) for tag, kind in WIRE_TAGS.items()}
BY_KIND = {schema.kind: schema for schema in SCHEMAS.values()}
HEADER_FIELDS = 10
SHORT_ARRAY: Final = 0x90
LONG_ARRAY: Final = 0xDC
ARRAY_BYTES: Final = 3
"""The size of the header of a long array."""
NO_VERSION: Final = 0x80
"""No byte from here on is a small number in msgpack."""
CHECK_HEADER = check_of_row((int, str, str, str, str, int, int, int, int))


def encode(frame: Frame) -> bytes:
    """Encode a frame of this version, whose message has a class of `WIRE_TAGS`."""
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
            tuple(frame.extension.items()) if frame.extension else (),
            schema.tag,
            *schema.values(message),
            CHECKSUM_PLACE,
        )
    )
    return sealed(data)


def sealed(data: bytes) -> bytes:
    """Write the checksum into the last bytes of a frame."""
    body = memoryview(data)[:-CHECKSUM_BYTES]
    return b"".join((body, crc32(body).to_bytes(CHECKSUM_BYTES)))


def seal_error(data: bytes | memoryview) -> ProtocolError:
    """Return the error for a frame whose checksum does not fit: one of another version may have none."""
    version = NO_VERSION
    if len(data) > ARRAY_BYTES and data[0] & 0xF0 == SHORT_ARRAY:
        version = data[1]
    elif len(data) > ARRAY_BYTES and data[0] == LONG_ARRAY:
        version = data[ARRAY_BYTES]
    if version >= NO_VERSION:
        return ProtocolError("frame is not an array with a header")
    if version != VERSION:
        return ProtocolError(f"frame of protocol version {version}, this program speaks {VERSION}")
    return DamagedFrameError(f"a frame of {len(data)} bytes does not fit its checksum: it was damaged on its way")


def unpacked(data: bytes | memoryview) -> tuple[Any, ...]:
    """Check a frame's checksum, unpack it and check its header. Raises `ProtocolError`."""
    if crc32(memoryview(data)[:-CHECKSUM_BYTES]) != int.from_bytes(data[-CHECKSUM_BYTES:]):
        raise seal_error(data)
    try:
        if len(data) > COUNTED_BYTES:
            check_count(data, ELEMENTS_MAX)
        parts = msgpack.unpackb(data, use_list=False, object_pairs_hook=no_maps)
    except Exception as error:  # msgpack raises a family of its own, ValueError, and more for deep nesting
        raise ProtocolError(f"frame does not decode: {type(error).__name__}: {error}") from error
    if type(parts) is not tuple or not parts:
        raise ProtocolError("frame is not an array with a header")
    if parts[0] != VERSION and type(parts[0]) is int:
        raise OtherVersionError(f"frame of protocol version {parts[0]}, this program speaks {VERSION}")
    if len(parts) < HEADER_FIELDS + 2:
        raise ProtocolError("frame is not an array with a header")
    extension = parts[HEADER_FIELDS - 1]
    if not CHECK_HEADER(parts[: HEADER_FIELDS - 1]) or (extension != () and not is_extension(extension)):
        raise ProtocolError("frame has a malformed header")
    return parts


def decode(data: bytes | memoryview, bytes_max: int) -> Frame:
    """Decode the frame in `data`, which may have at most `bytes_max` bytes.

    Raises `ProtocolError` for anything that is not a whole frame of this version: too large, truncated, damaged, of
    another version, with an unknown tag, with a field of the wrong type, with too few fields. Fields and extension keys
    that this version does not know are ignored, because a newer node may send them.
    """
    if len(data) > bytes_max:
        raise ProtocolError(f"frame of {len(data)} bytes is above the limit of {bytes_max}")
    parts = unpacked(data)
    tag = parts[HEADER_FIELDS]
    schema = SCHEMAS.get(tag) if type(tag) is int else None
    if schema is None:
        raise ProtocolError("frame with an unknown message tag")
    body = parts[HEADER_FIELDS + 1 : min(HEADER_FIELDS + 1 + len(schema.names), len(parts) - 1)]
    check = schema.checks.get(len(body))
    if check is None:
        raise ProtocolError(f"{schema.kind.__name__} with {len(body)} fields is too short")
    if not check(body):
        raise ProtocolError(f"{schema.kind.__name__}.{first_bad(schema, body)} is malformed")
    make: Callable[..., WireMessage] = schema.kind
    if schema.packed:
        body = unpacked_maps(schema, body)
    to, cluster, sender, incarnation, boot, to_boot, request, sent, extension = parts[1:HEADER_FIELDS]
    held = dict(extension) if extension else NO_EXTENSION
    return Frame(to, cluster, sender, incarnation, boot, to_boot, request, sent, make(*body), held)


def first_bad(schema: Schema, body: tuple[Any, ...]) -> str:
    """The name of the first field of a message that does not pass its check."""
    fields_there = zip(schema.names, schema.annotations, body, strict=False)
    return next(name for name, annotation, value in fields_there if not check_of_value(annotation)(value))


def unpacked_maps(schema: Schema, body: tuple[Any, ...]) -> tuple[Any, ...]:
    """The maps that are packed in a message's fields. Raises `ProtocolError`."""
    try:
        maps = tuple(map(unpack, body))
    except Exception as error:
        raise ProtocolError(f"{schema.kind.__name__} does not decode: {type(error).__name__}") from error
    if not all(type(each) is dict for each in maps):
        raise ProtocolError(f"{schema.kind.__name__} is malformed")
    return maps
