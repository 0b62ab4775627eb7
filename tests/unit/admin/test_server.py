"""The server without a node: its address, its start and its end, and connections that are slow or too many."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, cast

import pytest

from forge_consensus.admin import connections
from forge_consensus.admin.connections import JOINED_BYTES_MAX, JoinedWrites
from forge_consensus.admin.server import AdminServer
from forge_consensus.errors import InvalidConfigError, TransportUnavailableError


@pytest.fixture
def server() -> Iterator[AdminServer]:
    """A server that waits for its node."""
    made = AdminServer("127.0.0.1:0", "/consensus")
    made.start()
    yield made
    made.close()


def get(server: AdminServer, path: str) -> tuple[int, str]:
    """The status and the text of an answer."""
    try:
        with urllib.request.urlopen(f"http://{server.address}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def connected(server: AdminServer, stack: ExitStack, sends: bytes = b"") -> socket.socket:
    """A connection on which something was sent."""
    host, _, port = server.address.rpartition(":")
    made = stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
    made.sendall(sends)
    return made


def ended(connection: socket.socket, seconds: float) -> bool:
    """Whether the server ends a connection within so many seconds."""
    connection.settimeout(seconds)
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def test_before_its_node_is_open_it_says_that_it_starts(server: AdminServer) -> None:
    assert get(server, "/livez") == (200, "ok\n")  # a supervisor must not end a node that reads a long log
    for path in ("/readyz", "/startupz"):
        assert get(server, path) == (503, "[-] node: the node is starting\nfailed\n")
    status, text = get(server, "/v1/cluster")
    assert (status, '"code":"STARTING"' in text) == (503, True)
    assert get(server, "/consensus/health")[0] == 503
    assert get(server, "/openapi.json")[0] == 200


def said(connection: socket.socket) -> bytes:
    """All that a server says until it ends the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET /livez\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /li vez HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"PUT /openapi.json HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n",
    ],
)
def test_what_is_no_request_is_told_as_a_problem_too(server: AdminServer, sent: bytes) -> None:
    with ExitStack() as stack:
        head, _, body = said(connected(server, stack, sent)).partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert lines[0] == "http/1.1 400 bad request"
    assert {"content-type: application/problem+json", f"content-length: {len(body)}", "connection: close"} <= {*lines}
    told = json.loads(body)
    assert (told["status"], told["code"], told["retryable"]) == (400, "MALFORMED_REQUEST", False)
    assert f"x-request-id: {told['request_id']}" in lines


def test_what_is_no_request_behind_an_answer_only_ends_the_connection(
    server: AdminServer, caplog: pytest.LogCaptureFixture
) -> None:
    asked = b"POST /unknown HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with ExitStack() as stack:
        made = connected(server, stack, asked)
        answer = made.recv(65536)
        assert answer.startswith(b"HTTP/1.1 404")
        made.sendall(b"no chunk\r\n")
        assert ended(made, 2)
    assert caplog.records == [], "asyncio would write the traceback of each to the node's log"


def test_no_answer_waits_for_the_acknowledgement_of_its_first_packet(server: AdminServer) -> None:
    with ExitStack() as stack:
        connected(server, stack, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").recv(1)
        assert server.server is not None
        (held,) = server.server.server_state.connections
        taken = held.transport.get_extra_info("socket")
        assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), "each answer would take 40 ms"


class Wire:
    """A transport that notes what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Note what is sent at once."""
        self.sent.append(data)

    def close(self) -> None:
        """Note the end."""
        self.sent.append(b"end")


def test_a_head_and_its_body_are_sent_at_once_and_much_is_not_held() -> None:
    async def run() -> list[bytes]:
        wire = Wire()
        joined = JoinedWrites(cast("Any", wire), asyncio.get_running_loop())
        joined.write(b"head ")
        joined.write(b"body")
        assert wire.sent == []
        await asyncio.sleep(0)
        joined.write(b"x" * JOINED_BYTES_MAX)
        assert len(wire.sent) == 2
        joined.write(b"last")
        joined.close()
        await asyncio.sleep(0)
        return wire.sent

    sent = asyncio.run(run())
    assert (sent[0], len(sent[1]), sent[2:]) == (b"head body", JOINED_BYTES_MAX, [b"last", b"end"])


def test_the_address_is_refused_with_what_to_do() -> None:
    with pytest.raises(InvalidConfigError, match=r"reached from other machines.*--insecure"):
        AdminServer("0.0.0.0:0", "")
    with pytest.raises(InvalidConfigError, match=r"admin_api.bind: .*is not an address of this machine|cannot listen"):
        AdminServer("203.0.113.7:8001", "", insecure=True)
    with pytest.raises(InvalidConfigError, match="HOST:PORT"):
        AdminServer("8001", "")
    with AdminServer("127.0.0.1:0", "").socket as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TransportUnavailableError, match="in use by another program"):
            AdminServer(f"127.0.0.1:{port}", "")
    AdminServer("0.0.0.0:0", "", insecure=True).close()


def test_it_ends_quickly_also_with_connections_open_and_its_port_is_free(server: AdminServer) -> None:
    with ExitStack() as stack:
        for sends in (b"", b"GET /livez HTTP/1.1\r\nHost: localhost\r\n", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"):
            connected(server, stack, sends)
        address, began = server.address, time.monotonic()
        server.close()
        assert time.monotonic() - began < 3
        AdminServer(address, "").close()
    server.close()


def test_a_connection_without_a_whole_head_is_closed(server: AdminServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    with ExitStack() as stack:
        silent = connected(server, stack)
        slow = connected(server, stack, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
        assert ended(silent, 2)
        assert ended(slow, 2)
        again = connected(server, stack, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while not answer.endswith(b"ok\n"):
            answer += again.recv(4096)
        assert answer.startswith(b"HTTP/1.1 200")
        again.sendall(b"GET /livez HT")
        assert ended(again, 2), "the head of its second request never ends"


def test_if_there_are_too_many_the_one_that_waits_longest_makes_room(
    server: AdminServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS_MAX", 20)
    with ExitStack() as stack:
        idle = [connected(server, stack) for _ in range(20)]
        for _ in range(5):
            assert get(server, "/livez")[0] == 200
        assert ended(idle[0], 2)
        assert not ended(idle[-1], 0.1)


def test_no_number_of_silent_connections_keeps_others_out(server: AdminServer) -> None:
    with ExitStack() as stack:
        for _ in range(1200):
            connected(server, stack, b"GET / HTTP/1.1\r\nHost: loc")
        began = time.monotonic()
        assert get(server, "/livez")[0] == 200
        assert time.monotonic() - began < 2
