"""A node of a local cluster as a thread of this process: a service, and a file with its events and log lines."""

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
        """Always False, because a thread cannot be paused."""
        self.service = ConsensusService(
            settings.node_id,
            settings.cluster_id,
            settings.bind,
            settings.peers,
            settings.storage_path,
            lease_reads=settings.lease_reads,
            raft=settings.raft,
            storage=settings.storage,
            security=settings.security,
        )
        self.listen()
        self.sink = logger.add(self.write, filter=self.is_ours, format="{time:HH:mm:ss.SSS} {level} {message}")

    def listen(self) -> None:
        """Write the events of the bus into the log, except those that every turn publishes."""
        bus = self.service.bus
        kinds = (kind for kind in EVENT_TYPES.values() if kind not in FREQUENT)
        backlog = bus.backlog_of(QUEUE_MAX, "drop_oldest", BLOCK_MS_MAX)
        bus.attach(QueuedSubscription(Selection.of(*kinds), self.write_event, backlog))

    def is_ours(self, record: Any) -> bool:
        """Whether a line of the log belongs to this node."""
        extra = record["extra"]
        return (extra.get("node"), extra.get("cluster")) == (self.name, self.settings.cluster_id)

    def write_event(self, event: ConsensusEvent) -> None:
        """Write the log line of an event."""
        self.write(f"{datetime.now():%H:%M:%S.%f} {line_of(event)}\n")

    def write(self, text: str) -> None:
        """Append to the log file; any thread may call this."""
        with self.lock, self.log.open("a") as file:
            file.write(text)

    def log_text(self) -> str:
        """The log of all runs."""
        return self.log.read_text() if self.log.exists() else ""

    @property
    def running(self) -> bool:
        """Whether the service runs and has not failed."""
        return self.service.host is not None and self.service.failure is None

    def launch(self) -> None:
        """Start the service; it serves when this returns."""
        made = self.machine
        if callable(made) and not isinstance(made, type):
            made = made()
        self.service.machine = MachineChoice(made)
        self.service.start()

    def wait_serving(self) -> None:
        """Do nothing: a started service serves."""

    def stop(self) -> None:
        """End the service in order."""
        self.service.stop(END_SECONDS_MAX)

    def kill(self) -> None:
        """End the thread as hard as possible: by an error between two turns.

        There is no last checkpoint and no event, and frames in flight are lost; committed entries stay. Unlike a killed
        process, the thread never ends within a turn or a flush.
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
        """Handle the end of the thread during a kill: as the service's `end`, but without its error line in the log.

        That line alarms an operator, and here the test ordered the end.
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
        """Close the service and stop writing the log."""
        try:
            self.service.close(END_SECONDS_MAX)
        finally:
            logger.remove(self.sink)


def end_hard(name: str) -> None:
    """End the loop of the node's thread. Raises `OperationFailedError`, marked as ordered."""
    raise OperationFailedError(f"{name} was killed by its cluster", **{ORDERED: True})
