"""A simulated client all of whose nodes left the cluster: it may start again only if nobody could tell it a member."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from forge_consensus.testing.simulator.client import SimulatedClient
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.simulation import Simulation


def only(client: SimulatedClient, address: str) -> None:
    """Let the client have been given this one address, and know no other."""
    directory = client.driver_now().core.directory
    for name in list(directory.endpoints):
        directory.drop(name)
    directory.given = (address,)
    directory.leader = None
    directory.add(address)


@contextmanager
def led() -> Iterator[tuple[Simulation, SimulatedClient]]:
    """A cluster of three nodes with a leader, and a client that has begun."""
    with Simulation(Plan(1, nodes=3, faults=False)) as simulation:
        simulation.wait_for_leader()
        client = simulation.clients[0]
        client.start()
        yield simulation, client


@pytest.mark.parametrize(("address", "lost"), [("n1:7000", False), ("n9:7000", True)])
def test_a_client_is_lost_if_no_node_that_it_was_given_is_a_member_or_knows_of_one(address: str, lost: bool) -> None:
    with led() as (_, client):
        assert not client.is_lost
        only(client, address)
        assert client.is_lost is lost


def test_what_a_client_was_given_counts_also_after_it_was_dropped() -> None:
    with led() as (_, client):
        only(client, "n9:7000")
        client.driver_now().core.directory.given = ("n8:7000", "n1:7000")
        assert not client.is_lost


def test_a_lost_client_starts_again_with_the_members_of_now_and_is_served() -> None:
    with led() as (simulation, client):
        only(client, "n9:7000")
        assert client.is_lost
        before = client.done
        client.start_again()
        assert simulation.advance(10.0, lambda: client.done >= before + 3)


def test_a_client_is_lost_if_what_its_nodes_know_leads_to_no_member(monkeypatch: pytest.MonkeyPatch) -> None:
    with led() as (simulation, client):
        only(client, "n1:7000")
        assert not client.is_lost
        monkeypatch.setattr(simulation.cluster, "members", lambda: frozenset({"n7"}))
        assert client.is_lost
