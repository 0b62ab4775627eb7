"""The reloader and the watch of the files, without a node: who is told what, and when something is read."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.actors.runtime.engine import SettingsChange
from forge_consensus.config.changes import HOT_PROGRAM
from forge_consensus.config.loading import ConfigSource, load_config
from forge_consensus.errors import (
    ConsensusTimeoutError,
    InvalidConfigError,
    NotStartedError,
)
from forge_consensus.events.types import ConfigRejected, ConfigReloaded, ConfigUpdated
from forge_consensus.service import config_watch, reloading
from forge_consensus.service.child import change_of, change_row
from forge_consensus.service.config_watch import ConfigWatcher
from forge_consensus.service.reloading import PAUSE_SECONDS, Reloader
from tests.worlds.service_world import eventually

SMALL = 'node_id: n1\nbind: "127.0.0.1:7001"\nreload: {interval: 100ms}\n'


class Taker:
    """What takes settings in place of a node."""

    def __init__(self) -> None:
        self.changes: list[SettingsChange] = []
        self.error: Exception | None = None

    def __call__(self, change: SettingsChange, timeout: float) -> None:
        """Note the settings, or fail."""
        if self.error is not None:
            raise self.error
        self.changes.append(change)

    @property
    def events(self) -> list[Any]:
        """What was to be told, in order."""
        return [event for change in self.changes for event in change.events]


class World:
    """A file, a reloader and who takes its settings."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "node.yaml"
        self.file.write_text(SMALL)
        self.taker = Taker()
        self.source = ConfigSource([self.file], {})
        self.reloader = Reloader(self.source.load(), self.taker, HOT_PROGRAM)
        self.watcher = ConfigWatcher(self.reloader)

    def add(self, text: str) -> None:
        """Write the file with one more line."""
        self.file.write_text(SMALL + text)

    def told(self, kind: type) -> list[Any]:
        """The events of a kind."""
        return [event for event in self.taker.events if isinstance(event, kind)]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world whose files settle soon."""
    monkeypatch.setattr(config_watch, "SETTLE_SECONDS", 0.02)
    made = World(tmp_path)
    yield made
    made.watcher.stop()


# --- reading ---------------------------------------------------------------------------------------------------------


def test_changed_values_are_taken_told_and_in_force(world: World) -> None:
    world.add("raft: {check_interval: 2s, heartbeat_interval: 50ms}\nlease_reads: true\n")
    report = world.reloader.reload("api")
    (change,) = world.taker.changes
    assert change.raft.check_interval == 2.0
    assert change.raft.heartbeat_interval == 0.1
    assert change.pending_restart == ("raft.heartbeat_interval",)
    updated, reloaded = change.events
    assert updated == ConfigUpdated(trigger="api", settings=("raft.check_interval",), old=("0.5",), new=("2.0",))
    assert reloaded == ConfigReloaded(
        trigger="api",
        changed=("raft.check_interval",),
        pending_restart=("raft.heartbeat_interval",),
        founding=("lease_reads",),
    )
    assert (report.node_id, report.files, report.pending_restart) == (
        "n1",
        (str(world.file),),
        ("raft.heartbeat_interval",),
    )
    assert world.reloader.running.node.raft.check_interval == 2.0
    assert world.reloader.found.node.raft.heartbeat_interval == 0.05
    again = world.reloader.reload("api")
    assert (again.changed, again.pending_restart) == ((), ("raft.heartbeat_interval",))
    assert [type(event).__name__ for event in world.taker.events] == [
        "ConfigUpdated",
        "ConfigReloaded",
        "ConfigReloaded",
    ]


def test_a_file_with_faults_keeps_all_values_and_all_faults_are_told(world: World) -> None:
    world.add("raft: {check_interval: 2s, hartbeat: 1}\nstorage: {quota_bytes: much}\n")
    with pytest.raises(InvalidConfigError) as caught:
        world.reloader.reload("signal")
    (rejected,) = world.told(ConfigRejected)
    assert rejected.trigger == "signal"
    assert [problem.split()[0] for problem in rejected.problems] == [f"{world.file}:4:28", f"{world.file}:5:11"]
    assert rejected.problems == world.reloader.problems
    assert all(problem in str(caught.value) for problem in rejected.problems)
    assert world.reloader.running.node.raft.check_interval == 0.5
    assert world.taker.changes[0].raft == world.reloader.running.node.raft
    world.add("")
    world.reloader.reload("signal")
    assert world.reloader.problems == ()


@pytest.mark.parametrize(
    ("trigger", "identity"), [("signal", "operator"), ("file", "operator"), ("call", "application")]
)
def test_the_audit_has_what_no_client_asked_for(world: World, trigger: str, identity: str) -> None:
    world.add("raft: {check_interval: 2s}\n")
    world.reloader.reload(trigger)
    (record,) = world.taker.changes[-1].records
    assert (record.identity, record.action, record.outcome) == (identity, "ReloadConfig", "done")
    assert record.subject == f"{trigger}: raft.check_interval"
    world.add("raft: {hartbeat: 1}\n")
    with pytest.raises(InvalidConfigError):
        world.reloader.reload(trigger)
    (record,) = world.taker.changes[-1].records
    assert (record.outcome, record.code) == ("failed", InvalidConfigError.code)


@pytest.mark.parametrize("trigger", ["client", "api"])
def test_what_somebody_asks_for_is_recorded_by_whom_they_asked(world: World, trigger: str) -> None:
    world.reloader.reload(trigger)
    assert world.taker.changes[-1].records == ()


def test_the_records_of_a_change_reach_a_node_in_another_process(world: World) -> None:
    world.reloader.reload("file")
    (change,) = world.taker.changes
    assert change_of(json.loads(json.dumps(change_row(change)))).records == change.records


def test_very_many_faults_fit_into_an_event(world: World) -> None:
    world.add("".join(f"no_such_setting_{'x' * 600}_{number}: 1\n" for number in range(300)))
    with pytest.raises(InvalidConfigError):
        world.reloader.reload("api")
    (rejected,) = world.told(ConfigRejected)
    assert len(rejected.problems) == 50
    assert max(map(len, rejected.problems)) == 500
    assert len(world.reloader.problems) == 300


def test_a_dry_run_changes_and_tells_nothing(world: World) -> None:
    world.add("raft: {check_interval: 2s}\n")
    report = world.reloader.reload("api", dry_run=True)
    assert [change.name for change in report.changed] == ["raft.check_interval"]
    world.add("raft: {check_interval: soon}\n")
    with pytest.raises(InvalidConfigError):
        world.reloader.reload("api", dry_run=True)
    assert (world.taker.changes, world.reloader.problems) == ([], ())
    assert world.reloader.running.node.raft.check_interval == 0.5


def test_what_the_node_does_not_take_is_not_in_force(world: World) -> None:
    world.add("raft: {check_interval: 2s}\nlog_level: debug\n")
    world.taker.error = ConsensusTimeoutError("busy")
    heard: list[Any] = []
    world.reloader.listeners.append(heard.append)
    with pytest.raises(ConsensusTimeoutError):
        world.reloader.reload("api")
    assert world.reloader.running.node.raft.check_interval == 0.5
    assert heard == []
    world.taker.error = None
    assert {change.name for change in world.reloader.reload("api").changed} == {"raft.check_interval", "log_level"}
    assert [program.log_level for program in heard] == ["debug"]


def test_a_listener_that_fails_harms_nobody(world: World) -> None:
    heard: list[Any] = []
    world.reloader.listeners += [lambda program: 1 / 0, heard.append]
    world.add("log_level: debug\n")
    assert world.reloader.reload("api").changed
    assert heard


def test_faults_are_logged_if_the_node_cannot_tell_them(world: World) -> None:
    world.add("raft: 5\n")
    world.taker.error = NotStartedError()
    with pytest.raises(InvalidConfigError):
        world.reloader.reload("api")
    assert world.reloader.problems


def test_without_a_file_nothing_is_read(tmp_path: Path) -> None:
    reloader = Reloader(load_config(environment={}, node_id="n1", bind="127.0.0.1:7001"), Taker())
    with pytest.raises(InvalidConfigError, match="nothing to read again"):
        reloader.reload("signal")
    assert reloader.lock.acquire(blocking=False)


def test_a_program_gives_settings_by_a_call(world: World) -> None:
    node = world.reloader.running.node
    wanted = replace(node, raft=replace(node.raft, fail_checks=9), http_url="http://10.0.0.1:8000")
    report = world.reloader.take_config(wanted)
    assert (report.trigger, [change.name for change in report.changed]) == ("call", ["raft.fail_checks"])
    assert report.pending_restart == ("http_url",)
    assert world.reloader.running.origins["raft.fail_checks"].origin == "call"
    assert world.reloader.adopt().node == wanted


# --- one after the other ---------------------------------------------------------------------------------------------


def test_who_asks_while_another_reading_waits_gets_the_result_of_one_reading(world: World) -> None:
    world.add("raft: {check_interval: 2s}\n")
    with ThreadPoolExecutor(50) as pool:
        began = time.monotonic()
        reports = list(pool.map(lambda number: world.reloader.reload("api"), range(200)))
        took = time.monotonic() - began
    assert sum(bool(report.changed) for report in reports) >= 1
    assert len(world.taker.changes) <= 2 + took / PAUSE_SECONDS
    assert len(world.taker.changes) < 100
    assert world.reloader.running.node.raft.check_interval == 2.0


def test_a_fault_is_shared_too_and_a_dry_run_shares_with_no_other(world: World) -> None:
    world.add("raft: 5\n")

    def asked(number: int) -> str:
        try:
            world.reloader.reload("api", dry_run=number % 2 == 0)
        except InvalidConfigError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(asked, range(40)))
    assert 1 <= len(world.told(ConfigRejected)) <= 20


def test_a_reading_that_takes_too_long_holds_up_nobody_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    resolve = world.source.resolve

    def late(*, again: bool) -> Any:
        release.wait(10)
        return resolve(again=again)

    monkeypatch.setattr(world.source, "resolve", late)
    reading = threading.Thread(target=lambda: world.reloader.reload("file"))
    reading.start()
    eventually(world.reloader.lock.locked)
    began = time.monotonic()
    with pytest.raises(ConsensusTimeoutError, match="another reading"):
        world.reloader.reload("api", timeout=0.2)
    assert time.monotonic() - began < 2
    release.set()
    reading.join()


# --- the watch -------------------------------------------------------------------------------------------------------


def test_a_changed_file_is_read_and_a_touched_one_is_not(world: World) -> None:
    world.watcher.start()
    os.utime(world.file)
    time.sleep(0.4)
    assert world.taker.changes == []
    world.add("raft: {check_interval: 2s}\n")
    eventually(lambda: world.told(ConfigUpdated))
    assert world.told(ConfigReloaded)[0].trigger == "file"
    world.add("raft: {check_interval: 2s}\n# a comment\n")
    eventually(lambda: len(world.told(ConfigReloaded)) == 2)
    assert len(world.told(ConfigUpdated)) == 1


def test_a_content_with_faults_is_told_once_and_another_one_again(world: World) -> None:
    world.watcher.start()
    world.add("raft: {check_interval: soon}\n")
    eventually(lambda: world.told(ConfigRejected))
    time.sleep(0.5)
    assert len(world.told(ConfigRejected)) == 1
    world.file.unlink()
    eventually(lambda: len(world.told(ConfigRejected)) == 2)
    time.sleep(0.3)
    assert len(world.told(ConfigRejected)) == 2
    world.add("")
    eventually(lambda: world.told(ConfigReloaded))


def test_a_file_that_is_being_written_is_read_when_it_is_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_watch, "SETTLE_SECONDS", 0.2)
    text = f"{SMALL}raft: {{check_interval: 2s}}\nstorage: {{quota_bytes: 1GiB}}\n"
    world.watcher.start()
    with world.file.open("w") as file:
        for letter in text:
            file.write(letter)
            file.flush()
            time.sleep(0.01)
    eventually(lambda: world.told(ConfigReloaded))
    assert world.told(ConfigRejected) == []
    assert world.told(ConfigUpdated)[0].settings == ("raft.check_interval", "storage.quota_bytes")


def test_a_file_that_never_settles_is_read_all_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_watch, "SETTLE_SECONDS_MAX", 0.2)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            beside = world.file.with_suffix(".new")
            beside.write_text(f"{SMALL}raft: {{fail_checks: {number + 2}}}\n")
            beside.rename(world.file)

    writer = threading.Thread(target=write)
    writer.start()
    world.watcher.start()
    try:
        eventually(lambda: world.told(ConfigUpdated))
    finally:
        stop.set()
        writer.join()


def test_the_watch_can_be_switched_off_and_its_interval_changed(world: World) -> None:
    world.watcher.start()
    world.file.write_text(SMALL.replace("100ms", "100ms, watch: false"))
    eventually(lambda: world.told(ConfigUpdated))
    world.add("raft: {check_interval: 2s}\n")
    time.sleep(0.5)
    assert len(world.told(ConfigReloaded)) == 1
    world.watcher.ask("signal")
    eventually(lambda: len(world.told(ConfigReloaded)) == 2)
    assert world.told(ConfigReloaded)[1].trigger == "signal"
    world.file.write_text(SMALL.replace("100ms", "1h"))
    eventually(lambda: world.reloader.running.program.reload.interval == 3600.0)
    time.sleep(0.3)  # the change itself has the watch look once more
    world.file.write_text(SMALL)
    time.sleep(0.3)
    assert world.reloader.running.program.reload.interval == 3600.0
    world.reloader.reload("api")
    world.add("raft: {check_interval: 3s}\n")
    eventually(lambda: world.reloader.running.node.raft.check_interval == 3.0)


def test_a_node_that_is_busy_is_given_the_settings_later(world: World) -> None:
    world.taker.error = ConsensusTimeoutError("busy")
    world.watcher.start()
    world.add("raft: {check_interval: 2s}\n")
    eventually(lambda: world.watcher.again)
    world.taker.error = None
    eventually(lambda: world.told(ConfigUpdated))
    assert not world.watcher.again


def test_what_is_asked_before_the_start_is_done_then_and_nothing_after_the_end(world: World) -> None:
    world.watcher.ask("signal")
    world.watcher.start()
    eventually(lambda: world.told(ConfigReloaded))
    world.watcher.stop()
    assert not world.watcher.thread.is_alive()
    world.watcher.ask("signal")
    time.sleep(0.2)
    assert len(world.told(ConfigReloaded)) == 1


def test_an_unexpected_error_does_not_end_the_watch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.source, "look", lambda: 1 / 0)
    world.watcher.start()
    time.sleep(0.3)
    monkeypatch.undo()
    world.add("raft: {check_interval: 2s}\n")
    eventually(lambda: world.told(ConfigUpdated))


def test_constants_are_as_the_documentation_has_them() -> None:
    assert (reloading.SECONDS, config_watch.SETTLE_SECONDS_MAX) == (5.0, 5.0)
    assert load_config(environment={}, node_id="n1", bind="h:1").program.reload.interval == 2.0
