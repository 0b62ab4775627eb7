"""The ASGI side of the middleware: a rule in front of an application, without any framework, on asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote
from weakref import WeakKeyDictionary

from forge_consensus.middleware.forwarding import (
    Came,
    ClientGoneError,
    Forwarding,
    encoded,
    failure,
    imported,
    passed_back,
)
from forge_consensus.middleware.request import WEBSOCKET, Request, origin_form
from forge_consensus.middleware.rules import Rule
from forge_consensus.middleware.settling import settle_async
from forge_consensus.middleware.verdict import CONFIRMED_KEY, STANDING_KEY, Pass, Refuse, Send, with_headers
from forge_consensus.service.leadership import LeadershipChecker

if TYPE_CHECKING:
    import httpx

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Sender = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Sender], Awaitable[None]]

TRY_AGAIN_LATER: Final = 1013
"""The code with which a websocket is refused (RFC 6455 and its registry)."""
DENIAL: Final = "websocket.http.response"
"""The extension of servers that can answer a websocket's request instead of closing it."""


def request_of(scope: Scope) -> Request:
    """The request of a scope."""
    raw, query = scope.get("raw_path"), scope.get("query_string", b"")
    path = raw.partition(b"?")[0] if raw else quote(scope["path"]).encode()
    method = WEBSOCKET if scope["type"] == "websocket" else scope["method"]
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope.get("headers", ())}
    return Request(method, origin_form(path + (b"?" + query if query else b"")), headers)


class AsgiMiddleware:
    """An ASGI application with a rule in front of it. It handles HTTP and websockets, and passes on all else."""

    def __init__(self, app: AsgiApp, rule: Rule, checker: LeadershipChecker, forwarding: Forwarding) -> None:
        self.app = app
        self.rule = rule
        self.checker = checker
        self.forwarding = forwarding
        self.transports: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncHTTPTransport] = WeakKeyDictionary()
        """By event loop, because a connection belongs to the one that opened it."""

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
            await self.app(noted(scope, verdict), receive, self.with_headers(verdict, send))
        elif scope["type"] == "websocket":
            await refuse_websocket(verdict, scope, receive, send)
        elif isinstance(verdict, Send):
            await self.send_on(verdict, scope, receive, send, request)
        else:
            await answer(verdict, send, head=request.method == "HEAD")

    def with_headers(self, verdict: Pass, send: Sender) -> Sender:
        """The sender for an application whose answer gets the verdict's headers."""
        if not verdict.headers:
            return send

        async def sender(message: Message) -> None:
            if message["type"] in {"http.response.start", "websocket.accept"}:
                present = [
                    (name.decode("latin-1"), text.decode("latin-1")) for name, text in message.get("headers", ())
                ]
                found = with_headers(present, verdict, self.checker.last_index())
                message = {**message, "headers": encoded(found)}
            await send(message)

        return sender

    async def live(self, scope: Scope, receive: Receive, send: Sender) -> None:
        """Follow the application's life, and close the connections to other nodes at its end."""
        try:
            await self.app(scope, receive, send)
        finally:
            transport = self.transports.pop(asyncio.get_running_loop(), None)
            if transport is not None:
                await transport.aclose()

    # --- sending on --------------------------------------------------------------------------------------------------

    async def send_on(self, verdict: Send, scope: Scope, receive: Receive, send: Sender, request: Request) -> None:
        """Have the leader's application answer; stop as soon as the client is gone."""
        body = Body(receive)
        exchange = asyncio.ensure_future(self.exchange(verdict, scope, body, send, request))
        leaving = asyncio.ensure_future(body.gone())
        try:
            await asyncio.wait({exchange, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if exchange.done():
                exchange.result()
        except ClientGoneError:
            return
        finally:
            exchange.cancel()
            leaving.cancel()
            await asyncio.gather(exchange, leaving, return_exceptions=True)

    async def exchange(self, verdict: Send, scope: Scope, body: Body, send: Sender, request: Request) -> None:
        """Send a request to the leader's application, and pass its answer on as it comes. Raises `ClientGoneError`."""
        module = imported()
        content = body.pieces() if await body.begins() else None
        came = Came(str(scope.get("scheme", "http")), str((scope.get("client") or ("",))[0]))
        try:
            upstream = self.forwarding.request(verdict, request, scope.get("headers", ()), came, content)
            response = await self.transport().handle_async_request(upstream)
        except (module.TransportError, module.InvalidURL) as error:
            await answer(failure(error, verdict, request), send, head=request.method == "HEAD")
            return
        try:
            headers = passed_back(response.headers.raw)
            await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            async for chunk in cast("AsyncIterable[bytes]", response.stream):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await response.aclose()

    def transport(self) -> httpx.AsyncHTTPTransport:
        """The connections of the running event loop to the leader's application."""
        loop = asyncio.get_running_loop()
        found = self.transports.get(loop)
        if found is None:
            found = self.transports[loop] = imported().AsyncHTTPTransport(**self.forwarding.options())
        return found


class Body:
    """The body of a request as it arrives, and the client's going away after it."""

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.first = b""
        self.more = False
        self.whole = asyncio.Event()

    async def begins(self) -> bool:
        """Whether there is a body, which the first piece tells, whatever the headers say. Raises `ClientGoneError`."""
        self.first = await self.next()
        if not self.more:
            self.whole.set()
        return self.more or bool(self.first)

    async def next(self) -> bytes:
        """The next piece. Raises `ClientGoneError`."""
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        self.more = message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece

    async def pieces(self) -> AsyncIterator[bytes]:
        """The pieces that are not empty. Raises `ClientGoneError`."""
        if self.first:
            yield self.first
        while self.more:
            if piece := await self.next():
                yield piece
        self.whole.set()

    async def gone(self) -> None:
        """Wait until the client is gone, once its body is complete."""
        await self.whole.wait()
        while (await self.receive())["type"] != "http.disconnect":
            pass


# --- answers ---------------------------------------------------------------------------------------------------------


def noted(scope: Scope, verdict: Pass) -> Scope:
    """The scope for the application, with what was found out."""
    found = {STANDING_KEY: verdict.standing, CONFIRMED_KEY: verdict.confirmed}
    return {**scope, **{name: value for name, value in found.items() if value is not None}}


async def answer(verdict: Refuse, send: Sender, *, head: bool) -> None:
    """Send the answer of a refusal."""
    headers, body = verdict.answer(head=head)
    await send({"type": "http.response.start", "status": verdict.status, "headers": encoded(headers)})
    await send({"type": "http.response.body", "body": body})


async def refuse_websocket(verdict: Refuse | Send, scope: Scope, receive: Receive, send: Sender) -> None:
    """Refuse a websocket before it is accepted: with an answer, where the server can send one."""
    await receive()
    reason = "not the leader"
    if isinstance(verdict, Refuse) and not verdict.redirects:
        reason = str(verdict.body["error"])
        if DENIAL in (scope.get("extensions") or {}):
            headers, body = verdict.answer(head=False)
            await send({"type": f"{DENIAL}.start", "status": verdict.status, "headers": encoded(headers)})
            await send({"type": f"{DENIAL}.body", "body": body})
            return
    await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": reason})
