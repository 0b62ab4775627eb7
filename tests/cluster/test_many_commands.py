"""Many commands in one call, on real nodes: over the kill of a leader, through a service, and in a forked worker."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.client.sync import Client
from forge_consensus.errors import CommandError
from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.local.cluster import LocalCluster
from tests.worlds.client_fakes import FakeCluster
from tests.worlds.interrupted import interrupt_everywhere
from tests.worlds.service_world import Services


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster() as made:
        yield made


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    services = Services(tmp_path)
    yield services
    services.close()


def count(key: str) -> Command:
    return Command("increment", {"key": key, "by": 1})


def test_a_killed_leader_costs_no_outcome_and_every_command_is_applied_once(cluster: LocalCluster) -> None:
    lists, size = 60, 200
    client = cluster.client(timeout=20.0)
    client.put("kill", 0)
    leader = cluster.wait_for_leader()
    killer = threading.Timer(0.05, cluster.nodes[leader].kill)
    killer.start()
    pendings = [client.submit_many([count("kill")] * size) for _ in range(lists)]
    numbers = [outcome for pending in pendings for outcome in pending.result()]
    killer.join()
    assert sorted(numbers) == list(range(1, lists * size + 1))
    assert client.get("kill") == lists * size
    assert cluster.wait_for_leader() != leader
    cluster.nodes[leader].launch()
    cluster.wait_serving(leader)
    cluster.wait_until_settled(*cluster.names)
    assert [cluster.contents(name)["kill"] for name in cluster.names] == [lists * size] * 3


def test_a_list_longer_than_the_window_with_errors_in_its_midst(cluster: LocalCluster) -> None:
    client = cluster.client(timeout=20.0)
    client.put("word", "no number")
    commands = [count("word") if number % 1000 == 7 else count("long") for number in range(10_000)]
    outcomes = client.apply_many(commands)
    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, CommandError)] == list(
        range(7, 10_000, 1000)
    )
    # A busy leader takes a part and has the rest sent again, so the order of the list need not be that of the log.
    assert sorted(outcome for outcome in outcomes if not isinstance(outcome, CommandError)) == list(range(1, 9991))


def test_a_service_has_many_commands_applied_and_counts_each(services: Services) -> None:
    service = services.lead()
    assert service.apply_many([count("n"), count("n"), count("")])[:2] == [1, 2]
    assert service.submit_many([count("n")] * 100).result() == list(range(3, 103))
    stats = service.get_stats()
    assert (stats.operations_total, stats.operations_failed) == (103, 1)


def test_ctrl_c_while_many_commands_are_awaited_leaves_them_and_the_client_whole(cluster: LocalCluster) -> None:
    client = cluster.client(timeout=20.0)
    client.put("c", 0)
    leader = cluster.wait_for_leader()
    cluster.pause(leader)
    try:
        many = client.submit_many([count("c")] * 50)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            many.result()
    finally:
        cluster.resume(leader)
    assert sorted(many.result()) == list(range(1, 51))
    assert client.apply_many([count("c")]) == [51]


def test_a_handler_closes_the_client_whose_call_for_many_commands_it_interrupts() -> None:
    fake = FakeCluster(1)

    def prepare() -> Any:
        client = Client(fake.addresses, timeout=2)
        client.put("k", 1)
        return lambda: client.apply_many([count("n")] * 3), client.close

    try:
        assert interrupt_everywhere(prepare, step=7, seconds_max=2.0, allowed=(Exception,)) > 30
    finally:
        fake.stop()


def test_a_forked_worker_hands_over_commands_of_its_own_and_is_told_of_those_of_its_parent(
    cluster: LocalCluster,
) -> None:
    client = cluster.client(timeout=20.0)
    client.put("fork", 0)
    many = client.submit_many([count("fork")] * 100)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            told = many.result(timeout=5)
            ended = all(type(outcome) is int or "parent" in str(outcome) for outcome in told)
            own = client.apply_many([count("worker")] * 10)
            code = 0 if ended and sorted(own) == list(range(1, 11)) else 2
        finally:
            os._exit(code)
    deadline = time.monotonic() + 20
    while (left := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(left[1]) == 0
    assert sorted(many.result()) == list(range(1, 101))
    assert client.get("worker") == 10
