"""One node as a process of its own, with settings that the command line does not offer (tiny quotas, tiny maps)."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import replace
from typing import Any

from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import ConsensusError
from forge_consensus.events.bus import EventBus
from forge_consensus.service.node import Node, NodeSettings


def settings_of(arguments: argparse.Namespace) -> NodeSettings:
    """The settings that the arguments describe."""
    odd: dict[str, Any] = json.loads(arguments.settings)
    peers = dict(pair.split("=", 1) for pair in arguments.peers.split(",") if pair)
    return replace(
        NodeSettings(arguments.id, arguments.cluster, arguments.listen, peers, arguments.data),
        options=RaftSettings(**odd.pop("options", {})),
        limits=StorageSettings(**odd.pop("limits", {})),
        **odd,
    )


def main() -> int:
    """Run the node until SIGTERM; returns the exit code of what ended it."""
    parser = argparse.ArgumentParser()
    for name in ("id", "listen", "data"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--peers", default="")
    parser.add_argument("--cluster", default="default")
    parser.add_argument("--settings", default="{}")
    arguments = parser.parse_args()
    try:
        node = Node(settings_of(arguments), EventBus())
        node.open()
        signal.signal(signal.SIGTERM, lambda *_: node.stop("SIGTERM"))
        print(f"node {arguments.id} serving at {node.address}", flush=True)
        try:
            node.run()
        finally:
            node.close()
    except ConsensusError as error:
        print(f"error[{error.code}]: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
