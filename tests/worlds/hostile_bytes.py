"""Hostile bytes: what somebody sends who knows the formats, or has recorded what others sent, and means no good."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

import msgpack
from hypothesis import strategies as st

from forge_consensus.actors.codec import CHECKSUM_PLACE, VERSION, sealed
from forge_consensus.actors.messages import CONSISTENCIES, WIRE_TAGS, WireMessage
from forge_consensus.actors.runtime.gate import DESTINATION

NODES = ("", "n1", "n2", "n3", "n9")
WORDS = (*NODES, *CONSISTENCIES, "demo", "folder-n2", "127.0.0.1:2", "add", "remove", "*", "[", "set", "@access")
NUMBERS = st.sampled_from((0, 1, 2, 3, 7, 1000, 2**31, 2**32 - 1, 2**53, 2**62, 2**63 - 1))
KEYS = st.one_of(st.sampled_from(WORDS), st.integers(-(2**63), 2**64 - 1), st.binary(max_size=8))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.sampled_from(WORDS),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=12)),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
"""Values of msgpack, of any shape."""
COMMANDS = st.builds(
    lambda kind, payload, rest: [kind, payload, *rest],
    st.sampled_from(("set", "get", "delete", "cas", "incr", "append", "batch", "transaction", "@access", "", "lease")),
    st.dictionaries(
        st.sampled_from(("key", "value", "ttl", "lease", "expected", "by", "commands", "if", "then")), VALUES
    )
    | VALUES,
    st.lists(VALUES, max_size=2),
)
QUERIES = st.dictionaries(st.sampled_from(("get", "scan", "limit", "after", "changes", "wait_ms", "@access")), VALUES)
PACKED = st.one_of(VALUES, COMMANDS, QUERIES).map(msgpack.packb)
"""Bytes that a field of type bytes may hold: mostly msgpack, and sometimes cut."""
BYTES = st.one_of(PACKED, PACKED.map(lambda data: data[:-1]), st.binary(max_size=40))
BOMBS = (
    b"\x91" * 5000,
    b"\x81\xa1a" * 2000 + b"\xc0",
    *(mark + b"\xff\xff\xff\xff" + b"x" * 40 for mark in (b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9")),
    b"\xdd\x00\x07\xff\xff" + b"\x90" * 0x7FFFF,
    b"\xdc\xff\xff" + b"\xc0" * 0xFFFF,
    b"\xd7\xff" + b"\xff" * 8,
)
"""Nesting without end, lengths that are not there, and many elements of one byte each."""


def of_type(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is tuple:
        if args[-1] is Ellipsis:
            return st.lists(of_type(args[0]), max_size=4)
        return st.tuples(*map(of_type, args)).map(list)
    if origin is dict:
        return st.dictionaries(KEYS, VALUES, max_size=3).map(msgpack.packb)
    return {
        int: NUMBERS | st.integers(0, 2**63 - 1),
        bool: st.booleans(),
        bytes: BYTES,
        str: st.sampled_from(WORDS) | st.text(max_size=20),
    }[annotation]


def fields_of(kind: type[WireMessage]) -> st.SearchStrategy[list[Any]]:
    """The fields of a message of that class."""
    hints = get_type_hints(kind)
    return st.tuples(*(of_type(hints[slot.name]) for slot in fields(kind))).map(list)


HEADERS = st.tuples(
    st.sampled_from(("demo", "demo", "", "other")),
    st.sampled_from(NODES),
    st.sampled_from(("folder-n2", "folder-n3", "")),
    NUMBERS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
)
"""Cluster, sender, incarnation, boot, the receiver's boot, request and time of sending."""
EXTENSIONS = st.lists(st.tuples(st.integers(0, 3), NUMBERS | st.binary(max_size=9)).map(list), max_size=3)


def framed(tag: Any, to: Any, header: tuple[Any, ...], extension: Any, body: list[Any]) -> bytes:
    """A frame with these parts and the checksum that fits to them."""
    return sealed(msgpack.packb([VERSION, to, *header, extension, tag, *body, CHECKSUM_PLACE]))


def messages_of(tag: int) -> st.SearchStrategy[bytes]:
    """Frames whose message has that tag: of the right types, and made to reach an actor."""
    kind = WIRE_TAGS[tag]
    to = DESTINATION.get(kind, "gateway")
    return st.builds(framed, st.just(tag), st.just(to), HEADERS, EXTENSIONS, fields_of(kind))


WELL_FORMED = st.sampled_from(sorted(WIRE_TAGS)).flatmap(messages_of)
"""Frames that the codec takes."""
MALFORMED = st.builds(
    framed,
    VALUES | st.sampled_from(sorted(WIRE_TAGS)),
    st.sampled_from(("gateway", "election", "replication", "")) | VALUES,
    st.lists(VALUES, min_size=7, max_size=7).map(tuple) | HEADERS,
    VALUES,
    st.lists(VALUES, max_size=6),
)
"""Frames with a checksum that fits, and with anything in the place of anything."""


@st.composite
def spoilt(draw: st.DrawFn, whole: st.SearchStrategy[bytes], *, seal: bool = False) -> bytes:
    """Bytes that were right, with some of them changed, left out or doubled; `seal` makes the checksum fit again."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 3))):
        if not data:
            break
        place = draw(st.integers(0, len(data) - 1))
        act = draw(st.sampled_from(("change", "cut", "double", "drop")))
        if act == "change":
            data[place] = draw(st.integers(0, 255))
        elif act == "cut":
            del data[place:]
        elif act == "double":
            data[place:place] = data[place : place + draw(st.integers(1, 40))]
        else:
            del data[place : place + draw(st.integers(1, 40))]
    return sealed(bytes(data)) if seal and len(data) > 4 else bytes(data)


HOSTILE_FRAMES = st.one_of(
    WELL_FORMED,
    MALFORMED,
    spoilt(WELL_FORMED),
    spoilt(WELL_FORMED, seal=True),
    st.sampled_from(BOMBS),
    st.sampled_from(BOMBS).map(lambda bomb: framed(38, "gateway", ("", "", "", 0, 0, 1, 0), [], [bomb, bomb])),
    st.sampled_from(BOMBS).map(lambda bomb: sealed(b"\x9f\x03" + bomb + b"\xce\0\0\0\0")),
    st.binary(max_size=300),
)
