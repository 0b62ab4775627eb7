"""The extension: a node inside an application, from its configuration to its web server's start and stop."""

from __future__ import annotations

import asyncio
import importlib
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from forge_consensus.client.cluster_info import ClusterInfo
from forge_consensus.client.surface import PublicSurface
from forge_consensus.config.changes import ReloadReport
from forge_consensus.config.loading import ConfigSource, LoadedConfig
from forge_consensus.config.options import from_options
from forge_consensus.errors import AlreadyStartedError, ConsensusError, FolderLockedError, InvalidConfigError
from forge_consensus.events.bus import EventBus
from forge_consensus.middleware import LeadershipMiddleware
from forge_consensus.missing import missing_extra
from forge_consensus.process.log import LogLines
from forge_consensus.service.config_watch import ConfigWatcher
from forge_consensus.service.consensus import ConsensusService
from forge_consensus.service.leadership import LeadershipChecker
from forge_consensus.service.lifecycle import START_SECONDS, STOP_SECONDS
from forge_consensus.service.reloading import SECONDS as RELOAD_SECONDS
from forge_consensus.service.reports import ConsensusStats, HealthStatus
from forge_consensus.storage.machines.machine import Command

if TYPE_CHECKING:
    from forge_consensus.admin.api import Api
    from forge_consensus.admin.server import AdminServer
    from forge_consensus.middleware.asgi import AsgiApp

LINES = LogLines(__name__)

METRICS: Final = (
    "node_id", "cluster_id", "role", "term", "leader_id", "commit_index", "last_applied", "cluster_size",
    "healthy_nodes", "has_quorum", "elections_total", "operations_total", "operations_per_sec", "average_latency_ms",
    "error_rate",
)  # fmt: skip
"""What the original's `Metrics` tells."""
WORKERS: Final = (
    "a server with several workers starts the application in each, and one folder has one node. Run the node beside "
    "the server (forge-consensus node) and let the workers be clients (Client, AsyncClient), or run one worker"
)
Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


class ConsensusExtension(PublicSurface):
    """A node in an application, with its checker and its middleware (Extension of the Go original).

    An ASGI framework starts and stops it by its lifespan::

        consensus = ConsensusExtension(config="config.yaml")
        app = FastAPI(lifespan=consensus.lifespan)
        app.add_middleware(consensus.middleware.read_only_routing())

    Elsewhere call `start` and `stop`, or use it in a ``with`` statement. Several extensions can run in one process,
    each with a folder of its own.

    Args:
        config: a YAML file as the Go original's, or several, or what `load_config` returned; None for none.
        require_config: whether a file that is not there is an error; otherwise the arguments alone count then.
        state_machine: what commands are applied to; None for what the configuration names, or the built-in one.
        mode: "thread" runs the node on a thread of this process, "process" as a child process, which the
            application's own computing cannot slow down.
        wait_for_leader: how many seconds `start` waits for a leader; 0 for not at all. None leading is no error.
        options: settings by name, which win over the file, such as ``node_id="n1"``, ``peers={...}`` (or a list of
            ``{"id": "n1", "address": "10.0.0.1", "port": 7001}``), ``http_url="http://10.0.0.1:8000"``,
            ``raft={"heartbeat_interval": "50ms"}``, and the original's ``bind_address`` (HOST:PORT or
            ``(host, port)``), ``transport_type``, ``discovery_type``, ``storage_type``, ``storage_path``, ``tls``
            (a switch, or ``(cert_file, key_file)``) and ``mtls`` (a switch, or the ``ca_file``). See `load_config`.

    Raises `InvalidConfigError`, with every fault of the configuration. Nothing is opened before `start`.

    """

    internal = frozenset(
        {
            "internal",
            "loaded",
            "seconds_for_leader",
            "admin",
            "mounted",
            "start_admin",
            "stop_admin",
            "watcher",
            "stop_beside",
        }
    )

    def __init__(
        self,
        config: str | Path | list[str | Path] | LoadedConfig | None = None,
        *,
        require_config: bool = False,
        state_machine: object = None,
        mode: Literal["thread", "process"] = "thread",
        wait_for_leader: float = 5.0,
        **options: Any,
    ) -> None:
        given = loaded(config, options, require_config=require_config)
        arguments = given.arguments()
        if state_machine is not None:
            arguments["state_machine"] = state_machine
        self.service = ConsensusService(**arguments, mode=mode)
        """The node and a client of its cluster."""
        self.checker = LeadershipChecker(self.service)
        self.middleware = LeadershipMiddleware(self.checker)
        self.service.reloader.begin_with(given)
        self.watcher: ConfigWatcher | None = None
        self.seconds_for_leader = wait_for_leader
        self.admin: AdminServer | None = None
        self.mounted: list[Api] = []

    def __repr__(self) -> str:
        """The service inside."""
        return f"<ConsensusExtension of {self.service!r}>"

    # --- from start to stop ------------------------------------------------------------------------------------------

    def start(self, timeout: float = START_SECONDS) -> Self:
        """Start the node, and wait a moment for a leader; errors are those of `ConsensusService.start`."""
        if self.service.host is not None:
            raise AlreadyStartedError
        self.service.reloader.adopt()
        for note in self.loaded.notes:
            LINES.info("{}", note)
        try:
            self.start_admin()
            self.service.start(timeout)
        except BaseException as error:
            self.stop_admin()
            if isinstance(error, FolderLockedError):
                raise FolderLockedError(f"{error} ({WORKERS})", **error.context) from error
            raise
        self.start_watch()
        if self.admin is not None:
            self.admin.serve_service(self.service)
        if self.seconds_for_leader > 0:
            try:
                self.service.wait_for_leader(self.seconds_for_leader)
            except ConsensusError as error:  # it serves all the same, and says itself that nobody leads
                LINES.warning("{}", error)
        return self

    def start_admin(self) -> None:
        """Serve the admin API where the configuration says. Raises `ConsensusError` for an address that cannot be."""
        if self.loaded.program.admin_api.address is not None:
            server: type[AdminServer] = admin_part("forge_consensus.admin.server", "AdminServer")
            self.admin = server.of(self.loaded)
            assert self.admin is not None, "there is an address"
            self.admin.start()  # closes itself if it fails

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """Stop the node; it hands its leadership over before, within an election timeout."""
        self.stop_beside()
        self.service.stop(timeout)

    def close(self) -> None:
        """Stop the node and end all subscriptions to its events."""
        self.stop_beside()
        self.service.close()

    def start_watch(self) -> None:
        """Read the configuration again when its files change."""
        if not self.service.reloader.files:
            return
        watcher = ConfigWatcher(self.service.reloader)
        try:
            watcher.start()
        except ConsensusError as error:  # the node runs all the same
            LINES.warning("changes of the configuration's files are not noticed: {}", error)
            return
        self.watcher = watcher
        weakref.finalize(self, watcher.leave).atexit = False  # for an extension that is dropped

    def reload(self, *, dry_run: bool = False, timeout: float = RELOAD_SECONDS) -> ReloadReport:
        """Read the configuration again from where it was given, and have the node take it (the original's `Reload`).

        Settings that are marked hot (see ``forge-consensus settings``) take effect at once, all in one step. The others
        stay as they are, are named in the report, and are taken by the next `start`. This is done by itself when the
        files change (`reload.watch`). A signal handler must not wait, so it calls `reload_soon`.

        Args:
            dry_run: whether only to say what would change.
            timeout: seconds.

        Raises `InvalidConfigError` with every fault, or where no file was given; `NotStartedError`;
        `ConsensusTimeoutError`. Then nothing was changed.

        """
        self.service.running()
        return self.service.reloader.reload("call", dry_run=dry_run, timeout=timeout)

    def reload_soon(self) -> None:
        """Have the configuration read again, and wait for nothing: for a signal handler, such as that of SIGHUP.

        What came of it is told as an event. Nothing happens where no file was given, or while the node does not run.
        """
        if self.watcher is not None:
            self.watcher.ask("call")

    def stop_beside(self) -> None:
        """End what runs beside the node: the watch of the files, and the admin API."""
        if self.watcher is not None:
            self.watcher.stop()
            self.watcher = None
        self.stop_admin()

    def stop_admin(self) -> None:
        """Serve the admin API no more."""
        if self.admin is not None:
            self.admin.close()
            self.admin = None

    def admin_api(self, *, insecure: bool = False) -> AsgiApp:
        """Return the admin API as an ASGI application, for ``app.mount("/consensus", consensus.admin_api())``.

        The application's server must run `lifespan`. With ``admin_api.bind`` in the configuration the API has a server
        of its own instead, on a thread of its own, and nothing has to be mounted.

        Args:
            insecure: whether requests from other machines are answered that did not come over TLS, or where nobody is
                asked who they are: then whoever reaches the application can remove members and write keys.

        Raises `InvalidConfigError` where the extra ``admin`` is not installed.

        """
        made: Api = admin_part("forge_consensus.admin.api", "Api")(
            hosts=self.loaded.http_names(),
            only_local=not insecure,
            mounted=True,
            admission=admin_part("forge_consensus.admin.admission", "Admission").of(self.loaded),
        )
        self.mounted.append(made)
        return made

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[dict[str, Any]]:
        """Run the node for as long as an ASGI application lives: the ``lifespan`` of FastAPI and Starlette.

        Handlers find the extension as ``request.state.consensus``, and it is ``app.state.consensus`` too.
        """
        await asyncio.to_thread(self.start)
        for api in self.mounted:
            api.serve_service(self.service)
        try:
            if hasattr(app, "state"):
                app.state.consensus = self
            yield {"consensus": self}
        finally:
            try:
                for api in self.mounted:
                    await api.close()
            finally:
                await asyncio.to_thread(self.close)

    def register(self, app: Any) -> Self:
        """Make an application that exists know this extension (the original's `Register`).

        FastAPI and Starlette start and stop the node with themselves then, around a lifespan that they have, as with
        ``FastAPI(lifespan=consensus.lifespan)``. Flask has it as ``app.extensions["consensus"]``; it does not say when
        its server begins and ends, so `start` and `close` are called besides.

        Args:
            app: the application; it does not run yet.

        Raises `InvalidConfigError` for what is no such application.

        """
        router, extensions = getattr(app, "router", None), getattr(app, "extensions", None)
        if router is not None and hasattr(router, "lifespan_context"):
            router.lifespan_context = self.around(router.lifespan_context)
        elif isinstance(extensions, dict):
            extensions["consensus"] = self
        else:
            raise InvalidConfigError(
                f"{type(app).__name__} has neither a lifespan nor extensions: call start() before its server and "
                "close() after it"
            )
        return self

    def around(self, lifespan: Lifespan) -> Lifespan:
        """Return a lifespan that runs another one of the application's inside this one."""

        @asynccontextmanager
        async def both(app: Any) -> AsyncIterator[dict[str, Any]]:
            async with AsyncExitStack() as stack:
                found = await stack.enter_async_context(self.lifespan(app))
                more = await stack.enter_async_context(lifespan(app))
                yield {**found, **(more or {})}

        return both

    # --- what it tells -----------------------------------------------------------------------------------------------

    @property
    def loaded(self) -> LoadedConfig:
        """The configuration in force."""
        return self.service.reloader.running

    @property
    def events(self) -> EventBus:
        """The event bus of the node; one may subscribe before `start`."""
        return self.service.bus

    def health(self) -> HealthStatus:
        """Return how the node fares. It never raises; a node that does not run is unhealthy."""
        return self.service.get_health_status()

    def metrics(self) -> dict[str, Any]:
        """Return the numbers that the original's `Metrics` tells, by name; Prometheus has more (``metrics=``)."""
        stats = asdict(self.service.get_stats())
        return {name: stats[name] for name in METRICS}

    def dependencies(self) -> tuple[str, ...]:
        """Return the other extensions that this one needs: none, because it brings its events along."""
        return ()

    def is_leader(self) -> bool:
        """Whether this node leads; False also where it does not answer."""
        return self.service.is_leader()

    def get_leader(self) -> str | None:
        """Return the leader's node id; None if this node knows of none."""
        return self.service.get_leader()

    def get_role(self) -> str:
        """Return this node's role: "follower", "candidate" or "leader"."""
        return self.service.get_role()

    def get_stats(self) -> ConsensusStats:
        """Return the numbers of the node, and those of this application's own operations."""
        return self.service.get_stats()

    def get_cluster_info(self) -> ClusterInfo:
        """Return the cluster as this node sees it."""
        return self.service.get_cluster_info()

    def apply(self, command: Command, timeout: float | None = None) -> Any:
        """Carry out a command and return what the state machine returned; errors are those of the service."""
        return self.service.apply(command, timeout)

    def read(self, query: Any, consistency: str = "linearizable", timeout: float | None = None) -> Any:
        """Answer a query; arguments and errors are those of `ConsensusService.read`, which takes more of them."""
        return self.service.read(query, consistency, timeout)


def admin_part(module: str, name: str) -> Any:
    """Return a part of the admin API. Raises `InvalidConfigError` where its packages are not installed."""
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise InvalidConfigError(missing_extra(error, "admin", "the admin API")) from error


def loaded(config: object, options: Mapping[str, Any], *, require_config: bool) -> LoadedConfig:
    """Return the configuration of files and options. Raises `InvalidConfigError`."""
    if isinstance(config, LoadedConfig):
        if options:
            raise InvalidConfigError(
                f"{', '.join(sorted(options))} and a loaded configuration are both given: give the options to "
                "load_config"
            )
        return config
    given: list[Any] = [] if config is None else list(config) if isinstance(config, list | tuple) else [config]
    if require_config and not given:
        raise InvalidConfigError("require_config is given and config names no file: name one")
    source = ConfigSource(given, None, from_options(options), optional=not require_config)
    found = source.load()
    for path in source.files:
        if path not in source.existed:
            LINES.info("there is no file {}: the arguments and the environment alone count", path)
    return found
