"""Tests of the extension: its configuration, its life in a web application, and what it tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from flask import Flask

from forge_consensus import Command, ConsensusExtension, load_config
from forge_consensus.errors import FolderLockedError, InvalidConfigError, NotStartedError
from forge_consensus.events.types import NodeStarted
from forge_consensus.extension import METRICS

ANY = "127.0.0.1:0"


def made(folder: Path, **options: Any) -> ConsensusExtension:
    return ConsensusExtension(node_id="n1", bind=ANY, storage_path=str(folder / "n1"), **options)


# --- configuration ---------------------------------------------------------------------------------------------------


def test_a_file_and_options_make_one_node_and_options_win(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "extensions:\n  consensus:\n    node_id: n7\n    bind_addr: 127.0.0.1\n    bind_port: 7007\n"
        "    raft: {heartbeat_interval: 40ms}\n"
    )
    settings = ConsensusExtension(config=file, node_id="n8").service.settings
    assert (settings.node_id, settings.bind, settings.raft.heartbeat_interval) == ("n8", "127.0.0.1:7007", 0.04)
    loaded = load_config(file)
    assert ConsensusExtension(loaded).service.settings.node_id == "n7"
    with pytest.raises(InvalidConfigError, match="node_id and a loaded configuration are both given"):
        ConsensusExtension(loaded, node_id="n8")


def test_the_originals_options_are_understood(tmp_path: Path) -> None:
    extension = ConsensusExtension(
        node_id="n1", cluster_id="c", bind_address="127.0.0.1:7001", transport_type="grpc", discovery_type="static",
        storage_type="badger", storage_path=str(tmp_path), peers={"n1": "127.0.0.1:7001"}, tls=False,
    )  # fmt: skip
    assert extension.service.settings.bind == "127.0.0.1:7001"
    assert any("grpc is taken as zmq" in note for note in extension.loaded.notes)


def test_a_protection_without_its_files_is_refused_by_name() -> None:
    with pytest.raises(InvalidConfigError, match=r"security\.cert_file and security\.key_file are not both given"):
        ConsensusExtension(node_id="n1", bind=ANY, tls=True)


def test_options_of_a_section_come_together_and_no_setting_is_named_twice() -> None:
    found = ConsensusExtension(node_id="n1", bind=ANY, storage_type="lmdb", storage={"quota_bytes": "64MiB"})
    assert found.service.settings.storage.quota_bytes == 64 << 20
    with pytest.raises(InvalidConfigError, match="bind_address and another name of bind are both given"):
        ConsensusExtension(node_id="n1", bind=ANY, bind_address=ANY)
    with pytest.raises(InvalidConfigError, match=r"argument tls security\.cert_file: .* says the same"):
        ConsensusExtension(node_id="n1", bind=ANY, tls=("c", "k"), security={"cert_file": "c"})


def test_the_originals_options_take_what_it_takes() -> None:
    extension = ConsensusExtension(
        node_id="n1", bind_address=("::1", 7001), tls=(Path("n1.crt"), "n1.key"), mtls="ca.crt", storage_path="n1"
    )
    settings, security = extension.service.settings, extension.service.settings.security
    assert settings.bind == "[::1]:7001"
    assert (security.enable_tls, security.cert_file, security.key_file) == (True, "n1.crt", "n1.key")
    assert (security.enable_mtls, security.ca_file) == (True, "ca.crt")
    off = ConsensusExtension(node_id="n1", bind_address=ANY, tls=False, mtls=False).service.settings.security
    assert (off.enable_tls, off.enable_mtls) == (False, False)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"bind_address": "nowhere"}, "argument bind_address bind: endpoint 'nowhere' is not an address"),
        ({"bind_address": ("127.0.0.1", 70001)}, "argument bind_address bind: endpoint '127.0.0.1:70001'"),
        ({"bind_address": ("127.0.0.1:1", 7001)}, "argument bind_address: '127.0.0.1:1' is no host"),
        ({"bind_address": ("127.0.0.1", True)}, "argument bind_address: ('127.0.0.1', True) is no address"),
        ({"bind_address": ("127.0.0.1",)}, "argument bind_address: ('127.0.0.1',) is no address"),
        ({"bind": ANY, "tls": "n1.crt"}, "argument tls: 'n1.crt' names no two files"),
        ({"bind": ANY, "tls": ("n1.crt", None)}, "argument tls: ('n1.crt', None) names no two files"),
        ({"bind": ANY, "mtls": 5}, "argument mtls: 5 is no file"),
        ({"bind": ANY, "mtls": "ca.crt"}, "security.enable_mtls is on without security.enable_tls"),
    ],
)
def test_a_fault_in_an_option_of_the_original_names_the_option(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidConfigError) as raised:
        ConsensusExtension(node_id="n1", **options)
    assert fault in str(raised.value)


def test_a_missing_file_is_an_error_only_where_it_is_required(tmp_path: Path) -> None:
    assert ConsensusExtension(tmp_path / "no.yaml", node_id="n1", bind=ANY).service.settings.node_id == "n1"
    with pytest.raises(InvalidConfigError, match=r"no\.yaml"):
        ConsensusExtension(tmp_path / "no.yaml", node_id="n1", bind=ANY, require_config=True)
    with pytest.raises(InvalidConfigError, match="config names no file"):
        ConsensusExtension(node_id="n1", bind=ANY, require_config=True)


# --- life ------------------------------------------------------------------------------------------------------------


def test_an_application_has_the_node_for_as_long_as_it_lives(tmp_path: Path) -> None:
    consensus = made(tmp_path)
    heard: list[Any] = []
    consensus.events.subscribe(NodeStarted, heard.append, inline=True)
    app = FastAPI(lifespan=consensus.lifespan)
    app.add_middleware(consensus.middleware.require_leader())

    @app.post("/put")
    def put(request: Request) -> bool:
        request.state.consensus.service.put("k", 1)
        return bool(request.state.consensus is app.state.consensus is consensus)

    answer = asyncio.run(asked(app, "POST", "/put"))
    assert (answer.status_code, answer.json()) == (200, True)
    assert len(heard) == 1
    with pytest.raises(NotStartedError):
        consensus.service.put("k", 2)


async def asked(app: Any, method: str, path: str) -> httpx.Response:
    """One request in the life of an application."""
    messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    started, ended = asyncio.Event(), asyncio.Event()
    state: dict[str, Any] = {}

    async def send(message: Any) -> None:
        assert "failed" not in message["type"], message
        (started if message["type"] == "lifespan.startup.complete" else ended).set()

    life = asyncio.create_task(app({"type": "lifespan", "state": state}, messages.get, send))
    await messages.put({"type": "lifespan.startup"})
    await asyncio.wait({life, asyncio.create_task(started.wait())}, return_when=asyncio.FIRST_COMPLETED)

    async def with_state(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "state": dict(state)}, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(with_state), base_url="http://app") as client:
        found = await client.request(method, path)
    await messages.put({"type": "lifespan.shutdown"})
    await ended.wait()
    await life
    return found


def test_an_application_that_exists_registers_it(tmp_path: Path) -> None:
    lived: list[str] = []

    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[None]:
        lived.append("begins")
        yield
        lived.append("ends")

    consensus, app = made(tmp_path), FastAPI(lifespan=own)
    assert consensus.register(app) is consensus

    @app.get("/leader")
    def leader(request: Request) -> str | None:
        found: str | None = request.state.consensus.get_leader()
        return found

    answer = asyncio.run(asked(app, "GET", "/leader"))
    assert (answer.json(), lived) == ("n1", ["begins", "ends"])
    assert consensus.service.host is None
    flask = Flask(__name__)
    consensus.register(flask)
    assert flask.extensions["consensus"] is consensus
    with pytest.raises(InvalidConfigError, match="neither a lifespan nor extensions"):
        consensus.register(object())


def test_another_lifespan_runs_inside(tmp_path: Path) -> None:
    consensus = made(tmp_path)
    order: list[str] = []

    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[dict[str, Any]]:
        order.append(f"began, leading {consensus.is_leader()}")
        yield {"pool": 1}
        order.append(f"ends, leading {consensus.is_leader()}")

    async def live() -> None:
        async with consensus.around(own)(FastAPI()) as state:
            assert state == {"consensus": consensus, "pool": 1}

    asyncio.run(live())
    assert order == ["began, leading True", "ends, leading True"]


def test_what_it_tells(tmp_path: Path) -> None:
    consensus = made(tmp_path)
    assert not consensus.health().healthy
    assert consensus.dependencies() == ()
    with consensus:
        assert consensus.health().healthy
        assert consensus.get_leader() == "n1"
        assert tuple(consensus.metrics()) == METRICS
        assert consensus.metrics()["role"] == "leader"
        assert repr(consensus).startswith("<ConsensusExtension of <ConsensusService n1")
        assert consensus.get_role() == "leader"
        assert consensus.apply(Command("set", {"key": "k", "value": 1})) is None
        assert consensus.read("k") == consensus.read("k", "stale") == 1
        assert consensus.get_stats().operations_total == consensus.metrics()["operations_total"]
        assert consensus.get_cluster_info().leader == "n1"


def test_two_run_in_one_process_and_two_on_one_folder_do_not(tmp_path: Path) -> None:
    first, second = made(tmp_path / "a"), made(tmp_path / "b")
    with first, second:
        assert first.is_leader()
        assert second.is_leader()
        with pytest.raises(FolderLockedError, match="let the workers be clients"):
            made(tmp_path / "a").start()
