"""Streams: `for` and `async for` over events, with timeout, end and cancellation."""

import asyncio
import gc
import threading
import time

import pytest

from forge_consensus.events.bus import EventBus
from forge_consensus.events.stream import StreamEndedError
from forge_consensus.events.types import LeaderElected, LeaderLost, LogAppended, NodeStopped

ELECTED = LeaderElected(leader="n1", votes=2, total=3, duration=0.1)
LOST = LeaderLost(leader="n1", reason="silent")


def appended(index: int) -> LogAppended:
    return LogAppended(first_index=index, last_index=index)


def test_a_stream_yields_events_published_since_its_creation() -> None:
    bus = EventBus()
    bus.publish(LOST)
    stream = bus.stream(LeaderElected, LeaderLost)
    for event in (ELECTED, appended(1), LOST):
        bus.publish(event)
    bus.close()
    assert list(stream) == [ELECTED, LOST]
    assert list(stream) == []


def test_an_event_chosen_twice_comes_once() -> None:
    bus = EventBus()
    stream = bus.stream(LeaderElected, "consensus.leader.*", "*")
    bus.publish(ELECTED)
    bus.close()
    assert list(stream) == [ELECTED]


def test_a_stream_ends_after_its_timeout_without_an_event() -> None:
    bus = EventBus()
    stream = bus.stream(timeout=0.02)
    bus.publish(ELECTED)
    assert list(stream) == [ELECTED]
    bus.publish(LOST)
    assert list(stream) == [LOST]


def test_getting_one_event_says_why_there_is_none() -> None:
    bus = EventBus()
    with bus.stream(LeaderElected) as stream:
        with pytest.raises(TimeoutError):
            stream.get(timeout=0)
        bus.publish(ELECTED)
        assert stream.get(timeout=0) is ELECTED
    with pytest.raises(StreamEndedError):
        stream.get()


def test_a_stream_can_be_closed_from_another_thread() -> None:
    bus = EventBus()
    stream = bus.stream(LeaderElected)
    closing = threading.Timer(0.05, stream.close)
    closing.start()
    assert list(stream) == []
    closing.join()
    assert not bus.has_listeners(LeaderElected)


def test_a_stream_that_falls_behind_loses_the_oldest_and_says_so() -> None:
    bus = EventBus()
    stream = bus.stream(LogAppended, queue_max=3)
    for index in range(10):
        bus.publish(appended(index))
    bus.close()
    assert [event.first_index for event in stream] == [7, 8, 9]
    assert stream.dropped == 7


def test_a_garbage_collected_stream_leaves_the_bus() -> None:
    bus = EventBus()
    stream = bus.stream(LeaderElected)
    bus.publish(ELECTED)
    for _ in stream:
        break
    assert bus.has_listeners(LeaderElected)
    del stream
    gc.collect()
    assert not bus.has_listeners(LeaderElected)


def test_an_asynchronous_stream_follows_a_publishing_thread() -> None:
    bus = EventBus()

    def publish() -> None:
        for index in range(1000):
            bus.publish(appended(index))
            if index % 100 == 0:
                time.sleep(0.002)
        bus.publish(NodeStopped())
        bus.close()

    async def follow() -> list[int]:
        seen = []
        async with bus.astream(LogAppended, queue_max=2000) as stream:
            thread = threading.Thread(target=publish)
            thread.start()
            async for event in stream:
                seen.append(event.first_index)
            thread.join()
        return seen

    assert asyncio.run(follow()) == list(range(1000))


def test_an_asynchronous_stream_has_a_timeout() -> None:
    bus = EventBus()

    async def follow() -> None:
        stream = bus.astream(LeaderElected, timeout=0.02)
        bus.publish(ELECTED)
        assert [event async for event in stream] == [ELECTED]
        with pytest.raises(TimeoutError):
            await stream.get(timeout=0.01)
        with pytest.raises(TimeoutError):
            await stream.get(timeout=0)

    asyncio.run(follow())


def test_a_cancelled_task_loses_no_event() -> None:
    bus = EventBus()

    async def follow() -> None:
        stream = bus.astream(LeaderElected, LeaderLost)
        task = asyncio.create_task(stream.get())
        await asyncio.sleep(0.01)
        task.cancel()
        bus.publish(ELECTED)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await stream.get(timeout=1) is ELECTED

    asyncio.run(follow())


def test_an_asynchronous_stream_outlives_a_loop() -> None:
    bus = EventBus()
    stream = bus.astream(LeaderElected)
    with pytest.raises(TimeoutError):
        asyncio.run(stream.get(timeout=0.01))
    bus.publish(ELECTED)
    assert asyncio.run(stream.get(timeout=1)) is ELECTED


def test_only_one_task_at_a_time_waits_on_a_stream() -> None:
    bus = EventBus()

    async def follow() -> None:
        stream = bus.astream(LeaderElected)
        first = asyncio.create_task(stream.get())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task"):
            await stream.get()
        bus.publish(ELECTED)
        assert await first is ELECTED

    asyncio.run(follow())


@pytest.mark.parametrize("by", ["stream", "bus"])
def test_closing_ends_an_asynchronous_stream(by: str) -> None:
    bus = EventBus()

    async def follow() -> None:
        stream = bus.astream(LeaderElected)
        close = stream.close if by == "stream" else bus.close
        closing = threading.Timer(0.02, close)
        closing.start()
        assert [event async for event in stream] == []
        with pytest.raises(StreamEndedError):
            await stream.get()
        closing.join()

    asyncio.run(follow())
