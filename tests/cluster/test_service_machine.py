"""The service with a state machine of the user's own: results, refusals, snapshots, restarts, its faults."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_consensus import (
    BlockingCallError,
    Command,
    CommandError,
    ConsensusError,
    ConsensusService,
    ConsensusTimeoutError,
    InvalidConfigError,
    KeyValueMachine,
    UnavailableError,
)
from forge_consensus.config.storage import StorageSettings
from forge_consensus.events.types import LogCompacted, SnapshotCompleted, SnapshotRestored
from forge_consensus.service.machines import MachineChoice
from forge_consensus.storage.machines.machine import ApplyFaultError, Entry
from tests.worlds.service_machines import Notebook
from tests.worlds.service_world import Services, eventually, leader_and_others

SMALL = StorageSettings(snapshot_entries=20, snapshot_seconds_min=0.1, trailing_entries=5, sweep_entries=10)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    made = Services(tmp_path)
    yield made
    made.close()


def note(service: ConsensusService, first: int, last: int) -> list[int]:
    """Write numbered notes; the counts that the machine returned."""
    pendings = [service.submit(Command("note", {"text": str(n)})) for n in range(first, last)]
    return [pending.result() for pending in pendings]


def texts(count: int) -> list[str]:
    """The notes that `note` has written."""
    return [str(n) for n in range(count)]


def test_a_users_machine_answers_and_refuses(services: Services) -> None:
    service = services.lead(state_machine=Notebook())
    assert note(service, 0, 3) == [1, 2, 3]
    assert service.read("all") == texts(3)
    with pytest.raises(CommandError, match="ValueError: no such page"):
        service.apply(Command("fail"))
    assert note(service, 3, 4) == [4]


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_snapshots_are_taken_by_threshold_and_restored_at_start(mode: str, services: Services) -> None:
    service = services.make(state_machine=Notebook, storage=SMALL, mode=mode)
    taken: list[SnapshotCompleted] = []
    compacted: list[LogCompacted] = []
    service.bus.subscribe(SnapshotCompleted, taken.append, inline=True)
    service.bus.subscribe(LogCompacted, compacted.append, inline=True)
    service.start().wait_for_leader(10)
    note(service, 0, 50)
    eventually(lambda: taken and compacted)
    note(service, 50, 60)
    stats = service.get_stats()
    assert stats.snapshots_total >= 1
    assert stats.last_snapshot_time is not None
    service.stop()
    service.start().wait_for_leader(10)
    assert service.read("all") == texts(60)
    assert service.read("restored") == 1
    assert note(service, 60, 61) == [61]


def test_an_instance_is_put_back_before_it_sees_its_log_again(services: Services) -> None:
    machine = Notebook()
    machine.notes.append("a first page")
    service = services.lead(state_machine=machine)
    note(service, 0, 5)
    for _ in range(2):
        service.stop()
        service.start()
        assert service.read("all") == ["a first page", *texts(5)]


def test_an_instance_without_a_first_state_runs_once(services: Services) -> None:
    class Silent(Notebook):
        """It has no snapshot yet."""

        def snapshot(self) -> Any:
            raise NotImplementedError

    service = services.lead(state_machine=Silent())
    note(service, 0, 1)
    service.stop()
    with pytest.raises(InvalidConfigError, match="give the class"):
        service.start()
    assert services.lead(state_machine=Silent).read("all") == texts(1)


def test_a_follower_far_behind_gets_the_snapshot(services: Services) -> None:
    trio = services.group(3, state_machine=Notebook, storage=SMALL)
    leader, (late, _) = leader_and_others(trio)
    note(leader, 0, 5)
    late.stop()
    restored: list[SnapshotRestored] = []
    late.bus.subscribe(SnapshotRestored, restored.append, inline=True)
    note(leader, 5, 100)
    eventually(lambda: leader.get_stats().snapshots_total and leader.get_stats().log_entries < 60)
    note(leader, 100, 110)
    late.start()

    def caught_up() -> bool:
        try:
            # while it takes over the snapshot it refuses, and another node may answer, which restored nothing
            return bool(late.read("all", "stale") == texts(110) and late.read("restored", "stale") == 1)
        except UnavailableError as error:
            assert error.retryable
            return False

    eventually(caught_up)
    assert restored


def test_a_fault_of_the_machine_ends_the_node_and_is_reported(services: Services) -> None:
    told: list[ConsensusError] = []
    service = services.lead(state_machine=Notebook, on_failure=told.append)
    began = time.monotonic()
    pending = service.submit(Command("die"), timeout=60)
    assert isinstance(pending.exception(5), ConsensusError)
    for call in (lambda: service.apply(Command("note", {"text": "x"})), service.get_role, service.health_check):
        with pytest.raises(ApplyFaultError, match="the disk of this machine is gone"):
            call()
    assert time.monotonic() - began < 5
    eventually(lambda: told)
    assert told == [service.failure]
    assert not service.get_health_status().healthy
    with pytest.raises(InvalidConfigError):
        services.make(state_machine=object())


def test_a_machine_must_not_call_its_own_service(services: Services) -> None:
    refused: list[BaseException] = []

    class Curious(Notebook):
        """It wants to know what it is about to know."""

        def apply(self, entry: Entry) -> Any:
            try:
                service.apply(entry.command)
            except BlockingCallError as error:
                refused.append(error)
            return super().apply(entry)

    service = services.make(state_machine=Curious())
    service.start()
    assert note(service, 0, 1) == [1]
    assert len(refused) == 1


def test_stopping_a_busy_node_is_bounded(services: Services) -> None:
    service = services.lead(state_machine=Notebook)
    pending = service.submit(Command("sleep", {"seconds": 0.6}))
    time.sleep(0.1)
    with pytest.raises(ConsensusTimeoutError):
        service.stop(0.1)
    assert pending.exception(1) is not None
    service.stop(5)
    assert service.host is None


def test_a_slow_opening_is_bounded(services: Services) -> None:
    gate = threading.Event()

    class Slow(Notebook):
        """It takes its time to be made."""

        def __init__(self) -> None:
            gate.wait(10)
            super().__init__()

    service = services.make(state_machine=Slow)
    with pytest.raises(ConsensusTimeoutError):
        service.start(0.1)
    gate.set()
    service.start()
    assert note(service, 0, 1) == [1]


class Needy(Notebook):
    """A machine that cannot be made without being told something."""

    def __init__(self, what: str) -> None:
        super().__init__()


def test_a_failing_constructor_is_an_invalid_configuration(services: Services) -> None:
    with pytest.raises(InvalidConfigError, match=r"Needy could not be made.*instance"):
        services.make(state_machine=Needy).start()


def test_a_machine_is_given_as_instance_class_or_path() -> None:
    assert MachineChoice(None).fresh() is None
    assert isinstance(MachineChoice(Notebook).fresh(), Notebook)
    assert isinstance(MachineChoice("tests.worlds.service_machines:Notebook").fresh(), Notebook)
    assert isinstance(MachineChoice(KeyValueMachine).fresh(), KeyValueMachine)
    kept = KeyValueMachine()
    assert MachineChoice(kept).fresh() is kept
    assert MachineChoice(Notebook()).path() == "tests.worlds.service_machines:Notebook"
