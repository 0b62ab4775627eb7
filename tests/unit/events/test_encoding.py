"""Events as bytes and as JSON: nothing lost, nothing trusted, newer versions tolerated."""

import json
from dataclasses import fields
from typing import Any, get_type_hints

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_consensus.events.encoding import (
    BODY_BYTES_MAX,
    LINE_CHARS_MAX,
    SCHEMAS,
    EventDecodeError,
    from_json_line,
    from_msgpack,
    to_json_line,
    to_msgpack,
    topic_bytes,
)
from forge_consensus.events.envelope import ConsensusEvent, UnknownEvent, payload
from forge_consensus.events.types import (
    EVENT_TYPES,
    ClusterFormed,
    LeaderElected,
    NodeStarted,
    QuorumLost,
    SnapshotFailed,
)

TEXT = st.text(max_size=20)
VALUES: dict[object, st.SearchStrategy[Any]] = {
    str: TEXT,
    str | None: st.none() | TEXT,
    int: st.integers(0, 2**64 - 1),
    float: st.floats(0, 2**40),
    tuple[str, ...]: st.lists(TEXT, max_size=5).map(tuple),
}

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


def events_of(event_type: type[ConsensusEvent]) -> st.SearchStrategy[ConsensusEvent]:
    """Return events with every field filled in."""
    hints = get_type_hints(event_type)
    values = {f.name: VALUES[hints[f.name]] for f in fields(event_type)}
    return st.builds(event_type, **(values | {"time": st.floats(0, 4e9)}))


EVENTS = st.one_of([events_of(event_type) for event_type in EVENT_TYPES.values()])

ELECTED = LeaderElected(
    leader="n1",
    votes=2,
    total=3,
    duration=0.25,
    node_id="n1",
    cluster_id="demo",
    term=7,
    sequence=42,
    time=1767323045.5,
    monotonic=12.5,
    correlation_id="req-1",
)


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_every_type_has_a_schema(kind: str) -> None:
    assert len(SCHEMAS[EVENT_TYPES[kind]]) == len(fields(EVENT_TYPES[kind]))


@given(EVENTS)
def test_an_event_survives_msgpack(event: ConsensusEvent) -> None:
    body = to_msgpack(event)
    assert from_msgpack(body) == event
    assert len(body) <= BODY_BYTES_MAX


@given(EVENTS)
def test_json_gives_back_all_but_the_monotonic_clock(event: ConsensusEvent) -> None:
    line = to_json_line(event)
    assert "\n" not in line
    assert line.isascii()
    read = from_json_line(line)
    assert type(read) is type(event)
    assert read.time == pytest.approx(event.time, abs=1e-6)
    for f in fields(event):
        if f.name not in ("time", "monotonic"):
            assert getattr(read, f.name) == getattr(event, f.name)


@given(st.dictionaries(TEXT, PLAIN, max_size=3))
def test_an_event_of_an_unknown_kind_passes_through(data: dict[str, Any]) -> None:
    event = UnknownEvent(name="consensus.tea.ready", data=data, node_id="n1", term=3, time=1.0)
    assert from_msgpack(to_msgpack(event)) == event
    assert from_json_line(to_json_line(event)) == event
    assert topic_bytes(event) == b"consensus.tea.ready"


def test_the_encoded_body_never_changes() -> None:
    # Journals and nodes of other versions hold it: what comes new goes into the map or behind it.
    assert msgpack.unpackb(to_msgpack(ELECTED)) == [
        1, "consensus.leader.elected", "n1", "demo", 7, 42, 1767323045.5, 12.5, "req-1",
        {"leader": "n1", "votes": 2, "total": 3, "duration": 0.25},
    ]  # fmt: skip
    assert topic_bytes(ELECTED) == b"consensus.leader.elected"


def test_the_json_line_never_changes() -> None:
    assert to_json_line(ELECTED) == (
        '{"type":"consensus.leader.elected","node_id":"n1","cluster_id":"demo","term":7,'
        '"sequence":42,"time":"2026-01-02T03:04:05.500000Z","correlation_id":"req-1",'
        '"data":{"leader":"n1","votes":2,"total":3,"duration":0.25}}'
    )


def test_fields_of_a_newer_version_are_skipped() -> None:
    parts = msgpack.unpackb(to_msgpack(ELECTED))
    parts[-1]["margin"] = {"votes": 1}
    assert from_msgpack(msgpack.packb([*parts, "a new field of the envelope"])) == ELECTED


def test_fields_that_an_older_version_lacks_take_their_defaults() -> None:
    parts = [1, "consensus.health.degraded", "n1", "demo", 7, 42, 1.0, 2.0, None, {}]
    event = from_msgpack(msgpack.packb(parts))
    assert payload(event) == {"details": ()}


def test_a_payload_cannot_pass_for_the_envelope() -> None:
    parts = [1, "consensus.node.started", "n1", "demo", 7, 42, 1.0, 2.0, None, {"node_id": "n2"}]
    assert from_msgpack(msgpack.packb(parts)).node_id == "n1"
    line = json.loads(to_json_line(ELECTED))
    line["data"] |= {"node_id": "n2", "monotonic": 99.0}
    read = from_json_line(json.dumps(line))
    assert (read.node_id, read.monotonic) == ("n1", 0.0)


def test_an_event_with_invalid_unicode_is_encoded() -> None:
    event = SnapshotFailed(index=1, error="no such file: \udcff")
    read = from_msgpack(to_msgpack(event))
    assert isinstance(read, SnapshotFailed)
    assert read.error == "no such file: \\udcff"
    assert to_json_line(event).isascii()


def test_an_event_that_is_too_long_is_clipped() -> None:
    body = to_msgpack(SnapshotFailed(index=1, error="x" * 10_000_000, correlation_id="y" * 10_000))
    read = from_msgpack(body)
    assert isinstance(read, SnapshotFailed)
    assert read.error == "x" * 95 + "…"
    members = ClusterFormed(members=tuple(f"{number}" * 1000 for number in range(1000)))
    read_members = from_msgpack(to_msgpack(members))
    assert isinstance(read_members, ClusterFormed)
    assert len(read_members.members) == 64


def test_an_event_that_cannot_be_clipped_is_refused() -> None:
    with pytest.raises(ValueError, match="more than"):
        to_msgpack(UnknownEvent(name="consensus.x", data={"a": b"x" * BODY_BYTES_MAX}))


def body(**changed: Any) -> bytes:
    """Return the body of an event with some of its parts replaced."""
    parts: dict[str, Any] = {
        "version": 1,
        "kind": "consensus.cluster.quorum.lost",
        "node_id": "n1",
        "cluster_id": "demo",
        "term": 7,
        "sequence": 42,
        "time": 1.0,
        "monotonic": 2.0,
        "correlation_id": None,
        "data": {"required": 2, "healthy": 1, "total": 3},
    }
    assert set(changed) <= set(parts)
    packed: bytes = msgpack.packb(list((parts | changed).values()))
    return packed


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 1


def test_the_body_used_by_these_tests_decodes() -> None:
    read = from_msgpack(body())
    assert isinstance(read, QuorumLost)
    assert read.healthy == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"version": 2},
        {"kind": None},
        {"kind": ""},
        {"kind": "k" * 201},
        {"kind": "consensus\n"},
        {"node_id": None},
        {"node_id": b"n1"},
        {"term": -1},
        {"term": 7.0},
        {"term": True},
        {"sequence": "42"},
        {"time": float("nan")},
        {"time": -1.0},
        {"time": 1e12},
        {"monotonic": float("inf")},
        {"correlation_id": 5},
        {"data": None},
        {"data": [2, 1, 3]},
        {"data": {"required": 2, "healthy": 1}},
        {"data": {"required": 2, "healthy": 1, "total": None}},
        {"kind": "consensus.cluster.formed", "data": {"members": "n1"}},
        {"kind": "consensus.cluster.formed", "data": {"members": ["n1", 2]}},
        {"kind": "consensus.tea", "data": {"a": nested(8)}},
        {"kind": "consensus.tea", "data": {b"a": 1}},
        {"kind": "consensus.tea", "data": {"a": float("nan")}},
        {"kind": "consensus.tea", "data": {"a": msgpack.Timestamp(1)}},
        {"kind": "consensus.tea", "time": 1e12},
    ],
)
def test_a_bad_part_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(EventDecodeError):
        from_msgpack(body(**changed))


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\xc1",
        msgpack.packb(None),
        msgpack.packb([1, "consensus.node.started"]),
        to_msgpack(NodeStarted())[:-1],
        to_msgpack(NodeStarted()) + b"\x00",
        b"\x91" * 10_000,
        b"\xdd\xff\xff\xff\xff",
        b"\x00" * (BODY_BYTES_MAX + 1),
    ],
)
def test_bytes_of_anything_but_an_event_are_refused(bad: bytes) -> None:
    with pytest.raises(EventDecodeError):
        from_msgpack(bad)


@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    for decode in (from_msgpack, from_json_line):
        with pytest.raises(EventDecodeError):
            decode(garbage)


@given(EVENTS, st.data())
def test_a_body_with_a_changed_byte_decodes_or_is_refused(event: ConsensusEvent, data: st.DataObject) -> None:
    damaged = bytearray(to_msgpack(event))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = from_msgpack(bytes(damaged))
    except EventDecodeError:
        return
    assert isinstance(read, ConsensusEvent)
    assert to_json_line(read)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        " " * (LINE_CHARS_MAX + 1),
        to_json_line(ELECTED).replace("Z", ""),
        to_json_line(ELECTED).replace("2026", "0000"),
        to_json_line(ELECTED).replace("0.25", "NaN"),
        to_json_line(ELECTED).replace("0.25", "1e999"),
        to_json_line(ELECTED).replace('"node_id":"n1",', ""),
        to_json_line(ELECTED).replace('"votes":2,', ""),
        to_json_line(ELECTED).replace('"term":7', '"term":' + "7" * 5000),
    ],
)
def test_a_line_of_anything_but_an_event_is_refused(bad: str) -> None:
    with pytest.raises(EventDecodeError):
        from_json_line(bad)


def test_bytes_in_unknown_data_are_shown_in_hexadecimal() -> None:
    line = to_json_line(UnknownEvent(name="consensus.x", data={"hash": b"\x01\xff"}))
    assert json.loads(line)["data"] == {"hash": "01ff"}
