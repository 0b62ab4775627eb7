"""Scenario 38: a configuration entry that a new leader overwrites takes its configuration with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from forge_consensus.actors.messages import AppendEntries, AppendReply, RequestPreVote
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.ledger import Accepted, Proposal
from forge_consensus.storage.ledger.record import Kind, encode
from tests.unit.actors.test_replication import noop
from tests.worlds.backends import BACKENDS
from tests.worlds.ledger_world import CONFIGURATION, World, entries
from tests.worlds.scenario_world import node_on_lmdb

TWO = Configuration.of({"n1": "127.0.0.1:1", "n2": "127.0.0.1:2"})


def test_scenario_38_a_follower_rolls_its_configuration_back(tmp_path: Path) -> None:
    """It is in force from the moment that it is in the log, committed or not (dissertation 4.1)."""
    entry = encode(3, 1, Kind.CONFIGURATION, 0, data=TWO.encode())
    with node_on_lmdb(tmp_path) as node:
        node.request("n2", "replication", AppendEntries(1, 1, 0, 1, 0, (noop(2, 1), entry, noop(4, 1))))
        assert node.last(AppendReply) == AppendReply(1, True, 4, 0, 0)
        assert node.ledger.configuration == TWO
    with node_on_lmdb(tmp_path) as again:
        assert again.ledger.configuration == TWO, "a restart changes nothing of that"
        again.request("n3", "replication", AppendEntries(2, 2, 1, 1, 0, (noop(3, 2),)))
        assert again.last(AppendReply) == AppendReply(2, True, 3, 0, 0)
        assert again.ledger.configuration == again.configuration
        again.wait(3.0)
        assert {to for to, _ in again.messages(RequestPreVote)} == {"n2", "n3"}
    with node_on_lmdb(tmp_path) as restarted:
        assert restarted.ledger.configuration == restarted.configuration


@pytest.mark.parametrize("backend", BACKENDS)
def test_scenario_38_a_former_leader_rolls_its_own_change_back(backend: str, tmp_path: Path) -> None:
    """It appended the change and steps down before that is committed."""
    world = World(backend, tmp_path)
    term = world.lead()
    world.settle()
    with world.turn():
        _, last = world.ledger.propose(term, [Proposal(Kind.CONFIGURATION, 0, 0, 0, TWO.encode())])
    assert world.ledger.configuration == TWO
    world.follow(term + 1)
    with world.turn():
        accepted = world.accept(last - 1, term, *entries(last, last, term + 1))
        assert isinstance(accepted, Accepted)
        assert accepted.truncated_from == last
    assert world.ledger.configuration == CONFIGURATION
    world.crash()
    assert world.ledger.configuration == CONFIGURATION
    world.close()
