"""The ASGI side of the middleware: a rule in front of an application, without any framework."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from forge_consensus.middleware.forwarding import ClientGoneError, end_to_end, failure, imported, limits
from forge_consensus.middleware.request import Request
from forge_consensus.middleware.rules import Rule
from forge_consensus.middleware.settling import settle_async
from forge_consensus.middleware.verdict import Headers, Pass, Refuse, Send
from forge_consensus.service.leadership import LeadershipChecker

if TYPE_CHECKING:
    import httpx

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Sender = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Sender], Awaitable[None]]

SCOPE_KEY: Final = "consensus"
"""Where an application finds in its scope what the middleware found out: a `Standing` or a `Confirmed`."""
TRY_AGAIN_LATER: Final = 1013
"""The code with which a websocket is refused (RFC 6455 and its registry)."""
SAFE: Final = "/:@!$&'()*+,;=~-._%"


def request_of(scope: Scope) -> Request:
    """The request of a scope."""
    raw, query = scope.get("raw_path"), scope.get("query_string", b"")
    path = quote(raw.partition(b"?")[0], safe=SAFE) if raw else quote(scope["path"])
    target = f"{path}?{quote(query, safe=SAFE + '?[]')}" if query else path
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope.get("headers", ())}
    return Request(scope.get("method", "GET"), target, headers)


def encoded(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI has them."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


class AsgiMiddleware:
    """An ASGI application with a rule in front of it. It handles HTTP and websockets, and passes on all else."""

    def __init__(self, app: AsgiApp, rule: Rule, checker: LeadershipChecker, timeout: float) -> None:
        self.app = app
        self.rule = rule
        self.checker = checker
        self.timeout = timeout
        self.client: httpx.AsyncClient | None = None
        """Goes to the leader's application; made for the first request that is sent on."""

    async def __call__(self, scope: Scope, receive: Receive, send: Sender) -> None:
        """Answer one request, or follow the application's life."""
        if scope["type"] == "lifespan":
            await self.live(scope, receive, send)
            return
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        request = request_of(scope)
        verdict = await settle_async(self.rule, request, self.checker)
        if isinstance(verdict, Pass):
            scope[SCOPE_KEY] = verdict.confirmed or verdict.standing
            await self.app(scope, receive, self.with_headers(verdict, send))
        elif isinstance(verdict, Send) and scope["type"] == "http":
            await self.send_on(verdict, scope, receive, send, request)
        elif scope["type"] == "http":
            assert isinstance(verdict, Refuse)
            await answer(verdict, send, head=request.method == "HEAD")
        else:
            await refuse_websocket(verdict, scope, receive, send)

    def with_headers(self, verdict: Pass, send: Sender) -> Sender:
        """The sender for an application whose answer gets the verdict's headers."""
        if not verdict.headers:
            return send

        async def sender(message: MutableMapping[str, Any]) -> None:
            if message["type"] in {"http.response.start", "websocket.accept"}:
                headers = verdict.headers + index_header(self.checker, verdict)
                message["headers"] = [*message.get("headers", ()), *encoded(headers)]
            await send(message)

        return sender

    async def live(self, scope: Scope, receive: Receive, send: Sender) -> None:
        """Follow the application's life, and close the connections to other nodes at its end."""
        try:
            await self.app(scope, receive, send)
        finally:
            client, self.client = self.client, None
            if client is not None:
                await client.aclose()

    def opened(self) -> httpx.AsyncClient:
        """The client that goes to the leader's application."""
        if self.client is None:
            self.client = imported().AsyncClient(**limits(self.timeout))
        return self.client

    async def send_on(self, verdict: Send, scope: Scope, receive: Receive, send: Sender, request: Request) -> None:
        """Have the leader's application answer, and pass its answer on as it comes."""
        module, client = imported(), self.opened()
        headers = end_to_end(scope.get("headers", ()), b"host") + encoded(verdict.headers) + origin_headers(scope)
        body = body_of(receive) if has_body(request) else None
        upstream = client.build_request(request.method, verdict.url, headers=headers, content=body)
        try:
            response = await client.send(upstream, stream=True)
        except ClientGoneError:
            return
        except (module.HTTPError, module.InvalidURL) as error:
            await answer(failure(error, verdict.url, request.method), send, head=request.method == "HEAD")
            return
        try:
            start = {"type": "http.response.start", "status": response.status_code}
            await send({**start, "headers": end_to_end(response.headers.raw)})
            async for chunk in response.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await response.aclose()


def index_header(checker: LeadershipChecker, verdict: Pass) -> Headers:
    """The newest log entry whose effect callers of this node have seen, as a token to read one's own writes."""
    if not verdict.tells_index:
        return ()
    index = checker.last_index()
    return (("X-Raft-Index", str(max(index, verdict.confirmed.applied if verdict.confirmed else 0))),)


def has_body(request: Request) -> bool:
    """Whether a request announces a body."""
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


def origin_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """From whom, for which host and by which scheme the request came to this node."""
    found = [(b"x-forwarded-proto", str(scope.get("scheme", "http")).encode("latin-1"))]
    if scope.get("client"):
        found.append((b"x-forwarded-for", str(scope["client"][0]).encode("latin-1", "replace")))
    return found + [(b"x-forwarded-host", value) for name, value in scope.get("headers", ()) if name.lower() == b"host"]


async def body_of(receive: Receive) -> AsyncIterator[bytes]:
    """The body of a request as it arrives. Raises `ClientGoneError`."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        more = message.get("more_body", False)
        if chunk := message.get("body", b""):
            yield chunk


async def answer(verdict: Refuse, send: Sender, *, head: bool) -> None:
    """Send the answer of a refusal."""
    headers, body = verdict.answer(head=head)
    await send({"type": "http.response.start", "status": verdict.status, "headers": encoded(headers)})
    await send({"type": "http.response.body", "body": body})


async def refuse_websocket(verdict: Refuse | Send, scope: Scope, receive: Receive, send: Sender) -> None:
    """Refuse a websocket before it is accepted: with an answer, where the server can send one."""
    await receive()
    if isinstance(verdict, Refuse) and "websocket.http.response" in (scope.get("extensions") or {}):
        headers, body = verdict.answer(head=False)
        start = {"type": "websocket.http.response.start", "status": verdict.status, "headers": encoded(headers)}
        await send(start)
        await send({"type": "websocket.http.response.body", "body": body})
        return
    await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": "this node does not lead"})
