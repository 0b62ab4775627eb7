"""A node of a local cluster as a thread of this process: a service, and a file with what it tells."""

from __future__ import annotations

import threading
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from loguru import logger

from forge_consensus.config.node import NodeSettings
from forge_consensus.errors import ConsensusError, OperationFailedError
from forge_consensus.events.bus import BLOCK_MS_MAX
from forge_consensus.events.log_lines import FREQUENT, QUEUE_MAX, line_of
from forge_consensus.events.selection import Selection
from forge_consensus.events.subscription import QueuedSubscription
from forge_consensus.events.types import EVENT_TYPES, ConsensusEvent
from forge_consensus.service.consensus import ConsensusService
from forge_consensus.service.machines import MachineChoice
from forge_consensus.service.thread_node import ThreadNode

END_SECONDS_MAX: Final = 10.0
ORDERED: Final = "ordered"


class NodeThread:
    """A node as a `ConsensusService` on a thread. Its service, with its bus, lives as long as the cluster."""

    def __init__(self, settings: NodeSettings, machine: object, folder: Path) -> None:
        self.name = settings.node_id
        self.settings = settings
        self.machine = machine
        self.log = folder / f"{self.name}.log"
        self.lock = threading.Lock()
        self.paused = False
        """Never: a thread cannot be paused."""
        self.service = ConsensusService(
            settings.node_id,
            settings.cluster_id,
            settings.bind,
            settings.peers,
            settings.storage_path,
            lease_reads=settings.lease_reads,
            raft=settings.raft,
            storage=settings.storage,
        )
        self.listen()
        self.sink = logger.add(self.write, filter=self.is_ours, format="{time:HH:mm:ss.SSS} {level} {message}")

    def listen(self) -> None:
        """Write what the bus tells into the log, except what comes with every turn."""
        bus = self.service.bus
        kinds = (kind for kind in EVENT_TYPES.values() if kind not in FREQUENT)
        backlog = bus.backlog_of(QUEUE_MAX, "drop_oldest", BLOCK_MS_MAX)
        bus.attach(QueuedSubscription(Selection.of(*kinds), self.write_event, backlog))

    def is_ours(self, record: Any) -> bool:
        """Whether a line of the log is this node's."""
        extra = record["extra"]
        return (extra.get("node"), extra.get("cluster")) == (self.name, self.settings.cluster_id)

    def write_event(self, event: ConsensusEvent) -> None:
        """A line of the log for an event."""
        self.write(f"{datetime.now():%H:%M:%S.%f} {line_of(event)}\n")

    def write(self, text: str) -> None:
        """Append to the log."""
        with self.lock, self.log.open("a") as file:
            file.write(text)

    def log_text(self) -> str:
        """Everything that it told."""
        return self.log.read_text() if self.log.exists() else ""

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self.service.host is not None and self.service.failure is None

    def launch(self) -> None:
        """Start it, which returns when it serves."""
        made = self.machine
        if callable(made) and not isinstance(made, type):
            made = made()
        self.service.machine = MachineChoice(made)
        self.service.start()

    def wait_serving(self) -> None:
        """It serves."""

    def stop(self) -> None:
        """End it in order."""
        self.service.stop(END_SECONDS_MAX)

    def kill(self) -> None:
        """The hardest end that a thread has: an error between two turns.

        There is no last checkpoint, no event and no farewell, and what was on its way is lost; what was committed
        stays. Unlike a killed process it is never ended within a turn or a flush.
        """
        host = self.service.host
        if not self.running or not isinstance(host, ThreadNode):
            return
        base = host.node.base
        host.on_end = self.fell
        if base is not None:
            base.post(end_hard, self.name)
        host.thread.join(END_SECONDS_MAX)
        self.service.stop(END_SECONDS_MAX)

    def fell(self, failure: ConsensusError) -> None:
        """Its thread has ended while it was being killed: the service's `end`, without its line in the log.

        That line calls an operator, and here a test has what it ordered.
        """
        service = self.service
        if not failure.context.get(ORDERED):
            service.end(failure)
            return
        self.write(f"{datetime.now():%H:%M:%S.%f} {failure}\n")
        service.failure = failure
        service.failed.set()
        if service.client is not None:
            service.client.driver.end_soon(f"the node has ended: {failure}")
        if service.on_failure is not None:
            service.on_failure(failure)

    def close(self) -> None:
        """Let go of everything."""
        try:
            self.service.close(END_SECONDS_MAX)
        finally:
            logger.remove(self.sink)


def end_hard(name: str) -> None:
    """End the loop of the node's thread. Raises `OperationFailedError`, marked as ordered."""
    raise OperationFailedError(f"{name} was killed by its cluster", **{ORDERED: True})
