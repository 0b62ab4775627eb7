"""The leadership checker: what a program asks before it answers a request, with one answer for all that it needs."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from forge_consensus.actors.runtime.status import NodeStatus
from forge_consensus.client.calls import ReadDetail
from forge_consensus.client.cluster_info import check_quorum, cluster_of
from forge_consensus.client.pending import Pending
from forge_consensus.errors import ConsensusError, NoLeaderError, NotLeaderError, fresh
from forge_consensus.service.consensus import STATUS_SECONDS, ConsensusService
from forge_consensus.service.process_node import ProcessNode
from forge_consensus.service.thread_node import LeaderReport


@dataclass(frozen=True, slots=True)
class Standing:
    """Who leads, as one node sees it at one moment."""

    node_id: str
    cluster_id: str
    role: str
    """"follower", "candidate" or "leader"."""
    leading: bool
    """Whether this node leads, as far as it knows: one that was cut off may believe so for up to an election timeout
    after another one leads."""
    leader: str | None
    """The leader's node id, None if this node knows of none."""
    leader_url: str
    """Where the leader's application answers HTTP (its `http_url`), "" if that is not known."""
    term: int
    last_contact: float | None = field(default=None, compare=False)
    """Seconds since a leader's request arrived: 0 on the leader itself, None if none ever did."""
    commit_index: int = field(default=0, compare=False)
    """Up to which log entry the node knows that it is committed."""

    def not_leading(self) -> ConsensusError:
        """The error for a caller that needs the leader: it names it, if it is known."""
        if self.leader is None:
            return NoLeaderError()
        text = f"{self.node_id} does not lead term {self.term}: {self.leader} does"
        return NotLeaderError(text, leader=self.leader, address=self.leader_url or None, term=self.term)


def standing_of(report: LeaderReport, node_id: str, cluster_id: str, http_url: str) -> Standing:
    """Return who leads by the report of this node, whose application answers at `http_url`.

    A node that has just lost the leadership may still name itself: then nobody leads.
    """
    leader, url = report.leader, report.leader_url
    if report.leading:
        leader, url = node_id, http_url
    elif leader == node_id:
        leader, url = None, ""
    return Standing(
        node_id,
        cluster_id,
        report.role,
        report.leading,
        leader,
        url,
        report.term,
        report.last_contact,
        report.commit_index,
    )


class LeadershipChecker:
    """Answers whether this node leads and whether there is a quorum (LeadershipChecker of the Go original).

    The answers tell where to send a request, not whether a write is safe: a node that was cut off believes for up to an
    election timeout that it leads. What is written through the service is safe on any node, because the log decides,
    and what is read after `confirm` is as new as was asked for.

    Calls about the leadership wait for at most a second where the node is a process of its own, and not at all where it
    is a thread. The methods with `_async` at the end never block the event loop, which must be one of asyncio.

    Args:
        service: the node that is asked. It need not be started yet; until then its calls raise `NotStartedError`.

    """

    def __init__(self, service: ConsensusService) -> None:
        self.service = service

    def __repr__(self) -> str:
        """Whose leadership it checks."""
        return f"<LeadershipChecker of {self.service!r}>"

    def standing(self) -> Standing:
        """Return who leads. Raises `NotStartedError`, what ended the node, or `ConsensusTimeoutError`."""
        return self.standing_by(self.service.leader_report(STATUS_SECONDS))

    def standing_by(self, report: LeaderReport) -> Standing:
        """Who leads by a report."""
        settings = self.service.settings
        return standing_of(report, settings.node_id, settings.cluster_id, settings.http_url or "")

    def is_leader(self) -> bool:
        """Whether this node leads; False also where it does not answer."""
        return self.service.is_leader()

    def get_leader(self) -> str | None:
        """Return the leader's node id; None if this node knows of none, or does not answer."""
        return self.service.get_leader()

    def require_leader(self) -> None:
        """Return if this node leads. Raises `NotLeaderError`, or `NoLeaderError` where nobody is known to."""
        standing = self.standing()
        if not standing.leading:
            raise standing.not_leading()

    def require_quorum(self) -> None:
        """Return if a majority of the voters is alive, as this node sees it. Raises `NoQuorumError`."""
        check_quorum(self.service.get_cluster_info())

    def confirm(
        self,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> ReadDetail:
        """Return once this node's state is as new as asked for; arguments and errors are those of `service.barrier`."""
        return self.service.barrier(consistency, timeout, max_staleness=max_staleness, after_index=after_index)

    def last_index(self) -> int:
        """The newest log entry whose effect callers of this service have seen; 0 where it does not run."""
        try:
            return self.service.last_index
        except ConsensusError:
            return 0

    # --- for event loops ---------------------------------------------------------------------------------------------

    async def standing_async(self) -> Standing:
        """Return who leads, as `standing` does."""
        host = self.service.running()
        if isinstance(host, ProcessNode):
            return self.standing_by(host.report_of(await self.status_of(host)))
        return self.standing()  # it reads memory

    async def require_quorum_async(self) -> None:
        """Return if there is a quorum, as `require_quorum` does."""
        host = self.service.running()
        status = await self.status_of(host) if isinstance(host, ProcessNode) else self.service.status()
        check_quorum(cluster_of(status))

    async def status_of(self, host: ProcessNode) -> NodeStatus:
        """The status of a node in a process of its own: the one just known, or a new one."""
        known, asked_at = host.fresh(), time.monotonic()
        if known is not None:
            return known
        return host.note(await self.answered(self.service.ask_status(STATUS_SECONDS)), asked_at)

    async def confirm_async(
        self,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> ReadDetail:
        """Return once this node's state is as new as asked for, as `confirm` does."""
        pending = self.service.ask_barrier(consistency, timeout, max_staleness=max_staleness, after_index=after_index)
        await self.answered(pending)
        return ReadDetail(None, pending.applied, pending.stale_ms)

    async def answered(self, pending: Pending[Any]) -> Any:
        """Wait for a call on the running event loop. Raises what it ended with; a cancelled wait leaves nothing."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def tell(_: Pending[Any]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(done.set)

        pending.add_done_callback(tell)
        await done.wait()  # the call has a deadline of its own, and ends then
        if pending.error is not None:
            raise self.service.why(fresh(pending.error))
        return pending.value()
