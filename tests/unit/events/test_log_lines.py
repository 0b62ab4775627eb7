"""Events as log lines: the level, the text, the bound values, and the events that a slow log misses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from loguru import logger

from forge_consensus.events.bus import EventBus
from forge_consensus.events.envelope import UnknownEvent
from forge_consensus.events.log_lines import LEVELS, line_of, log_events
from forge_consensus.events.types import (
    EVENT_TYPES,
    ConsensusEvent,
    Degraded,
    LeaderElected,
    LeaderLost,
    LogAppended,
    LogCommitted,
    QuorumLost,
    SnapshotCompleted,
)

Rows = list[dict[str, Any]]


@pytest.fixture
def rows() -> Iterator[Rows]:
    """What is logged, beside whatever sinks there are."""
    found: Rows = []
    number = logger.add(lambda message: found.append(dict(message.record)), level="TRACE", format="{message}")
    try:
        yield found
    finally:
        logger.remove(number)


def lost(**envelope: Any) -> LeaderLost:
    return LeaderLost(
        node_id="n1", cluster_id="demo", term=7, sequence=9, leader="n2", reason="the link broke", **envelope
    )


def test_an_event_is_one_line_with_node_term_and_correlation_id_bound(rows: Rows) -> None:
    bus = EventBus()
    log_events(bus)
    bus.publish(lost(correlation_id="order-1"))
    bus.close()
    (row,) = rows
    assert row["message"] == "n1 term 7: leader.lost leader=n2 reason='the link broke'"
    assert row["level"].name == "WARNING"
    assert row["extra"] == {
        "node": "n1", "cluster": "demo", "term": 7, "sequence": 9, "event": "consensus.leader.lost",
        "data": {"leader": "n2", "reason": "the link broke"}, "correlation_id": "order-1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (lost(), "WARNING"),
        (QuorumLost(required=2, healthy=1, total=3), "WARNING"),
        (Degraded(details=("n2 is failed",)), "WARNING"),
        (SnapshotCompleted(index=1, size=2, duration=0.1), "INFO"),
        (LeaderElected(leader="n1", votes=2, total=3, duration=0.01), "INFO"),
        (UnknownEvent(name="consensus.of.tomorrow"), "INFO"),
        (LogAppended(first_index=1, last_index=2), "TRACE"),
    ],
)
def test_each_event_has_its_log_level(rows: Rows, event: ConsensusEvent, level: str) -> None:
    bus = EventBus()
    log_events(bus, frequent=True)
    bus.publish(event)
    bus.close()
    assert [row["level"].name for row in rows] == [level]


def test_the_table_of_levels_names_existing_kinds_and_levels() -> None:
    assert set(LEVELS) <= set(EVENT_TYPES.values())
    for level in LEVELS.values():
        logger.level(level)


def test_events_of_the_log_are_made_only_on_request() -> None:
    bus = EventBus()
    with log_events(bus):
        assert not bus.has_listeners(LogAppended)
        assert not bus.has_listeners(LogCommitted)
        assert bus.has_listeners(LeaderElected)
    with log_events(bus, frequent=True):
        assert bus.has_listeners(LogCommitted)
    assert bus.listeners == ()


def test_a_slow_log_says_how_many_events_it_missed(rows: Rows) -> None:
    bus = EventBus()
    began, go_on = threading.Event(), threading.Event()

    def slow(message: object) -> None:
        began.set()
        go_on.wait(5)

    number = logger.add(slow, level="TRACE")
    try:
        log_events(bus, queue_max=2)
        bus.publish(lost())
        assert began.wait(5)
        for _ in range(5):
            bus.publish(lost())
        go_on.set()
        assert bus.close(timeout=5)
    finally:
        go_on.set()
        logger.remove(number)
    missed = [row["message"] for row in rows if row["level"].name == "WARNING" and "too slow" in row["message"]]
    assert missed == ["n1: 3 events are missing in this log, because it was too slow for them"]
    assert len(rows) == 4


def test_braces_and_line_ends_in_a_payload_stay_in_one_line(rows: Rows) -> None:
    bus = EventBus()
    log_events(bus)
    bus.publish(LeaderLost(node_id="n1", term=1, leader="{0}", reason="two\nlines <red>{x}"))
    bus.close()
    assert rows[0]["message"] == "n1 term 1: leader.lost leader={0} reason='two\\nlines <red>{x}'"


def test_numbers_lists_and_missing_values_are_short() -> None:
    event = LogCommitted(node_id="n1", term=2, first_index=1, last_index=3, correlation_ids=("a", "b c"))
    assert line_of(event) == "n1 term 2: log.committed first_index=1 last_index=3 correlation_ids=a,'b c'"
    elected = LeaderElected(node_id="n1", term=2, leader="n1", votes=0, total=3, duration=0.0123456)
    assert line_of(elected) == "n1 term 2: leader.elected leader=n1 votes=0 total=3 duration=12ms"
