"""A node as a process of its own with a subscriber to all its events: one that counts, sleeps, or always raises."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence

from loguru import logger

from forge_consensus.config.node import NodeSettings
from forge_consensus.events.bus import EventBus
from forge_consensus.events.types import ConsensusEvent
from forge_consensus.service.node import Node

SLEEP_S = 1.0


class Counting:
    """Takes note of each event, as a subscriber does that has little to do."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, event: ConsensusEvent) -> None:
        self.seen += event.sequence > 0


def sleeping(event: ConsensusEvent) -> None:
    """Take one second for each event."""
    time.sleep(SLEEP_S)


def raising(event: ConsensusEvent) -> None:
    """Fail at each event."""
    raise ValueError(f"a subscriber that cannot take {event.kind}")


HANDLERS: dict[str, Callable[[ConsensusEvent], object]] = {
    "everything": Counting(),
    "sleeping": sleeping,
    "raising": raising,
}


def program(subscribers: Sequence[str]) -> list[str]:
    """What starts a node with these subscribers; a cluster adds the node's own arguments."""
    return [sys.executable, "-m", "tests.benchmarks.subscribed_node", *[f"--subscriber={one}" for one in subscribers]]


def main() -> None:
    """Run the node until SIGTERM."""
    parser = argparse.ArgumentParser()
    for name in ("id", "listen", "data", "peers", "cluster"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--subscriber", action="append", choices=[*HANDLERS], default=[])
    arguments, _ = parser.parse_known_args()  # the settings that a cluster adds are the defaults
    peers = dict(pair.split("=", 1) for pair in arguments.peers.split(","))
    bus = EventBus()
    for name in arguments.subscriber:
        bus.subscribe(ConsensusEvent, HANDLERS[name])
    node = Node(NodeSettings(arguments.id, arguments.cluster, arguments.listen, peers, arguments.data), bus)
    node.open()
    signal.signal(signal.SIGTERM, lambda *_: node.stop("SIGTERM"))
    print(f"serving {arguments.id} at {node.address}", flush=True)
    try:
        node.run()
    finally:
        node.close()
        bus.close(0.1)
        logger.complete()


if __name__ == "__main__":
    main()
