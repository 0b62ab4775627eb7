"""The client of a simulation that is moved by hand: the shipped client's core, one command at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from forge_consensus.client.pending import Pending
from forge_consensus.config.client import ClientSettings
from forge_consensus.storage.machines.machine import Command
from forge_consensus.storage.machines.sessions import TTL_MS_MAX
from forge_consensus.testing.rules.violations import demand
from forge_consensus.testing.simulator.session_driver import SimulatedDriver
from forge_consensus.testing.world.cluster import SimulatedCluster

Advance = Callable[[float, Callable[[], bool]], bool]
"""Lets at most this much virtual time pass, until a condition holds; returns whether it does."""


class HandClient:
    """Submits a command and lets virtual time pass until the client knows its outcome.

    There is one client that is given all nodes and follows the leader, and one for each node that a caller names, which
    sends to that node alone. Each keeps its session.
    """

    def __init__(self, cluster: SimulatedCluster, advance: Advance, pace: float) -> None:
        self.cluster = cluster
        self.advance = advance
        self.pace = pace
        self.drivers: dict[str, SimulatedDriver] = {}
        """By the node that receives the requests, "" for the leader."""

    def submit(self, command: Command, node: str, timeout: float) -> Any:
        """Apply a command through the leader ("") or through the named node alone; returns its result.

        `timeout` is in virtual seconds. Raises the error with which the client ends the call.
        """
        driver = self.drivers.get(node) or self.connect(node)
        pending: Pending[Any] = Pending(command.encode(), driver.now + timeout / self.pace)
        driver.submit([pending])
        self.advance(timeout + self.pace, pending.done)
        demand(pending.done(), "client", f"a call did not end at its deadline, after {timeout:g} virtual seconds")
        if pending.error is not None:
            raise pending.error
        return pending.value()

    def connect(self, node: str) -> SimulatedDriver:
        """Make the client of a node, or of the leader ("")."""
        driver = self.drivers[node] = SimulatedDriver(
            self.cluster,
            f"by hand to {node}" if node else "by hand",
            lambda ended: None,
            endpoints=[self.cluster.configuration.addresses[node]] if node else None,
            settings=replace(ClientSettings(), session_ttl_ms=int(TTL_MS_MAX / self.pace)),
            pace=self.pace,
            follow=not node,
        )
        return driver
