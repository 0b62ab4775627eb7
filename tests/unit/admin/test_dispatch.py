"""A request from its head to its answer: limits, clients that leave, and what every answer has."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, MutableMapping
from typing import Any

import pytest

from forge_consensus.admin import dispatch
from forge_consensus.admin.api import Api
from forge_consensus.admin.dispatch import router_of
from forge_consensus.admin.operation import Argument, Call, Operation, answer
from forge_consensus.admin.shared import Shared
from forge_consensus.errors import NoLeaderError, NotLeaderError, OutcomeUnknownError, PeerExistsError
from forge_consensus.service.leadership import Standing

Messages = list[MutableMapping[str, Any]]
ANY = {200: ("Done.", None)}


class Client:
    """A client of an ASGI application that sends one request."""

    def __init__(self, *parts: bytes, leaves: float | None = None, whole: bool = True) -> None:
        self.parts = list(parts)
        self.leaves = leaves
        self.whole = whole
        self.answers: Messages = []

    async def receive(self) -> MutableMapping[str, Any]:
        """The next part of the body; then the client leaves, or stays."""
        if self.parts or self.whole:
            part = self.parts.pop(0) if self.parts else b""
            self.whole = bool(self.parts)
            return {"type": "http.request", "body": part, "more_body": bool(self.parts)}
        await asyncio.sleep(60 if self.leaves is None else self.leaves)
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Note a part of the answer."""
        self.answers.append(message)

    @property
    def status(self) -> int:
        """The status of the answer."""
        return int(self.answers[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer."""
        return {name.decode(): text.decode() for name, text in self.answers[0]["headers"]}

    @property
    def body(self) -> Any:
        """The body of the answer, which is JSON."""
        return json.loads(b"".join(message.get("body", b"") for message in self.answers[1:]))


def ask(
    handler: Callable[[Call], Coroutine[Any, Any, Any]],
    method: str = "GET",
    path: str = "/v1/thing",
    client: Client | None = None,
    query: bytes = b"",
    headers: dict[str, str] | None = None,
    **more: Any,
) -> Client:
    """Send one request to an API that has one operation, and return the client with the answer."""
    client = client or Client()

    async def run() -> None:
        api = Api("")
        operation = Operation(
            method if method in {"POST", "PUT"} else "GET",
            "/v1/thing",
            "things",
            "A thing.",
            handler,
            answers=ANY,
            while_starting=True,
            **more,
        )
        router = router_of(api, [operation], "")
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query,
            "headers": [(b"host", b"localhost"), *((k.encode(), v.encode()) for k, v in (headers or {}).items())],
            "root_path": "", "asgi": {"version": "3.0", "spec_version": "2.3"},
        }  # fmt: skip
        async with asyncio.timeout(20):
            await router(scope, client.receive, client.send)

    asyncio.run(run())
    return client


async def fine(call: Call) -> Any:
    """Answer at once."""
    return answer({"seconds": call.seconds, "body": call.body if not isinstance(call.body, bytes) else len(call.body)})


def raising(error: Exception) -> Callable[[Call], Coroutine[Any, Any, Any]]:
    """A handler that raises."""

    async def handler(call: Call) -> Any:
        raise error

    return handler


def test_every_answer_can_be_told_apart_and_is_for_its_asker_only() -> None:
    told = ask(fine, headers={"x-request-id": "abc-1"})
    assert told.status == 200
    assert told.headers["x-request-id"] == "abc-1"
    assert told.headers["cache-control"] == "no-store"
    assert told.headers["x-content-type-options"] == "nosniff"
    assert len(ask(fine, headers={"x-request-id": "x" * 200}).headers["x-request-id"]) == 16


@pytest.mark.parametrize(
    ("error", "status", "retryable"),
    [
        (NoLeaderError(), 503, True),
        (NotLeaderError(leader="n2", address="h:1", term=3), 503, True),
        (OutcomeUnknownError(), 504, False),
        (PeerExistsError(), 409, False),
        (RuntimeError("a fault"), 500, False),
    ],
)
def test_an_error_is_a_problem_with_its_code(error: Exception, status: int, retryable: bool) -> None:
    told = ask(raising(error))
    assert told.status == status == told.body["status"]
    assert told.headers["content-type"] == "application/problem+json"
    assert told.body["retryable"] is retryable
    assert told.body["code"] == getattr(error, "code", "INTERNAL")
    assert told.body["request_id"] == told.headers["x-request-id"]
    assert ("retry-after" in told.headers) is (status == 503)


def test_a_fault_of_the_program_tells_nobody_its_text() -> None:
    assert "pass-17" not in ask(raising(RuntimeError("pass-17"))).body["detail"]


def test_other_methods_and_paths() -> None:
    assert ask(fine, "DELETE").status == 405
    assert ask(fine, "DELETE").headers["allow"] == "GET, HEAD, OPTIONS"
    assert ask(fine, "OPTIONS").status == 204
    assert ask(fine, "HEAD").status == 200
    assert ask(fine, path="/v1/things").status == 404
    assert ask(fine, path="/v1/things").body["code"] == "NOT_FOUND"
    assert ask(fine, path="/v1/thing\n").status == 404


def test_an_unknown_path_is_guarded_and_tells_who_leads_as_every_other_does(monkeypatch: pytest.MonkeyPatch) -> None:
    async def standing(api: Shared) -> Standing:
        return Standing("n1", "c", "follower", False, "n2", "http://h:2", 7)

    monkeypatch.setattr(Shared, "standing", standing)
    told = ask(fine, "POST", path="/v1/things")
    assert (told.status, told.headers["x-raft-leader"], told.body["leader"]) == (404, "n2", "n2")
    assert ask(fine, path="/v1/things", headers={"origin": "http://evil.example"}).status == 403


@pytest.mark.parametrize("key", ["/v1/thing%FF", "/v1/thing/%80"])
def test_a_path_that_is_no_text_is_refused(key: str) -> None:
    told = Client()

    async def run() -> None:
        api = Api("")
        path = Argument("key", "The key.", where="path")
        operation = Operation("GET", "/v1/{key:path}", "t", "T.", fine, (path,), ANY, while_starting=True)
        scope = {
            "type": "http", "method": "GET", "path": "/v1/thing\ufffd", "raw_path": key.encode(), "query_string": b"",
            "headers": [(b"host", b"localhost")], "root_path": "",
        }  # fmt: skip
        await router_of(api, [operation], "")(scope, told.receive, told.send)

    asyncio.run(run())
    assert told.status == 400


# --- limits ----------------------------------------------------------------------------------------------------------


def test_a_body_beyond_the_bound_is_refused_before_it_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "BODY_BYTES_MAX", 10)
    monkeypatch.setattr(dispatch, "DISCARD_BYTES_MAX", 20)
    client = Client(b"12345", b"678901", b"read and dropped")
    assert (ask(fine, "PUT", client=client, body="value").status, client.parts) == (413, [])
    client = Client(b"12345", b"678901678901678901", b"never read")
    assert ask(fine, "PUT", client=client, body="value").status == 413
    assert client.parts == [b"never read"]
    for told in ("11", "9" * 5000):
        assert ask(fine, "PUT", client=Client(b"x"), body="value", headers={"content-length": told}).status == 413
    assert ask(fine, "PUT", client=Client(b"12345", b"67890"), body="value").body["body"] == 10


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "BODY_SECONDS_MAX", 0.05)
    assert ask(fine, "PUT", client=Client(whole=False), body="value").status == 408


@pytest.mark.parametrize(("method", "status"), [("GET", 503), ("POST", 504)])
def test_a_handler_that_hangs_is_ended(method: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "SLACK_SECONDS", 0.05)
    ended = []

    async def hangs(call: Call) -> Any:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    told = ask(hangs, method, query=b"timeout=100ms", body="none")
    assert (told.status, ended) == (status, [True])


def test_a_client_that_leaves_ends_its_request() -> None:
    ended = []

    async def hangs(call: Call) -> Any:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    client = ask(hangs, client=Client(leaves=0.05))
    assert (client.answers, ended) == ([], [True])


@pytest.mark.parametrize(
    ("body", "sent", "media_type", "status"),
    [
        ("none", b"", "", 200),
        ("none", b"{}", "application/json", 200),
        ("none", b"[1]", "application/json", 400),
        ("any", b"[1]", "application/json", 200),
        ("any", b"[1]", "", 415),
        ("any", b"", "", 400),
        ("object", b"", "", 200),
        ("object", b"[]", "application/json", 400),
        ("object", b"{}", "application/json; charset=utf-8", 200),
    ],
)
def test_bodies(body: Any, sent: bytes, media_type: str, status: int) -> None:
    headers = {"content-type": media_type} if media_type else {}
    assert ask(fine, "POST", client=Client(sent), headers=headers, body=body).status == status


def test_a_request_from_elsewhere_is_refused_before_its_handler() -> None:
    called = []

    async def noted(call: Call) -> Any:
        called.append(True)

    assert ask(noted, headers={"origin": "http://evil.example"}).status == 403
    assert called == []
