"""The backlog of one listener: its bound, its policies, its end."""

import threading
import time
from queue import Empty

import pytest

from forge_consensus.events.backlog import Backlog, TurnBudget, WhenFull
from forge_consensus.events.types import LogAppended


def backlog(when_full: WhenFull, block_ms_max: float = 5.0) -> Backlog[LogAppended]:
    return Backlog(3, when_full, block_ms_max, TurnBudget())


def put(into: Backlog[LogAppended], *indexes: int) -> None:
    for index in indexes:
        into.put(LogAppended(first_index=index, last_index=index))


def taken(out_of: Backlog[LogAppended]) -> list[int]:
    indexes = []
    try:
        while (event := out_of.get(0)) is not None:
            indexes.append(event.first_index)
    except Empty:
        pass
    return indexes


def test_drop_oldest_keeps_the_newest() -> None:
    queue = backlog("drop_oldest")
    put(queue, 1, 2, 3, 4, 5)
    assert (taken(queue), queue.dropped) == ([3, 4, 5], 2)


def test_drop_newest_keeps_the_oldest() -> None:
    queue = backlog("drop_newest")
    put(queue, 1, 2, 3, 4, 5)
    assert (taken(queue), queue.dropped) == ([1, 2, 3], 2)


def test_block_waits_for_the_listener() -> None:
    queue = backlog("block", block_ms_max=5000)
    put(queue, 1, 2, 3)
    listener = threading.Timer(0.05, queue.get)
    listener.start()
    put(queue, 4)
    listener.join()
    assert (taken(queue), queue.dropped) == ([2, 3, 4], 0)


def test_block_waits_no_longer_than_its_bound() -> None:
    queue = backlog("block", block_ms_max=20)
    put(queue, 1, 2, 3)
    started = time.monotonic()
    put(queue, 4)
    assert 0.019 < time.monotonic() - started < 0.5
    assert (taken(queue), queue.dropped) == ([1, 2, 3], 1)


def test_block_waits_no_longer_than_the_rest_of_the_turn() -> None:
    queue = backlog("block", block_ms_max=1000)
    put(queue, 1, 2, 3)
    queue.budget.begin(0.02)
    started = time.monotonic()
    put(queue, *range(4, 104))
    assert time.monotonic() - started < 0.5
    assert queue.dropped == 100
    queue.budget.begin(0.02)
    assert queue.budget.remaining_seconds == 0.02


def test_a_blocked_publisher_goes_on_when_its_listener_leaves() -> None:
    queue = backlog("block", block_ms_max=60_000)
    put(queue, 1, 2, 3)
    leaving = threading.Timer(0.05, queue.abandon)
    leaving.start()
    started = time.monotonic()
    put(queue, 4)
    leaving.join()
    assert time.monotonic() - started < 10


def test_a_finished_backlog_ends_after_its_last_event_for_all_readers() -> None:
    queue = backlog("drop_oldest")
    put(queue, 1, 2)
    queue.finish()
    assert taken(queue) == [1, 2]
    assert queue.get(0) is None
    assert queue.get(0) is None


def test_an_abandoned_backlog_ends_at_once() -> None:
    queue = backlog("drop_oldest")
    put(queue, 1, 2)
    queue.abandon()
    assert queue.get(0) is None


def test_the_end_is_never_dropped_for_a_later_event() -> None:
    queue = backlog("drop_oldest")
    queue.finish()
    put(queue, 1, 2, 3, 4)
    assert queue.get(0) is None


@pytest.mark.parametrize(
    ("queue_max", "when_full", "block_ms_max"),
    [(0, "block", 1.0), (1, "explode", 1.0), (1, "block", 0.0), (1, "block", float("nan"))],
)
def test_options_out_of_range_are_refused(queue_max: int, when_full: WhenFull, block_ms_max: float) -> None:
    with pytest.raises(ValueError, match=r"queue_max|when_full|block_ms_max"):
        Backlog[LogAppended](queue_max, when_full, block_ms_max, TurnBudget())
