"""What one call costs in the client, counted: calls of functions, waits and questions to ZeroMQ. Nothing is timed.

A bound that fails says that a call costs more than before. Raise it only for something that is worth its cost.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from statistics import median
from types import FrameType
from typing import Any

import pytest

from forge_consensus.client import connections as client_connections
from forge_consensus.client.connections import Connections
from forge_consensus.client.driver import Driver
from forge_consensus.client.sync import Client
from forge_consensus.storage.machines.machine import Command
from tests.unit.actors.test_cost_of_a_command import CountingPoller
from tests.worlds.client_fakes import FakeCluster
from tests.worlds.waiting import wait_for

PUTS = 100
MANY = 1000
VALUE = "v" * 128
CALLS_OF_THE_CALLER = 21
CALLS_OF_THE_DRIVER = 80
"""Calls of functions in Python for one put at a time, a few more than there were: 20 and 77."""
CALLS_OF_SUBMIT = 10
"""There were nine for a command that is handed over and not waited for, and three for a result that is there."""
CALLS_OF_A_RESULT = 3
CALLS_OF_THE_DRIVER_FOR_ONE_OF_MANY = 1.5
"""There was one for each, by which it ends."""
WAITS = 2
QUESTIONS = 2
"""A wait for the call and one for its answer; after each it is asked once whether the socket has more. ZeroMQ's own
poller asked each of the six sockets and monitors twice."""


class Counter:
    """Counts the calls of functions on the threads that have it as their profile."""

    def __init__(self) -> None:
        self.calls = 0

    def note(self, frame: FrameType, event: str, argument: Any) -> None:
        """Count one call; the interpreter calls this."""
        self.calls += event == "call"

    def during(self, act: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function, count the calls that it makes, and return what it returns."""
        before = sys.getprofile()
        sys.setprofile(self.note)
        try:
            return act(*arguments)
        finally:
            sys.setprofile(before)


@pytest.fixture
def driven(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """The calls that the turns of the drivers of this test make."""
    counter, turn = Counter(), Driver.turn

    def counted(driver: Driver, connections: Connections) -> None:
        counter.during(turn, driver, connections)

    monkeypatch.setattr(Driver, "turn", counted)
    monkeypatch.setattr(client_connections, "SocketPoller", CountingPoller)
    return counter


@pytest.fixture
def client(cluster: FakeCluster, driven: Counter) -> Iterator[Client]:
    """A client that has connections to all nodes and a session."""
    with Client(cluster.addresses, timeout=30.0) as made:
        endpoints = made.driver.core.directory.endpoints
        wait_for(lambda: all(endpoint.answers for endpoint in endpoints.values()), 10.0, "the answers of all nodes")
        for _ in range(10):
            made.put("k", VALUE)
        yield made


def poller_of(client: Client) -> CountingPoller:
    """The poller of a client's connections."""
    assert client.driver.connections is not None
    poller = client.driver.connections.poller
    assert isinstance(poller, CountingPoller)
    return poller


def costs(count: Callable[[], int], act: Callable[[], object]) -> list[int]:
    """By how much a count grows from one act to the next."""
    costs, before = [], count()
    for _ in range(PUTS):
        act()
        after = count()
        costs.append(after - before)
        before = after
    return costs


def test_calls_of_one_put_at_a_time(client: Client, driven: Counter) -> None:
    caller = Counter()
    taken = costs(lambda: driven.calls, lambda: caller.during(client.put, "k", VALUE))
    assert median(taken) <= CALLS_OF_THE_DRIVER
    assert caller.calls <= CALLS_OF_THE_CALLER * PUTS


def test_waits_and_questions_to_zeromq_of_one_put_at_a_time(client: Client) -> None:
    poller = poller_of(client)
    assert median(costs(lambda: poller.waits, lambda: client.put("k", VALUE))) <= WAITS
    assert median(costs(lambda: poller.asked, lambda: client.put("k", VALUE))) <= QUESTIONS


def test_calls_of_many_commands_under_way(client: Client, driven: Counter) -> None:
    submitting, looking = Counter(), Counter()
    command = Command("set", {"key": "k", "value": VALUE})
    futures = [submitting.during(client.submit, command) for _ in range(MANY)]
    for future in futures:
        future.wait()
        looking.during(future.result)
    assert submitting.calls <= CALLS_OF_SUBMIT * MANY
    assert looking.calls <= CALLS_OF_A_RESULT * MANY
    before = driven.calls
    client.submit_many([command] * MANY).result()
    assert driven.calls - before <= CALLS_OF_THE_DRIVER_FOR_ONE_OF_MANY * MANY
