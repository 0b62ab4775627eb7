"""Tests of sending requests on: bodies piece by piece, headers, and what happens where the leader does not answer."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat
from threading import Event, Thread
from typing import Any

import pytest

from forge_consensus.errors import InvalidConfigError
from forge_consensus.middleware import LeadershipMiddleware, Middleware
from forge_consensus.testing.local.ports import free_ports
from tests.worlds.web_world import Answer, Application, ToldChecker, ask_asgi, leading_elsewhere

PIECES = (b"a" * 100_000, b"b" * 100_000)
CUT_OFF = b"(cut off)"


class Upstream(BaseHTTPRequestHandler):
    """The leader's application: it answers with what it got, and at /gone with nothing."""

    protocol_version = "HTTP/1.1"
    got: list[tuple[str, str, dict[str, str], bytes]]
    taken: Event
    left: Event
    """Whoever asked has gone away in the midst of the answer."""

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = b""
        while (line := self.rfile.readline()) and (size := int(line, 16)):
            found += self.rfile.read(size)
            self.rfile.readline()
        return found if line and self.rfile.readline() else found + CUT_OFF

    def answer(self) -> None:
        headers = {name.lower(): text for name, text in self.headers.items()}
        self.got.append((self.command, self.path, headers, self.body()))
        self.taken.set()
        if self.path == "/gone":
            self.close_connection = True
            return
        self.send_response(201, "Created")
        self.send_header("Set-Cookie", "session=of-somebody")
        self.send_header("X-Raft-Index", "50")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("X-Upstream", "yes")
        self.end_headers()
        pieces = iter((*PIECES, b"")) if self.path != "/endless" else repeat(PIECES[0])
        if self.command != "HEAD":
            try:
                for piece in pieces:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            except OSError:
                self.left.set()
                raise

    do_GET = do_POST = do_HEAD = answer  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


class Quiet(ThreadingHTTPServer):
    """Says nothing of clients that go away."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing."""


@pytest.fixture
def upstream() -> Iterator[str]:
    Upstream.got, Upstream.taken, Upstream.left = [], Event(), Event()
    server = Quiet(("127.0.0.1", 0), Upstream)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def to(url: str, timeout: float = 5.0) -> Middleware:
    return LeadershipMiddleware(ToldChecker(leading_elsewhere(url))).forward(timeout=timeout)


def test_asgi_passes_bodies_and_end_to_end_headers_both_ways(upstream: str) -> None:
    app = Application()
    answer = ask_asgi(
        to(upstream)(app.asgi),
        "POST",
        "/users",
        "page=2",
        {"host": "follower:80", "transfer-encoding": "chunked", "connection": "x-hop", "x-hop": "1", "x-end": "2"},
        PIECES,
    )
    assert (answer.status, answer.body, answer.headers["x-upstream"]) == (201, b"".join(PIECES), "yes")
    assert app.bodies == []
    method, path, headers, body = Upstream.got[0]
    assert (method, path, body) == ("POST", "/users?page=2", b"".join(PIECES))
    assert headers["host"] == "follower:80", "the application sees the host that its client asked for"
    assert (headers["x-forwarded-host"], headers["x-forwarded-for"]) == ("follower:80", "10.0.0.9")
    assert answer.names.count("date") == answer.names.count("server") == 0, "the server here writes its own"
    assert (headers["x-raft-forwarded"], headers["x-end"]) == ("n2", "2")
    assert "x-hop" not in headers


def test_nothing_of_one_request_gets_into_another_and_nothing_is_added_that_changes_the_answer(upstream: str) -> None:
    wrapped = to(upstream)(Application().asgi)
    for _ in range(2):
        assert ask_asgi(wrapped, "POST", "/").headers["set-cookie"] == "session=of-somebody"
    for _, _, headers, _ in Upstream.got:
        assert not {"cookie", "accept-encoding", "accept", "user-agent"} & headers.keys()


def test_the_path_is_sent_on_as_it_came(upstream: str) -> None:
    ask_asgi(to(f"{upstream}/app")(Application().asgi), "GET", "/a/../b%2Fc//d")
    ask_wsgi(to(upstream), "GET", "/ignored", RAW_URI="/a/../b%2Fc//d")
    assert [path for _, path, _, _ in Upstream.got] == ["/app/a/../b%2Fc//d", "/a/../b%2Fc//d"]


def test_a_body_that_no_header_announces_is_sent_on_as_in_http_2(upstream: str) -> None:
    ask_asgi(to(upstream)(Application().asgi), "POST", "/", body=PIECES)
    assert Upstream.got[0][3] == b"".join(PIECES)


def test_the_newest_index_of_the_leader_and_of_this_node_is_told(upstream: str) -> None:
    leadership = LeadershipMiddleware(ToldChecker(leading_elsewhere(upstream)))
    answer = ask_asgi(leadership.add_leader_header()(leadership.forward()(Application().asgi)), "POST", "/")
    assert (answer.headers["x-raft-index"], answer.names.count("x-raft-index")) == ("50", 1)


def test_an_answer_without_end_ends_when_its_client_leaves(upstream: str) -> None:
    answer = ask_asgi(to(upstream)(Application().asgi), "GET", "/endless", leaves_early=True)
    assert answer.status == 201
    assert Upstream.left.wait(5), "the leader's application is told"


def ask_wsgi(middleware: Middleware, method: str, path: str, body: bytes = b"", **more: str) -> Answer:
    found = Answer()
    environ = {
        "REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": "",
        "CONTENT_LENGTH": str(len(body)), "CONTENT_TYPE": "text/plain", "HTTP_HOST": "follower:80",
        "wsgi.input": io.BytesIO(body + b"what follows is no part of the body"), "wsgi.url_scheme": "https",
        "REMOTE_ADDR": "10.0.0.9", **more,
    }  # fmt: skip

    def start(status: str, headers: list[tuple[str, str]]) -> None:
        found.status = int(status.partition(" ")[0])
        found.headers = {name.lower(): text for name, text in headers}

    wrapped: Any = middleware.wsgi(Application().wsgi)
    passing: Any = wrapped(environ, start)
    found.body = b"".join(passing)
    if hasattr(passing, "close"):
        passing.close()
    if wrapped.opened is not None:
        wrapped.opened.close()
    return found


def test_wsgi_passes_bodies_and_headers_both_ways(upstream: str) -> None:
    cookie = "name=Jürgen".encode().decode("latin-1")
    answer = ask_wsgi(to(upstream), "POST", "/users", b"".join(PIECES), HTTP_COOKIE=cookie)
    assert (answer.status, answer.body, answer.headers["x-upstream"]) == (201, b"".join(PIECES), "yes")
    assert "transfer-encoding" not in answer.headers, "the server here frames its own answers"
    method, path, headers, body = Upstream.got[0]
    assert (method, path, body) == ("POST", "/users", b"".join(PIECES))
    assert (headers["content-type"], headers["x-forwarded-proto"]) == ("text/plain", "https")
    assert headers["cookie"] == cookie


def test_wsgi_refuses_a_body_that_its_server_does_not_pass_on(upstream: str) -> None:
    assert ask_wsgi(to(upstream), "POST", "/", HTTP_TRANSFER_ENCODING="chunked").status == 411
    assert ask_wsgi(to(upstream), "POST", "/", CONTENT_LENGTH="x").status == 411
    assert not Upstream.got


def test_a_request_without_a_body_is_sent_on_without_one(upstream: str) -> None:
    assert ask_asgi(to(upstream)(Application().asgi), "HEAD", "/").status == 201
    assert ask_wsgi(to(upstream), "GET", "/").status == 201
    assert all("transfer-encoding" not in headers for _, _, headers, _ in Upstream.got)


def test_a_leader_that_cannot_be_reached_is_a_refusal_because_nothing_was_sent() -> None:
    nowhere = f"http://127.0.0.1:{free_ports(1)[0]}"
    for answer in (
        ask_asgi(to(nowhere)(Application().asgi), "POST", "/", body=[b"x"], headers={"content-length": "1"}),
        ask_wsgi(to(nowhere), "POST", "/", b"x"),
    ):
        body = json.loads(answer.body)
        assert (answer.status, body["error"], body["retryable"]) == (503, "leader unreachable", True)


@pytest.mark.parametrize(("method", "status"), [("GET", 503), ("POST", 504)])
def test_an_answer_that_does_not_come_leaves_the_outcome_of_a_write_unknown(
    upstream: str, method: str, status: int
) -> None:
    for answer in (
        ask_asgi(to(upstream)(Application().asgi), method, "/gone"),
        ask_wsgi(to(upstream), method, "/gone"),
    ):
        body = json.loads(answer.body)
        assert (answer.status, body["retryable"]) == (status, status == 503)


def test_a_client_that_goes_away_in_the_midst_of_its_body_ends_the_request_at_the_leader_too(upstream: str) -> None:
    headers = {"transfer-encoding": "chunked"}
    answer = ask_asgi(to(upstream)(Application().asgi), "POST", "/", headers=headers, body=PIECES, goes_away=True)
    assert answer == Answer(), "nobody is there to be answered"
    assert Upstream.taken.wait(5)
    assert Upstream.got[0][3] == b"".join(PIECES) + CUT_OFF


def test_websockets_are_refused_where_this_node_does_not_lead() -> None:
    forwarding = to("http://one:8000")(Application().asgi)
    assert ask_asgi(forwarding, type="websocket").status == 1013
    refusing = LeadershipMiddleware(ToldChecker(leading_elsewhere("http://one:8000"))).require_leader()
    answer = ask_asgi(refusing(Application().asgi), type="websocket", extensions={"websocket.http.response": {}})
    assert (answer.status, json.loads(answer.body)["error"]) == (503, "not the leader")


def test_without_httpx_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(InvalidConfigError, match=r"pip install 'forge-consensus\[web\]'"):
        to("http://one:8000")
