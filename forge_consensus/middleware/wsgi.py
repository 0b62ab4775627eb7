"""The WSGI side of the middleware, for Flask, Django and others that are called on a thread for each request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from forge_consensus.middleware.asgi import has_body, index_header
from forge_consensus.middleware.forwarding import CHUNK_BYTES, end_to_end, failure, imported, limits
from forge_consensus.middleware.request import Request
from forge_consensus.middleware.rules import Rule
from forge_consensus.middleware.settling import settle
from forge_consensus.middleware.verdict import Pass, Refuse, Send
from forge_consensus.service.leadership import LeadershipChecker

if TYPE_CHECKING:
    import httpx

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]

ENVIRON_KEY: Final = "forge_consensus"
"""Where an application finds in its environment what the middleware found out: a `Standing` or a `Confirmed`."""
PLAIN: Final = {"CONTENT_TYPE": "content-type", "CONTENT_LENGTH": "content-length"}


def request_of(environ: Environ) -> Request:
    """The request of an environment."""
    path = quote((environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1"))
    query = quote(environ.get("QUERY_STRING", ""), safe="/:@!$&'()*+,;=~-._%?[]")
    headers = {name[5:].replace("_", "-").lower(): str(text) for name, text in environ.items() if name[:5] == "HTTP_"}
    headers |= {header: environ[name] for name, header in PLAIN.items() if environ.get(name)}
    return Request(environ["REQUEST_METHOD"], f"{path or '/'}{f'?{query}' if query else ''}", headers)


class WsgiMiddleware:
    """A WSGI application with a rule in front of it."""

    def __init__(self, app: WsgiApp, rule: Rule, checker: LeadershipChecker, timeout: float) -> None:
        self.app = app
        self.rule = rule
        self.checker = checker
        self.timeout = timeout
        self.lock = threading.Lock()
        self.client: httpx.Client | None = None
        """Goes to the leader's application; made for the first request that is sent on."""

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        request = request_of(environ)
        verdict = settle(self.rule, request, self.checker)
        if isinstance(verdict, Refuse):
            return answer(verdict, start_response, head=request.method == "HEAD")
        if isinstance(verdict, Send):
            return self.send_on(verdict, environ, start_response, request)
        environ[ENVIRON_KEY] = verdict.confirmed or verdict.standing
        return self.app(environ, self.with_headers(verdict, start_response))

    def with_headers(self, verdict: Pass, start_response: StartResponse) -> StartResponse:
        """The function for an application to start its answer with, which gets the verdict's headers."""
        if not verdict.headers:
            return start_response

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            return start_response(status, [*headers, *verdict.headers, *index_header(self.checker, verdict)], *more)

        return start

    def opened(self) -> httpx.Client:
        """The client that goes to the leader's application."""
        with self.lock:
            if self.client is None:
                self.client = imported().Client(**limits(self.timeout))
            return self.client

    def send_on(
        self, verdict: Send, environ: Environ, start_response: StartResponse, request: Request
    ) -> Iterable[bytes]:
        """Have the leader's application answer, and pass its answer on as it comes."""
        module, client = imported(), self.opened()
        pairs = [(name.encode("latin-1"), text.encode("latin-1")) for name, text in request.headers.items()]
        headers = [(name.decode("latin-1"), text.decode("latin-1")) for name, text in end_to_end(pairs, b"host")]
        headers += [*verdict.headers, ("x-forwarded-proto", environ.get("wsgi.url_scheme", "http"))]
        headers += [("x-forwarded-for", environ["REMOTE_ADDR"])] if environ.get("REMOTE_ADDR") else []
        headers += [("x-forwarded-host", request.headers["host"])] if "host" in request.headers else []
        body = body_of(environ, request) if has_body(request) else None
        try:
            upstream = client.build_request(request.method, verdict.url, headers=headers, content=body)
            response = client.send(upstream, stream=True)
        except (module.HTTPError, module.InvalidURL) as error:
            return answer(failure(error, verdict.url, request.method), start_response, head=request.method == "HEAD")
        start_response(
            f"{response.status_code} {response.reason_phrase}",
            [(name.decode("latin-1"), value.decode("latin-1")) for name, value in end_to_end(response.headers.raw)],
        )
        return Passing(response)


class Passing:
    """The body of the leader's answer as it comes; the server closes it, whether or not it was sent whole."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response

    def __iter__(self) -> Iterator[bytes]:
        return self.response.iter_raw()

    def close(self) -> None:
        """Give the connection back."""
        self.response.close()


def body_of(environ: Environ, request: Request) -> Iterator[bytes]:
    """The body of a request, in chunks, as long as it says it is; of unknown length only where the server ends it."""
    source = environ["wsgi.input"]
    length = request.headers.get("content-length")
    if length is None:
        if not environ.get("wsgi.input_terminated"):
            return
        while chunk := source.read(CHUNK_BYTES):
            yield chunk
        return
    left = int(length)
    while left > 0 and (chunk := source.read(min(CHUNK_BYTES, left))):
        left -= len(chunk)
        yield chunk


def answer(verdict: Refuse, start_response: StartResponse, *, head: bool) -> list[bytes]:
    """Start the answer of a refusal, and return its body."""
    headers, body = verdict.answer(head=head)
    start_response(f"{verdict.status} {HTTPStatus(verdict.status).phrase}", list(headers))
    return [body]
