"""The service: a node of the cluster inside an application, and everything that the application does with it."""

from __future__ import annotations

import copy
import time
from typing import Any

from forge_consensus.client.aio import AsyncClient
from forge_consensus.client.connections import LocalPort
from forge_consensus.client.pending import Pending
from forge_consensus.client.sync import KeyCalls, ReadDetail
from forge_consensus.errors import ConsensusError, NoLeaderError, NoQuorumError, NotStartedError, UnavailableError
from forge_consensus.events.bus import EventBus
from forge_consensus.service.blocking import refuse_to_wait
from forge_consensus.service.lifecycle import ServiceLifecycle
from forge_consensus.service.reports import (
    ClusterInfo,
    ConsensusStats,
    HealthStatus,
    cluster_of,
    health_of,
    health_of_none,
    stats_of,
)
from forge_consensus.service.thread_node import Glance
from forge_consensus.storage.ledger.quorum import majority
from forge_consensus.storage.machines.machine import Command

STATUS_S = 1.0
"""How long a question about the node may take, where the node is another process."""
LOOK_S = 0.01
"""How often who waits for a leader looks."""


class ConsensusService(ServiceLifecycle, KeyCalls):
    """A node and a client of its cluster (the seed's ConsensusService). Safe to use from any number of threads.

    `peers` (node id -> HOST:PORT, this node among them) is read at the first start only; without it the node is a
    cluster of its own. `bind` is by default this node's address among the peers. `state_machine` is an instance, a
    class, or ``"module:Class"``; None is the built-in key-value machine. With `mode` ``"process"`` the node is a child
    process, which the application's own computing cannot slow down (and the machine must be importable there); else
    it is a thread. `forward`: whether commands and reads go to the leader wherever it is; otherwise a node that does
    not lead raises `NotLeaderError`. `metrics` is HOST:PORT where the node serves metrics for Prometheus, under
    /metrics. `timeout` is that of every call which does not say its own, in seconds.

    If the node ends by itself, `failure` says why, everyone who waits gets an error, `on_failure` is called with it
    on some thread, and later calls raise it; the service may be started again.

    Calls raise what those of `Client` raise, `NotStartedError` before `start` and after `stop`, and
    `BlockingCallError` where waiting would hold up the node itself.
    """

    # --- who leads ---------------------------------------------------------------------------------------------------

    def glance(self, seconds: float = STATUS_S) -> Glance:
        """Who leads, as this node sees it now."""
        host = self.running()
        try:
            return host.glance(seconds)
        except ConsensusError as error:
            raise self.why(error) from error

    def facts(self) -> dict[str, Any]:
        """The node's status, as far as it is in memory."""
        host = self.running()
        try:
            return host.facts(STATUS_S)
        except ConsensusError as error:
            raise self.why(error) from error

    def is_leader(self) -> bool:
        """Whether this node leads; False also where it does not answer."""
        try:
            return self.glance().leading
        except UnavailableError:
            self.running()
            return False

    def get_leader(self) -> str | None:
        """The leader's node id as this node knows it; None if it knows of none, or does not answer."""
        try:
            return self.glance().leader
        except UnavailableError:
            self.running()
            return None

    def get_role(self) -> str:
        """This node's role: follower, candidate or leader."""
        return self.glance().role

    def get_term(self) -> int:
        """The term that this node is in."""
        return self.glance().term

    def wait_for_leader(self, timeout: float | None = None) -> str:
        """Wait until this node knows who leads, and return the leader's id.

        Raises `NoLeaderError` after `timeout` seconds (by default the service's).
        """
        refuse_to_wait("wait_for_leader", self.threads())
        seconds = self.timeout if timeout is None else timeout
        end = time.monotonic() + seconds
        while True:
            left = max(0.0, end - time.monotonic())
            try:
                leader = self.glance(min(STATUS_S, max(left, LOOK_S))).leader
            except UnavailableError:
                self.running()
                leader = None
            if leader is not None:
                return leader
            if not left:
                raise NoLeaderError(
                    f"no leader was known within {seconds:g} s: check that a majority of the members runs and can be "
                    "reached"
                )
            self.failed.wait(min(left, LOOK_S))

    # --- commands and queries ----------------------------------------------------------------------------------------

    def submit(self, command: Command, timeout: float | None = None) -> Pending[Any]:
        """Hand over a command and return at once with the future of its result.

        Waits while `client_limits.outstanding_max` commands are outstanding, and raises `BusyError` if that lasts.
        Only then it is a call that waits, and refused where those are.
        """
        client = self.ready()
        if client.driver.full():
            client = self.ready("submit")
        began = time.monotonic()
        try:
            pending = client.submit(command, timeout)
        except NotStartedError as error:
            raise self.why(error) from error
        count = self.meter.count
        pending.add_done_callback(lambda done: count(began, done.error is not None))
        return pending

    def apply(self, command: Command, timeout: float | None = None) -> Any:
        """Carry out a command and return what the machine returned."""
        self.ready("apply")
        try:
            return self.submit(command, timeout).result()
        except NotStartedError as error:
            raise self.why(error) from error

    def read_detail(self, query: Any, consistency: str = "linearizable", timeout: float | None = None) -> ReadDetail:
        """Answer a query and say as of when."""
        client = self.ready("read")
        try:
            return client.read_detail(query, consistency, timeout)
        except NotStartedError as error:
            raise self.why(error) from error

    def read(self, query: Any, consistency: str = "linearizable", timeout: float | None = None) -> Any:
        """Answer a query: a key, or what else the machine understands.

        ``linearizable`` sees everything that was acknowledged before the call; ``lease`` does so without a round
        trip among the nodes, where leases are on; ``stale`` asks this node alone.
        """
        return self.read_detail(query, consistency, timeout).value

    def why(self, error: ConsensusError) -> ConsensusError:
        """What ended the node, where that is the reason for an error."""
        return copy.copy(self.failure) if self.failure is not None else error

    # --- for others --------------------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where clients and peers reach this node."""
        return self.running().address

    @property
    def events(self) -> EventBus:
        """The event bus, by another name."""
        return self.bus

    def port(self) -> LocalPort | None:
        """A new connection for a client in this process; None where the node is another process."""
        return self.running().port()

    def async_client(self, timeout: float | None = None) -> AsyncClient:
        """A client for the running event loop, by way of this node. It is the caller's to close."""
        host = self.running()
        others = [address for node, address in self.settings.peers.items() if node != self.settings.node_id]
        port = host.port()
        return AsyncClient(
            others if port is not None else [host.address, *others],
            timeout or self.timeout,
            self.settings.cluster_id,
            limits=self.client_limits,
            port=port,
        )

    # --- accounts ----------------------------------------------------------------------------------------------------

    def get_stats(self) -> ConsensusStats:
        """The node's and the service's numbers."""
        return stats_of(self.facts(), self.meter)

    def get_cluster_info(self) -> ClusterInfo:
        """The cluster as this node sees it."""
        return cluster_of(self.facts())

    def get_health_status(self) -> HealthStatus:
        """How the node fares; raises nothing, also where it does not run."""
        try:
            return health_of(self.facts())
        except ConsensusError as error:
            return health_of_none(str(error), len(self.settings.peers) or 1)

    def health_check(self) -> None:
        """Raise what ended the node, `NotStartedError`, `ConsensusTimeoutError`, `NoQuorumError` or `NoLeaderError`."""
        info = self.get_cluster_info()
        if not info.has_quorum:
            raise NoQuorumError(majority(info.total_nodes), info.active_nodes)
        if info.leader is None:
            raise NoLeaderError
