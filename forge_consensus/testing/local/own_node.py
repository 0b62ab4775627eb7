"""A node as a process of its own, with the settings and the state machine that the command line does not offer.

Run as ``python -m forge_consensus.testing.local.own_node SETTINGS MACHINE``: settings as JSON (see `settings_text`),
and ``module:Class`` or nothing. In all else it is what ``forge-consensus node`` is.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict
from typing import Any

from forge_consensus.cli.log_setup import configure_logging
from forge_consensus.errors import ConsensusError
from forge_consensus.events.bus import EventBus
from forge_consensus.events.log_lines import log_events
from forge_consensus.service.child import settings_of
from forge_consensus.service.machines import MachineChoice
from forge_consensus.service.node import Node, NodeSettings


def settings_text(settings: NodeSettings) -> str:
    """NodeSettings as an argument."""
    return json.dumps({**asdict(settings), "storage_path": str(settings.storage_path)})


def main(settings_json: str, machine: str) -> int:
    """Run the node until SIGTERM; returns the exit code of what ended it."""
    row: dict[str, Any] = json.loads(settings_json)
    configure_logging()
    bus = EventBus()
    log_events(bus)
    try:
        node = Node(settings_of(row), bus, MachineChoice(machine or None).fresh())
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        node.open()
        signal.signal(signal.SIGTERM, lambda *_: node.stop("SIGTERM"))
        print(f"serving {node.settings.node_id} of cluster {node.settings.cluster_id} at {node.address}", flush=True)
        try:
            node.run()
        finally:
            node.close()
    except ConsensusError as error:
        print(f"error[{error.code}]: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    finally:
        bus.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
