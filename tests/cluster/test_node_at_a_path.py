"""Clients, the command line, the feed and a service's parent reach a node that listens at a path."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from forge_consensus.config.node import NodeSettings
from forge_consensus.errors import InvalidConfigError, TransportUnavailableError
from forge_consensus.events.bus import EventBus
from forge_consensus.events.types import BecameLeader
from forge_consensus.feed.event_feed import EventFeed
from forge_consensus.service.consensus import ConsensusService
from forge_consensus.service.node import Node
from tests.worlds.cli_world import Shell


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short name, for the path of a socket is bounded."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_client_command_line_and_feed_reach_a_node_at_a_path(place: Path) -> None:
    address = f"ipc://{place}/n1"
    with ConsensusService("n1", bind=address, peers={"n1": address}, storage_path=place / "data") as service:
        service.put("key", 1)
        assert service.address == address
        member = service.get_cluster_info().nodes[0]
        assert (member.address, member.port) == (address, 0)
        shell = Shell(address)
        assert shell.run("kv", "incr", "key").exit_code == 0
        assert shell.run("kv", "get", "key").stdout.strip() == "2"
        assert shell.json("status")["nodes"][0]["address"] == address
        with EventFeed([address], kinds=[BecameLeader], since=0) as feed:
            assert feed.get(5.0).node_id == "n1"
    assert [entry.name for entry in place.iterdir()] == ["data"], "its sockets are gone"


def test_a_service_in_another_process_publishes_its_events(place: Path) -> None:
    address = f"ipc://{place}/n1"
    led: list[str] = []
    service = ConsensusService("n1", bind=address, storage_path=place / "data", mode="process")
    service.bus.subscribe(BecameLeader, lambda event: led.append(event.node_id), inline=True)
    with service:
        service.put("key", 1)
    assert led == ["n1"]


def test_two_nodes_cannot_share_a_path_and_a_killed_one_leaves_it_free(place: Path) -> None:
    settings = NodeSettings("n1", bind=f"ipc://{place}/n1", storage_path=place / "data")
    other = NodeSettings("n2", bind=f"ipc://{place}/n1", storage_path=place / "other")
    node = Node(settings, EventBus())
    node.open()
    os.link(place / "n1", place / "left")
    with pytest.raises(TransportUnavailableError, match=r"n1 is in use by another program: stop it"):
        Node(other, EventBus()).open()
    node.close()
    os.rename(place / "left", place / "n1")  # as if it had been killed
    node.open()
    node.close()


def test_an_impossible_path_is_refused_before_anything_is_opened(place: Path) -> None:
    with pytest.raises(InvalidConfigError, match=r"a socket's may have 100: choose a shorter folder"):
        NodeSettings("n1", bind=f"ipc://{place}/".ljust(112, "n"), storage_path=place / "data")
    node = Node(NodeSettings("n1", bind=f"ipc://{place}/no/n1", storage_path=place / "data"), EventBus())
    with pytest.raises(TransportUnavailableError, match=r"No such file or directory: choose .* a folder that exists"):
        node.open()
