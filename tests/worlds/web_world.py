"""What tests of the middleware share: a checker that says what it is told, and applications without a framework."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from forge_consensus.client.calls import ReadDetail
from forge_consensus.errors import ConsensusError, NoQuorumError
from forge_consensus.middleware.asgi import AsgiApp, Receive, Scope, Sender
from forge_consensus.service.consensus import ConsensusService
from forge_consensus.service.leadership import LeadershipChecker, Standing

LEADING = Standing("n1", "test", "leader", True, "n1", "http://one:8000", 7)
FOLLOWING = Standing("n2", "test", "follower", False, "n1", "http://one:8000", 7)
ALONE = Standing("n2", "test", "candidate", False, None, "", 8)


class ToldChecker(LeadershipChecker):
    """A checker that answers what it was given, and notes what it was asked."""

    def __init__(self, standing: Standing | ConsensusError, detail: ReadDetail | ConsensusError | None = None) -> None:
        super().__init__(ConsensusService("n2", bind="127.0.0.1:0", storage_path="never-made"))
        self.found = standing
        self.detail = ReadDetail(None, 40, 0) if detail is None else detail
        self.quorum: NoQuorumError | None = None
        self.asked: list[tuple[str, float | None, float | None, int]] = []
        self.index = 41

    def standing(self) -> Standing:
        if isinstance(self.found, ConsensusError):
            raise self.found
        return self.found

    def require_quorum(self) -> None:
        if self.quorum is not None:
            raise self.quorum

    def confirm(
        self,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> ReadDetail:
        self.asked.append((consistency, timeout, max_staleness, after_index))
        if isinstance(self.detail, ConsensusError):
            raise self.detail
        return self.detail

    async def standing_async(self) -> Standing:
        return self.standing()

    async def require_quorum_async(self) -> None:
        self.require_quorum()

    async def confirm_async(
        self,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> ReadDetail:
        return self.confirm(consistency, timeout, max_staleness=max_staleness, after_index=after_index)

    def last_index(self) -> int:
        return self.index


def leading_elsewhere(url: str) -> Standing:
    """The standing of a node that follows a leader with that address."""
    return replace(FOLLOWING, leader_url=url)


@dataclass
class Answer:
    """What came back: the status, the headers by name in lower case, the body."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    names: list[str] = field(default_factory=list)
    """The names of the headers, as often as they came."""


@dataclass
class Application:
    """An application that answers "here" by ASGI and by WSGI, and notes what it got."""

    bodies: list[bytes] = field(default_factory=list)
    found: list[Any] = field(default_factory=list)

    async def asgi(self, scope: Scope, receive: Receive, send: Sender) -> None:
        if scope["type"] == "lifespan":
            return
        self.found.append(scope.get("consensus.confirmed", scope.get("consensus.standing")))
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept", "headers": []})
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"yes")]})
        await send({"type": "http.response.body", "body": b"here"})

    def wsgi(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.found.append(environ.get("consensus.confirmed", environ.get("consensus.standing")))
        self.bodies.append(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        start_response("200 OK", [("X-Own", "yes")])
        return [b"here"]


def ask_asgi(
    app: AsgiApp,
    method: str = "GET",
    path: str = "/",
    query: str = "",
    headers: Mapping[str, str] | None = None,
    body: Iterable[bytes] = (b"",),
    *,
    goes_away: bool = False,
    leaves_early: bool = False,
    **more: Any,
) -> Answer:
    """Send one request to an ASGI application, its body in these pieces, and return the answer.

    A client that goes away has announced more of the body. One that leaves early does so at the first piece of the
    answer.
    """
    pairs = [(name.lower().encode(), text.encode()) for name, text in (headers or {}).items()]
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
        "headers": pairs, "scheme": "http", "client": ("10.0.0.9", 1), **more,
    }  # fmt: skip
    pieces = [{"type": "http.request", "body": piece, "more_body": True} for piece in body]
    pieces[-1]["more_body"] = goes_away
    if scope["type"] == "websocket":
        pieces = [{"type": "websocket.connect"}]
    found = Answer()
    over = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not pieces and not goes_away:
            await over.wait()
        return pieces.pop(0) if pieces else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and (leaves_early or not message.get("more_body", False)):
            over.set()
        if "status" in message:
            found.status = message["status"]
        if message["type"] == "websocket.close":
            found.status = message["code"]
        if "headers" in message:
            found.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            found.names = [name.decode() for name, _ in message["headers"]]
        found.body += message.get("body", b"")

    async def one() -> None:
        await app(scope, receive, send)
        await app({"type": "lifespan"}, receive, send)  # its end closes what the middleware has opened

    asyncio.run(one())
    return found
