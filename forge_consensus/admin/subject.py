"""The subject of the API: the one node that it speaks for, and how it is asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from forge_consensus.actors.messages import EventPage, LogPage, ReadEvents, ReadLog
from forge_consensus.actors.runtime.status import NodeStatus
from forge_consensus.client.aio import AsyncClient
from forge_consensus.client.endpoints import LOCAL
from forge_consensus.client.pending import PendingNodeQuery
from forge_consensus.client.sync import Client
from forge_consensus.errors import AuthenticationFailedError, NotStartedError
from forge_consensus.events.types import AuditRecorded
from forge_consensus.output import json_text
from forge_consensus.security.access import AccessList
from forge_consensus.security.credentials import Credentials
from forge_consensus.service.cluster_report import ClusterReport, cluster_report
from forge_consensus.service.leadership import Standing, standing_of
from forge_consensus.service.node_security import own_credentials
from forge_consensus.service.thread_node import ThreadNode, report_of
from forge_consensus.storage.backends.folder import SNAPSHOTS
from forge_consensus.storage.machines.kv import KeyValueMachine

if TYPE_CHECKING:
    from forge_consensus.events.metrics.metrics import NodeMetrics
    from forge_consensus.service.consensus import ConsensusService
    from forge_consensus.service.node import Node
    from forge_consensus.service.reloading import Reloader

NO_KEY: Final = (
    "the nodes let in only those who have a key, and this node's admin API has none to ask them with: give "
    "security.client_key_file, whose public key stands with the role admin among the clients in the list of access"
)
REPORT_SECONDS: Final = 2.0
"""How long missing answers are waited for in a report of the whole cluster."""
REPORT_AGE_SECONDS: Final = 0.5
"""Everybody who asks for such a report within this time gets the same one."""


class Seat(Protocol):
    """Where a node runs: what differs between a program with a node and an application with a service."""

    node_id: str
    cluster_id: str
    reloader: Reloader
    """The configuration of the node, and how it is read again."""
    snapshots: Path
    """The folder of its snapshot files."""

    @property
    def address(self) -> str:
        """Where the node listens."""

    @property
    def own_endpoint(self) -> str:
        """The endpoint of the node for `client`."""

    def standing(self) -> Standing:
        """Return who leads, as the node has it in memory. Raises `ConsensusError` where it cannot say."""

    def status(self) -> NodeStatus:
        """Return the status of the node, as far as it is in memory. Raises `ConsensusError`."""

    def metrics(self) -> NodeMetrics | None:
        """Return what is counted for Prometheus; None if nothing is."""

    def client(self) -> AsyncClient:
        """Return a new client that goes through the node, for the running event loop."""

    @property
    def keeps_keys(self) -> bool:
        """Whether the node's machine is the built-in one."""

    def access(self) -> AccessList | None:
        """Return the list of access by which the node goes; None where it asks nobody, or is another process."""

    def access_of_log(self) -> AccessList | None:
        """Return the list of access in the cluster's log; None if there is none, or the node is another process."""

    def credentials(self) -> Credentials | None:
        """Return what other clients of the nodes show; None where nobody is asked."""

    def record(self, record: AuditRecorded) -> None:
        """Have the node record what was asked of its API; nothing is done where it does not run."""


class NodeSeat:
    """A node of this process, which a program runs."""

    def __init__(self, node: Node, reloader: Reloader) -> None:
        self.node = node
        self.node_id = node.settings.node_id
        self.cluster_id = node.cluster_id
        self.reloader = reloader
        self.snapshots = Path(node.settings.storage_path).absolute() / SNAPSHOTS

    def engine(self) -> Any:
        """Return the node's engine. Raises `NotStartedError` where it is not open."""
        if self.node.base is None:
            raise NotStartedError
        return self.node.base.engine

    @property
    def address(self) -> str:
        """Where the node listens."""
        return self.node.address

    @property
    def own_endpoint(self) -> str:
        """The endpoint of the node for `client`."""
        return LOCAL

    def standing(self) -> Standing:
        """Return who leads."""
        url = self.node.settings.http_url or ""
        return standing_of(report_of(self.engine()), self.node_id, self.cluster_id, url)

    def status(self) -> NodeStatus:
        """Return the status of the node."""
        return NodeStatus.of(self.engine())

    def metrics(self) -> NodeMetrics | None:
        """Return what is counted for Prometheus."""
        return None if self.node.metrics is None else self.node.metrics.metrics

    def client(self) -> AsyncClient:
        """Return a new client that goes through the node."""
        members = self.engine().ledger.configuration.addresses
        others = [address for node, address in members.items() if node != self.node_id]
        return AsyncClient(others, cluster_id=self.cluster_id, port=self.node.port(), credentials=self.credentials())

    def credentials(self) -> Credentials | None:
        """Return what other clients of the nodes show; None where nobody is asked."""
        return own_credentials(self.node.settings.security, self.node.access)

    @property
    def keeps_keys(self) -> bool:
        """Whether the node's machine is the built-in one."""
        return type(self.node.machine) is KeyValueMachine

    def access(self) -> AccessList | None:
        """Return the list of access by which the node goes."""
        return access_of(self.node)

    def access_of_log(self) -> AccessList | None:
        """Return the list of access in the cluster's log."""
        return access_in_log(self.node)

    def record(self, record: AuditRecorded) -> None:
        """Have the node record what was asked of its API."""
        self.node.record(record)


class ServiceSeat:
    """A node that an application runs as a service."""

    def __init__(self, service: ConsensusService) -> None:
        self.service = service
        self.node_id = service.settings.node_id
        self.cluster_id = service.settings.cluster_id
        self.reloader = service.reloader
        self.snapshots = Path(service.settings.storage_path).absolute() / SNAPSHOTS

    @property
    def address(self) -> str:
        """Where the node listens."""
        return self.service.address

    @property
    def own_endpoint(self) -> str:
        """The endpoint of the node for `client`."""
        return self.service.own_endpoint

    def standing(self) -> Standing:
        """Return who leads."""
        url = self.service.settings.http_url or ""
        return standing_of(self.service.leader_report(), self.node_id, self.cluster_id, url)

    def status(self) -> NodeStatus:
        """Return the status of the node."""
        return self.service.status()

    def metrics(self) -> NodeMetrics | None:
        """Return what is counted for Prometheus, where the service's `metrics` has it counted in this process."""
        host = self.service.host
        counted = host.node.metrics if isinstance(host, ThreadNode) else None
        return None if counted is None else counted.metrics

    def client(self) -> AsyncClient:
        """Return a new client that goes through the node."""
        return self.service.async_client()

    @property
    def keeps_keys(self) -> bool:
        """Whether the node's machine is the built-in one."""
        return self.service.machine.is_built_in

    def access(self) -> AccessList | None:
        """Return the list of access by which the node goes."""
        host = self.service.host
        return access_of(host.node) if isinstance(host, ThreadNode) else None

    def access_of_log(self) -> AccessList | None:
        """Return the list of access in the cluster's log."""
        host = self.service.host
        return access_in_log(host.node) if isinstance(host, ThreadNode) else None

    def credentials(self) -> Credentials | None:
        """Return what other clients of the nodes show; None where nobody is asked."""
        return self.service.own_credentials()

    def record(self, record: AuditRecorded) -> None:
        """Have the node record what was asked of its API."""
        host = self.service.host
        if host is not None:
            host.record(record)


def access_of(node: Node) -> AccessList | None:
    """Return the list of access by which a node goes; None where it asks nobody, or is not open."""
    return None if node.access is None or node.base is None else node.access.current


def access_in_log(node: Node) -> AccessList | None:
    """Return the list of access in the cluster's log; None where the node is not open."""
    return None if node.base is None else node.base.engine.ledger.applier.access.current


@dataclass(slots=True)
class Reported:
    """The last report of the whole cluster."""

    report: ClusterReport
    at: float
    """In seconds of `time.monotonic`."""
    written: str = ""

    @property
    def text(self) -> str:
        """The report as JSON; it is written once, for all who ask."""
        if not self.written:
            self.written = json_text(self.report.to_dict())
        return self.written


class Subject:
    """The node as the API asks it, on one event loop; `close` ends it.

    Args:
        seat: where the node runs.

    """

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self.asking: AsyncClient | None = None
        self.looking: Client | None = None
        self.reported: Reported | None = None
        self.reporting: asyncio.Task[Reported] | None = None
        self.turns = -1
        """How many turns the node had taken at the last question."""
        self.turned_at = 0.0

    @property
    def client(self) -> AsyncClient:
        """The client that all requests share. Raises `ConsensusError` where the node is not open."""
        if self.asking is None:
            self.asking = self.seat.client()
        return self.asking

    @property
    def own_endpoint(self) -> str:
        """The endpoint of the node itself for the client."""
        return self.seat.own_endpoint

    async def standing(self) -> Standing:
        """Return who leads. Raises `ConsensusError`."""
        found: Standing = await self.of_memory(self.seat.standing)
        return found

    async def status(self) -> NodeStatus:
        """Return the status of the node, as far as it is in memory. Raises `ConsensusError`."""
        found: NodeStatus = await self.of_memory(self.seat.status)
        return found

    async def of_memory(self, look: Callable[[], Any]) -> Any:
        """Return what a look at the node finds; on a thread where the node is another process."""
        waits = isinstance(self.seat, ServiceSeat) and self.seat.service.mode == "process"
        return await asyncio.to_thread(look) if waits else look()

    async def full_status(self, seconds: float) -> Mapping[str, Any]:
        """Ask the node for its status with its storage, in its turn. Raises `ConsensusError`."""
        return await self.client.status(self.own_endpoint, seconds)

    async def report(self) -> ClusterReport:
        """Return a report of the whole cluster, which all who ask at the same time share. Raises `ConsensusError`."""
        return (await self.last_report()).report

    async def report_text(self) -> str:
        """Return that report as JSON. Raises `ConsensusError`."""
        return (await self.last_report()).text

    async def last_report(self) -> Reported:
        """Return the report of this moment, and make it if the last one is old. Raises `ConsensusError`."""
        known = self.reported
        if known is not None and time.monotonic() - known.at <= REPORT_AGE_SECONDS:
            return known
        if self.reporting is None or self.reporting.done():
            self.reporting = asyncio.ensure_future(self.make_report())
        return await asyncio.shield(self.reporting)  # whoever leaves does not end it for the others

    def check_key(self) -> None:
        """Raise `AuthenticationFailedError` where nodes let in only those who have a key, and the API has none."""
        if self.seat.access() is not None and self.seat.credentials() is None:
            raise AuthenticationFailedError(NO_KEY)

    async def make_report(self) -> Reported:
        """Ask every member, and note the answer."""
        self.check_key()
        found = await asyncio.to_thread(self.ask_all)
        self.reported = Reported(found, time.monotonic())
        return self.reported

    def stuck_seconds(self, turns: int) -> float:
        """Return for how long the node has taken no turn, as far as the earlier questions tell; `turns` is now."""
        now = time.monotonic()
        if self.turns != turns:
            self.turns, self.turned_at = turns, now
        return now - self.turned_at

    def ask_all(self) -> ClusterReport:
        """Ask every member, on a thread."""
        if self.looking is None:
            self.looking = Client(
                [self.seat.address], REPORT_SECONDS, self.seat.cluster_id, credentials=self.seat.credentials()
            )
        return cluster_report(self.looking, [self.seat.address], REPORT_SECONDS)

    async def events_end(self, address: str, seconds: float) -> EventPage:
        """Ask a node how far its events go. Raises `ConsensusError`."""
        client = self.client
        query = PendingNodeQuery[EventPage](ReadEvents(1, 0), client.endpoint_name(address), client.deadline(seconds))
        page: EventPage = await client.start(query)
        return page

    async def log_page(self, first: int, limit: int, data_bytes: int, seconds: float) -> LogPage:
        """Ask the node for entries of its log; see `ReadLog`. Raises `ConsensusError`."""
        client = self.client
        query = PendingNodeQuery[LogPage](
            ReadLog(first, limit, data_bytes), self.own_endpoint, client.deadline(seconds)
        )
        page: LogPage = await client.start(query)
        return page

    async def close(self) -> None:
        """Wait for the report that is under way, and close the clients of the cluster."""
        if self.reporting is not None:
            await asyncio.gather(self.reporting, return_exceptions=True)
        if self.asking is not None:
            await self.asking.close()
        if self.looking is not None:
            await asyncio.to_thread(self.looking.close)
