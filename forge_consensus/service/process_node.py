"""The node in a process: a host that runs a node as a child process, so that nothing here can hold it up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from forge_consensus.config.node import NodeSettings
from forge_consensus.errors import (
    ConsensusError,
    ConsensusTimeoutError,
    NotStartedError,
    OperationFailedError,
    error_from_code,
)
from forge_consensus.events.bus import EventBus
from forge_consensus.service.child import blueprint_of
from forge_consensus.service.child_events import ChildEvents
from forge_consensus.service.machines import MachineChoice
from forge_consensus.service.thread_node import Glance, OnEnd

FRESH_S = 0.05
"""A status that is not older is not asked for again."""
KILL_S = 5.0
"""How long a killed process may take to be gone."""

Ask = Callable[[float], dict[str, Any]]
"""Asks the node for its status, within so many seconds."""


class ProcessNode:
    """One run of a node as a child process. `ask` is set when a client of it exists."""

    def __init__(self, settings: NodeSettings, choice: MachineChoice, bus: EventBus, on_end: OnEnd) -> None:
        self.bus = bus
        self.on_end = on_end
        self.blueprint = blueprint_of(settings, choice.path())
        self.node_id = settings.node_id
        self.process: subprocess.Popen[bytes] | None = None
        self.address = ""
        self.feed: ChildEvents | None = None
        self.settled = threading.Event()
        """It runs, or it could not be started."""
        self.running = False
        self.stopping = False
        self.error: ConsensusError | None = None
        self.last_events: list[bytes] = []
        self.reader: threading.Thread | None = None
        self.ask: Ask | None = None
        self.known: dict[str, Any] = {}
        self.known_at = 0.0

    @property
    def threads(self) -> tuple[threading.Thread | None, ...]:
        """The threads that must never wait for the node."""
        return (self.reader,)

    def start(self, timeout: float) -> None:
        """Start the process; raises the node's own error if it cannot be opened, `ConsensusTimeoutError`."""
        command = [sys.executable, "-m", "forge_consensus.service.child"]
        path = [str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
        self.process = process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self.reader = threading.Thread(target=self.read, name=f"forge-child-{self.node_id}", daemon=True)
        self.reader.start()
        with suppress(BrokenPipeError):  # it died at once: the reader tells
            stdin = cast("IO[bytes]", process.stdin)
            stdin.write(json.dumps(self.blueprint).encode() + b"\n")
            stdin.flush()
        in_time = self.settled.wait(timeout)
        if in_time and self.error is None:
            return
        self.end(KILL_S if in_time else 0.0)
        if self.error is not None and in_time:
            raise self.error
        raise ConsensusTimeoutError(
            f"the node's process did not serve within {timeout:g} s (a long log, a large snapshot, or a slow disk) "
            "and was ended: allow more time"
        )

    def stop(self, timeout: float) -> None:
        """Ask the process to stop, and kill it if it has not after so many seconds."""
        self.end(timeout)

    def end(self, timeout: float) -> None:
        """Close its input, which ends it, wait, and make sure."""
        self.stopping = True
        process = self.process
        if process is None:
            return
        with suppress(BrokenPipeError):
            cast("IO[bytes]", process.stdin).close()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(KILL_S)
        if self.reader is not None:
            self.reader.join(KILL_S)
        if self.feed is not None:
            self.feed.thread.join(KILL_S)

    # --- the reader's thread -----------------------------------------------------------------------------------------

    def read(self) -> None:
        """Take what the process says until it is gone."""
        process = cast("subprocess.Popen[bytes]", self.process)
        with cast("IO[bytes]", process.stdout) as lines:
            for line in lines:
                self.take(json.loads(line))
        code = process.wait()
        if self.feed is not None:
            self.feed.finish(self.last_events)
        if self.error is None and not (self.stopping and self.running):
            self.error = gone(process.pid, code)
        if self.running and not self.stopping and self.error is not None:
            self.on_end(self.error)
        self.settled.set()

    def take(self, row: dict[str, Any]) -> None:
        """One line."""
        if "open" in row:
            self.address = reachable(row["open"])
            self.feed = ChildEvents(reachable(row["events"]), self.bus)
        elif "running" in row:
            self.running = True
            self.settled.set()
        elif "error" in row:
            self.error = error_from_code(row["error"], row["text"], **row["context"])
        elif "event" in row:
            self.last_events.append(bytes.fromhex(row["event"]))

    # --- what it says of itself --------------------------------------------------------------------------------------

    def facts(self, timeout: float) -> dict[str, Any]:
        """The node's status, at most `FRESH_S` old. Raises what a client's `status` raises."""
        if self.ask is None:
            raise NotStartedError
        now = time.monotonic()
        if now - self.known_at > FRESH_S:
            self.known = self.ask(timeout)
            self.known_at = now
        return self.known

    def glance(self, timeout: float) -> Glance:
        """Who leads."""
        facts = self.facts(timeout)
        leading = facts["leader_id"] == facts["node_id"] and facts["role"] == "leader"
        return Glance(leading, facts["leader_id"], facts["role"], facts["term"])

    def port(self) -> None:
        """It is not in this process."""
        return


def reachable(address: str) -> str:
    """Where this machine reaches what listens there; every interface is also the loopback one."""
    host, _, port = address.rpartition(":")
    return f"{({'0.0.0.0': '127.0.0.1', '[::]': '[::1]'}).get(host, host)}:{port}"


def gone(pid: int, code: int) -> ConsensusError:
    """The error of a process that ended without a word."""
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    return OperationFailedError(f"the node's process {pid} {how}, unasked: see what it wrote to stderr; start it again")
