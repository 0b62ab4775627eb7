"""The child process of a service: it runs the service's node.

Run as ``python -m forge_consensus.service.child``. The first line of its input is JSON (see `blueprint_of`). It stops
when its input ends, and when its parent is another process than before, because the service is gone then. Its output
is lines of JSON: "open" with the node's addresses, "running", "error", "event" with its last events, and "log" with the
lines of its log, which are written where those of the parent are.

Each side may also ask the other, by a number: the parent says "take" with settings, which the child answers with
"taken"; the child says "reload" when a client wants that, which the parent answers with "report".
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Mapping
from itertools import count
from typing import IO, Any, cast

from forge_consensus.actors.runtime.engine import SettingsChange
from forge_consensus.config.node import NodeSettings
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.rows import from_row, to_row
from forge_consensus.config.security import SecuritySettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import BusyError, ConsensusError, NotStartedError
from forge_consensus.events.bus import EventBus
from forge_consensus.events.encoding import from_msgpack, to_msgpack
from forge_consensus.events.types import AuditRecorded, NodeStopped
from forge_consensus.process.bounded_writer import FLUSH_SECONDS
from forge_consensus.process.descriptors import raise_descriptor_limit
from forge_consensus.process.log import OUTLET, Line
from forge_consensus.service.answer import Answer
from forge_consensus.service.node import Node
from forge_consensus.service.running import NodeRun
from forge_consensus.service.thread_node import typed

LOOK_SECONDS = 0.5
"""How often the child checks that its parent is still the same process."""
LISTENER_SECONDS = 2.0
"""How long the child waits for its parent to subscribe to the events, so that the parent misses none."""
READ_BYTES = 1 << 16
ANSWER_SECONDS = 15.0
"""How long an answer of the parent is waited for."""
LINGER_SECONDS = 10.0
"""How long a node may take to stop after its parent is gone; then the process ends anyway."""


def blueprint_of(settings: NodeSettings, machine: str) -> dict[str, Any]:
    """Return what a child needs to know, as a dictionary that JSON can hold."""
    return {
        "settings": to_row(settings),
        "machine": machine,
        "parent": os.getpid(),
        "path": [entry or os.getcwd() for entry in sys.path],
    }


def change_row(change: SettingsChange) -> dict[str, Any]:
    """Return settings that a child is to take, as a dictionary that JSON can hold."""
    return {
        "raft": to_row(change.raft),
        "storage": to_row(change.storage),
        "pending_restart": list(change.pending_restart),
        "events": [to_msgpack(event).hex() for event in change.events],
        "security": None if change.security is None else to_row(change.security),
        "records": [to_msgpack(record).hex() for record in change.records],
    }


def change_of(row: Mapping[str, Any]) -> SettingsChange:
    """Return what `change_row` was given."""
    return SettingsChange(
        from_row(RaftSettings, row["raft"]),
        from_row(StorageSettings, row["storage"]),
        tuple(row["pending_restart"]),
        tuple(from_msgpack(bytes.fromhex(event)) for event in row["events"]),
        None if row["security"] is None else from_row(SecuritySettings, row["security"]),
        records=tuple(record_in(record) for record in row["records"]),
    )


def record_in(packed: str) -> AuditRecorded:
    """Return the record of the audit that a line has in hexadecimal."""
    return cast("AuditRecorded", from_msgpack(bytes.fromhex(packed)))


class Child:
    """One node and the two pipes to its parent."""

    def __init__(self, source: IO[bytes], sink: IO[bytes]) -> None:
        self.source = source
        self.sink = sink
        self.saying = threading.Lock()
        self.node_run: NodeRun | None = None
        self.node: Node | None = None
        """The node, once it is open."""
        self.stopping = False
        self.numbers = count(1)
        self.reports: dict[int, Answer] = {}
        """What the parent was asked, by number."""

    def say(self, **row: Any) -> None:
        """Write a line to the parent; if the parent is gone, stop."""
        left = json.dumps(row).encode() + b"\n"
        try:
            with self.saying:
                while left:
                    left = left[self.sink.write(left) :]
        except OSError:
            self.stop()

    def log(self, line: Line) -> None:
        """Send the parent a line of the log."""
        self.say(
            log=[line.level, line.text, line.module, line.function, line.number, line.time], extra=texts(line.extra)
        )

    def stop(self) -> None:
        """Ask the node to stop; from any thread, also from a signal handler."""
        self.stopping = True
        if self.node_run is not None:
            self.node_run.stop()

    def watch(self, parent: int) -> None:
        """Wait until the parent closes the pipe or is gone; then stop the node, and end the process if that hangs."""
        text = b""
        while os.getppid() == parent:
            ready, _, _ = select.select([self.source], [], [], LOOK_SECONDS)
            if not ready:
                continue
            more = self.source.read(READ_BYTES)
            if not more:
                break
            *lines, text = (text + more).split(b"\n")
            for line in lines:
                self.hear(json.loads(line))
        self.stop()
        time.sleep(LINGER_SECONDS)
        os._exit(75)

    def hear(self, row: dict[str, Any]) -> None:
        """Take one line of the parent's."""
        if "take" in row:
            work = threading.Thread(target=self.take, args=(row["take"], row), name="forge-take", daemon=True)
            try:
                work.start()
            except RuntimeError as fault:  # the process has no more threads
                self.say(taken=row["take"], code=BusyError.code, text=f"no thread could be started: {fault}")
        elif "audit" in row:
            if self.node is not None:
                self.node.record(record_in(row["audit"]))
        elif (answer := self.reports.get(row.get("report", 0))) is not None:
            answer.come(row)

    def take(self, number: int, row: dict[str, Any]) -> None:
        """Have the node take settings, and tell the parent what came of it."""
        code = text = ""
        try:
            if self.node_run is None:
                raise NotStartedError
            self.node_run.take_settings(change_of(row), row["seconds"])
        except Exception as fault:
            error = typed(fault)
            code, text = error.code, str(error)
        self.say(taken=number, code=code, text=text)

    def reload(self, dry_run: bool) -> dict[str, Any]:
        """Have the parent read the configuration again, because a client asks this node to. Raises `ConsensusError`."""
        number, answer = next(self.numbers), Answer()
        self.reports[number] = answer
        try:
            self.say(reload=number, dry_run=dry_run)
            row = answer.wait_for(ANSWER_SECONDS)
        finally:
            del self.reports[number]
        fields: dict[str, Any] = row["fields"]
        return fields

    def run(self, blueprint: dict[str, Any]) -> int:
        """Run the node and return the exit code of the process."""
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
            OUTLET.writer.flush(FLUSH_SECONDS)
            self.say(error=error.code, text=str(error), context=plain(error))
            return error.exit_code
        return 0

    def announce(self, node: Node) -> None:
        """Tell the parent where the node listens, and give it time to subscribe: so it hears of every event."""
        base = node.base
        assert base is not None, "the node is open"
        node.serve_reloads(self.reload)
        self.node = node
        self.say(open=node.address, events=base.sockets.events_address)
        base.await_subscriber(LISTENER_SECONDS)
        self.say(running=True)


def texts(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is bound to a line, as far as JSON can hold it, the rest as texts."""
    return {
        name: value if isinstance(value, bool | int | float | str | None) else str(value)
        for name, value in extra.items()
    }


def plain(error: ConsensusError) -> dict[str, Any]:
    """Return the facts of an error, as far as JSON can hold them."""
    return {name: value for name, value in error.context.items() if isinstance(value, bool | int | float | str | None)}


def main() -> int:
    """Take the pipes to the parent away from whatever else in this process prints or reads, and run the node."""
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
    OUTLET.target = child.log
    raise_descriptor_limit()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal's reach the parent too, which decides what they mean
    signal.signal(signal.SIGTERM, lambda *_: child.stop())
    return child.run(blueprint)


if __name__ == "__main__":
    sys.exit(main())
