"""Serving metrics over HTTP, on a thread of its own, until it is closed."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Final, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from forge_consensus.errors import InvalidConfigError, TransportUnavailableError

PATH: Final = "/metrics"
REQUEST_SECONDS_MAX: Final = 10.0
"""Who takes longer to ask or to take the answer is hung up on."""
STOP_SECONDS_MAX: Final = 2.0
Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Handler(WSGIRequestHandler):
    """One request; it writes no line about itself, and does not wait for ever."""

    timeout = REQUEST_SECONDS_MAX

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name in the standard library
        """Say nothing: a scrape every few seconds is no news."""


class Server(ThreadingWSGIServer):
    """A thread for each request, none of which keeps the process alive."""

    def server_bind(self) -> None:
        """Bind without asking a name server for our own name, which could take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who hung up in the middle is no error of ours."""


class MetricsServer:
    """A running server; `close` ends it."""

    def __init__(self, server: WSGIServer) -> None:
        self.server = server
        self.thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="forge-metrics", daemon=True
        )
        self.thread.start()

    @property
    def address(self) -> str:
        """HOST:PORT where it listens, with the port that was taken if 0 was asked for."""
        host, port = self.server.server_address[:2]
        name = host.decode() if isinstance(host, bytes) else str(host)
        return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"

    def close(self) -> None:
        """Stop listening; returns when the port is free. May be called twice."""
        if self.thread.is_alive():
            self.server.shutdown()
            self.thread.join(STOP_SECONDS_MAX)
        self.server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def serve(registry: Collector, address: str, **more: Collector) -> MetricsServer:
    """Serve a registry at `http://HOST:PORT/metrics`, and further ones at `/metrics/<name>`.

    Port 0 takes a free one. Raises `InvalidConfigError` for what is no HOST:PORT of this machine and
    `TransportUnavailableError` when the port is taken.
    """
    pages: dict[str, Application] = {PATH: make_wsgi_app(registry)}
    pages |= {f"{PATH}/{name}": make_wsgi_app(collector) for name, collector in more.items()}

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        page = pages.get(environ.get("PATH_INFO", "").rstrip("/"))
        if page is None:
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"there is {', '.join(pages)}\n".encode()]
        return page(environ, start_response)

    host, port, family = split_address(address)
    kind = type("FamilyServer", (Server,), {"address_family": family})
    try:
        return MetricsServer(make_server(host, port, application, server_class=kind, handler_class=Handler))
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise InvalidConfigError(f"metrics: {address} is no address of this machine") from error
        if error.errno == errno.EADDRINUSE:
            text = f"metrics: {address} is in use by another program: stop it or serve metrics elsewhere"
            raise TransportUnavailableError(text) from error
        raise TransportUnavailableError(f"metrics: cannot listen on {address}: {error}") from error


def split_address(address: str) -> tuple[str, int, socket.AddressFamily]:
    """(host, port, family) of HOST:PORT, where an IPv6 host stands in brackets. Raises `InvalidConfigError`."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        if not (colon and host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
            raise ValueError("it is HOST:PORT, such as 127.0.0.1:9100")
        family, *_, resolved = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
    except (ValueError, OSError) as error:
        raise InvalidConfigError(f"metrics: {address!r} is no address to listen on: {error}") from error
    return str(resolved[0]), int(port), family
