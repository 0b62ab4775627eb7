"""The bus: which events a listener receives, in which order, at which cost, and until when."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, assert_type

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_consensus.events.bus import EventBus, OrderedSignal
from forge_consensus.events.envelope import ConsensusEvent, UnknownEvent
from forge_consensus.events.stream import EventStream, StreamEndedError
from forge_consensus.events.subscription import Subscription
from forge_consensus.events.types import (
    LeaderElected,
    LeaderLost,
    LogAppended,
    NodeStarted,
    NodeStopped,
    QuorumAchieved,
    QuorumLost,
)

ELECTED = LeaderElected(leader="n1", votes=2, total=3, duration=0.1)
LOST = LeaderLost(leader="n1", reason="silent")


@pytest.fixture
def bus() -> Iterator[EventBus]:
    bus = EventBus()
    yield bus
    bus.close()


def appended(index: int) -> LogAppended:
    return LogAppended(first_index=index, last_index=index)


def test_a_handler_sees_its_class_its_base_class_or_its_pattern(bus: EventBus) -> None:
    seen: dict[str, list[str]] = {"class": [], "base": [], "pattern": []}
    bus.subscribe(LeaderLost, lambda event: seen["class"].append(event.reason), inline=True)
    bus.subscribe(ConsensusEvent, lambda event: seen["base"].append(event.kind), inline=True)
    bus.subscribe("*.leader.*", lambda event: seen["pattern"].append(event.kind), inline=True)
    for event in (NodeStarted(), ELECTED, LOST):
        bus.publish(event)
    assert seen == {
        "class": ["silent"],
        "base": ["consensus.node.started", "consensus.leader.elected", "consensus.leader.lost"],
        "pattern": ["consensus.leader.elected", "consensus.leader.lost"],
    }


def test_the_type_of_a_handler_follows_from_its_events(bus: EventBus) -> None:
    def elected(event: LeaderElected) -> None: ...

    assert_type(bus.subscribe(LeaderElected, elected), Subscription[LeaderElected])
    assert_type(bus.stream(QuorumLost), EventStream[QuorumLost])
    assert_type(bus.stream(QuorumLost, "*"), EventStream[ConsensusEvent])
    assert_type(bus.stream(), EventStream[ConsensusEvent])
    bus.subscribe(QuorumLost, elected)  # type: ignore[arg-type]
    bus.on(QuorumLost)(elected)  # type: ignore[arg-type]
    bus.subscribe("consensus.leader.*", elected)  # type: ignore[arg-type]
    bus.subscribe(ConsensusEvent, elected)  # type: ignore[arg-type]


def test_a_decorator_subscribes_and_leaves_the_function_as_it_is(bus: EventBus) -> None:
    seen: list[str] = []

    @bus.on(LeaderElected, inline=True)
    def elected(event: LeaderElected) -> None:
        seen.append(event.leader)

    bus.publish(ELECTED)
    elected(ELECTED)
    assert seen == ["n1", "n1"]


def test_handlers_are_kept_alive(bus: EventBus) -> None:
    class Watcher:
        seen: ClassVar[list[ConsensusEvent]] = []

        def see(self, event: ConsensusEvent) -> None:
            self.seen.append(event)

    bus.subscribe(ConsensusEvent, Watcher().see, inline=True)
    bus.publish(ELECTED)
    assert Watcher.seen == [ELECTED]


@given(st.lists(st.integers(0, 2), max_size=60), st.lists(st.booleans(), min_size=3, max_size=3))
def test_each_listener_sees_the_order_of_publishing(kinds: list[int], inline: list[bool]) -> None:
    bus = EventBus()
    published = [
        (NodeStarted(sequence=number), NodeStopped(sequence=number), ELECTED)[kind] for number, kind in enumerate(kinds)
    ]
    seen: list[list[ConsensusEvent]] = [[], [], []]
    bus.subscribe(ConsensusEvent, seen[0].append, inline=inline[0])
    bus.subscribe("consensus.node.*", seen[1].append, inline=inline[1])
    bus.subscribe(LeaderElected, seen[2].append, inline=inline[2])
    for event in published:
        bus.publish(event)
    assert bus.close(5.0)
    assert seen[0] == published
    assert seen[1] == [event for event in published if ".node." in event.kind]
    assert seen[2] == [event for event in published if event is ELECTED]


def test_events_published_by_an_inline_handler_come_later_for_all_listeners(bus: EventBus) -> None:
    seen: list[list[ConsensusEvent]] = [[] for _ in range(8)]
    for place in seen[:4]:
        bus.subscribe(ConsensusEvent, place.append, inline=True)
    bus.subscribe(LeaderElected, lambda _: bus.publish(LOST), inline=True)
    for place in seen[4:]:
        bus.subscribe(ConsensusEvent, place.append, inline=True)
    bus.publish(ELECTED)
    assert seen == [[ELECTED, LOST]] * 8


def test_a_coroutine_function_is_refused(bus: EventBus) -> None:
    async def handler(event: LeaderElected) -> None: ...

    with pytest.raises(TypeError, match="astream"):
        bus.subscribe(LeaderElected, handler)


def test_wrong_options_are_refused_at_once(bus: EventBus) -> None:
    with pytest.raises(ValueError, match="queue_max"):
        bus.subscribe(LeaderElected, print, queue_max=0)
    with pytest.raises(ValueError, match="no kind"):
        bus.subscribe("leader.elected", print)
    assert not bus.has_listeners(LeaderElected)


def test_the_bus_knows_whether_an_event_has_listeners(bus: EventBus) -> None:
    assert not bus.has_listeners(LogAppended)
    with bus.subscribe("consensus.log.*", print):
        assert bus.has_listeners(LogAppended)
        assert not bus.has_listeners(LeaderElected)
        assert bus.has_listeners(UnknownEvent)
    assert not bus.has_listeners(LogAppended)
    with bus.subscribe(ConsensusEvent, print):
        assert bus.has_listeners(LogAppended)


def test_unknown_events_are_delivered_by_their_name(bus: EventBus) -> None:
    seen: list[str] = []
    bus.subscribe("consensus.leader.*", lambda event: seen.append(event.topic), inline=True)
    bus.publish(UnknownEvent(name="consensus.leader.praised"))
    bus.publish(UnknownEvent(name="consensus.log.praised"))
    assert seen == ["consensus.leader.praised"]


def test_a_class_of_the_users_own_can_be_published(bus: EventBus) -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class TeaReady(ConsensusEvent):
        kind: ClassVar[str] = "office.tea.ready"

    seen: list[str] = []
    bus.subscribe(ConsensusEvent, lambda event: seen.append(event.kind), inline=True)
    bus.publish(TeaReady())
    bus.subscribe(TeaReady, lambda event: seen.append("tea"), inline=True)
    bus.publish(TeaReady())
    assert sorted(seen) == ["office.tea.ready", "office.tea.ready", "tea"]


def test_all_blocking_listeners_share_the_time_of_a_turn(bus: EventBus) -> None:
    release = threading.Event()
    for _ in range(5):
        bus.subscribe(
            LogAppended,
            lambda _: release.wait(20),
            queue_max=1,
            when_full="block",
            block_ms_max=500,
        )
    bus.begin_turn(0.05)
    started = time.monotonic()
    for index in range(20):
        bus.publish(appended(index))
    assert time.monotonic() - started < 0.4
    release.set()


def test_a_blocking_listener_loses_no_event(bus: EventBus) -> None:
    seen: list[int] = []
    listener = bus.subscribe(
        LogAppended, lambda event: seen.append(event.first_index),
        queue_max=2, when_full="block", block_ms_max=10_000,
    )  # fmt: skip
    for index in range(500):
        bus.publish(appended(index))
    bus.close()
    assert (seen, listener.dropped) == (list(range(500)), 0)


def test_wait_for_returns_the_first_event_that_the_predicate_accepts(bus: EventBus) -> None:
    def publish() -> None:
        while not bus.has_listeners(QuorumAchieved):
            time.sleep(0.001)
        for healthy in (1, 2, 3):
            bus.publish(QuorumAchieved(required=2, healthy=healthy, total=3))

    publisher = threading.Thread(target=publish)
    publisher.start()
    event = bus.wait_for(QuorumAchieved, timeout=10, predicate=lambda event: event.healthy > 1)
    publisher.join()
    assert event.healthy == 2
    assert not bus.has_listeners(QuorumAchieved)


def test_wait_for_gives_up_in_time(bus: EventBus) -> None:
    with pytest.raises(TimeoutError, match=r"no consensus\.leader\.elected in 0\.01 s"):
        bus.wait_for(LeaderElected, timeout=0.01)
    assert not bus.has_listeners(LeaderElected)


def test_wait_for_does_not_restart_its_timeout_at_other_events(bus: EventBus) -> None:
    done = threading.Event()

    def publish() -> None:
        while not done.wait(0.005):
            bus.publish(ELECTED)

    publisher = threading.Thread(target=publish)
    publisher.start()
    with pytest.raises(TimeoutError):
        bus.wait_for("consensus.leader.*", timeout=0.05, predicate=lambda _: False)
    done.set()
    publisher.join()


def test_wait_for_raises_inside_an_inline_handler_instead_of_hanging(bus: EventBus) -> None:
    raised: list[str] = []

    def wait(_: NodeStarted) -> None:
        with pytest.raises(RuntimeError, match="inline handler") as caught:
            bus.wait_for(LeaderElected)
        raised.append(str(caught.value))

    bus.subscribe(NodeStarted, wait, inline=True)
    bus.publish(NodeStarted())
    assert len(raised) == 1


def test_closing_delivers_waiting_events_and_ends_all_threads() -> None:
    bus = EventBus()
    threads = set(threading.enumerate())
    seen: list[ConsensusEvent] = []

    def slowly(event: ConsensusEvent) -> None:
        time.sleep(0.001)
        seen.append(event)

    bus.subscribe(ConsensusEvent, slowly)
    for index in range(20):
        bus.publish(appended(index))
    bus.publish(NodeStopped())
    assert bus.close(5.0)
    assert len(seen) == 21
    assert not set(threading.enumerate()) - threads


def test_closing_waits_no_longer_than_its_timeout() -> None:
    bus = EventBus()
    release = threading.Event()
    stuck = [bus.subscribe(NodeStarted, lambda _: release.wait(20)) for _ in range(3)]
    for _ in range(3):
        bus.publish(NodeStarted())
    started = time.monotonic()
    assert not bus.close(0.05)
    assert time.monotonic() - started < 2
    release.set()
    assert all(subscription.join(5.0) for subscription in stuck)
    assert [subscription.delivered for subscription in stuck] == [1, 1, 1]


def test_a_handler_can_close_the_bus() -> None:
    bus = EventBus()
    done = threading.Event()

    def close(_: NodeStopped) -> None:
        bus.close(5.0)
        done.set()

    bus.subscribe(NodeStopped, close)
    bus.publish(NodeStopped())
    assert done.wait(2.0)


def test_a_closed_bus_takes_no_listener_and_no_event() -> None:
    bus = EventBus()
    seen: list[ConsensusEvent] = []
    bus.subscribe(ConsensusEvent, seen.append, inline=True)
    bus.close()
    bus.close()
    bus.publish(ELECTED)
    assert not seen
    with pytest.raises(StreamEndedError):
        bus.subscribe(ConsensusEvent, seen.append)
    with pytest.raises(StreamEndedError):
        bus.wait_for(LeaderElected)


def test_closing_wakes_waiting_readers() -> None:
    bus = EventBus()
    closing = threading.Timer(0.05, bus.close)
    closing.start()
    with pytest.raises(StreamEndedError):
        bus.wait_for(LeaderElected, timeout=10)
    closing.join()


def test_listeners_come_and_go_on_other_threads_while_events_are_published(bus: EventBus) -> None:
    seen: list[int] = []
    steady = bus.subscribe(LogAppended, lambda event: seen.append(event.first_index), inline=True)
    done = threading.Event()

    def churn() -> None:
        while not done.is_set():
            bus.subscribe(ConsensusEvent, lambda _: None, inline=True).cancel()
            bus.stream(LogAppended)

    threads = [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads:
        thread.start()
    for index in range(3000):
        bus.publish(appended(index))
    done.set()
    for thread in threads:
        thread.join()
    assert seen == list(range(3000))
    assert bus.listeners == (steady,)


def cost_us(bus: EventBus, event: ConsensusEvent) -> float:
    """Return the microseconds of one publish, the best of some runs."""
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        for _ in range(1000):
            bus.publish(event)
        best = min(best, time.perf_counter() - started)
    return best * 1000


def test_publishing_costs_next_to_nothing(bus: EventBus) -> None:
    event = appended(1)
    assert cost_us(bus, event) < 1
    release = threading.Event()
    bus.subscribe(LogAppended, lambda _: release.wait(60), queue_max=100_000)
    assert cost_us(bus, event) < 5
    release.set()


def test_importing_events_pulls_in_no_log_no_socket_and_no_store() -> None:
    program = (
        "import sys, forge_consensus.events\n"
        "heavy = {'loguru', 'zmq', 'lmdb', 'thespian', 'forge_consensus.storage'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_receivers_are_called_in_the_order_in_which_they_came() -> None:
    signal = OrderedSignal()
    seen: list[int] = []

    def receiver(number: int) -> object:
        def receive(_: object) -> None:
            seen.append(number)

        return signal.connect(receive, weak=False)

    receivers = [receiver(number) for number in range(50)]
    signal.connect(receivers[0], weak=False)  # type: ignore[type-var]
    signal.send(None)
    assert seen == list(range(50))


def test_a_receiver_that_left_and_came_back_is_last() -> None:
    signal = OrderedSignal()
    seen: list[str] = []
    first = signal.connect(lambda _: seen.append("first"), weak=False)
    signal.connect(lambda _: seen.append("second"), weak=False)
    signal.disconnect(first)
    signal.disconnect(first)
    signal.send(None)
    signal.connect(first, weak=False)
    signal.send(None)
    assert seen == ["second", "second", "first"]
