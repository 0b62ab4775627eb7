"""Hostile requests: whatever a body, a query or a page of events holds, it is taken or refused with a reason."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from forge_consensus.actors.messages import EventPage, ReadEvents
from forge_consensus.admin.api import OPERATIONS
from forge_consensus.admin.operation import fields_of, json_of, query_of
from forge_consensus.admin.problems import ProblemError
from forge_consensus.events.encoding import to_msgpack
from forge_consensus.events.types import LeaderElected
from forge_consensus.feed.cursor import EventCursor, Wanted
from tests.worlds.effort import effort
from tests.worlds.hostile_bytes import BYTES, NUMBERS, spoilt
from tests.worlds.one_node import OneNode

FEW = settings(max_examples=effort(80, 20_000), deadline=None)
NAMES = sorted({each.name for operation in OPERATIONS for each in operation.arguments})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.sampled_from(NAMES),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), inner),
    max_leaves=12,
)
BODIES = st.one_of(
    JSON.map(lambda value: json.dumps(value).encode()),
    spoilt(JSON.map(lambda value: json.dumps(value).encode())),
    st.sampled_from((b"[" * 100_000, b'{"a":' * 5000, b'"\\ud800"', b"1" * 5000, b"1e999", b"NaN", b"\xff\xfe{}")),
    st.binary(max_size=60),
)
QUERIES = st.one_of(
    st.lists(st.tuples(st.sampled_from(NAMES), st.text(max_size=12)), max_size=6).map(
        lambda pairs: "&".join(f"{name}={text}" for name, text in pairs).encode()
    ),
    st.just(b"limit=1&" * 2000),
    st.binary(max_size=80),
)


@given(
    BODIES, QUERIES, st.dictionaries(st.sampled_from(("x-raft-consistency", "x-raft-min-index")), st.text(max_size=9))
)
@FEW
def test_a_request_to_the_api_is_taken_or_refused(data: bytes, query: bytes, headers: dict[str, str]) -> None:
    for operation in OPERATIONS:
        try:
            query_of(operation, query, headers)
        except ProblemError as problem:
            assert 400 <= problem.status < 500
    try:
        body = json_of(data)
    except ProblemError as problem:
        assert 400 <= problem.status < 500
        return
    for operation in OPERATIONS:
        try:
            fields_of(operation, body)
        except ProblemError as problem:
            assert 400 <= problem.status < 500


KINDS = st.lists(
    st.text(alphabet="consensu.lead*?[]!-a^", max_size=30)
    | st.sampled_from(("*a" * 100, "[", "[]]", "[!", "[z-a]", "")),
    max_size=70,
)


@given(NUMBERS, NUMBERS, KINDS.map(tuple))
@FEW
def test_a_page_of_the_journal_is_read_whatever_is_asked_for(since: int, limit: int, kinds: tuple[str, ...]) -> None:
    node = OneNode(1)
    node.wait(0.2)
    node.request("", "gateway", ReadEvents(since, limit, kinds))
    assert node.last(EventPage).next >= 0
    assert not node.engine.faults.times


EVENT = to_msgpack(LeaderElected(leader="n1", votes=2, total=3, duration=0.5, node_id="n1", sequence=3, time=1.0))
ROWS = st.lists(st.tuples(NUMBERS | st.integers(0, 20), st.just(EVENT) | spoilt(st.just(EVENT)) | BYTES), max_size=6)
GAPS = st.lists(st.tuples(NUMBERS, NUMBERS | st.integers(0, 20), st.text(max_size=9)), max_size=3)


@given(st.lists(st.tuples(ROWS, GAPS, NUMBERS | st.integers(0, 20), NUMBERS), min_size=1, max_size=3))
@FEW
def test_a_reader_of_events_takes_whatever_a_node_answers(pages: list[Any]) -> None:
    cursor = EventCursor(0, Wanted([]))
    now = 1.0
    for rows, gaps, following, end in pages:
        cursor.request(now, 1000)
        page = EventPage("n1", "demo", "folder", 1, "127.0.0.1:9", 1, following, end, tuple(rows), tuple(gaps))
        for told in cursor.page(page, 1000):
            assert told.node == "n1"
        now += 2.0
