"""The lifecycle of a service: its settings, the host of its node and its client, from start to stop or to a failure."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, Self

from forge_consensus.actors.runtime.engine import SettingsChange
from forge_consensus.client.aio import AsyncClient
from forge_consensus.client.calls import TIMEOUT_SECONDS, check_timeout
from forge_consensus.client.surface import PublicSurface
from forge_consensus.client.sync import Client
from forge_consensus.config.changes import ReloadReport
from forge_consensus.config.client import ClientSettings
from forge_consensus.config.loading import LoadedConfig
from forge_consensus.config.node import BIND, NodeSettings
from forge_consensus.config.program import ProgramSettings
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.security import SecuritySettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import (
    AlreadyStartedError,
    ConsensusError,
    ConsensusTimeoutError,
    InvalidConfigError,
    NotStartedError,
    fresh,
)
from forge_consensus.events.bus import EventBus
from forge_consensus.events.types import BecameLeader, SnapshotCompleted
from forge_consensus.process.fork import keep, tell_of_forks
from forge_consensus.process.green import refuse_replaced_threads
from forge_consensus.process.log import LogLines
from forge_consensus.process.threads import ForgeThread
from forge_consensus.process.waiters import Latch
from forge_consensus.security.credentials import Credentials
from forge_consensus.service.blocking import refuse_to_wait
from forge_consensus.service.machines import MachineChoice
from forge_consensus.service.node_security import access_of, check_own_client, own_credentials
from forge_consensus.service.process_node import ProcessNode
from forge_consensus.service.reloading import SECONDS as RELOAD_SECONDS
from forge_consensus.service.reloading import Reloader
from forge_consensus.service.reports import Meter
from forge_consensus.service.thread_node import Host, ThreadNode

LINES = LogLines(__name__)

START_SECONDS = 30.0
STOP_SECONDS = 5.0
LEAVE_SECONDS = 1.0
"""How long a start that failed waits for its node to let go of folder and port."""

OnFailure = Callable[[ConsensusError], object]


def check_arguments(
    mode: object, timeout: float, raft: object, storage: object, client: object, security: object
) -> None:
    """Raise `InvalidConfigError` for what is no way to run a node, no time, or a section that is of another class."""
    if mode not in ("thread", "process"):
        raise InvalidConfigError(f"mode is {mode!r}: expected 'thread' or 'process'")
    check_timeout(timeout)
    given = (
        ("raft", raft, RaftSettings),
        ("storage", storage, StorageSettings),
        ("client", client, ClientSettings),
        ("security", security, SecuritySettings),
    )
    for name, value, kind in given:
        if not isinstance(value, kind | None):
            raise InvalidConfigError(f"{name} is {value!r}: it must be {kind.__module__}.{kind.__qualname__}(...)")


def checked_machine(state_machine: object, mode: str, settings: NodeSettings) -> MachineChoice:
    """Return the choice of the machine. Raises `InvalidConfigError` for what no process of its own can run."""
    choice = MachineChoice(state_machine)
    if mode == "process":
        choice.path()
        check_own_client(settings.security)
    return choice


class Held:
    """What a service that is dropped without `close` must let go of; it does not know the service."""

    host: Host | None = None

    def take_settings(self, change: SettingsChange, timeout: float) -> None:
        """Have the node take other settings. Raises `NotStartedError` if there is none, and as its host does."""
        host = self.host
        if host is None:
            raise NotStartedError
        host.take_settings(change, timeout)

    def drop(self, node_id: str) -> None:
        """Ask the node to stop, and wait for nothing, because the garbage collector runs on any thread."""
        host, self.host = self.host, None
        if host is not None:
            warnings.warn(
                f"the ConsensusService of node {node_id} was dropped while its node ran, so the node stops: keep it, "
                "and close it or use it in a with statement",
                ResourceWarning,
                stacklevel=2,
            )
            host.leave("its service was dropped")


def tell(end: weakref.WeakMethod[Any], failure: ConsensusError) -> None:
    """Tell a service how its node ended, if the service still exists."""
    method = end()
    if method is not None:
        method(failure)


class ServiceLifecycle(PublicSurface):
    """The part of `ConsensusService` that starts and stops its node; the arguments are explained there."""

    internal = frozenset(
        {
            "internal", "ask_barrier", "ask_status", "async_clients", "client", "client_now", "client_of",
            "client_settings", "count_events", "end", "failed", "forked", "held", "host", "leader_report", "leaving",
            "lease_driver", "lock", "machine", "meter", "own_credentials", "parent", "ready", "reloader", "running",
            "seen_index", "threads", "watch_client", "why",
        }
    )  # fmt: skip

    def __init__(
        self,
        node_id: str,
        cluster_id: str = "default",
        bind: str | None = None,
        peers: Mapping[str, str] | None = None,
        storage_path: str | Path = "data/consensus",
        state_machine: object = None,
        *,
        mode: Literal["thread", "process"] = "thread",
        lease_reads: bool = False,
        raft: RaftSettings | None = None,
        storage: StorageSettings | None = None,
        client: ClientSettings | None = None,
        timeout: float = TIMEOUT_SECONDS,
        forward: bool = True,
        on_failure: OnFailure | None = None,
        metrics: str | None = None,
        events_bind: str | None = None,
        http_url: str | None = None,
        security: SecuritySettings | None = None,
    ) -> None:
        check_arguments(mode, timeout, raft, storage, client, security)
        settings = NodeSettings(
            node_id=node_id,
            cluster_id=cluster_id,
            bind=bind or (peers.get(node_id, BIND) if isinstance(peers, Mapping) else BIND),
            peers={} if peers is None else peers,
            storage_path=storage_path,
            lease_reads=lease_reads,
            metrics=metrics,
            events_bind=events_bind,
            http_url=http_url,
            raft=raft or RaftSettings(),
            storage=storage or StorageSettings(),
            security=security or SecuritySettings(),
        )
        self.mode, self.machine = mode, checked_machine(state_machine, mode, settings)
        self.timeout, self.forward, self.client_settings, self.on_failure = timeout, forward, client, on_failure
        self.bus = EventBus()
        """Where the node's events are published. It outlives `stop`, and one may subscribe before `start`."""
        self.meter, self.failed = Meter(), Latch()
        self.failure: ConsensusError | None = None
        """What ended the node, if it ended by itself."""
        self.lock = threading.RLock()
        self.host: Host | None = None
        self.parent = 0
        """The process that this one was forked from while the node ran there; 0 for none."""
        self.leaving: Host | None = None
        """A host whose start failed; its node may still hold the folder for a moment."""
        self.client: Client | None = None
        self.async_clients, self.seen_index = weakref.WeakSet[AsyncClient](), 0
        self.held = Held()
        self.reloader = Reloader(LoadedConfig(settings, ProgramSettings(), (), {}), self.held.take_settings)
        self.count_events()
        tell_of_forks(self)
        # No thread knows this object, so that one that is dropped without `close` takes its node with it.
        weakref.finalize(self, self.held.drop, node_id).atexit = False

    @property
    def settings(self) -> NodeSettings:
        """The settings in force; `reload` changes some of them, a start after it the others."""
        return self.reloader.running.node

    # --- from start to stop ------------------------------------------------------------------------------------------

    def start(self, timeout: float = START_SECONDS) -> Self:
        """Open the node and run it; return when it serves, with or without a leader.

        A start that fails leaves nothing open. Raises `AlreadyStartedError`, `FolderLockedError`, `IdentityError`,
        `TransportUnavailableError`,
        `InvalidConfigError`, `CorruptionError`, `StorageError`, and `ConsensusTimeoutError` if it does not serve
        within `timeout` seconds.
        """
        refuse_to_wait("start", self.threads())
        refuse_replaced_threads(
            "a node", "run it with the command forge-consensus node, and use a Client here, which works"
        )
        with self.lock:
            if self.host is not None:
                if self.failure is None:
                    raise AlreadyStartedError
                self.stop()
            if self.bus.closed:
                self.bus = EventBus()
                self.count_events()
            if self.leaving is not None:
                self.leaving.stop(timeout)
            self.leaving = None
            self.failure = None
            self.failed.clear()
            kind = ThreadNode if self.mode == "thread" else ProcessNode
            self.parent = 0
            self.reloader.adopt()
            end = weakref.WeakMethod(self.end)
            self.host = host = self.held.host = kind(self.settings, self.machine, self.bus, lambda why: tell(end, why))
            try:
                host.start(timeout)
                host.serve_reloads(self.reloader.for_client)
                self.client = client = self.client_of(host)
            except BaseException:
                self.host, self.leaving, self.held.host = None, host, None
                with suppress(ConsensusTimeoutError):  # it took too long to start, and ends when it can
                    host.stop(LEAVE_SECONDS)
                raise
            if self.host is not host:  # a signal handler stopped it meanwhile
                self.client = None
                client.close()
                raise NotStartedError("the service was stopped while it started")
            if isinstance(host, ProcessNode):
                host.ask = lambda seconds: client.status(host.address, seconds)
            if self.failure is not None:  # the node ended before it knew of the client
                client.driver.end_soon(str(self.failure))
        return self

    def client_of(self, host: Host) -> Client:
        """Make the service's client, which goes to its own node first and to the others if need be."""
        node_id = self.settings.node_id
        others = [address for node, address in self.settings.peers.items() if node != node_id and self.forward]
        port = host.port()
        return Client(
            others if port is not None else [host.address, *others],
            self.timeout,
            self.settings.cluster_id,
            settings=self.client_settings,
            port=port,
            follow=self.forward,
            prefer=host.address,
            credentials=self.own_credentials(),
        )

    def own_credentials(self) -> Credentials | None:
        """What the service's clients show the nodes. Raises `InvalidConfigError` for files that cannot be."""
        security = self.settings.security
        if not (security.has_keys and security.client_key_file):
            return None
        host = self.host
        return own_credentials(security, host.node.access if isinstance(host, ThreadNode) else access_of(self.settings))

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """End the node; outstanding commands get errors. Does nothing if the node was not started.

        A node that leads hands its leadership over before, within an election timeout at most.
        A process that has not ended after `timeout` seconds is killed. A thread cannot be killed: then the call raises
        `ConsensusTimeoutError`.
        """
        refuse_to_wait("stop", self.threads())
        with self.lock:
            host, client = self.host, self.client
            if client is not None:
                client.driver.end_soon("the service was stopped")
            if host is not None:
                host.stop(timeout)
            if client is not None:
                client.close()
            self.host = self.client = self.held.host = None

    def close(self, timeout: float = STOP_SECONDS) -> None:
        """Stop the node and close the event bus, which ends all subscriptions."""
        self.stop(timeout)
        self.bus.close()

    def reload(
        self, settings: NodeSettings | LoadedConfig, *, dry_run: bool = False, timeout: float = RELOAD_SECONDS
    ) -> ReloadReport:
        """Have the running node take other settings, all of them in one step.

        Settings that are marked hot (see ``forge-consensus settings``) take effect at once. The others stay as they
        are, are named in the report, and are taken by the next `start`. ::

            storage = replace(service.settings.storage, snapshot_interval=60.0)
            report = service.reload(replace(service.settings, storage=storage))

        Args:
            settings: all settings of the node, or what `load_config` returned.
            dry_run: whether only to say what would change.
            timeout: seconds.

        Raises `InvalidConfigError` if hot values do not fit to those that only a restart changes, `NotStartedError`,
        `ConsensusTimeoutError` if the node is busy, `BlockingCallError`. Then nothing was changed.

        """
        refuse_to_wait("reload", self.threads())
        self.running()
        return self.reloader.take_config(settings, dry_run=dry_run, timeout=timeout)

    def update_config(self, settings: NodeSettings | LoadedConfig, timeout: float = RELOAD_SECONDS) -> ReloadReport:
        """Have the running node take other settings: `reload` by the name that the original gives it."""
        return self.reload(settings, timeout=timeout)

    def end(self, failure: ConsensusError) -> None:
        """Note that the node has ended by itself, and tell every waiting call; the host calls this on its thread."""
        self.failure = failure
        self.failed.set()
        LINES.critical("node {} has ended: {}: {}", self.settings.node_id, failure.code, failure)
        if self.client is not None:
            self.client.driver.end_soon(f"the node has ended: {failure}")
        if self.on_failure is not None:
            try:
                self.on_failure(failure)
            except Exception as error:
                LINES.error("on_failure raised", error=error)

    def forked(self) -> None:
        """In a child process: know nothing of the parent's node, which does not run here."""
        if self.host is not None or self.leaving is not None:
            keep(self.host, self.leaving, self.client)
            self.host = self.leaving = self.client = self.held.host = None
            self.parent = os.getppid()
        self.lock, self.reloader.lock = threading.RLock(), threading.Lock()  # who held them does not exist here

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or sent to another process."""
        raise TypeError(
            "a ConsensusService cannot be pickled or copied, because it is a running node: make a Client with its "
            "address in the other process"
        )

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    def running(self) -> Host:
        """Return the node's host. Raises what ended the node, or `NotStartedError`."""
        host = self.host
        if host is None and self.parent:
            raise NotStartedError(
                f"the node runs in process {self.parent}, which this one was forked from: ask there, or make a "
                "Client here"
            )
        if self.failure is not None:
            raise fresh(self.failure) from self.failure
        if host is None:
            raise NotStartedError
        return host

    def threads(self) -> tuple[ForgeThread | None, ...]:
        """The threads that must never wait for this service."""
        host, client = self.host, self.client
        return (*(host.threads if host else ()), client.driver.thread if client else None)

    def client_now(self) -> Client:
        """Return the client without waiting for a start that is under way; raises as `ready`."""
        self.running()
        if self.client is None:
            raise NotStartedError
        return self.client

    def ready(self, call: str = "") -> Client:
        """Return the client. Raises what `running` raises, and `BlockingCallError` if `call` must not wait here."""
        if call:
            refuse_to_wait(call, self.threads())
        self.running()
        client = self.client
        if client is None and self.lock.acquire(timeout=self.timeout):
            # Event handlers may call before `start` has returned: they wait for it here.
            try:
                client = self.client
            finally:
                self.lock.release()
        if client is None:
            raise NotStartedError
        return client

    def count_events(self) -> None:
        """Count what is known only from events: elections won and the time of the last snapshot."""
        meter, node_id = self.meter, self.settings.node_id

        def led(event: BecameLeader) -> None:
            meter.led += event.node_id == node_id

        def saved(event: SnapshotCompleted) -> None:
            meter.snapshot_at = event.time

        self.bus.subscribe(BecameLeader, led, inline=True)
        self.bus.subscribe(SnapshotCompleted, saved, inline=True)
