"""The service: a node of a cluster inside an application, and the calls that the application makes on it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from forge_consensus.actors.runtime.status import NodeStatus
from forge_consensus.client.access_calls import AccessCalls
from forge_consensus.client.aio import AsyncClient
from forge_consensus.client.backup import SnapshotTaken
from forge_consensus.client.calls import ReadDetail
from forge_consensus.client.cluster_info import ClusterInfo, check_quorum, cluster_of
from forge_consensus.client.connections import LocalPort
from forge_consensus.client.driver import Driver
from forge_consensus.client.endpoints import LOCAL
from forge_consensus.client.key_calls import KeyCalls
from forge_consensus.client.member_calls import MemberCalls
from forge_consensus.client.members import ClusterMembers, MembersPlan
from forge_consensus.client.pending import Pending, PendingNodeQuery, PendingRead
from forge_consensus.client.pending_many import PendingMany
from forge_consensus.client.sync import Client
from forge_consensus.errors import (
    ConsensusError,
    NoLeaderError,
    NotStartedError,
    UnavailableError,
    fresh,
)
from forge_consensus.events.bus import EventBus
from forge_consensus.service.blocking import refuse_to_wait
from forge_consensus.service.lifecycle import ServiceLifecycle
from forge_consensus.service.reports import (
    ConsensusStats,
    HealthStatus,
    health_of,
    health_of_none,
    stats_of,
)
from forge_consensus.service.thread_node import LeaderReport
from forge_consensus.storage.ledger.changes import Change
from forge_consensus.storage.machines.machine import Command
from forge_consensus.storage.restoring import SnapshotReport

STATUS_SECONDS = 1.0
"""How long a node in another process may take to report its status."""
LOOK_SECONDS = 0.01
"""How often a call that waits for a leader looks."""


class ConsensusService(ServiceLifecycle, KeyCalls, MemberCalls, AccessCalls):
    """A node and a client of its cluster (ConsensusService of the Go original). Safe to use from any number of threads.

    Use it in a ``with`` statement, or call `start` and `close`::

        with ConsensusService("n1", storage_path="data/n1") as service:
            service.wait_for_leader()
            service.put("key", 1)

    If the node ends by itself, `failure` holds the reason, every waiting call gets an error, `on_failure` is called,
    and later calls raise the reason; the service may be started again.

    Calls raise what the calls of `Client` raise, `NotStartedError` before `start` and after `stop`, and
    `BlockingCallError` on a thread that the node waits for.

    Args:
        node_id: the node's id, unique in its cluster: printable text of at most 128 characters.
        cluster_id: the cluster's id, the same on all members.
        bind: where the node listens, HOST:PORT or ``ipc://PATH``; port 0 takes a free port. None for this node's
            address among the peers, or 127.0.0.1:7000 without peers.
        peers: node id -> HOST:PORT or ``ipc://PATH`` of all members, this node among them; read at the first start
            only. None for a cluster of this node alone.
        storage_path: the folder of the node's data; no other node may use it.
        state_machine: what commands are applied to: an instance, a class that needs no arguments, or
            ``"module:Class"``; None for the built-in key-value machine.
        mode: "thread" runs the node on a thread of this process. "process" runs it as a child process, which the
            application's own computing cannot slow down; the state machine must be importable there.
        lease_reads: whether a leader may answer reads by its lease; the same on all members, read at the first start.
        raft: times and sizes of Raft; None for the defaults of `RaftSettings`.
        storage: bounds of log, snapshots and disk; None for the defaults of `StorageSettings`.
        client: bounds and times of the client inside; None for the defaults of `ClientSettings`.
        timeout: seconds that a call may take if it is given no `timeout`.
        forward: whether commands and reads go to the leader, wherever it is; if not, a node that does not lead raises
            `NotLeaderError`.
        on_failure: called with the error when the node has ended by itself, on some thread.
        metrics: HOST:PORT where the node serves metrics for Prometheus, under /metrics; None for nowhere.
        events_bind: where the node publishes its events for `EventFeed`, HOST:PORT or ``ipc://PATH``; None for a free
            port of the host where it listens.
        http_url: where this application answers HTTP, such as ``http://10.0.0.1:8000``; the members tell each other,
            so that the middleware of each sends requests to the leader's. None for nowhere.
        security: the node's keys and who is known; None for a node without protection, which serves its own machine.

    Raises `InvalidConfigError` for an argument that cannot be. Nothing is opened before `start`.

    """

    def __repr__(self) -> str:
        """What it is, where, and whether it runs."""
        settings, host = self.settings, self.host
        if self.failure is not None:
            state = f"ended: {self.failure.code}"
        elif host is None:
            state = "not started"
        else:
            state = f"running at {host.address}"
        return f"<ConsensusService {settings.node_id} of cluster {settings.cluster_id}, {self.mode}, {state}>"

    # --- who leads ---------------------------------------------------------------------------------------------------

    def leader_report(self, seconds: float = STATUS_SECONDS) -> LeaderReport:
        """Return who leads, as this node sees it now."""
        host = self.running()
        try:
            return host.leader_report(seconds)
        except ConsensusError as error:
            raise self.why(error) from error

    def status(self) -> NodeStatus:
        """Return the node's status, as far as it is in memory."""
        host = self.running()
        try:
            return host.status(STATUS_SECONDS)
        except ConsensusError as error:
            raise self.why(error) from error

    def is_leader(self) -> bool:
        """Whether this node leads; False also where it does not answer."""
        try:
            return self.leader_report().leading
        except UnavailableError:
            self.running()
            return False

    def get_leader(self) -> str | None:
        """Return the leader's node id as this node knows it; None if it knows of none, or does not answer."""
        try:
            return self.leader_report().leader
        except UnavailableError:
            self.running()
            return None

    def get_role(self) -> str:
        """Return this node's role: "follower", "candidate" or "leader"."""
        return self.leader_report().role

    def get_term(self) -> int:
        """Return the term that this node is in."""
        return self.leader_report().term

    def wait_for_leader(self, timeout: float | None = None) -> str:
        """Wait until this node knows who leads, and return the leader's id.

        Raises `NoLeaderError` after `timeout` seconds; None stands for the service's own timeout.
        """
        refuse_to_wait("wait_for_leader", self.threads())
        seconds = self.timeout if timeout is None else timeout
        end = time.monotonic() + seconds
        while True:
            left = max(0.0, end - time.monotonic())
            try:
                leader = self.leader_report(min(STATUS_SECONDS, max(left, LOOK_SECONDS))).leader
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
            self.failed.wait(min(left, LOOK_SECONDS))

    # --- commands and queries ----------------------------------------------------------------------------------------

    def submit(self, command: Command, timeout: float | None = None) -> Pending[Any]:
        """Hand over a command and return at once with the future of its result.

        The call waits only while `ClientSettings.outstanding_max` commands are outstanding, and raises `BusyError` if
        that lasts longer than `timeout` seconds; on a thread that must not wait it raises `BlockingCallError` then.
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
        """Carry out a command and return what the state machine returned."""
        self.ready("apply")
        try:
            return self.submit(command, timeout).result()
        except NotStartedError as error:
            raise self.why(error) from error

    def submit_many(self, commands: Iterable[Command], timeout: float | None = None) -> PendingMany:
        """Hand over many commands at once and return one future of all their outcomes, as `Client.submit_many` does.

        Whether it waits before that is said at `submit`.
        """
        client = self.ready()
        if client.driver.full():
            client = self.ready("submit_many")
        began = time.monotonic()
        try:
            pending = client.submit_many(commands, timeout)
        except NotStartedError as error:
            raise self.why(error) from error
        count = self.meter.count
        pending.add_done_callback(lambda done: count(began, done.failed, len(done.parts)))
        return pending

    def apply_many(self, commands: Iterable[Command], timeout: float | None = None) -> list[Any]:
        """Carry out many commands, and return for each its result or the `ConsensusError` with which it ended.

        Arguments and errors are those of `Client.submit_many`.
        """
        self.ready("apply_many")
        return self.submit_many(commands, timeout).result()

    def read_detail(
        self,
        query: Any,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        read_from: str | None = None,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> ReadDetail:
        """Answer a query like `read`, and say which entry the answer reflects and how old it may be."""
        client = self.ready("read")
        try:
            return client.read_detail(
                query,
                consistency,
                timeout,
                read_from=read_from,
                max_staleness=max_staleness,
                after_index=after_index,
            )
        except NotStartedError as error:
            raise self.why(error) from error

    def read(
        self,
        query: Any,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        read_from: str | None = None,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> Any:
        """Answer a query: a key, or whatever else the state machine understands.

        `consistency` "linearizable" sees everything that was acknowledged before the call; "lease" does so without a
        round trip among the nodes, where leases are on; "stale" asks this node, and another one only while this one
        cannot answer, as when it restores a snapshot.

        `read_from`, `max_staleness` and `after_index` are those of `Client.read`. The nearest node is this one: with
        ``read_from="nearest"`` it answers linearizable reads itself, after a short question to the leader.
        """
        return self.read_detail(
            query, consistency, timeout, read_from=read_from, max_staleness=max_staleness, after_index=after_index
        ).value

    def ask_barrier(
        self,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> PendingRead[None]:
        """Begin a barrier of this node and return its future at once; arguments are those of `barrier`."""
        return self.client_now().ask_barrier(
            consistency, timeout, read_from=self.own_endpoint, max_staleness=max_staleness, after_index=after_index
        )

    def ask_status(self, timeout: float) -> PendingNodeQuery[dict[str, Any]]:
        """Ask this node for its status and return the future at once."""
        client = self.client_now()
        pending = client.status_query(self.own_endpoint, timeout)
        client.driver.hand_over(pending)
        return pending

    def barrier(
        self,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> ReadDetail:
        """Return once the state of this very node fulfils what a read asks, and say which entry it reflects.

        It is for an application that looks at its own state machine: after ``service.barrier()`` that machine has
        everything that was acknowledged before the call, on followers too (after a short question to the leader).
        With "stale" and `max_staleness`, or `after_index`, it has at least so much. The log grows by nothing.
        The node goes on applying meanwhile, on its thread, so such a machine needs a lock of its own. With
        ``mode="process"`` it is out of reach; then the index is of use for `read`.
        Arguments and errors are those of `Client.barrier`.
        """
        self.ready("barrier")
        try:
            pending = self.ask_barrier(consistency, timeout, max_staleness=max_staleness, after_index=after_index)
            return ReadDetail(pending.result(), pending.applied, pending.stale_ms)
        except NotStartedError as error:
            raise self.why(error) from error

    @property
    def last_index(self) -> int:
        """The newest log entry of which this service has seen the effect in any answer, for `after_index` of reads.

        What its `async_client`s saw counts too.
        """
        self.seen_index = max(self.ready().last_index, self.seen_index, *(one.last_index for one in self.async_clients))
        return self.seen_index

    def lease_driver(self) -> Driver:
        """The driver of the client inside, which keeps leases alive."""
        return self.ready().driver

    def watch_client(self) -> Client:
        """The client inside, by which a watch asks."""
        return self.ready("watch")

    def why(self, error: ConsensusError) -> ConsensusError:
        """Return what ended the node if it has ended, else the error itself."""
        return fresh(self.failure) if self.failure is not None else error

    # --- members and leadership --------------------------------------------------------------------------------------

    def members(self, timeout: float | None = None) -> ClusterMembers:
        """Return the members of the cluster, as the leader knows them, or any node where none is known."""
        client = self.ready("members")
        try:
            return client.members(timeout=timeout)
        except NotStartedError as error:
            raise self.why(error) from error

    def change_members(
        self,
        *changes: Change,
        force: bool = False,
        dry_run: bool = False,
        wait: bool = True,
        timeout: float | None = None,
    ) -> MembersPlan:
        """Change the members of the cluster; arguments and errors are those of `Client.change_members`."""
        client = self.ready("change_members")
        try:
            return client.change_members(*changes, force=force, dry_run=dry_run, wait=wait, timeout=timeout)
        except NotStartedError as error:
            raise self.why(error) from error

    def transfer_leadership(self, target: str = "", *, wait: bool = True, timeout: float | None = None) -> str | None:
        """Hand the leadership over; arguments, result and errors are those of `Client.transfer_leadership`.

        It does so whichever node leads, not only if this one does.
        """
        client = self.ready("transfer_leadership")
        try:
            return client.transfer_leadership(target, wait=wait, timeout=timeout)
        except NotStartedError as error:
            raise self.why(error) from error

    # --- snapshots ---------------------------------------------------------------------------------------------------

    def snapshot(self, timeout: float | None = None) -> SnapshotTaken:
        """Have this node take a snapshot now, whatever it has applied (the original's `Snapshot`).

        It returns when the file is durable. The log is then cut behind it, as after any other snapshot. Errors are
        those of `Client.snapshot`.
        """
        client = self.ready("snapshot")
        try:
            return client.snapshot(self.own_endpoint, timeout)
        except NotStartedError as error:
            raise self.why(error) from error

    def snapshots(self, timeout: float | None = None) -> list[SnapshotTaken]:
        """Return the snapshot files of this node, the newest first."""
        client = self.ready("snapshots")
        try:
            return client.snapshots(self.own_endpoint, timeout)
        except NotStartedError as error:
            raise self.why(error) from error

    def save_snapshot(
        self, file: str | Path, *, stale: bool = False, force: bool = False, timeout: float | None = None
    ) -> SnapshotReport:
        """Save a backup from this node; arguments, result and errors are those of `Client.save_snapshot`."""
        client = self.ready("save_snapshot")
        try:
            return client.save_snapshot(file, self.own_endpoint, stale=stale, force=force, timeout=timeout)
        except NotStartedError as error:
            raise self.why(error) from error

    @property
    def own_endpoint(self) -> str:
        """The endpoint of this node for the client inside."""
        return LOCAL if self.mode == "thread" else self.running().address

    # --- for others --------------------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where clients and peers reach this node."""
        return self.running().address

    @property
    def events(self) -> EventBus:
        """The event bus; the same as `bus`."""
        return self.bus

    def port(self) -> LocalPort | None:
        """Return a new connection for a client in this process; None where the node is another process."""
        return self.running().port()

    def async_client(self, timeout: float | None = None) -> AsyncClient:
        """Return a client for the running event loop that goes through this node; the caller closes it."""
        host = self.running()
        others = [address for node, address in self.settings.peers.items() if node != self.settings.node_id]
        port = host.port()
        made = AsyncClient(
            others if port is not None else [host.address, *others],
            timeout or self.timeout,
            self.settings.cluster_id,
            settings=self.client_settings,
            port=port,
            credentials=self.own_credentials(),
        )
        self.async_clients.add(made)
        return made

    # --- reports -----------------------------------------------------------------------------------------------------

    def get_stats(self) -> ConsensusStats:
        """Return the numbers of the node, and those of this service's own operations."""
        return stats_of(self.status(), self.meter)

    def get_cluster_info(self) -> ClusterInfo:
        """Return the cluster as this node sees it."""
        return cluster_of(self.status())

    def get_health_status(self) -> HealthStatus:
        """Return how the node fares. It never raises; a node that does not run is unhealthy."""
        try:
            return health_of(self.status())
        except ConsensusError as error:
            return health_of_none(str(error), len(self.settings.peers) or 1)

    def health_check(self) -> None:
        """Raise what ended the node, `NotStartedError`, `ConsensusTimeoutError`, `NoQuorumError` or `NoLeaderError`."""
        info = self.get_cluster_info()
        check_quorum(info)
        if info.leader is None:
            raise NoLeaderError
