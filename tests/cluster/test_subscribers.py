"""Bad subscribers at real nodes: one sleeps a second an event, one always raises, and the cluster serves on."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from loguru import logger

from forge_consensus import Command, ConsensusEvent, ConsensusService
from forge_consensus.events.subscription import Subscription
from tests.worlds.service_world import Services, eventually, leader_and_others

SLEEP_S = 1.0
BURST = 600
ROUNDS = 3
FAILOVER_S_MAX = 5.0
STOP_S_MAX = 5.0


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    made = Services(tmp_path)
    logger.disable("forge_consensus")  # the one that raises is reported, which is tested elsewhere
    yield made
    made.close()
    logger.enable("forge_consensus")


class Bad:
    """Two subscribers to everything that a node tells."""

    def __init__(self, service: ConsensusService) -> None:
        self.sleeping: Subscription[ConsensusEvent] = service.bus.subscribe(ConsensusEvent, self.sleep, queue_max=16)
        self.raising: Subscription[ConsensusEvent] = service.bus.subscribe(ConsensusEvent, self.fail)

    def sleep(self, event: ConsensusEvent) -> None:
        """Take a second for each event."""
        time.sleep(SLEEP_S)

    def fail(self, event: ConsensusEvent) -> None:
        """Take none."""
        raise ValueError(event.kind)

    def cancel(self) -> None:
        """Subscribe no more."""
        self.sleeping.cancel()
        self.raising.cancel()


def puts_per_second(service: ConsensusService) -> float:
    """How many of a burst of puts a second are answered."""
    began = time.perf_counter()
    waiting = [service.submit(Command("set", {"key": f"k{number}", "value": number}), 10) for number in range(BURST)]
    for pending in waiting:
        pending.result()
    return BURST / (time.perf_counter() - began)


def test_a_sleeping_and_a_raising_subscriber_slow_no_cluster_down(services: Services) -> None:
    group = services.group(3)
    leader, _ = leader_and_others(group)
    puts_per_second(leader)
    without, with_them = [], []
    for _ in range(ROUNDS):
        without.append(puts_per_second(leader))
        with ExitStack() as stack:
            bad = [Bad(service) for service in group]
            for one in bad:
                stack.callback(one.cancel)
            with_them.append(puts_per_second(leader))
            eventually(lambda bad=bad: all(one.raising.failed for one in bad))  # type: ignore[misc]
            assert all(one.sleeping.delivered <= 2 for one in bad)
    assert statistics.median(with_them) >= statistics.median(without) / 2, (with_them, without)


def test_with_a_sleeping_and_a_raising_subscriber_a_cluster_elects_and_serves_on(services: Services) -> None:
    group = services.group(3)
    bad = {service.settings.node_id: Bad(service) for service in group}
    leader, others = leader_and_others(group)
    leader.put("before", 1)
    began = time.monotonic()
    leader.stop()
    assert time.monotonic() - began < STOP_S_MAX
    eventually(lambda: any(service.is_leader() for service in others), FAILOVER_S_MAX)
    for service in others:
        service.put(f"after {service.settings.node_id}", 2, timeout=FAILOVER_S_MAX)
        assert service.get("before") == 1
    for service in others:
        one = bad[service.settings.node_id]
        eventually(lambda one=one: one.raising.failed > 5)  # type: ignore[misc]
        assert one.raising.delivered == 0
        assert one.raising.dropped == 0, "it keeps up"
    assert len(bad) == 3
    for one in bad.values():
        one.cancel()
