"""The node on a thread: a host that runs a node on a daemon thread of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from loguru import logger

from forge_consensus.actors.runtime.status import NodeStatus
from forge_consensus.client.connections import LocalPort
from forge_consensus.errors import ConsensusError, ConsensusTimeoutError, NotStartedError, OperationFailedError
from forge_consensus.events.bus import EventBus
from forge_consensus.service.machines import MachineChoice
from forge_consensus.service.node import Node, NodeSettings

OnEnd = Callable[[ConsensusError], None]
"""Called once, on any thread, with what ended a node that nobody had asked to end."""


class Glance(NamedTuple):
    """Who leads, as a node sees it at this moment."""

    leading: bool
    leader: str | None
    role: str
    term: int


class Host(Protocol):
    """Where a service's node runs."""

    @property
    def address(self) -> str:
        """Where clients reach the node."""

    @property
    def threads(self) -> tuple[threading.Thread | None, ...]:
        """The threads that must never wait for the node."""

    def start(self, timeout: float) -> None:
        """Start the node; raises what kept it from starting, `ConsensusTimeoutError` after so many seconds."""

    def stop(self, timeout: float) -> None:
        """Stop it; raises `ConsensusTimeoutError` if it could not be ended in so many seconds."""

    def glance(self, timeout: float) -> Glance:
        """Who leads."""

    def facts(self, timeout: float) -> dict[str, Any]:
        """The node's status, as far as it is in memory."""

    def port(self) -> LocalPort | None:
        """A connection within the process, if the node is in it."""


class ThreadNode:
    """One run of a node on a thread. What it says of itself is read from memory, without waiting."""

    def __init__(self, settings: NodeSettings, choice: MachineChoice, bus: EventBus, on_end: OnEnd) -> None:
        self.node = Node(settings, bus)
        self.choice = choice
        self.on_end = on_end
        self.settled = threading.Event()
        """It runs, or it could not be opened."""
        self.error: BaseException | None = None
        self.stopping = False
        self.thread = threading.Thread(target=self.run, name=f"forge-node-{settings.node_id}", daemon=True)

    @property
    def address(self) -> str:
        """Where clients reach the node."""
        return self.node.address

    @property
    def threads(self) -> tuple[threading.Thread | None, ...]:
        """The threads that must never wait for the node."""
        return (self.thread,)

    def start(self, timeout: float) -> None:
        """Open and run the node; raises what opening raises, `ConsensusTimeoutError` after so many seconds."""
        self.thread.start()
        if not self.settled.wait(timeout):
            self.stopping = True
            self.node.stop("it took too long to start")
            raise ConsensusTimeoutError(
                f"the node could not be opened within {timeout:g} s (a long log, a large snapshot, or a slow disk) "
                "and gives up as soon as it can: allow more time"
            )
        if self.error is not None:
            raise self.error

    def stop(self, timeout: float) -> None:
        """Ask it to stop and wait; raises `ConsensusTimeoutError` if it is still busy then."""
        self.stopping = True
        self.node.stop("asked to")
        self.thread.join(timeout)
        if self.thread.is_alive():
            raise ConsensusTimeoutError(
                f"the node's thread did not end within {timeout:g} s, for it is busy in the state machine or the "
                "disk: it ends when that does; stop again later"
            )

    def run(self) -> None:
        """The thread."""
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
            except Exception:
                logger.exception("the node could not be closed")

    def ended(self, fault: BaseException | None) -> None:
        """Tell of an end that nobody asked for."""
        if fault is not None:
            self.on_end(typed(fault))
        elif not self.stopping:
            base = self.node.base
            reason = base.engine.stopping if base is not None else ""
            self.on_end(NotStartedError(f"the node stopped by itself: {reason}"))

    def engine(self) -> Any:
        """The node's engine. Raises `NotStartedError` before there is one."""
        if self.node.base is None:
            raise NotStartedError
        return self.node.base.engine

    def glance(self, timeout: float) -> Glance:
        """Who leads; without waiting."""
        engine = self.engine()
        shared, ledger = engine.shared, engine.ledger
        return Glance(ledger.leading is not None, shared.leader, str(shared.role), ledger.term)

    def facts(self, timeout: float) -> dict[str, Any]:
        """The node's status; without waiting."""
        return NodeStatus.of(self.engine()).to_dict()

    def port(self) -> LocalPort:
        """A connection within the process."""
        return self.node.port()


def typed(fault: BaseException) -> ConsensusError:
    """An error of ours for whatever ended a node."""
    if isinstance(fault, ConsensusError):
        return fault
    notes = "".join(f" ({note})" for note in getattr(fault, "__notes__", ()))
    error = OperationFailedError(f"the node ended with {type(fault).__name__}: {fault}{notes}")
    error.__cause__ = fault
    return error
