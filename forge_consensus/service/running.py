"""Running a node as the work of a whole process: open, say that it serves, run until it is asked to stop, close.

The command ``forge-consensus node`` and the child process of a service both run their node by this class.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

from forge_consensus.actors.runtime.engine import SettingsChange
from forge_consensus.config.node import NodeSettings
from forge_consensus.errors import NotStartedError
from forge_consensus.events.bus import EventBus
from forge_consensus.service.machines import MachineChoice
from forge_consensus.service.node import Node


class NodeRun:
    """One run of one node on the thread that calls `run`.

    Args:
        settings: the node's settings.
        machine: the state machine as ``module:Class``, empty for the built-in key-value machine.
        bus: where the node publishes its events; it stays open when the node has ended.
        announce: called with the open node before it runs, to tell somebody that it serves.
        counts: whether metrics are counted although the settings serve them nowhere.

    """

    def __init__(
        self,
        settings: NodeSettings,
        machine: str,
        bus: EventBus,
        announce: Callable[[Node], object],
        *,
        counts: bool = False,
    ) -> None:
        self.settings = settings
        self.machine = MachineChoice(machine or None)
        self.bus = bus
        self.announce = announce
        self.counts = counts
        self.node: Node | None = None
        self.serving = False
        """Whether the node is open; before that, `stop` takes effect only when opening is over."""
        self.stopping = False

    def stop(self, reason: str = "asked to") -> None:
        """Ask the node to stop; from any thread, also from a signal handler."""
        self.stopping = True
        if self.node is not None:
            self.node.stop(reason)

    def take_settings(self, change: SettingsChange, timeout: float) -> None:
        """Have the node take other settings; errors are those of `Node.take_settings`."""
        if self.node is None:
            raise NotStartedError
        self.node.take_settings(change, timeout)

    def run(self) -> None:
        """Run the node until `stop`. Raises what kept it from opening, or ended it otherwise."""
        self.node = node = Node(self.settings, self.bus, self.machine.fresh(), counts=self.counts)
        try:
            node.open()
            self.serving = True
            self.announce(node)
            gc.collect()
            gc.freeze()  # what exists now stays: later collections need not look at it
            if not self.stopping:
                node.run()
        finally:
            node.close()
