"""The common parts of the tests of the service: free ports, fast options, services that are always stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forge_consensus.config.raft import RaftSettings
from forge_consensus.errors import ConsensusError
from forge_consensus.service.consensus import ConsensusService
from forge_consensus.testing.local.ports import free_ports

QUICK = RaftSettings(heartbeat_interval=0.05, election_timeout_min=0.3, election_timeout_max=0.6)
ANY = "127.0.0.1:0"


def eventually(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Wait until something is true, and return it."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
    return value


class Services:
    """Makes services in one folder, and stops them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[ConsensusService] = []

    def make(self, node_id: str = "n1", **settings: Any) -> ConsensusService:
        """A service that is not started."""
        settings = {"bind": ANY, "storage_path": self.folder / node_id, "raft": QUICK, **settings}
        service = ConsensusService(node_id, "test", **settings)
        self.made.append(service)
        return service

    def lead(self, node_id: str = "n1", **settings: Any) -> ConsensusService:
        """A running service that knows a leader."""
        service = self.make(node_id, **settings).start()
        service.wait_for_leader(10)
        return service

    def group(self, count: int = 3, **settings: Any) -> list[ConsensusService]:
        """Services that know one leader."""
        names = [f"n{number + 1}" for number in range(count)]
        peers = {name: f"127.0.0.1:{port}" for name, port in zip(names, free_ports(count), strict=True)}
        services = [self.make(name, bind=None, peers=peers, **settings) for name in names]
        for service in services:
            service.start()
        eventually(lambda: one_leads(services))
        return services

    def close(self) -> None:
        """Stop all services."""
        for service in self.made:
            try:
                service.close()
            except ConsensusError:  # a test may leave a service in a state in which it cannot be stopped in time
                service.stop(10)


def one_leads(services: list[ConsensusService]) -> bool:
    """Whether all know the same leader."""
    named = {service.get_leader() for service in services}
    return len(named) == 1 and None not in named


def leader_and_others(services: list[ConsensusService]) -> tuple[ConsensusService, list[ConsensusService]]:
    """The service that leads, and those that do not."""
    leader = eventually(lambda: next((one for one in services if one.is_leader()), None))
    return leader, [one for one in services if one is not leader]
