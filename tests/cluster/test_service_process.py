"""The service with its node in a child process: the same calls, its events, and its death."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_consensus import (
    BlockingCallError,
    Command,
    ConsensusError,
    ConsensusEvent,
    ConsensusService,
    FolderLockedError,
    IdentityError,
    InvalidConfigError,
    LeadershipChecker,
    NotLeaderError,
    NotStartedError,
    OperationFailedError,
    TransportUnavailableError,
)
from forge_consensus.client.calls import ReadDetail
from forge_consensus.config.security import SecuritySettings
from forge_consensus.events.types import LeaderElected, NodeStarted, NodeStopped
from forge_consensus.service.process_node import FRESH_SECONDS, ProcessNode, reachable
from tests.worlds.service_machines import Notebook, Titled
from tests.worlds.service_world import ANY, Services, eventually, leader_and_others

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    made = Services(tmp_path)
    yield made
    made.close()


def child_of(service: ConsensusService) -> subprocess.Popen[bytes]:
    """The process of a service's node."""
    assert isinstance(service.host, ProcessNode)
    assert service.host.process is not None
    return service.host.process


def lives(pid: int) -> bool:
    """Whether there is such a process that has not ended; who must collect it may be slow."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_who_leads_and_how_new_the_state_is_can_be_asked_of_a_node_in_a_process(services: Services) -> None:
    service = services.lead(mode="process", http_url="http://one:8000")
    checker = LeadershipChecker(service)
    standing = eventually(lambda: (found := checker.standing()).leading and found)
    assert (standing.leader, standing.leader_url, standing.cluster_id) == ("n1", "http://one:8000", "test")
    checker.require_leader()
    checker.require_quorum()
    service.put("k", "v")

    async def confirmed() -> ReadDetail:
        assert await checker.standing_async() == standing
        await checker.require_quorum_async()
        return await checker.confirm_async(timeout=5)

    assert asyncio.run(confirmed()).applied >= service.last_index > 0
    service.stop()
    with pytest.raises(NotStartedError):
        checker.standing()
    assert checker.last_index() == 0


def test_one_node_in_a_process_serves_all_calls(services: Services) -> None:
    service = services.make(mode="process")
    heard: list[ConsensusEvent] = []
    service.bus.subscribe(ConsensusEvent, heard.append, inline=True)
    service.start()
    assert service.wait_for_leader(10) == "n1"
    assert (service.is_leader(), service.get_role(), service.get_term()) == (True, "leader", 1)
    service.put("k", "v")
    assert service.get("k") == service.get("k", "stale") == "v"
    assert [f.result() for f in [service.submit(Command("increment", {"key": "n"})) for _ in range(5)]] == [
        1,
        2,
        3,
        4,
        5,
    ]
    assert service.get_stats().operations_total == 6
    assert service.get_cluster_info().total_nodes == 1
    assert service.get_health_status().healthy
    service.health_check()

    async def story() -> Any:
        async with service.async_client() as client:
            return await client.get("k")

    assert asyncio.run(story()) == "v"
    pid = child_of(service).pid
    assert pid != os.getpid()
    service.stop()
    assert not lives(pid)
    kinds = [type(event) for event in heard]
    assert kinds[0] is NodeStarted
    assert LeaderElected in kinds
    assert kinds[-1] is NodeStopped
    assert [event.sequence for event in heard] == sorted({event.sequence for event in heard})
    assert service.start().get("k") == "v"


def test_a_machine_of_the_users_own_runs_in_the_process(services: Services) -> None:
    service = services.lead(mode="process", state_machine=Notebook())
    assert service.apply(Command("note", {"text": "a"})) == 1
    assert service.apply(Command("note", {"text": "b"})) == 2
    assert service.read("all") == ["a", "b"]
    service.stop()
    assert service.start().read("all") == ["a", "b"]


def test_a_machine_that_another_process_cannot_make_is_refused(services: Services) -> None:
    class Local(Notebook):
        """Nobody else can import it."""

    for machine in (Local, Titled("x"), "tests.worlds.service_machines:Missing", "nothing", object()):
        with pytest.raises(InvalidConfigError):
            services.make(mode="process", state_machine=machine)
    services.make(state_machine=Local)
    services.make(state_machine=Titled("x"))


def test_the_errors_of_opening_cross_the_process_border(services: Services, tmp_path: Path) -> None:
    first = services.lead()
    with pytest.raises(FolderLockedError, match="Stop that node"):
        services.make(mode="process").start()
    with pytest.raises(TransportUnavailableError):
        services.make("n2", bind=first.address, mode="process").start()
    first.stop()
    service = services.make("n3", storage_path=tmp_path / "n1", mode="process")
    with pytest.raises(IdentityError):
        service.start()
    assert service.host is None


def test_all_waiting_calls_notice_a_killed_process(services: Services) -> None:
    told: list[ConsensusError] = []
    peers = {"n1": "127.0.0.1:1", "n2": "127.0.0.1:2"}
    service = services.make(mode="process", peers=peers, on_failure=told.append).start()
    pending = service.submit(Command("set", {"key": "k", "value": 1}), timeout=60)
    blocked: list[BaseException] = []

    def wait() -> None:
        try:
            service.wait_for_leader(60)
        except OperationFailedError as error:
            blocked.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    os.kill(child_of(service).pid, signal.SIGKILL)
    assert isinstance(pending.exception(5), ConsensusError)
    waiter.join(5)
    assert len(blocked) == 1
    for call in (service.get_term, lambda: service.get("k"), service.health_check):
        with pytest.raises(OperationFailedError, match="signal 9"):
            call()
    assert eventually(lambda: told) == [service.failure]
    health = service.get_health_status()
    assert (health.healthy, health.status) == (False, "unhealthy")


def test_a_service_starts_again_after_its_process_was_killed(services: Services) -> None:
    service = services.lead(mode="process")
    service.put("k", "v")
    os.kill(child_of(service).pid, signal.SIGKILL)
    eventually(lambda: service.failure)
    assert service.start().get("k") == "v"
    assert service.failure is None
    service.health_check()


def test_a_fatal_error_in_the_process_keeps_its_text(services: Services) -> None:
    service = services.lead(mode="process", state_machine=Notebook)
    with pytest.raises(ConsensusError):
        service.apply(Command("die"))
    eventually(lambda: service.failure)
    with pytest.raises(
        ConsensusError, match=r"log entry \d+ could not be applied: OSError: .*the disk of this machine"
    ):
        service.get_term()


def test_stop_kills_an_unresponsive_process(services: Services) -> None:
    service = services.lead(mode="process")
    process = child_of(service)
    process.send_signal(signal.SIGSTOP)
    time.sleep(2 * FRESH_SECONDS)
    began = time.monotonic()
    assert not service.is_leader()
    service.stop(0.5)
    assert time.monotonic() - began < 6
    assert process.returncode == -signal.SIGKILL


def test_an_inline_handler_must_not_wait_for_the_process_either(services: Services) -> None:
    service = services.make(mode="process")
    caught: list[Any] = []

    def handler(event: LeaderElected) -> None:
        try:
            service.put("k", 1)
        except BlockingCallError as error:
            caught.append(error)

    service.bus.subscribe(LeaderElected, handler, inline=True)
    service.start()
    assert len(eventually(lambda: caught)) == 1


def test_three_processes_are_one_cluster(services: Services) -> None:
    trio = services.group(3, mode="process", forward=False)
    leader, others = leader_and_others(trio)
    leader.put("k", 1)
    with pytest.raises(NotLeaderError) as caught:
        others[0].put("k", 2)
    assert caught.value.address == leader.address
    assert eventually(lambda: others[1].get("k", "stale")) == 1


PARENT = """
import sys, time
from forge_consensus import ConsensusService
service = ConsensusService("n1", bind="127.0.0.1:0", storage_path=sys.argv[1], mode="process").start()
print(service.host.process.pid, flush=True)
time.sleep(60)
"""


def test_the_process_ends_with_its_parent_however_that_ends(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "n1")], cwd=ROOT, stdout=subprocess.PIPE
    ) as parent:
        try:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            assert lives(child)
        finally:
            parent.kill()
    eventually(lambda: not lives(child))


def test_an_address_of_every_interface_is_reached_by_the_loopback() -> None:
    assert reachable("0.0.0.0:7000") == "127.0.0.1:7000"
    assert reachable("[::]:7000") == "[::1]:7000"
    assert reachable("10.0.0.1:7000") == "10.0.0.1:7000"


def test_a_process_may_listen_on_every_interface(services: Services) -> None:
    service = services.lead(mode="process", bind="0.0.0.0:0", security=SecuritySettings(insecure=True))
    service.put("k", 1)
    assert service.address.startswith("127.0.0.1:")
    assert ANY.startswith("127.0.0.1")
