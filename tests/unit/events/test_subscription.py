"""A handler on the bus: its exceptions and delays do not affect the publisher or other handlers."""

import threading
import time
from collections.abc import Iterator

import pytest
from loguru import logger

from forge_consensus.events.bus import EventBus
from forge_consensus.events.subscription import Subscription, inside_inline_handler
from forge_consensus.events.types import LogAppended, NodeStarted
from forge_consensus.process import log
from forge_consensus.process.log import Outlet


@pytest.fixture
def bus() -> Iterator[EventBus]:
    bus = EventBus()
    yield bus
    bus.close()


@pytest.fixture
def lines() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    yield lines
    logger.remove(sink)


def appended(index: int) -> LogAppended:
    return LogAppended(first_index=index, last_index=index, sequence=index)


def fail(_: object) -> None:
    raise OSError("no such luck")


@pytest.mark.parametrize("inline", [True, False])
def test_a_failing_handler_harms_no_other(bus: EventBus, lines: list[str], inline: bool) -> None:
    seen: list[int] = []
    bad = bus.subscribe(LogAppended, fail, inline=inline)
    good = bus.subscribe(LogAppended, lambda event: seen.append(event.first_index), inline=inline)
    for index in range(1, 101):
        bus.publish(appended(index))
    assert bus.close()
    assert seen == list(range(1, 101))
    assert (good.delivered, good.failed, bad.delivered, bad.failed) == (100, 0, 0, 100)


def test_a_handler_that_always_fails_is_logged_once_a_second(bus: EventBus, lines: list[str]) -> None:
    bus.slow_ms_max = 60_000.0
    bad = bus.subscribe(LogAppended, fail, inline=True)
    for index in range(1, 101):
        bus.publish(appended(index))
    assert bad.join(5.0)
    assert len(lines) == 1
    assert "fail raised at consensus.log.appended number 1" in lines[0]
    assert "no such luck" in lines[0]
    bad.report_due = 0.0
    bus.publish(appended(101))
    assert bad.join(5.0)
    assert "99 times unreported" in lines[1]


def test_a_handler_that_exits_does_not_end_the_node(bus: EventBus, lines: list[str]) -> None:
    def leave(_: NodeStarted) -> None:
        raise SystemExit(1)

    subscription = bus.subscribe(NodeStarted, leave, inline=True)
    bus.publish(NodeStarted())
    assert subscription.failed == 1


def test_an_interrupt_in_a_handler_reaches_the_process(bus: EventBus) -> None:
    def interrupted(_: NodeStarted) -> None:
        raise KeyboardInterrupt

    bus.subscribe(NodeStarted, interrupted, inline=True)
    with pytest.raises(KeyboardInterrupt):
        bus.publish(NodeStarted())
    assert not inside_inline_handler()


@pytest.fixture
def queued_lines(monkeypatch: pytest.MonkeyPatch) -> Outlet:
    """The package's lines on their way as in production: behind their queue."""
    outlet = Outlet()
    monkeypatch.setattr(log, "OUTLET", outlet)
    return outlet


@pytest.mark.parametrize("inline", [True, False])
def test_a_failing_log_does_not_disturb_the_publisher(bus: EventBus, inline: bool, queued_lines: Outlet) -> None:
    def broken(_: object) -> None:
        raise OSError("disk full")

    sink = logger.add(broken, catch=False)
    try:
        subscription = bus.subscribe(NodeStarted, fail, inline=inline)
        bus.publish(NodeStarted())
        bus.publish(NodeStarted())
        assert bus.close(5.0)
        assert queued_lines.writer.flush(5.0)
    finally:
        logger.remove(sink)
    assert subscription.failed == 2
    assert queued_lines.writer.dropped >= 1


def test_a_log_that_hangs_does_not_hold_the_publisher_up(bus: EventBus, queued_lines: Outlet) -> None:
    release = threading.Event()

    def hang(_: object) -> None:
        release.wait(20)

    sink = logger.add(hang)
    try:
        bad = bus.subscribe(NodeStarted, fail, inline=True)
        started = time.monotonic()
        for _ in range(10):
            bad.report_due = 0.0
            bus.publish(NodeStarted())
        assert time.monotonic() - started < 5
        release.set()
        assert queued_lines.writer.flush(5.0)
    finally:
        logger.remove(sink)


def test_a_slow_handler_does_not_hold_the_publisher_up(bus: EventBus) -> None:
    release = threading.Event()
    slow = bus.subscribe(LogAppended, lambda _: release.wait(10), queue_max=10)
    started = time.monotonic()
    for index in range(1000):
        bus.publish(appended(index))
    assert time.monotonic() - started < 1
    assert slow.dropped >= 980
    release.set()


def test_a_slow_inline_handler_is_counted_and_reported(lines: list[str]) -> None:
    bus = EventBus(slow_ms_max=1.0)
    slow = bus.subscribe(NodeStarted, lambda _: time.sleep(0.01), inline=True)
    bus.begin_turn(1.0)
    bus.publish(NodeStarted())
    assert slow.join(5.0)
    assert (slow.slow, slow.delivered) == (1, 1)
    assert "held the node up for" in lines[0]
    assert bus.budget.remaining_seconds <= 0.99


def test_a_cancelled_handler_is_called_no_more(bus: EventBus) -> None:
    seen: list[object] = []
    with bus.subscribe(NodeStarted, seen.append, inline=True) as subscription:
        bus.publish(NodeStarted())
    bus.publish(NodeStarted())
    subscription.cancel()
    assert len(seen) == 1
    assert not bus.has_listeners(NodeStarted)


@pytest.mark.parametrize("inline", [True, False])
def test_a_handler_can_cancel_itself(bus: EventBus, inline: bool) -> None:
    seen: list[int] = []

    def once(event: LogAppended) -> None:
        seen.append(event.first_index)
        subscription.cancel()

    subscription: Subscription[LogAppended] = bus.subscribe(LogAppended, once, inline=inline)
    for index in range(1, 11):
        bus.publish(appended(index))
    assert subscription.join(5.0)
    bus.close()
    assert seen == [1]


def test_an_inline_handler_can_cancel_and_subscribe_others(bus: EventBus) -> None:
    seen: list[str] = []

    def swap(_: NodeStarted) -> None:
        other.cancel()
        bus.subscribe(NodeStarted, lambda _: seen.append("new"), inline=True)

    first = bus.subscribe(NodeStarted, swap, inline=True)
    other = bus.subscribe(NodeStarted, lambda _: None, inline=True)
    bus.publish(NodeStarted())
    first.cancel()
    bus.publish(NodeStarted())
    assert seen == ["new"]


def test_the_first_event_starts_the_thread(bus: EventBus) -> None:
    threads = set(threading.enumerate())  # some of earlier tests may end meanwhile
    subscription = bus.subscribe(NodeStarted, lambda _: None)
    assert not set(threading.enumerate()) - threads
    bus.publish(NodeStarted())
    assert len(set(threading.enumerate()) - threads) == 1
    subscription.cancel()
    assert subscription.join(5.0)
    assert not set(threading.enumerate()) - threads


def test_a_lack_of_threads_delays_only_the_handler_concerned(
    bus: EventBus, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    seen: list[int] = []
    subscription = bus.subscribe(LogAppended, lambda event: seen.append(event.first_index))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        bus.publish(appended(1))
    assert (seen, subscription.failed) == ([], 1)
    bus.publish(appended(2))
    bus.close()
    assert seen == [1, 2]


def test_a_handler_can_tell_that_it_is_inline(bus: EventBus) -> None:
    seen: list[bool] = []
    bus.subscribe(NodeStarted, lambda _: seen.append(inside_inline_handler()), inline=True)
    bus.publish(NodeStarted())
    assert seen == [True]
    bus.subscribe(NodeStarted, lambda _: seen.append(inside_inline_handler()))
    bus.publish(NodeStarted())
    bus.close()
    assert sorted(seen) == [False, True, True]
