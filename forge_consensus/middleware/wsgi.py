"""The WSGI side of the middleware, for Flask, Django and others that are called on a thread for each request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from forge_consensus.middleware.forwarding import Came, Forwarding, encoded, failure, imported, passed_back
from forge_consensus.middleware.request import Request, origin_form
from forge_consensus.middleware.rules import Rule
from forge_consensus.middleware.settling import settle
from forge_consensus.middleware.verdict import (
    CONFIRMED_KEY,
    LENGTH_REQUIRED,
    STANDING_KEY,
    Pass,
    Refuse,
    Send,
    with_headers,
)
from forge_consensus.service.leadership import LeadershipChecker

if TYPE_CHECKING:
    import httpx

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]

CHUNK_BYTES: Final = 64 << 10
PLAIN: Final = {"CONTENT_TYPE": "content-type", "CONTENT_LENGTH": "content-length"}
UNPARSED: Final = ("RAW_URI", "REQUEST_URI")
"""Where servers keep the path as it came; PATH_INFO has lost the difference between a slash and an escaped one."""
NO_LENGTH: Final = {"error": "length required", "detail": "the server here passes on no body of unknown length"}


def request_of(environ: Environ) -> Request:
    """The request of an environment."""
    target = next((environ[name].encode("latin-1") for name in UNPARSED if environ.get(name)), b"")
    if not target:
        path = quote((environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1")) or "/"
        query = environ.get("QUERY_STRING", "").encode("latin-1")
        target = path.encode() + (b"?" + query if query else b"")
    headers = {name[5:].replace("_", "-").lower(): str(text) for name, text in environ.items() if name[:5] == "HTTP_"}
    headers |= {header: environ[name] for name, header in PLAIN.items() if environ.get(name)}
    return Request(environ["REQUEST_METHOD"], origin_form(target), headers)


class WsgiMiddleware:
    """A WSGI application with a rule in front of it."""

    def __init__(self, app: WsgiApp, rule: Rule, checker: LeadershipChecker, forwarding: Forwarding) -> None:
        self.app = app
        self.rule = rule
        self.checker = checker
        self.forwarding = forwarding
        self.lock = threading.Lock()
        self.opened: httpx.HTTPTransport | None = None

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        request = request_of(environ)
        verdict = settle(self.rule, request, self.checker)
        if isinstance(verdict, Refuse):
            return answer(verdict, start_response, head=request.method == "HEAD")
        if isinstance(verdict, Send):
            return self.send_on(verdict, environ, start_response, request)
        found = {STANDING_KEY: verdict.standing, CONFIRMED_KEY: verdict.confirmed}
        environ.update({name: value for name, value in found.items() if value is not None})
        return self.app(environ, self.with_headers(verdict, start_response))

    def with_headers(self, verdict: Pass, start_response: StartResponse) -> StartResponse:
        """The function for an application to start its answer with, which gets the verdict's headers."""
        if not verdict.headers:
            return start_response

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            return start_response(status, with_headers(headers, verdict, self.checker.last_index()), *more)

        return start

    def send_on(
        self, verdict: Send, environ: Environ, start_response: StartResponse, request: Request
    ) -> Iterable[bytes]:
        """Have the leader's application answer, and pass its answer on as it comes."""
        module, head = imported(), request.method == "HEAD"
        length = request.headers.get("content-length", "0")
        endless = "transfer-encoding" in request.headers
        if (endless and not environ.get("wsgi.input_terminated")) or not (length.isascii() and length.isdigit()):
            return answer(Refuse(LENGTH_REQUIRED, {**NO_LENGTH}), start_response, head=head)
        body = body_of(environ, None if endless else int(length)) if endless or int(length) else None
        came = Came(str(environ.get("wsgi.url_scheme", "http")), str(environ.get("REMOTE_ADDR", "")))
        try:
            upstream = self.forwarding.request(verdict, request, encoded(request.headers.items()), came, body)
            response = self.transport().handle_request(upstream)
        except (module.TransportError, module.InvalidURL) as error:
            return answer(failure(error, verdict, request), start_response, head=head)
        start_response(
            f"{response.status_code} {response.reason_phrase}",
            [(name.decode("latin-1"), value.decode("latin-1")) for name, value in passed_back(response.headers.raw)],
        )
        return Passing(response)

    def transport(self) -> httpx.HTTPTransport:
        """The connections to the leader's application."""
        with self.lock:
            if self.opened is None:
                self.opened = imported().HTTPTransport(**self.forwarding.options())
            return self.opened


class Passing:
    """The body of the leader's answer as it comes; the server closes it, whether or not it was sent whole."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response

    def __iter__(self) -> Iterator[bytes]:
        stream: Any = self.response.stream
        return iter(stream)

    def close(self) -> None:
        """Give the connection back to the transport, which closes it if the answer was not read whole."""
        self.response.close()


def body_of(environ: Environ, length: int | None) -> Iterator[bytes]:
    """The body of a request, in chunks: so many bytes, or until the server ends it."""
    source = environ["wsgi.input"]
    while length is None or length > 0:
        chunk = source.read(CHUNK_BYTES if length is None else min(CHUNK_BYTES, length))
        if not chunk:
            return
        yield chunk
        if length is not None:
            length -= len(chunk)


def answer(verdict: Refuse, start_response: StartResponse, *, head: bool) -> list[bytes]:
    """Start the answer of a refusal, and return its body."""
    headers, body = verdict.answer(head=head)
    start_response(f"{verdict.status} {HTTPStatus(verdict.status).phrase}", list(headers))
    return [body]
