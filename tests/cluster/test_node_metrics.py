"""A real node under observation: its metrics over HTTP, and a client's correlation id on events and log lines."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from loguru import logger
from prometheus_client import CollectorRegistry

from forge_consensus.client.sync import Client
from forge_consensus.config.node import NodeSettings
from forge_consensus.errors import CommandError, InvalidConfigError, TransportUnavailableError
from forge_consensus.events.bus import EventBus
from forge_consensus.events.metrics.server import serve
from forge_consensus.events.types import LeaderElected, LogAppended, LogCommitted
from forge_consensus.service.node import Node
from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.local.ports import free_ports


@contextmanager
def running(*nodes: Node) -> Iterator[None]:
    """Open and run the nodes, and see them all end."""
    with ExitStack() as ends:
        for node in nodes:
            ends.callback(node.close)
            node.open()
            thread = threading.Thread(target=node.run)
            thread.start()
            ends.callback(thread.join, 10)
            ends.callback(node.stop)
        yield


def page(node: Node) -> dict[str, float]:
    """What a scrape of the node finds, by name and labels as written."""
    assert node.metrics is not None
    with urllib.request.urlopen(f"http://{node.metrics.address}/metrics", timeout=5) as response:
        lines = response.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def alone(tmp_path: Path, metrics: str | None = "127.0.0.1:0") -> Node:
    return Node(NodeSettings("n1", "demo", "127.0.0.1:0", storage_path=tmp_path, metrics=metrics), EventBus())


def test_a_node_serves_its_metrics(tmp_path: Path) -> None:
    node = alone(tmp_path)
    with running(node), Client(port=node.port()) as client:
        for number in range(10):
            client.put("k", number)
        with pytest.raises(CommandError):
            client.apply(Command("no such command"))
        found = page(node)
    labels = '{cluster="demo",node="n1"}'
    assert found[f"forge_consensus_responding{labels}"] == 1
    assert found[f"forge_consensus_is_leader{labels}"] == 1
    assert found[f"forge_consensus_operations_total{labels}"] == 11
    assert found[f"forge_consensus_operations_failed{labels}"] == 1
    assert found[f"forge_consensus_operation_duration_seconds_count{labels}"] == 11
    assert 0 < found[f"forge_consensus_operation_duration_seconds_sum{labels}"] < 11
    assert found[f"forge_consensus_last_applied{labels}"] >= 12
    assert found[f"forge_consensus_log_size{labels}"] > 0
    assert found[f"forge_consensus_flush_duration_seconds_count{labels}"] >= 11
    assert found[f"forge_consensus_turn_duration_seconds_count{labels}"] > 11
    assert found['forge_consensus_leader_elections_total{cluster="demo",node="n1",result="won"}'] == 1
    assert found["process_open_fds"] > 0


def test_a_raising_observer_is_removed_and_does_no_harm(tmp_path: Path) -> None:
    node = alone(tmp_path, None)
    told = []

    def broken(report: object) -> None:
        told.append(report)
        raise RuntimeError("no")

    node.open()
    assert node.base is not None
    node.base.engine.observation.observe(broken)
    thread = threading.Thread(target=node.run)
    thread.start()
    try:
        with Client(port=node.port()) as client:
            client.put("k", 1)
            assert client.get("k") == 1
    finally:
        node.stop()
        thread.join(10)
        node.close()
    assert len(told) == 1


def test_a_node_without_its_metrics_port_does_not_open_and_leaves_nothing_locked(tmp_path: Path) -> None:
    taken = serve(CollectorRegistry(), "127.0.0.1:0")
    with taken, pytest.raises(TransportUnavailableError, match="metrics: "):
        alone(tmp_path, taken.address).open()
    with pytest.raises(InvalidConfigError, match="metrics: "):
        alone(tmp_path, "nowhere").open()
    with running(alone(tmp_path)):
        pass


def collect(bus: EventBus, kind: Any) -> tuple[list[Any], Callable[[Callable[[Any], bool]], Any]]:
    """Events of a kind as they come, and a wait for the first that satisfies."""
    found: list[Any] = []
    changed = threading.Condition()

    def take(event: Any) -> None:
        with changed:
            found.append(event)
            changed.notify_all()

    def wait(wanted: Callable[[Any], bool]) -> Any:
        with changed:
            assert changed.wait_for(lambda: any(map(wanted, found)), 10), found
            return next(filter(wanted, found))

    bus.subscribe(kind, take)
    return found, wait


def test_a_correlation_id_is_on_the_events_of_every_node_and_on_the_line_of_a_failure(tmp_path: Path) -> None:
    peers = {f"n{number}": f"127.0.0.1:{port}" for number, port in enumerate(free_ports(3), 1)}
    nodes = [Node(NodeSettings(name, "demo", peers[name], peers, tmp_path / name), EventBus()) for name in peers]
    waits = [collect(node.bus, kind)[1] for node in nodes for kind in (LogAppended, LogCommitted)]
    leaders = [collect(node.bus, LeaderElected)[1] for node in nodes]
    lines: list[dict[str, Any]] = []
    number = logger.add(lambda message: lines.append(dict(message.record)), format="{message}")
    try:
        with running(*nodes), Client(list(peers.values()), correlate=True) as client:
            for wait in leaders:
                wait(lambda event: True)
            client.put("k", "v", correlation_id="order-1")
            for wait in waits:
                event = wait(lambda event: "order-1" in event.correlation_ids)
                assert event.correlation_id == "order-1"
            given = client.submit(Command("set", {"key": "k", "value": 2}))
            given.result()
            assert given.correlation_id is not None
            waits[0](lambda event: given.correlation_id in event.correlation_ids)
            with pytest.raises(CommandError):
                client.apply(Command("increment", {"key": "k", "by": "much"}, "order-2"))
    finally:
        logger.remove(number)
    failures = [row for row in lines if row["extra"].get("correlation_id") == "order-2"]
    assert len(failures) == 1
    assert failures[0]["extra"]["node"] in peers
