"""Pages of the journal as a client reads them, and the events that a turn adds to it."""

from __future__ import annotations

import msgpack

from forge_consensus.actors.messages import EventPage, ReadEvents
from forge_consensus.actors.raft.journal_pages import ROWS_MAX, matcher
from forge_consensus.config.storage import StorageSettings
from forge_consensus.events.encoding import from_msgpack, kind_of, to_msgpack
from forge_consensus.events.types import (
    BecameLeader,
    ConsensusEvent,
    LogAppended,
    LogCommitted,
    LogTruncated,
    QuorumAchieved,
    UnknownEvent,
)
from tests.worlds.one_node import OneNode


def page_of(node: OneNode, since: int, limit: int = 100, kinds: tuple[str, ...] = ()) -> EventPage:
    node.request("", "gateway", ReadEvents(since, limit, kinds))
    page = node.last(EventPage)
    assert isinstance(page, EventPage)
    return page


def test_a_client_reads_the_journaled_events() -> None:
    node = OneNode()
    page = page_of(node, 0)
    assert [from_msgpack(data) for _, data in page.rows] == node.events[: len(page.rows)]
    assert [number for number, _ in page.rows] == list(range(1, page.end + 1))
    identity = node.ledger.identity
    assert (page.node, page.cluster, page.incarnation, page.boot) == (
        identity.node_id, identity.cluster_id, identity.incarnation, identity.boot,
    )  # fmt: skip
    assert (page.first, page.next, page.gaps) == (1, page.end + 1, ())


def test_a_clock_that_was_years_ahead_discards_no_event() -> None:
    """Neither while it is wrong, nor when it is right again, nor after a restart."""
    node = OneNode(limits=StorageSettings(events_seconds=600.0))
    count = len(node.events)
    for years in (10, 0, -20, 10):
        node.clock.error_ms = years * 365 * 24 * 3600 * 1000
        node.engine.publish(QuorumAchieved(required=2, healthy=3, total=3))
        node.turn()
        node.ledger.journal.seal()
        node.turn()
    page = page_of(node, 0)
    assert [from_msgpack(data) for _, data in page.rows][:count] == node.events[:count]
    assert page.gaps == ()
    again = OneNode(tables=node.tables.clone_durable(), limits=StorageSettings(events_seconds=600.0))
    again.ledger.journal.seal()
    assert page_of(again, 0).rows[: len(page.rows)] == page.rows


def test_a_page_holds_only_the_wanted_kinds() -> None:
    node = OneNode()
    page = page_of(node, 0, kinds=("consensus.node.*", "consensus.role.follower"))
    assert {kind_of(data) for _, data in page.rows} == {"consensus.node.started", "consensus.role.follower"}
    assert page.next == page.end + 1


def test_a_page_is_bounded_for_any_request() -> None:
    node = OneNode()
    for _ in range(ROWS_MAX + 10):
        node.engine.publish(QuorumAchieved(required=2, healthy=3, total=3))
    node.engine.publish_events()
    assert len(page_of(node, 0, limit=1 << 40).rows) == ROWS_MAX
    assert page_of(node, 0, limit=0).rows == ()


def test_a_turn_joins_its_ranges_of_entries_into_one_event() -> None:
    node = OneNode()
    node.events.clear()
    for event in (
        LogAppended(first_index=5, last_index=6),
        LogCommitted(first_index=4, last_index=4),
        LogAppended(first_index=7, last_index=9),
        LogCommitted(first_index=5, last_index=6),
        LogTruncated(from_index=9, removed=1),
        LogAppended(first_index=9, last_index=9),
        LogAppended(first_index=12, last_index=12),
    ):
        node.engine.publish(event)
    node.engine.publish_events()
    ranges = [
        (type(event).__name__, event.first_index, event.last_index)
        for event in node.events
        if isinstance(event, LogAppended | LogCommitted)
    ]
    assert ranges == [
        ("LogAppended", 5, 9),
        ("LogCommitted", 4, 6),
        ("LogAppended", 9, 9),
        ("LogAppended", 12, 12),
    ]


def test_an_event_alone_causes_no_commit() -> None:
    node = OneNode()
    flushes, rows = node.tables.commits, node.tables.count("events")
    node.engine.publish(QuorumAchieved(required=2, healthy=3, total=3))
    node.engine.publish_events()
    assert (node.tables.commits, node.tables.count("events")) == (flushes, rows)
    assert page_of(node, 0).rows[-1][1] == to_msgpack(node.events[-1])


def test_the_kind_of_an_encoded_event_is_read_without_decoding_it() -> None:
    events: list[ConsensusEvent] = [
        BecameLeader(), QuorumAchieved(required=2, healthy=3, total=3), UnknownEvent(name="x" * 200, data={}),
        UnknownEvent(name="y", data={}),
    ]  # fmt: skip
    for event in events:
        assert kind_of(to_msgpack(event)) == event.topic
    for body in (b"", b"\xff", b"\x9a\x01", b"\x93\x01\x05\x05", msgpack.packb("text")):
        assert kind_of(body) == ""


def test_a_matcher_takes_names_and_patterns() -> None:
    wanted = matcher(("consensus.log.*", "consensus.role.leader"))
    assert wanted(to_msgpack(BecameLeader()))
    assert wanted(to_msgpack(LogAppended(first_index=1, last_index=1)))
    assert not wanted(to_msgpack(QuorumAchieved(required=2, healthy=3, total=3)))
    assert not wanted(b"")
