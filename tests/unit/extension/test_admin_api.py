"""The admin API of an extension: mounted in its application, or on an address of its own."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from forge_consensus import ConsensusExtension
from forge_consensus.admin import shared
from forge_consensus.errors import (
    AlreadyStartedError,
    InvalidConfigError,
    NotStartedError,
    TransportUnavailableError,
)
from tests.worlds.service_world import eventually

ANY = "127.0.0.1:0"


def made(folder: Path, **options: Any) -> ConsensusExtension:
    """An extension of a cluster of one."""
    return ConsensusExtension(node_id="n1", bind=ANY, storage_path=str(folder / "n1"), **options)


@asynccontextmanager
async def asking(extension: ConsensusExtension, app: FastAPI, client: str = "127.0.0.1") -> AsyncIterator[Any]:
    """A client of an application that lives."""
    async with extension.lifespan(app):
        transport = httpx.ASGITransport(app, client=(client, 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as found:
            yield found


def test_keys_and_values_are_taken_as_they_are_or_refused(tmp_path: Path) -> None:
    with made(tmp_path, admin_api={"bind": ANY}) as extension:
        assert extension.admin is not None
        web = httpx.Client(base_url=extension.admin.url, headers={"Content-Type": "application/json"})
        for key in ("a%0A", "a%0Ab", "a", "a//b/", "%C3%A9%00", "..%2F..", "a%20?", "%25"):
            name = unquote(key.rstrip("?"))
            assert web.put(f"v1/kv/{key}", content=json.dumps(name)).json()["key"] == name
            assert extension.service.get(name) == name
            assert web.get(f"v1/kv/{key}").json()["value"] == name
        assert len(web.get("v1/kv").json()["pairs"]) == 8
        nested = "[" * 600 + "]" * 600
        for value in (str(1 << 70), nested, "null", "", "{", "NaN"):
            answer = web.put("v1/kv/k", content=value)
            assert (answer.status_code, answer.json()["title"]) == (400, "invalid request"), value
        for key in ("", "k" * 401):
            assert web.put(f"v1/kv/{key}", content="1").status_code in {400, 405, 422}, key
        web.close()


def test_it_is_mounted_in_an_application_under_any_path(tmp_path: Path) -> None:
    async def run() -> None:
        extension, app = made(tmp_path), FastAPI()
        app.mount("/consensus", extension.admin_api())
        async with asking(extension, app) as client:
            assert (await client.get("/consensus/health")).json()["healthy"] is True
            assert (await client.get("/consensus/leader")).json()["leader_id"] == "n1"
            headers = {"Content-Type": "text/plain"}
            assert (await client.put("/consensus/v1/kv/a/b", content="x", headers=headers)).status_code == 200
            assert (await client.get("/consensus/v1/kv/a/b")).json()["value"] == "x"
            assert (await client.get("/consensus/v1/cluster")).json()["members"] == 1
            last = await client.get("/consensus/v1/events?recent=5", headers={"Accept": "application/json"})
            assert len(last.json()["events"]) == 5
            assert (await client.get("/consensus/nothing")).status_code == 404

    asyncio.run(run())


def test_an_application_can_live_again(tmp_path: Path) -> None:
    async def run() -> int:
        async with asking(extension, app) as client:
            url = "/consensus/v1/events?recent=1"
            last = await client.get(url, headers={"Accept": "application/json"})
            assert (await client.get("/consensus/v1/cluster")).json()["members"] == 1
            return len(last.json()["events"])

    extension, app = made(tmp_path), FastAPI()
    app.mount("/consensus", extension.admin_api())
    for _ in range(2):
        assert asyncio.run(run()) == 1
        with pytest.raises(NotStartedError):
            extension.service.status()


def test_a_server_ends_in_order_although_a_stream_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "MOUNTED_STREAM_SECONDS", 1.0)
    extension = made(tmp_path)
    app = FastAPI(lifespan=extension.lifespan)
    app.mount("/consensus", extension.admin_api())
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    eventually(lambda: server.started)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/consensus/v1/events"
    with httpx.stream("GET", url, timeout=20) as answer:
        assert next(answer.iter_bytes()).startswith(b"retry: ")
        server.should_exit = True
        thread.join(15)
        assert not thread.is_alive()
    with pytest.raises(NotStartedError):
        extension.service.status()


def test_a_mounted_api_answers_this_machine_only_unless_it_is_told_otherwise(tmp_path: Path) -> None:
    async def run(insecure: bool) -> int:
        extension, app = made(tmp_path), FastAPI()
        app.mount("/c", extension.admin_api(insecure=insecure))
        async with asking(extension, app, "10.0.0.7") as client:
            status: int = (await client.get("/c/health")).status_code
            return status

    assert asyncio.run(run(False)) == 403
    assert asyncio.run(run(True)) == 200


def test_with_an_address_it_has_a_server_of_its_own(tmp_path: Path) -> None:
    with made(tmp_path, admin_api={"bind": ANY}) as extension:
        assert extension.admin is not None
        url = extension.admin.url
        with pytest.raises(AlreadyStartedError):
            extension.start()
        assert httpx.get(f"{url}consensus/leader").json()["is_leader"] is True
        assert httpx.get(f"{url}v1/config").json()["settings"][0] == {
            "name": "node_id", "value": "n1", "text": "n1", "default": None, "unit": "", "reload": "founding",
            "origin": "argument node_id", "pending": None, "pending_restart": False,
        }  # fmt: skip
        assert httpx.get(f"{url}metrics").status_code == 404
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_an_address_that_cannot_be_keeps_the_node_from_starting(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(TransportUnavailableError, match="in use"):
            made(tmp_path, admin_api={"bind": address}).start()
    with pytest.raises(InvalidConfigError, match="reached from other machines"):
        made(tmp_path, admin_api={"bind": "0.0.0.0:0"}).start()
    with made(tmp_path, admin_api={"bind": ANY, "enabled": False}) as extension:
        assert extension.admin is None


def test_a_node_in_a_process_of_its_own_is_asked_too(tmp_path: Path) -> None:
    with made(tmp_path, mode="process", admin_api={"bind": ANY}) as extension:
        assert extension.admin is not None
        url = extension.admin.url
        assert httpx.get(f"{url}readyz").text == "ok\n"
        assert httpx.get(f"{url}v1/node").json()["node_id"] == "n1"
        assert httpx.put(f"{url}v1/kv/k", content="x", headers={"Content-Type": "text/plain"}).status_code == 200
        assert httpx.get(f"{url}v1/kv/k?consistency=eventual").json()["value"] == "x"
        assert httpx.post(f"{url}v1/snapshots").status_code == 200
