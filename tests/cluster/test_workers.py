"""Web servers with several worker processes: each is a client of the node beside them, and none can be a node."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import httpx
import pytest

from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.ports import free_ports
from tests.worlds.waiting import wait_for

CLIENTS = """
    import os
    from contextlib import asynccontextmanager

    from fastapi import FastAPI

    from forge_consensus import AsyncClient


    @asynccontextmanager
    async def lifespan(app):
        async with AsyncClient({address!r}) as app.state.cluster:
            yield


    app = FastAPI(lifespan=lifespan)


    @app.post("/count")
    async def count():
        return {{"worker": os.getpid(), "count": await app.state.cluster.incr("count")}}
"""
NODES = """
    from fastapi import FastAPI

    from forge_consensus import ConsensusExtension

    consensus = ConsensusExtension(node_id="n1", bind="127.0.0.1:0", storage_path={folder!r})
    app = FastAPI(lifespan=consensus.lifespan)
"""

FLASK_CLIENTS = """
    import os

    from flask import Flask

    from forge_consensus import Client

    app = Flask(__name__)
    cluster = Client({address!r})


    @app.post("/count")
    def count():
        return {{"worker": os.getpid(), "count": cluster.incr("count")}}
"""
FLASK_NODES = """
    from flask import Flask

    from forge_consensus import ConsensusExtension

    app = Flask(__name__)
    consensus = ConsensusExtension(node_id="n1", bind="127.0.0.1:0", storage_path={folder!r})
    consensus.register(app)
    consensus.start()


    @app.post("/count")
    def count():
        return {{"count": consensus.service.incr("count")}}
"""
UVICORN = ("uvicorn", "site_app:app", "--workers", "2")
GUNICORN = ("gunicorn", "site_app:app", "--workers", "2")


@contextmanager
def served(folder: Path, text: str, server_command: tuple[str, ...] = UVICORN) -> Iterator[tuple[str, Path]]:
    """An application under a server with two workers; yields its URL and the file of its output."""
    (folder / "site_app.py").write_text(dedent(text))
    log, port = folder / "server.log", free_ports(1)[0]
    places = {
        "uvicorn": ["--port", str(port), "--app-dir", str(folder)],
        "gunicorn": ["--bind", f"127.0.0.1:{port}", "--chdir", str(folder)],
    }
    command = [sys.executable, "-m", *server_command, *places[server_command[0]]]
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            yield f"http://127.0.0.1:{port}", log
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait(10)


def count(url: str) -> dict[str, int]:
    """Count once more, on a connection of its own, which either worker may take."""
    answer: dict[str, int] = httpx.post(f"{url}/count", timeout=5).json()
    return answer


def reached(url: str) -> bool:
    """Whether the server answers."""
    try:
        return count(url)["count"] > 0
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    ("server", "program"),
    [(UVICORN, CLIENTS), (GUNICORN, FLASK_CLIENTS), ((*GUNICORN, "--preload"), FLASK_CLIENTS)],
    ids=["uvicorn", "gunicorn", "gunicorn-preload"],
)
def test_every_worker_is_a_client_of_one_node(server: tuple[str, ...], program: str, tmp_path: Path) -> None:
    with LocalCluster(1, folder=tmp_path / "cluster") as cluster:
        cluster.wait_for_leader()
        with served(tmp_path, program.format(address=cluster.addresses["n1"]), server) as (url, _):
            wait_for(lambda: reached(url), 30, "the server answers")
            first = count(url)["count"]
            found = [count(url) for _ in range(60)]
            assert [each["count"] for each in found] == list(range(first + 1, first + 61))
            assert wait_for(lambda: count(url)["worker"] != found[0]["worker"], 20, "both workers answer")


@pytest.mark.parametrize(
    ("server", "program"), [(UVICORN, NODES), (GUNICORN, FLASK_NODES)], ids=["uvicorn", "gunicorn"]
)
def test_a_worker_that_would_be_a_node_of_its_own_is_told_what_to_do(
    server: tuple[str, ...], program: str, tmp_path: Path
) -> None:
    with served(tmp_path, program.format(folder=str(tmp_path / "data")), server) as (_, log):
        wait_for(lambda: "let the workers be clients" in log.read_text(), 30, "the second worker is refused")
        assert "one folder has one node" in log.read_text()
