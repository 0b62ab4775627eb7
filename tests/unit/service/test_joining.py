"""Tests of a node that joins: what it asks its cluster for, and when it stops."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from forge_consensus.config.node import NodeSettings
from forge_consensus.service.joining import MISSES, Joining
from forge_consensus.storage.ledger.configuration import LEARNER


class Cluster:
    """A client whose cluster takes part in what the test says."""

    def __init__(self) -> None:
        self.part: str | None = None
        """The part of n4 in the cluster, None while it is no member."""
        self.added: list[tuple[Any, ...]] = []

    def members(self) -> Any:
        rows = [] if self.part is None else [SimpleNamespace(id="n4", part=self.part, joining=True)]
        return SimpleNamespace(members=rows)

    def status(self) -> dict[str, Any]:
        return {"nodes": [{"id": "n4", "match_index": 3}], "last_log_index": 90, "commit_index": 90}

    def add_node(self, node: str, address: str, *, learner: bool, wait: bool) -> None:
        self.added.append((node, address, learner, wait))
        self.part = LEARNER


def test_a_node_that_was_removed_does_not_undo_it() -> None:
    settings = NodeSettings("n4", bind="127.0.0.1:7004", join="127.0.0.1:7001", join_as="voter")
    joining, cluster = Joining(settings, "127.0.0.1:7004"), Cluster()
    client: Any = cluster
    assert not joining.look(client)
    assert cluster.added == [("n4", "127.0.0.1:7004", False, False)]
    assert not joining.look(client)
    cluster.part = None
    assert not joining.look(client), "the node that was asked may lag"
    cluster.part = LEARNER
    assert not joining.look(client)
    cluster.part = None
    assert [joining.look(client) for _ in range(MISSES)] == [False] * (MISSES - 1) + [True]
    assert len(cluster.added) == 1, "an operator has removed it"
    assert "was removed" in joining.said


def test_a_node_that_votes_has_joined() -> None:
    settings = NodeSettings("n4", bind="127.0.0.1:7004", join="127.0.0.1:7001", join_as="voter")
    joining, cluster = Joining(settings, "127.0.0.1:7004"), Cluster()
    cluster.part = "voter"
    client: Any = cluster
    assert joining.look(client)
    assert not cluster.added
