"""A signal handler that interrupts any call of the main thread, at any instruction, can make any other call."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forge_consensus.client.sync import Client
from forge_consensus.config.client import ClientSettings
from forge_consensus.errors import ConsensusError
from forge_consensus.events.bus import EventBus
from forge_consensus.events.stream import StreamEndedError
from forge_consensus.events.types import BecameLeader, ConsensusEvent
from forge_consensus.feed.event_feed import EventFeed
from forge_consensus.process.waiters import Latch
from forge_consensus.service.leader_task import LeaderTask
from forge_consensus.storage.machines.machine import Command
from tests.worlds.client_fakes import FakeCluster
from tests.worlds.effort import effort
from tests.worlds.interrupted import interrupt_everywhere
from tests.worlds.service_world import Services

SOON = 2.0
"""Less than any call of the package waits for a thread that does not end."""
PUT = Command("set", {"key": "k", "value": 1})
Prepared = tuple[Callable[[], object], Callable[[], object]]


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    cluster = FakeCluster(1)
    yield cluster
    cluster.stop()


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    services = Services(tmp_path)
    yield services
    services.close()


@pytest.mark.parametrize("call", ["submit", "get", "close", "full"])
def test_a_client_is_closed_while_a_call_of_it_is_interrupted(call: str, cluster: FakeCluster) -> None:
    def prepare() -> Prepared:
        if call == "full":
            client = Client(cluster.addresses, timeout=0.05, settings=ClientSettings(outstanding_max=1))
            cluster.mute.add("n1")
            client.submit(PUT)
        else:
            client = Client(cluster.addresses, timeout=2)
            client.put("k", 1)
        calls = {"get": lambda: client.get("k"), "close": client.close}
        return calls.get(call, lambda: client.submit(PUT)), client.close

    step = 5 if call == "get" else 3
    assert interrupt_everywhere(prepare, step=step, seconds_max=SOON, allowed=(ConsensusError,)) > 50


def test_a_handler_makes_a_call_of_the_client_that_it_interrupted(cluster: FakeCluster) -> None:
    with Client(cluster.addresses, timeout=5) as client:
        client.put("k", 1)
        times = interrupt_everywhere(
            lambda: (lambda: client.submit(PUT), lambda: client.get("k")), seconds_max=SOON, allowed=()
        )
    assert times > 100


@pytest.mark.parametrize("call", ["get", "positions", "close"])
def test_a_feed_is_closed_while_a_call_of_it_is_interrupted(call: str) -> None:
    def prepare() -> Prepared:
        feed = EventFeed("127.0.0.1:1")
        calls: dict[str, Callable[[], object]] = {
            "get": lambda: feed.get(0.002),
            "positions": lambda: feed.positions,
            "close": feed.close,
        }
        return calls[call], feed.close

    allowed = (TimeoutError, StreamEndedError)
    assert interrupt_everywhere(prepare, step=3, seconds_max=SOON, allowed=allowed) > 10


def test_a_bus_is_closed_while_a_handler_subscribes_or_leaves() -> None:
    def prepare() -> Prepared:
        bus = EventBus()
        first = bus.subscribe(ConsensusEvent, print, when_full="block")

        def call() -> None:
            first.cancel()
            bus.subscribe(BecameLeader, print, inline=True).cancel()

        return call, lambda: bus.close(0.5)

    assert interrupt_everywhere(prepare, step=effort(53, 11), seconds_max=0.4, allowed=(StreamEndedError,)) > 100


def test_a_latch_is_set_by_a_handler_that_interrupts_the_wait_for_it() -> None:
    def prepare() -> Prepared:
        latch = Latch()
        return lambda: latch.wait(0.005), latch.set

    times = interrupt_everywhere(prepare, seconds_max=SOON, allowed=())
    assert times > 20


@pytest.mark.parametrize("call", ["submit", "wait_for_leader", "stop", "task", "start"])
def test_a_service_is_stopped_while_a_call_of_it_is_interrupted(call: str, services: Services) -> None:
    """A node starts each time, so only some of the instructions are tried; each run tries the same."""
    numbers = itertools.count(1)

    def prepare() -> Prepared:
        node_id = f"n{next(numbers)}"
        service = services.make(node_id) if call == "start" else services.lead(node_id)

        def with_task() -> None:
            with LeaderTask(service, lambda lead: lead.wait(1)):
                pass

        calls: dict[str, Callable[[], object]] = {
            "submit": lambda: service.submit(PUT),
            "wait_for_leader": service.wait_for_leader,
            "stop": service.stop,
            "task": with_task,
            "start": service.start,
        }
        return calls[call], service.stop

    step = {"submit": 13, "wait_for_leader": 11, "stop": 19, "task": effort(997, 331), "start": 97}[call]
    assert interrupt_everywhere(prepare, step=step, seconds_max=SOON, allowed=(ConsensusError,)) > 3
