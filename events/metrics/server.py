"""The HTTP server for metrics; it runs on a thread of its own until it is closed."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Final, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from forge_consensus.errors import InvalidConfigError, TransportUnavailableError
from forge_consensus.process.fork import tell_of_forks

PATH: Final = "/metrics"
REQUEST_SECONDS_MAX: Final = 10.0
"""The connection of a client that takes longer to send its request or to read the answer is closed."""
CONNECTIONS_MAX: Final = 64
"""Each connection has a thread, so of more of them the oldest is closed."""
STOP_SECONDS_MAX: Final = 2.0
Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Handler(WSGIRequestHandler):
    """The handler of one request; it logs nothing and limits the time that it waits."""

    timeout = REQUEST_SECONDS_MAX

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name in the standard library
        """Log nothing, because a scrape comes every few seconds."""


class Server(ThreadingWSGIServer):
    """A WSGI server with one thread per connection, and not too many; none of them keeps the process alive."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.here: dict[socket.socket, None] = {}
        """The connections, the oldest first; the server's thread adds them, and their own threads take them away."""
        super().__init__(*arguments, **named)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection on a thread; the oldest of too many makes room."""
        here = [*self.here]
        for oldest in here[: len(here) - CONNECTIONS_MAX + 1]:
            self.here.pop(oldest, None)
            with suppress(OSError):  # it is closed already
                oldest.shutdown(socket.SHUT_RDWR)
        self.here[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self.here.pop(request, None)
        super().shutdown_request(request)

    def server_bind(self) -> None:
        """Bind without looking up this host's name, which could take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that closes its connection early."""


class MetricsServer:
    """A running server; `close` ends it, and so does the end of a `with` statement."""

    def __init__(self, server: WSGIServer) -> None:
        self.server = server
        tell_of_forks(self)
        self.thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="forge-metrics", daemon=True
        )
        self.thread.start()

    @property
    def address(self) -> str:
        """HOST:PORT where the server listens; the actual port if 0 was requested."""
        host, port = self.server.server_address[:2]
        name = host.decode() if isinstance(host, bytes) else str(host)
        return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"

    def close(self) -> None:
        """Stop listening; returns when the port is free. May be called twice."""
        if self.thread.is_alive():
            self.server.shutdown()
            self.thread.join(STOP_SECONDS_MAX)
        self.server.server_close()

    def forked(self) -> None:
        """In a child process: do not listen."""
        self.server.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def serve(registry: Collector, address: str, **more: Collector) -> MetricsServer:
    """Serve a registry at `http://HOST:PORT/metrics`, and each further one at `/metrics/<name>`.

    Args:
        registry: is served at `/metrics`.
        address: HOST:PORT; port 0 takes a free one.
        more: further registries by name.

    Raises `InvalidConfigError` if the address is not HOST:PORT of this machine and `TransportUnavailableError` if the
    port is in use.

    """
    pages: dict[str, Application] = {PATH: make_wsgi_app(registry)}
    pages |= {f"{PATH}/{name}": make_wsgi_app(collector) for name, collector in more.items()}

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        page = pages.get(environ.get("PATH_INFO", "").rstrip("/"))
        if page is None:
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"not found; this server has {', '.join(pages)}\n".encode()]
        return page(environ, start_response)

    host, port, family = split_address(address)
    kind = type("FamilyServer", (Server,), {"address_family": family})
    try:
        return MetricsServer(make_server(host, port, application, server_class=kind, handler_class=Handler))
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise InvalidConfigError(f"metrics: {address} is not an address of this machine") from error
        if error.errno == errno.EADDRINUSE:
            text = f"metrics: {address} is in use by another program: stop it or serve metrics elsewhere"
            raise TransportUnavailableError(text) from error
        raise TransportUnavailableError(f"metrics: cannot listen on {address}: {error}") from error


def split_address(address: str) -> tuple[str, int, socket.AddressFamily]:
    """Split HOST:PORT into (host, port, family); an IPv6 host is in brackets. Raises `InvalidConfigError`."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        if not (colon and host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
            raise ValueError("give HOST:PORT, such as 127.0.0.1:9100")
        family, *_, resolved = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
    except (ValueError, OSError) as error:
        raise InvalidConfigError(f"metrics: cannot listen on {address!r}: {error}") from error
    return str(resolved[0]), int(port), family
