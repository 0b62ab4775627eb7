"""A host that runs a node on a daemon thread of this process, and what every host offers to a service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from forge_consensus.actors.runtime.actor import ReloadConfiguration
from forge_consensus.actors.runtime.engine import SettingsChange
from forge_consensus.actors.runtime.status import NodeStatus, http_url_of, leader_silence
from forge_consensus.client.connections import LocalPort
from forge_consensus.config.node import NodeSettings
from forge_consensus.errors import ConsensusError, ConsensusTimeoutError, NotStartedError, OperationFailedError, fresh
from forge_consensus.events.bus import EventBus
from forge_consensus.events.types import AuditRecorded
from forge_consensus.process.log import LogLines
from forge_consensus.process.threads import ForgeThread
from forge_consensus.process.waiters import Latch
from forge_consensus.service.machines import MachineChoice
from forge_consensus.service.node import Node

LINES = LogLines(__name__)

OnEnd = Callable[[ConsensusError], None]
"""Called once, on some thread, with the error that ended a node which nobody had asked to end."""


class LeaderReport(NamedTuple):
    """Who leads, as one node sees it at this moment."""

    leading: bool
    leader: str | None
    role: str
    term: int
    leader_url: str = ""
    """Where the leader's application answers HTTP; "" if it is not known."""
    last_contact: float | None = None
    """Seconds since a leader's request arrived: 0 on the leader itself, None if none ever did."""
    commit_index: int = 0
    """Up to which log entry this node knows that it is committed."""


class Host(Protocol):
    """Whatever runs a service's node. Times are in seconds."""

    @property
    def address(self) -> str:
        """Where clients reach the node."""

    @property
    def threads(self) -> tuple[ForgeThread | None, ...]:
        """The threads that must never wait for the node, because the node waits for them."""

    def start(self, timeout: float) -> None:
        """Start the node. Raises what kept it from starting, `ConsensusTimeoutError` after `timeout` seconds."""

    def stop(self, timeout: float) -> None:
        """Stop the node. Raises `ConsensusTimeoutError` if that takes longer than `timeout` seconds."""

    def leave(self, reason: str) -> None:
        """Ask the node to stop, and wait for nothing."""

    def leader_report(self, timeout: float) -> LeaderReport:
        """Return who leads in which term, and whether it is this node, as far as the node knows."""

    def status(self, timeout: float) -> NodeStatus:
        """Return the node's status, as far as it is in memory."""

    def port(self) -> LocalPort | None:
        """Return a new connection within the process; None where the node is another process."""

    def take_settings(self, change: SettingsChange, timeout: float) -> None:
        """Have the node take other settings. Raises `ConsensusError`; then it has not taken them."""

    def serve_reloads(self, reload: ReloadConfiguration) -> None:
        """Let clients have the configuration read again by calling this, on a helper thread."""

    def record(self, record: AuditRecorded) -> None:
        """Have the node record something in its audit, and wait for nothing; a node that has stopped does not."""


class ThreadNode:
    """One run of a node on a thread. Its status is read from its memory, without waiting for the node."""

    def __init__(self, settings: NodeSettings, choice: MachineChoice, bus: EventBus, on_end: OnEnd) -> None:
        self.node = Node(settings, bus)
        self.choice = choice
        self.on_end = on_end
        self.settled = Latch()
        """Set when the node is open, and when it could not be opened."""
        self.error: BaseException | None = None
        self.stopping = False
        self.thread = ForgeThread(target=self.run, name=f"forge-node-{settings.node_id}")

    @property
    def address(self) -> str:
        """Where clients reach the node."""
        return self.node.address

    @property
    def threads(self) -> tuple[ForgeThread | None, ...]:
        """The threads that must never wait for the node."""
        return (self.thread,)

    def start(self, timeout: float) -> None:
        """Open and run the node. Raises what opening raises, `ConsensusTimeoutError` after `timeout` seconds."""
        self.thread.start()
        if not self.settled.wait(timeout):
            self.stopping = True
            self.node.stop("it took too long to start")
            raise ConsensusTimeoutError(
                f"the node could not be opened within {timeout:g} s (a long log, a large snapshot, or a slow disk) "
                "and gives up as soon as it can: allow more time"
            )
        if self.error is not None:
            raise fresh(self.error) if isinstance(self.error, ConsensusError) else self.error

    def stop(self, timeout: float) -> None:
        """Ask the node to stop and wait. Raises `ConsensusTimeoutError` if it is still busy after `timeout` seconds."""
        self.stopping = True
        self.node.stop("asked to")
        self.thread.join(timeout)
        if self.thread.is_alive():
            raise ConsensusTimeoutError(
                f"the node's thread did not end within {timeout:g} s, because the state machine or the disk keeps it "
                "busy: it ends afterwards; call stop() again later"
            )

    def leave(self, reason: str) -> None:
        """Ask the node to stop, and wait for nothing."""
        self.stopping = True
        self.node.stop(reason)

    def run(self) -> None:
        """Open the node and run it until it ends; the body of the thread."""
        node = self.node
        try:
            machine = self.choice.fresh()
            if machine is not None:
                node.machine = machine
            node.open()
        except BaseException as error:
            self.error = error
            self.settled.set()
            return
        self.settled.set()
        try:
            if not self.stopping:
                node.run()
            self.ended(None)
        except BaseException as fault:
            self.ended(fault)
        finally:
            try:
                node.close()
            except Exception as error:
                LINES.error("the node could not be closed", error=error)

    def ended(self, fault: BaseException | None) -> None:
        """Report an end that nobody asked for."""
        if fault is not None:
            self.on_end(typed(fault))
        elif not self.stopping:
            base = self.node.base
            reason = base.engine.stopping if base is not None else ""
            self.on_end(NotStartedError(f"the node stopped by itself: {reason}"))

    def engine(self) -> Any:
        """Return the node's engine. Raises `NotStartedError` before the node is open."""
        if self.node.base is None:
            raise NotStartedError
        return self.node.base.engine

    def leader_report(self, timeout: float) -> LeaderReport:
        """Return who leads, without waiting."""
        return report_of(self.engine())

    def status(self, timeout: float) -> NodeStatus:
        """Return the node's status, without waiting."""
        return NodeStatus.of(self.engine())

    def port(self) -> LocalPort:
        """Return a new connection within the process."""
        return self.node.port()

    def take_settings(self, change: SettingsChange, timeout: float) -> None:
        """Have the node take other settings; errors are those of `Node.take_settings`."""
        self.node.take_settings(change, timeout)

    def serve_reloads(self, reload: ReloadConfiguration) -> None:
        """Let clients have the configuration read again."""
        self.node.serve_reloads(reload)

    def record(self, record: AuditRecorded) -> None:
        """Have the node record something in its audit."""
        self.node.record(record)


def report_of(engine: Any) -> LeaderReport:
    """Return who leads as a node has it in memory; any thread may call it."""
    shared, ledger = engine.shared, engine.ledger
    leading, leader = ledger.leading_term is not None, shared.leader
    url = http_url_of(engine, leader) if leader is not None else ""
    silence = 0.0 if leading else leader_silence(engine)
    return LeaderReport(leading, leader, str(shared.role), ledger.term, url, silence, ledger.commit_index)


def typed(fault: BaseException) -> ConsensusError:
    """Return a `ConsensusError` for whatever ended a node."""
    if isinstance(fault, ConsensusError):
        return fault
    notes = "".join(f" ({note})" for note in getattr(fault, "__notes__", ()))
    error = OperationFailedError(f"the node ended with {type(fault).__name__}: {fault}{notes}")
    error.__cause__ = fault
    return error
