"""The interpreter for processes of the package's own, where `sys.executable` is another program."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import InvalidConfigError
from forge_consensus.events.types import SnapshotCompleted, SnapshotFailed, SnapshotsOnThread
from forge_consensus.process.interpreter import find_python, python
from forge_consensus.service.consensus import ConsensusService
from tests.worlds.service_machines import Notebook
from tests.worlds.service_world import Services, eventually

OFTEN = StorageSettings(snapshot_entries=100, snapshot_seconds_min=0.2)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    services = Services(tmp_path)
    yield services
    services.close()


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another program as `sys.executable`, which leaves a mark when it is started."""
    path = tmp_path / "application"
    path.write_text(f"#!/bin/sh\necho started >>{tmp_path}/mark\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
    return tmp_path / "mark"


def fill(service: ConsensusService) -> None:
    for number in range(300):
        service.put(f"k{number % 7}", number)


@pytest.mark.parametrize("frozen", [False, True])
def test_snapshots_are_written_and_the_application_is_not_started(
    frozen: bool, application: Path, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    if frozen:
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    told: list[object] = []
    warned: list[SnapshotsOnThread] = []
    service = services.make(storage=replace(OFTEN, trailing_entries=50))
    service.bus.subscribe(SnapshotsOnThread, warned.append)
    service.bus.subscribe(SnapshotCompleted, told.append)
    service.bus.subscribe(SnapshotFailed, told.append)
    service.start()
    fill(service)
    eventually(lambda: told)
    assert {type(event) for event in told} == {SnapshotCompleted}
    eventually(lambda: service.status().log_entries < 300)
    status = service.status()
    assert ["no Python interpreter" in event.reason for event in warned] == ([True] if frozen else [])
    assert status.snapshots_by == ("thread" if frozen else "process")
    assert status.snapshots_why == (warned[0].reason if frozen else "")
    assert not [detail for detail in status.details if "snapshot" in detail or "interpreter" in detail], "no fault"
    service.stop()
    assert not application.exists()
    service.start()
    assert service.get("k6") == 293


def test_a_node_without_interpreter_says_so_once_and_stops_during_a_snapshot(
    application: Path, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    for number in range(5):
        service = services.make("n1", storage=OFTEN).start()
        fill(service)
        time.sleep(0.01 * number)
        service.close()


@pytest.mark.parametrize("value", ["", None])
def test_an_empty_executable_is_found_beside_the_library(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", value)
    found = find_python()
    assert found is not None and Path(found).name.startswith("python")


def test_a_process_of_its_own_is_refused_without_an_interpreter(
    application: Path, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(InvalidConfigError, match="no Python interpreter"):
        python()
    with pytest.raises(InvalidConfigError, match="mode='thread'"):
        services.make(mode="process").start()


def test_a_process_of_its_own_runs_by_the_interpreter_that_was_found(application: Path, services: Services) -> None:
    service = services.lead(mode="process")
    service.put("a", 1)
    assert service.get("a") == 1
    assert not application.exists()


def test_a_machine_of_the_users_own_is_written_on_a_thread_anyhow(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    status = services.lead(state_machine=Notebook).status()
    assert (status.snapshots_by, status.snapshots_why) == ("thread", "")
