"""The child: the process that runs a service's node, told what to be by its first line and ended by the end of input.

Run as ``python -m forge_consensus.service.child``. The first line of its input is JSON (see `blueprint_of`); when the
input ends, or its parent is another process than before, it stops. Its output is lines of JSON: open, running, error,
event.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from typing import IO, Any

import zmq

from forge_consensus.config.node import NodeSettings
from forge_consensus.config.rows import from_row, to_row
from forge_consensus.errors import ConsensusError
from forge_consensus.events.bus import EventBus
from forge_consensus.events.encoding import to_msgpack
from forge_consensus.events.types import NodeStopped
from forge_consensus.service.node import Node
from forge_consensus.service.running import NodeRun
from forge_consensus.service.thread_node import typed

LOOK_SECONDS = 0.5
"""How often the child looks whether its parent is still the same."""
LISTENER_MS = 2000
"""How long it waits for its parent to listen, so that no event is missed."""
LINGER_SECONDS = 10.0
"""How long a node may take to stop after its parent is gone; then the process ends anyway."""


def blueprint_of(settings: NodeSettings, machine: str) -> dict[str, Any]:
    """What a child needs to know, as JSON can say it."""
    return {
        "settings": to_row(settings),
        "machine": machine,
        "parent": os.getpid(),
        "path": [entry or os.getcwd() for entry in sys.path],
    }


class Child:
    """One node and the two pipes to its parent."""

    def __init__(self, source: IO[bytes], sink: IO[bytes]) -> None:
        self.source = source
        self.sink = sink
        self.node_run: NodeRun | None = None
        self.stopping = False

    def say(self, **row: Any) -> None:
        """Tell the parent; if it is gone, it need not know."""
        try:
            self.sink.write(json.dumps(row).encode() + b"\n")
        except OSError:
            self.stop()

    def stop(self) -> None:
        """Have the node stop; from any thread, also from a signal handler."""
        self.stopping = True
        if self.node_run is not None:
            self.node_run.stop()

    def watch(self, parent: int) -> None:
        """Wait until the parent closes the pipe or is gone; then stop, and see to it that the process ends."""
        while os.getppid() == parent:
            ready, _, _ = select.select([self.source], [], [], LOOK_SECONDS)
            if ready and not self.source.read(1):
                break
        self.stop()
        time.sleep(LINGER_SECONDS)
        os._exit(75)

    def run(self, blueprint: dict[str, Any]) -> int:
        """Run the node; returns the exit code."""
        threading.Thread(target=self.watch, args=(blueprint["parent"],), name="forge-watch", daemon=True).start()
        bus = EventBus()
        bus.subscribe(NodeStopped, lambda event: self.say(event=to_msgpack(event).hex()), inline=True)
        try:
            settings = from_row(NodeSettings, blueprint["settings"])
            self.node_run = NodeRun(settings, blueprint["machine"], bus, self.announce)
            if self.stopping:  # asked before there was anything to stop
                self.node_run.stop()
            self.node_run.run()
        except Exception as fault:
            error = typed(fault)
            self.say(error=error.code, text=str(error), context=plain(error))
            return error.exit_code
        return 0

    def announce(self, node: Node) -> None:
        """Tell the parent where the node listens, and give it time to subscribe: so it hears of every event."""
        base = node.base
        assert base is not None, "the node is open"
        self.say(open=node.address, events=base.sockets.events_address)
        if base.sockets.publisher.poll(LISTENER_MS, zmq.POLLIN):
            base.serve_subscribers()
        self.say(running=True)


def plain(error: ConsensusError) -> dict[str, Any]:
    """The facts of an error, as far as JSON can say them."""
    return {name: value for name, value in error.context.items() if isinstance(value, bool | int | float | str | None)}


def main() -> int:
    """Take the pipes away from whatever else the process may print or read, and run."""
    source = os.fdopen(os.dup(0), "rb", buffering=0)
    sink = os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    line = source.readline()
    if not line.endswith(b"\n"):
        return 0
    blueprint = json.loads(line)
    sys.path[:] = blueprint["path"]
    child = Child(source, sink)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, and that decides
    signal.signal(signal.SIGTERM, lambda *_: child.stop())
    return child.run(blueprint)


if __name__ == "__main__":
    sys.exit(main())
