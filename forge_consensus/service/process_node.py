"""A host that runs a node as a child process, so that the application's own computing cannot slow the node down."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import IO, Any, cast

from forge_consensus.actors.runtime.actor import ReloadConfiguration
from forge_consensus.actors.runtime.engine import SettingsChange
from forge_consensus.actors.runtime.status import NodeStatus
from forge_consensus.config.node import NodeSettings
from forge_consensus.config.security import SecuritySettings
from forge_consensus.errors import (
    ConsensusError,
    ConsensusTimeoutError,
    NotStartedError,
    OperationFailedError,
    error_from_code,
)
from forge_consensus.events.bus import EventBus
from forge_consensus.events.encoding import to_msgpack
from forge_consensus.events.types import AuditRecorded
from forge_consensus.process.descriptors import require_descriptors
from forge_consensus.process.fork import close_descriptor, keep, tell_of_forks
from forge_consensus.process.interpreter import python
from forge_consensus.process.log import OUTLET, Line
from forge_consensus.process.threads import ForgeThread
from forge_consensus.process.waiters import Latch
from forge_consensus.security.curve import KeyPair, read_key_file
from forge_consensus.service.answer import Answer
from forge_consensus.service.child import blueprint_of, change_row
from forge_consensus.service.child_events import ChildEvents
from forge_consensus.service.machines import MachineChoice
from forge_consensus.service.node_security import own_keys
from forge_consensus.service.thread_node import LeaderReport, OnEnd

FRESH_SECONDS = 0.05
"""A status that is younger is used again, so that many questions in a row cost one message."""
DESCRIPTORS = 20
"""What the pipes to the process and the subscription to its events take."""
KILL_SECONDS = 5.0
"""How long to wait for a killed process to be gone."""
ANSWER_SECONDS = 1.0
"""How much longer than the process may take its answer is waited for."""

Ask = Callable[[float], dict[str, Any]]
"""Asks the node for its status and waits for at most so many seconds; see `Client.status`."""


class ProcessNode:
    """One run of a node as a child process.

    The service sets `ask` when it has a client of the node; before that the status is not available.
    """

    def __init__(self, settings: NodeSettings, choice: MachineChoice, bus: EventBus, on_end: OnEnd) -> None:
        self.bus = bus
        self.on_end = on_end
        self.blueprint = blueprint_of(settings, choice.path())
        self.node_id = settings.node_id
        self.security = settings.security
        self.process: subprocess.Popen[bytes] | None = None
        self.gone = Latch()
        """Set when the process is gone. Only the reader's thread waits for the process itself, because that takes a
        lock, which a signal handler must not wait for."""
        self.address = ""
        self.feed: ChildEvents | None = None
        self.settled = Latch()
        """Set when the node serves, and when it failed to start."""
        self.running = False
        self.stopping = False
        self.error: ConsensusError | None = None
        self.last_events: list[bytes] = []
        self.reader: ForgeThread | None = None
        self.ask: Ask | None = None
        self.known: NodeStatus | None = None
        self.known_at = 0.0
        self.reload: ReloadConfiguration | None = None
        self.writing = threading.Lock()
        self.numbers = count(1)
        self.answers: dict[int, Answer] = {}
        """What the process was asked, by number."""
        tell_of_forks(self)

    @property
    def threads(self) -> tuple[ForgeThread | None, ...]:
        """The threads that must never wait for the node."""
        return (self.reader,)

    def start(self, timeout: float) -> None:
        """Start the process and wait until its node serves.

        Raises the node's own error if it cannot be opened, `ConsensusTimeoutError` after `timeout` seconds.
        """
        command = [python(), "-m", "forge_consensus.service.child"]
        path = [entry or os.getcwd() for entry in sys.path]  # for an interpreter that has other folders of its own
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
        require_descriptors(DESCRIPTORS, "a node in a process of its own")
        try:
            # Without buffers, because they have locks, which a signal handler that stops the node must not wait for.
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0
            )
        except OSError as error:
            raise OperationFailedError(
                f"the node's process could not be started with {command[0]}: {error}: check that file, or use "
                "mode='thread'"
            ) from error
        self.process = process
        self.reader = ForgeThread(target=self.read, name=f"forge-child-{self.node_id}")
        try:
            self.reader.start()
        except BaseException:
            self.reader = None
            process.kill()
            process.communicate()
            raise
        self.write(self.blueprint)
        in_time = self.settled.wait(timeout)
        if in_time and self.error is None:
            return
        self.end(KILL_SECONDS if in_time else 0.0)
        if self.error is not None and in_time:
            raise self.error
        raise ConsensusTimeoutError(
            f"the node's process did not serve within {timeout:g} s (a long log, a large snapshot, or a slow disk) "
            "and was ended: allow more time"
        )

    def write(self, row: dict[str, Any]) -> None:
        """Write a line to the process; if it is gone, the reader finds out why."""
        process = self.process
        if process is None or process.stdin is None:
            return
        left = json.dumps(row).encode() + b"\n"
        with self.writing, suppress(BrokenPipeError, ValueError):  # ValueError: the pipe was closed, to end the process
            while left:
                left = left[process.stdin.write(left) :]

    def take_settings(self, change: SettingsChange, timeout: float) -> None:
        """Have the node take other settings.

        Raises `NotStartedError`, and `ConsensusTimeoutError` if the node is busy, or its process does not answer.
        """
        if not self.running or self.stopping or self.gone.is_set():
            raise NotStartedError
        number, answer = next(self.numbers), Answer()
        self.answers[number] = answer
        try:
            self.write({"take": number, "seconds": timeout, **change_row(change)})
            if self.gone.is_set():
                answer.never()
            answer.wait_for(timeout + ANSWER_SECONDS)
        finally:
            del self.answers[number]

    def serve_reloads(self, reload: ReloadConfiguration) -> None:
        """Let clients have the configuration read again."""
        self.reload = reload

    def record(self, record: AuditRecorded) -> None:
        """Have the node record something in its audit."""
        self.write({"audit": to_msgpack(record).hex()})

    def report(self, number: int, dry_run: bool) -> None:
        """Have the configuration read, because a client asks the node to, and tell the process what came of it."""
        fields: dict[str, Any] | None = None
        code = text = ""
        try:
            if self.reload is None:
                raise NotStartedError
            fields = self.reload(dry_run)
        except ConsensusError as error:
            code, text = error.code, str(error)
        self.write({"report": number, "fields": fields, "code": code, "text": text})

    def stop(self, timeout: float) -> None:
        """Ask the process to stop; kill it after `timeout` seconds."""
        self.end(timeout)

    def leave(self, reason: str) -> None:
        """Ask the process to stop, and wait for nothing."""
        self.stopping = True
        if self.process is not None and self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()

    def end(self, timeout: float) -> None:
        """Close the process's input, which asks it to end, wait, and kill it if need be."""
        self.stopping = True
        process = self.process
        if process is None:
            return
        with suppress(BrokenPipeError):
            cast("IO[bytes]", process.stdin).close()
        if not self.gone.wait(timeout):
            process.kill()
            self.gone.wait(KILL_SECONDS)
        if self.reader is not None:
            self.reader.join(KILL_SECONDS)
        if self.feed is not None:
            self.feed.thread.join(KILL_SECONDS)

    def forked(self) -> None:
        """Close the pipes in a child process: the node ends when the last copy of its input is closed."""
        if self.process is not None:
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None and not pipe.closed:
                    close_descriptor(pipe.fileno())
            keep(self.process, self.reader)
            self.process = self.reader = None
        self.stopping = True

    # --- the reader's thread -----------------------------------------------------------------------------------------

    def read(self) -> None:
        """Take the lines that the process writes until it is gone."""
        process = cast("subprocess.Popen[bytes]", self.process)
        with io.BufferedReader(cast("io.RawIOBase", process.stdout)) as lines:
            for line in lines:
                self.take(json.loads(line))
        code = process.wait()
        self.gone.set()
        for answer in list(self.answers.values()):
            answer.never()
        if self.feed is not None:
            self.feed.finish(self.last_events)
        if self.error is None and not (self.stopping and self.running):
            self.error = gone(process.pid, code)
        if self.running and not self.stopping and self.error is not None:
            self.on_end(self.error)
        self.settled.set()

    def take(self, row: dict[str, Any]) -> None:
        """Take one line; see `forge_consensus.service.child`."""
        if "open" in row:
            self.address = reachable(row["open"])
            self.feed = ChildEvents(reachable(row["events"]), self.bus, *event_keys(self.security))
        elif "running" in row:
            self.running = True
            self.settled.set()
        elif "error" in row:
            self.error = error_from_code(row["error"], row["text"], **row["context"])
        elif "taken" in row:
            if (answer := self.answers.get(row["taken"])) is not None:
                answer.come(row)
        elif "reload" in row:
            args = (row["reload"], row["dry_run"])
            try:
                ForgeThread(target=self.report, args=args, name="forge-reload").start()
            except ConsensusError as error:  # this process has no more threads
                self.write({"report": row["reload"], "fields": None, "code": error.code, "text": str(error)})
        elif "event" in row:
            self.last_events.append(bytes.fromhex(row["event"]))
        elif "log" in row:
            level, text, module, function, number, moment = row["log"]
            OUTLET.put(Line(level, text, module, function, number, moment, row["extra"]))

    # --- what it says of itself --------------------------------------------------------------------------------------

    def status(self, timeout: float) -> NodeStatus:
        """Return the node's status, at most `FRESH_SECONDS` old. Raises what `Client.status` raises."""
        if self.ask is None:
            raise NotStartedError
        asked_at = time.monotonic()
        return self.fresh() or self.note(self.ask(timeout), asked_at)

    def fresh(self) -> NodeStatus | None:
        """Return the last status, if it is at most `FRESH_SECONDS` old."""
        return self.known if time.monotonic() - self.known_at <= FRESH_SECONDS else None

    def note(self, found: dict[str, Any], asked_at: float) -> NodeStatus:
        """Note the status that the node answered to a question of that moment."""
        self.known, self.known_at = NodeStatus.from_dict(found), asked_at
        return self.known

    def leader_report(self, timeout: float) -> LeaderReport:
        """Return who leads, from a status that is at most `FRESH_SECONDS` old."""
        return self.report_of(self.status(timeout))

    @staticmethod
    def report_of(status: NodeStatus) -> LeaderReport:
        """Return who leads, as a status has it."""
        leading = status.leader_id == status.node_id and status.role == "leader"
        url = next((row.http_url for row in status.nodes if row.id == status.leader_id), "")
        return LeaderReport(
            leading, status.leader_id, status.role, status.term, url, status.last_contact, status.commit_index
        )

    def port(self) -> None:
        """Return None, because the node is in another process."""
        return


def event_keys(security: SecuritySettings) -> tuple[KeyPair | None, str]:
    """Return with which keys this process listens to the node's events, and the public key of the node."""
    keys = own_keys(security)
    if keys is None or not security.client_key_file:
        return None, ""
    return read_key_file(security.client_key_file), keys.public


def reachable(address: str) -> str:
    """Return where this machine reaches an address: what listens on every interface, by the loopback interface."""
    host, _, port = address.rpartition(":")
    return f"{({'0.0.0.0': '127.0.0.1', '[::]': '[::1]'}).get(host, host)}:{port}"


def gone(pid: int, code: int) -> ConsensusError:
    """Return the error for a process that ended without reporting one."""
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    return OperationFailedError(f"the node's process {pid} {how}, unasked: see what it wrote to stderr; start it again")
