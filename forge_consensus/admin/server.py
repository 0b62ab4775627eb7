"""The server of the API: a thread with an event loop and a socket that was bound before; `close` ends it."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import uvicorn

from forge_consensus.actors.runtime.refusals import Refusals
from forge_consensus.admin.admission import Admission
from forge_consensus.admin.api import Api
from forge_consensus.admin.connections import bounded_connections
from forge_consensus.admin.entrance import Entrance
from forge_consensus.admin.subject import NodeSeat, Seat, ServiceSeat
from forge_consensus.config.address import is_loopback
from forge_consensus.config.loading import LoadedConfig
from forge_consensus.errors import InvalidConfigError, TransportUnavailableError
from forge_consensus.events.metrics.metrics import NodeMetrics
from forge_consensus.events.metrics.page import MetricPage
from forge_consensus.events.metrics.server import split_address
from forge_consensus.process.fork import close_descriptor, tell_of_forks
from forge_consensus.process.log import LogLines
from forge_consensus.process.threads import ForgeThread
from forge_consensus.process.waiters import Latch
from forge_consensus.security.networks import network_of
from forge_consensus.security.tls import ServerTls, TlsFiles
from forge_consensus.service.consensus import ConsensusService
from forge_consensus.service.node import Node
from forge_consensus.service.reloading import Reloader

LINES = LogLines(__name__)

BACKLOG: Final = 256
KEEP_ALIVE_SECONDS: Final = 8
GRACE_SECONDS: Final = 1
"""How long requests that are under way may take when the server closes."""
STOP_SECONDS_MAX: Final = 4.0
START_SECONDS_MAX: Final = 10.0
LOOK_SECONDS: Final = 1.0
"""The files of TLS are looked at so often."""
LOOPBACK: Final = (
    "it is reached from other machines, so it must ask for tokens (admin_api.enable_auth) and be served over TLS "
    "(security.enable_tls): switch on both, or give 127.0.0.1 and a tunnel or a proxy that asks who it is, or say "
    "--insecure (admin_api.insecure: true) in a network where you trust everybody"
)


class AdminServer:
    """The API of one node at one address.

    The socket is bound when this is made, so that an address that cannot be is refused before a node is opened.

    Args:
        address: HOST:PORT; port 0 takes a free one.
        prefix: what stands before the paths of the Go original.
        insecure: whether an address that other machines reach is allowed.
        hosts: names by which it may be addressed, besides addresses, ``localhost`` and this machine's name.
        admission: says who asks and what they may; None if nobody is asked who they are.
        tls: the files with which it is served over TLS; None for plain HTTP.

    Raises `InvalidConfigError` for an address that is none of this machine, for one that other machines reach without
    TLS and admission, and for files of TLS that cannot be used; `TransportUnavailableError` if the address is in use.

    """

    def __init__(
        self,
        address: str,
        prefix: str,
        *,
        insecure: bool = False,
        hosts: Iterable[str] = (),
        admission: Admission | None = None,
        tls: TlsFiles | None = None,
    ) -> None:
        self.tls = ServerTls(tls, time.time, lambda text: LINES.warning("{}", text)) if tls is not None else None
        self.socket = bound(address, insecure=insecure or (admission is not None and tls is not None))
        self.prefix = prefix
        self.hosts = tuple(hosts)
        self.admission = admission
        self.pending: dict[Entrance, None] = {}
        """The connections that do not agree on TLS yet, the oldest first."""
        self.refusals = Refusals()
        """The connections that did not get in, by reason."""
        self.api: Api | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.server: uvicorn.Server | None = None
        self.started = Latch()
        self.is_here = True
        """Whether the thread runs in this process, which was not forked since."""
        self.error: BaseException | None = None
        tell_of_forks(self)
        self.thread = ForgeThread(target=self.run, name="forge-admin")

    @classmethod
    def of(cls, config: LoadedConfig) -> AdminServer | None:
        """Return the server that a configuration asks for, bound and not started; None for none. Raises as it does."""
        wanted = config.program.admin_api
        if wanted.address is None:
            return None
        return cls(
            wanted.address,
            wanted.path_prefix,
            insecure=wanted.insecure,
            hosts=config.http_names(),
            admission=Admission.of(config),
            tls=TlsFiles.of(config.node.security),
        )

    @property
    def scheme(self) -> str:
        """How it is asked: http or https."""
        return "http" if self.tls is None else "https"

    @property
    def address(self) -> str:
        """HOST:PORT where it listens; the actual port if 0 was requested."""
        host, port = self.socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def url(self) -> str:
        """Where a browser finds the dashboard."""
        return f"{self.scheme}://{self.address}/"

    def start(self) -> None:
        """Serve; until `serve` is called it says that the node is starting. Raises `TransportUnavailableError`."""
        self.thread.start()
        if not self.started.wait(START_SECONDS_MAX) or self.error is not None:
            self.close()
            raise TransportUnavailableError(f"the admin API at {self.address} did not start: {self.error}")
        LINES.info("admin API and dashboard at {}", self.url)

    def serve(self, seat: Seat) -> None:
        """Speak for a node from now on; from any thread."""
        self.on_loop(lambda api: api.serve(seat))
        self.be_counted(seat.metrics())

    def be_counted(self, metrics: NodeMetrics | None) -> None:
        """Have the metrics of a node tell what was refused here, and how long the certificate lasts."""
        if metrics is not None:
            metrics.more.append(self.add_metrics)

    def add_metrics(self, page: MetricPage) -> None:
        """Add what is counted here to the metrics of one scrape; called on the scraper's thread."""
        counts = Counter(self.refusals.counts.copy())
        if self.admission is not None:
            counts.update(self.admission.refusals.counts.copy())
        page.counter(
            "admin_refused", "Connections and requests that the admin API refused, by reason.", counts, "reason"
        )
        if self.tls is not None:
            left = {"admin_api": self.tls.seconds_left}
            page.gauge("certificate_seconds_left", "For how long a certificate lasts, by what it is for.", left, "use")

    def serve_node(self, node: Node, reloader: Reloader) -> None:
        """Speak for a node of this process that is open; `reloader` has its configuration."""
        self.serve(NodeSeat(node, reloader))

    def serve_service(self, service: ConsensusService) -> None:
        """Speak for a service of this process that runs."""
        self.serve(ServiceSeat(service))

    def on_loop(self, call: object) -> None:
        """Call something with the API on its event loop; nothing happens if it has ended."""
        loop, api = self.loop, self.api
        if loop is not None and api is not None and not loop.is_closed():
            loop.call_soon_threadsafe(call, api)  # type: ignore[arg-type]

    def run(self) -> None:
        """Run the event loop; the body of the thread."""
        try:
            asyncio.run(self.work())
        except BaseException as error:
            self.error = error
            LINES.error("the admin API has ended", error=error)
        finally:
            self.started.set()

    async def work(self) -> None:
        """Serve until `close`."""
        self.loop = asyncio.get_running_loop()
        self.api = api = Api(self.prefix, self.hosts, admission=self.admission)
        config = uvicorn.Config(
            api,
            http=self.protocol(),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        self.server = server = uvicorn.Server(config)
        server.config.load()
        self.loop.call_soon(self.started.set)
        watch = asyncio.ensure_future(self.watch_files(self.tls)) if self.tls is not None else None
        try:
            await server.serve([self.socket])
        finally:
            if watch is not None:
                watch.cancel()
            await api.close()

    def protocol(self) -> Any:
        """Return what makes the protocol of each connection."""
        connection, tls = bounded_connections(), self.tls
        if tls is None:
            return connection

        def entrance(**arguments: Any) -> Entrance:
            return Entrance(lambda: connection(**arguments), tls, self.pending, self.refused)

        return entrance

    def refused(self, address: str, why: str) -> None:
        """Count a connection that did not get in."""
        self.refusals.report(why, f"the connection from {network_of(address)}")

    async def watch_files(self, tls: ServerTls) -> None:
        """Take over files of TLS that have changed, and warn of a certificate that ends."""
        while True:
            if tls.look() and self.server is not None:
                # Whoever is connected was judged by other authorities.
                for connection in list(self.server.server_state.connections):
                    connection.transport.close()
            tls.warn_of_end()
            await asyncio.sleep(LOOK_SECONDS)

    def close(self) -> None:
        """Stop listening, and end what is under way; returns when the port is free. May be called twice."""
        if self.is_here and self.thread.is_alive():
            self.on_loop(Api.end_streams)
            if self.server is not None:
                self.server.should_exit = True
            self.thread.join(STOP_SECONDS_MAX)
        self.socket.close()

    def forked(self) -> None:
        """In a child process: hold nothing of the parent's, neither its port nor its connections."""
        self.is_here = False
        self.socket.close()
        here: list[Any] = [*self.pending]
        if self.server is not None:
            here += self.server.server_state.connections
        for connection in here:
            taken = connection.transport.get_extra_info("socket") if connection.transport is not None else None
            if taken is not None:
                close_descriptor(taken.fileno())
        self.loop = self.server = None


def bound(address: str, *, insecure: bool) -> socket.socket:
    """Return a socket that is bound and listens. Raises as `AdminServer`."""
    try:
        host, port, family = split_address(address)
    except InvalidConfigError as error:
        raise InvalidConfigError(f"admin_api.bind: {str(error).removeprefix('metrics: ')}") from error
    if not insecure and not is_loopback(host):
        raise InvalidConfigError(f"admin_api.bind is {address}: {LOOPBACK}")
    # Connections that are accepted have its protocol; asyncio sends at once (TCP_NODELAY) only where that is named, and
    # else the second packet of an answer waits 40 ms for the acknowledgement of the first.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise InvalidConfigError(f"admin_api.bind: {address} is not an address of this machine") from error
        if error.errno == errno.EADDRINUSE:
            text = f"admin_api.bind: {address} is in use by another program: stop it, or serve the API elsewhere"
            raise TransportUnavailableError(text) from error
        raise TransportUnavailableError(f"admin_api.bind: cannot listen on {address}: {error}") from error
    return made
