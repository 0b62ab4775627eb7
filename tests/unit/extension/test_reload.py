"""Reloading in an application: by a call, by a changed file, of several extensions, and of a node in a process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from forge_consensus import Client, ConsensusExtension, ConsensusService, load_config
from forge_consensus.errors import (
    BusyError,
    ConsensusTimeoutError,
    InvalidConfigError,
    NotStartedError,
)
from forge_consensus.events.types import ConfigRejected, ConfigReloaded, ConfigUpdated, ConsensusEvent, NodeStarted
from forge_consensus.service.blocking import BlockingCallError
from forge_consensus.service.thread_node import ThreadNode
from tests.worlds.service_world import Services, eventually

ANY = "127.0.0.1:0"
CONFIG = (ConfigUpdated, ConfigReloaded, ConfigRejected)


class Application:
    """An application with one extension, and the events of its configuration."""

    def __init__(self, folder: Path, running: ExitStack, name: str = "n1", **options: Any) -> None:
        self.file = folder / f"{name}.yaml"
        self.text = (
            f"extensions:\n  consensus:\n    node_id: {name}\n    bind: '{ANY}'\n"
            f"    storage_path: {folder / name}\n    reload: {{interval: 100ms}}\n"
        )
        self.write("")
        self.extension = ConsensusExtension(config=self.file, **options)
        self.events: list[Any] = []
        self.extension.events.subscribe(ConsensusEvent, self.hear, inline=True)
        running.enter_context(self.extension)

    def hear(self, event: ConsensusEvent) -> None:
        """Note what is told of the configuration."""
        if isinstance(event, CONFIG):
            self.events.append(event)

    def write(self, lines: str) -> None:
        """Write the file with more lines in its section."""
        self.file.write_text(self.text + lines)

    def told(self, kind: type) -> list[Any]:
        """The events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def engine(self) -> Any:
        """The engine of a node on a thread."""
        host = self.extension.service.host
        assert isinstance(host, ThreadNode)
        return host.engine()


@pytest.fixture
def running() -> Iterator[ExitStack]:
    """What is closed at the end."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    """Services that are stopped at the end."""
    made = Services(tmp_path)
    yield made
    made.close()


def test_a_call_reads_the_file_again(tmp_path: Path, running: ExitStack) -> None:
    app = Application(tmp_path, running, reload={"watch": False})
    app.write("    raft: {outstanding_max: 7, heartbeat_interval: 50ms}\n    log_level: debug\n")
    dry = app.extension.reload(dry_run=True)
    assert app.engine.settings.outstanding_max == 20_000
    report = app.extension.reload()
    assert (dry.changed, dry.waiting) == (report.changed, report.waiting)
    assert app.engine.settings.outstanding_max == app.extension.service.settings.raft.outstanding_max == 7
    assert [change.name for change in report.changed] == ["raft.outstanding_max"]
    assert report.pending_restart == ("raft.heartbeat_interval",)
    assert report.notes[0].startswith("log_level info -> debug has no effect here")
    eventually(lambda: len(app.events) == 2)
    assert [type(event).__name__ for event in app.events] == ["ConfigUpdated", "ConfigReloaded"]
    assert app.events[0].sequence > 0
    assert app.extension.service.status().pending_restart == ["raft.heartbeat_interval"]


def test_a_changed_file_and_a_signal_handler_have_it_read(tmp_path: Path, running: ExitStack) -> None:
    app = Application(tmp_path, running)
    app.write("    raft: {outstanding_max: 7}\n")
    eventually(lambda: app.engine.settings.outstanding_max == 7)
    app.extension.reload_soon()
    eventually(lambda: len(app.told(ConfigReloaded)) == 2)
    assert [event.trigger for event in app.told(ConfigReloaded)] == ["file", "call"]
    app.write("    raft: {outstanding_max: 0}\n")
    eventually(lambda: app.told(ConfigRejected))
    assert "outstanding_max" in app.told(ConfigRejected)[0].problems[0]
    assert app.engine.settings.outstanding_max == 7


def test_what_waits_for_a_restart_is_taken_by_the_next_start(tmp_path: Path, running: ExitStack) -> None:
    app = Application(tmp_path, running, reload={"watch": False})
    app.write("    raft: {heartbeat_interval: 50ms}\n    http_url: http://10.0.0.1:8000\n")
    assert app.extension.reload().pending_restart == ("http_url", "raft.heartbeat_interval")
    assert app.extension.service.settings.raft.heartbeat_interval == 0.1
    app.extension.stop()
    app.extension.start()
    assert app.extension.service.settings.raft.heartbeat_interval == app.engine.settings.heartbeat_interval == 0.05
    assert app.engine.http_url == "http://10.0.0.1:8000"
    assert app.extension.service.status().pending_restart == []
    assert app.extension.reload().waiting == ()


def test_each_of_several_extensions_reads_its_own_file(tmp_path: Path, running: ExitStack) -> None:
    apps = [Application(tmp_path, running, name) for name in ("a", "b", "c")]
    apps[1].write("    raft: {outstanding_max: 7}\n")
    eventually(lambda: apps[1].told(ConfigReloaded))
    apps[2].write("    raft: {outstanding_max: none}\n")
    eventually(lambda: apps[2].told(ConfigRejected))
    assert [app.engine.settings.outstanding_max for app in apps] == [20_000, 7, 20_000]
    assert apps[0].events == []
    assert [type(event).__name__ for event in apps[1].events] == ["ConfigUpdated", "ConfigReloaded"]


def test_a_node_in_a_process_takes_settings_and_tells_of_them(tmp_path: Path, running: ExitStack) -> None:
    app = Application(tmp_path, running, mode="process")
    service = app.extension.service
    app.write("    raft: {outstanding_max: 1, heartbeat_interval: 50ms}\n")
    eventually(lambda: app.told(ConfigReloaded))
    assert app.told(ConfigUpdated)[0].settings == ("raft.outstanding_max",)
    assert app.told(ConfigUpdated)[0].node_id == "n1"
    eventually(lambda: service.status().pending_restart == ["raft.heartbeat_interval"])
    with Client([service.address]) as client:
        report = client.reload_config(service.address)
        assert (report["trigger"], report["pending_restart"]) == ("client", ["raft.heartbeat_interval"])
        app.write("    raft: {outstanding_max: none}\n")
        with pytest.raises(InvalidConfigError, match="outstanding_max"):
            client.reload_config(service.address)
    busy = [service.submit(command) for command in commands(200)]
    assert any(isinstance(each.exception(10), BusyError) for each in busy) or all(each.done() for each in busy)
    service.host.process.kill()  # type: ignore[union-attr]
    eventually(lambda: service.failure is not None)
    app.write("")
    with pytest.raises((NotStartedError, ConsensusTimeoutError)):
        service.reloader.reload("call")


def commands(count: int) -> list[Any]:
    """So many commands."""
    from forge_consensus import Command

    return [Command("set", {"key": str(number), "value": 1}) for number in range(count)]


def test_the_admin_api_shows_and_reloads(tmp_path: Path, running: ExitStack) -> None:
    app = Application(tmp_path, running, admin_api={"bind": ANY}, reload={"watch": False})
    assert app.extension.admin is not None
    with httpx.Client(base_url=app.extension.admin.url) as web:
        app.write("    raft: {outstanding_max: 7, heartbeat_interval: 50ms}\n")
        assert web.post("v1/config/reload", json={"dry_run": True}).json()["dry_run"] is True
        assert app.engine.settings.outstanding_max == 20_000
        report = web.post("v1/config/reload").json()
        assert [change["name"] for change in report["changed"]] == ["raft.outstanding_max"]
        told = web.get("v1/config").json()
        rows = {row["name"]: row for row in told["settings"]}
        assert (rows["raft.outstanding_max"]["value"], rows["raft.outstanding_max"]["pending"]) == (7, None)
        heartbeat = rows["raft.heartbeat_interval"]
        assert (heartbeat["value"], heartbeat["pending"], heartbeat["pending_restart"]) == (0.1, "0.05", True)
        assert told["pending_restart"] == ["raft.heartbeat_interval"]
        assert told["files"] == [str(app.file)]
        ready = web.get("readyz?verbose").text
        assert "[+] configuration: these wait for a restart: raft.heartbeat_interval" in ready
        app.write("    raft: {outstanding_max: none, x: 1}\n")
        answer = web.post("v1/config/reload")
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
        problems = answer.json()["problems"]
        assert [(row["line"], row["column"]) for row in problems] == [(7, 12), (7, 35)]
        assert problems[0]["file"] == str(app.file)
        assert [row["line"] for row in web.get("v1/config").json()["problems"]] == [7, 7]
        assert web.post("v1/config/reload", json={"file": "/etc/passwd"}).status_code == 400


def test_without_a_file_the_admin_api_says_so(tmp_path: Path) -> None:
    options: dict[str, Any] = {"node_id": "n1", "bind": ANY, "storage_path": str(tmp_path / "n1")}
    with ConsensusExtension(**options, admin_api={"bind": ANY}) as extension:
        assert extension.admin is not None
        answer = httpx.post(f"{extension.admin.url}v1/config/reload")
        assert (answer.status_code, answer.json()["code"]) == (409, "NO_CONFIGURATION")
        assert httpx.get(f"{extension.admin.url}v1/config").json()["files"] == []
        with pytest.raises(InvalidConfigError, match="no file was given"):
            extension.reload()
        extension.reload_soon()
        with Client([extension.service.address]) as client, pytest.raises(InvalidConfigError, match="no file"):
            client.reload_config(extension.service.address)


def test_a_service_takes_settings_from_its_program(services: Services) -> None:
    service = services.lead()
    heard: list[Any] = []
    service.bus.subscribe(ConfigUpdated, heard.append, inline=True)
    wanted = replace(service.settings, raft=replace(service.settings.raft, outstanding_max=7))
    assert service.reload(wanted, dry_run=True).changed
    assert service.settings.raft.outstanding_max == 20_000
    report = service.reload(wanted)
    assert (report.trigger, report.changed[0].text) == ("call", "raft.outstanding_max 20000 -> 7")
    assert service.settings == wanted
    assert eventually(lambda: heard)[0].trigger == "call"
    assert service.update_config(wanted).changed == (), "the original's name for the same"
    assert service.update_config(replace(wanted, raft=replace(wanted.raft, outstanding_max=8))).changed
    assert service.reload(wanted).changed
    small = replace(
        wanted,
        raft=replace(wanted.raft, command_bytes_max=1 << 10),
        storage=replace(wanted.storage, uncommitted_bytes_max=1 << 16),
    )
    with pytest.raises(InvalidConfigError, match=r"needs a restart \(raft\.command_bytes_max\)"):
        service.reload(small)
    assert service.settings == wanted


def test_a_reload_is_refused_where_it_cannot_be(services: Services, tmp_path: Path) -> None:
    service = services.make()
    with pytest.raises(NotStartedError):
        service.reload(service.settings)
    errors: list[Exception] = []

    def reload(event: NodeStarted) -> None:
        try:
            service.reload(service.settings)
        except BlockingCallError as error:
            errors.append(error)

    service.bus.subscribe(NodeStarted, reload, inline=True)
    service.start()
    eventually(lambda: errors)
    service.stop()
    with pytest.raises(NotStartedError):
        service.reload(service.settings)
    extension = ConsensusExtension(node_id="n1", bind=ANY, storage_path=str(tmp_path / "x"))
    with pytest.raises(NotStartedError):
        extension.reload()
    extension.reload_soon()


def test_a_loaded_configuration_is_taken_by_a_service(services: Services, tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    text = f"node_id: n1\nbind: '{ANY}'\nstorage_path: {tmp_path / 'n1'}\n"
    file.write_text(text)
    service = ConsensusService(**load_config(file).arguments())
    services.made.append(service)
    service.start()
    file.write_text(f"{text}storage: {{snapshot_interval: 5s}}\n")
    assert [change.name for change in service.reload(load_config(file)).changed] == ["storage.snapshot_interval"]


def test_reloads_during_start_and_stop_end_with_the_node(tmp_path: Path) -> None:
    app_file = tmp_path / "n1.yaml"
    text = f"node_id: n1\nbind: '{ANY}'\nstorage_path: {tmp_path / 'n1'}\nreload: {{interval: 100ms}}\n"
    app_file.write_text(text)
    extension = ConsensusExtension(app_file)
    stop, outcomes = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            try:
                extension.reload(timeout=2.0)
                outcomes.append("ok")
            except (NotStartedError, ConsensusTimeoutError) as error:
                outcomes.append(type(error).__name__)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    for _ in range(4):
        extension.start()
        time.sleep(0.2)
        extension.stop()
    stop.set()
    for asker in askers:
        asker.join(10)
        assert not asker.is_alive()
    extension.close()
    assert {"ok", "NotStartedError"} <= set(outcomes)


def test_a_dropped_extension_ends_its_watch(tmp_path: Path) -> None:
    with ExitStack() as running:
        app = Application(tmp_path, running)
        watcher = app.extension.watcher
        assert watcher is not None
        service = app.extension.service
    assert not watcher.thread.is_alive()
    extension = ConsensusExtension(app.file).start()
    watcher, service = extension.watcher, extension.service
    assert watcher is not None
    del extension
    eventually(lambda: not watcher.thread.is_alive())
    service.close()
