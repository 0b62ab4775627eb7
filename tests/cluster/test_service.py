"""The service with its node on a thread: start and stop, leaders, commands, reads, accounts, waiting refused."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_consensus import (
    AlreadyStartedError,
    BlockingCallError,
    Command,
    CommandError,
    ConsensusEvent,
    ConsensusService,
    FolderLockedError,
    IdentityError,
    InvalidConfigError,
    NoLeaderError,
    NotLeaderError,
    NotStartedError,
    OutcomeUnknownError,
    TransportUnavailableError,
)
from forge_consensus.client.endpoints import LOCAL
from forge_consensus.client.sync import Client
from forge_consensus.events.types import LeaderElected, NodeStarted, NodeStopped
from forge_consensus.testing.local.ports import free_ports
from tests.worlds.service_world import ANY, Services, eventually, leader_and_others

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    made = Services(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ConsensusService]]:
    made = Services(tmp_path_factory.mktemp("trio"))
    yield made.group(3, lease_reads=True)
    made.close()


def test_one_node_serves_all_calls(services: Services) -> None:
    service = services.lead()
    assert service.wait_for_leader() == service.get_leader() == "n1"
    assert service.is_leader()
    assert service.get_role() == "leader"
    assert service.get_term() == 1
    assert service.apply(Command("set", {"key": "user:1", "value": "John"}), timeout=5) is None
    assert service.read("user:1") == service.get("user:1", "stale") == "John"
    assert service.incr("n") == 1
    assert service.cas("n", expected=1, value=5)
    assert service.scan("n") == [("n", 5)]
    assert service.delete("n")
    assert service.submit(Command("increment", {"key": "m"})).result() == 1
    detail = service.read_detail("m")
    assert (detail.value, detail.stale_ms) == (1, 0)
    assert detail.applied >= 7
    with pytest.raises(CommandError):
        service.apply(Command("no such command"))


def test_a_service_starts_once_and_again_on_the_same_folder(services: Services) -> None:
    service = services.lead()
    service.put("k", "v")
    with pytest.raises(AlreadyStartedError):
        service.start()
    service.stop()
    service.stop()
    for call in (service.is_leader, service.get_stats, service.health_check, lambda: service.get("k")):
        with pytest.raises(NotStartedError):
            call()
    assert service.start().get("k") == "v"
    assert service.get_term() == 2


def test_a_service_runs_within_its_with_block(tmp_path: Path) -> None:
    with ConsensusService("n1", bind=ANY, storage_path=tmp_path / "n1") as service:
        service.put("k", 1)
        stream = service.bus.stream()
    assert service.bus.closed
    assert NodeStopped in {type(event) for event in stream}


def test_a_service_that_cannot_open_names_the_reason(services: Services, tmp_path: Path) -> None:
    first = services.lead(bind=f"127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(FolderLockedError):
        services.make().start()
    with pytest.raises(TransportUnavailableError):
        services.make("n2", bind=first.address).start()
    first.stop()
    with pytest.raises(IdentityError):
        services.make("n3", storage_path=tmp_path / "n1").start()
    with pytest.raises(InvalidConfigError):
        services.make("n4", peers={"n5": "127.0.0.1:7000"})
    with pytest.raises(InvalidConfigError):
        services.make("n4", mode="fibre")
    first.start()
    assert first.wait_for_leader(5) == "n1"


def test_a_listener_subscribed_before_the_start_receives_every_event(services: Services) -> None:
    service = services.make()
    heard: list[ConsensusEvent] = []
    service.bus.subscribe(ConsensusEvent, heard.append, inline=True)
    service.start().wait_for_leader(5)
    service.put("k", 1)
    service.stop()
    kinds = [type(event) for event in heard]
    assert kinds[0] is NodeStarted
    assert LeaderElected in kinds
    assert kinds[-1] is NodeStopped
    assert [event.sequence for event in heard] == sorted({event.sequence for event in heard})


def test_a_blocking_call_is_refused_where_it_would_deadlock(services: Services) -> None:
    service = services.make()
    refused: list[str] = []
    seen: dict[str, Any] = {}

    def handler(event: LeaderElected) -> None:
        calls: dict[str, Callable[[], Any]] = {
            "apply": lambda: service.put("k", 1),
            "read": lambda: service.get("k"),
            "wait_for_leader": service.wait_for_leader,
            "start": service.start,
            "stop": service.stop,
        }
        for name, call in calls.items():
            try:
                call()
            except BlockingCallError as error:
                assert isinstance(error, RuntimeError)
                refused.append(name)
        seen.update(leader=service.get_leader(), leads=service.is_leader(), stats=service.get_stats().leader_id)

    service.bus.subscribe(LeaderElected, handler, inline=True)
    service.start()
    service.wait_for_leader(5)
    eventually(lambda: seen)
    assert refused == ["apply", "read", "wait_for_leader", "start", "stop"]
    assert seen == {"leader": "n1", "leads": True, "stats": "n1"}
    outcome: list[Any] = []

    def done(pending: Any) -> None:
        try:
            outcome.append(service.get("k"))
        except BlockingCallError as error:
            outcome.append(error)

    service.submit(Command("set", {"key": "k", "value": 1})).add_done_callback(done)
    eventually(lambda: outcome)
    assert isinstance(outcome[0], BlockingCallError)


def test_a_handler_with_its_own_thread_may_make_blocking_calls(services: Services) -> None:
    service = services.make()
    service.bus.subscribe(LeaderElected, lambda event: service.put("elected", event.leader))
    service.start()
    assert eventually(lambda: service.get("elected")) == "n1"


def test_stopping_ends_outstanding_calls(services: Services) -> None:
    alone = services.make(peers={"n1": "127.0.0.1:1", "n2": "127.0.0.1:2"}).start()
    pending = alone.submit(Command("set", {"key": "k", "value": 1}), timeout=60)
    blocked: list[BaseException] = []

    def wait() -> None:
        try:
            alone.wait_for_leader(60)
        except NotStartedError as error:
            blocked.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    with pytest.raises(NoLeaderError):
        alone.wait_for_leader(0.1)
    began = time.monotonic()
    alone.stop()
    waiter.join(5)
    assert isinstance(pending.exception(1), NotStartedError | OutcomeUnknownError)
    assert len(blocked) == 1
    assert time.monotonic() - began < 3


# --- three services in one process -----------------------------------------------------------------------------------


def test_every_node_forwards_commands_to_the_leader(trio: list[ConsensusService]) -> None:
    leader, others = leader_and_others(trio)
    for number, service in enumerate(trio):
        service.put(f"from {service.settings.node_id}", number)
    assert {key for key, _ in others[0].scan("from ")} == {"from n1", "from n2", "from n3"}
    assert [service.get_leader() for service in trio] == [leader.settings.node_id] * 3
    assert [service.is_leader() for service in others] == [False, False]


def test_a_service_asks_its_own_leader_without_a_socket(trio: list[ConsensusService]) -> None:
    leader, _ = leader_and_others(trio)
    leader.put("k", 1)
    assert leader.client is not None
    directory = leader.client.driver.core.directory
    assert directory.leader is not None
    assert directory.leader.name == LOCAL
    assert leader.address not in directory.endpoints


def test_reads_of_all_consistencies(trio: list[ConsensusService]) -> None:
    _, (other, _) = leader_and_others(trio)
    other.put("read", "me")
    assert other.get("read", "linearizable") == other.get("read", "lease") == "me"
    assert eventually(lambda: (d := other.read_detail("read", "stale")).value == "me" and d.stale_ms < 5000)


def test_reports_have_the_names_of_the_go_original(trio: list[ConsensusService]) -> None:
    leader, others = leader_and_others(trio)
    eventually(lambda: all(service.get_health_status().healthy for service in trio))
    other = others[0]
    other.put("k", 1)
    stats = other.get_stats()
    assert (stats.node_id, stats.cluster_id, stats.role) == (other.settings.node_id, "test", "follower")
    assert stats.leader_id == leader.settings.node_id
    assert (stats.cluster_size, stats.healthy_nodes, stats.has_quorum) == (3, 3, True)
    assert stats.operations_total >= 1
    assert stats.operations_failed == 0
    assert stats.average_latency_ms > 0
    assert 0 < stats.uptime < time.time() - stats.start_time + 1
    info = leader.get_cluster_info()
    assert (info.id, info.leader, info.total_nodes, info.active_nodes) == ("test", leader.settings.node_id, 3, 3)
    assert {f"{node.address}:{node.port}" for node in info.nodes} == {service.address for service in trio}
    health = leader.get_health_status()
    assert health.leader
    assert health.has_quorum
    assert set(health.checks) == {"node", "leader", "quorum", "member:n1", "member:n2", "member:n3"}
    leader.health_check()


def test_an_asyncio_client_goes_through_a_service(trio: list[ConsensusService]) -> None:
    async def story() -> Any:
        async with trio[0].async_client() as client:
            await client.put("async", "yes")
            return await client.get("async")

    assert asyncio.run(story()) == "yes"


def test_without_forwarding_only_the_leader_serves(services: Services) -> None:
    trio = services.group(3, forward=False)
    leader, (other, third) = leader_and_others(trio)
    leader.put("k", "v")
    began = time.monotonic()
    calls: list[Callable[[], Any]] = [
        lambda: other.put("k", 2),
        lambda: other.get("k"),
        lambda: third.get("k", "lease"),
    ]
    for call in calls:
        with pytest.raises(NotLeaderError) as caught:
            call()
        assert caught.value.leader == leader.settings.node_id
        assert caught.value.address == leader.address
        assert caught.value.term == leader.get_term()
    assert time.monotonic() - began < 2
    assert eventually(lambda: other.get("k", "stale")) == "v"
    leader.stop()
    heir = eventually(lambda: next((one for one in (other, third) if one.is_leader()), None))
    heir.put("k", "w")
    follower = third if heir is other else other
    with pytest.raises(NotLeaderError):
        follower.put("k", "x")
    assert heir.get("k") == "w"


def test_a_service_outlives_the_loss_of_the_leader(services: Services) -> None:
    trio = services.group(3)
    leader, others = leader_and_others(trio)
    others[0].put("k", 1)
    leader.stop()
    others[0].put("k", 2, timeout=10)
    assert others[1].get("k", timeout=10) == 2
    with Client([service.address for service in others]) as client:
        assert client.get("k") == 2


FORKING = """
import os, sys
from forge_consensus import Client, ConsensusService, NotStartedError
service = ConsensusService("n1", bind="127.0.0.1:0", storage_path=sys.argv[1]).start()
service.put("k", 1)
client = Client(service.address)
client.put("k", 2)
child = os.fork()
if not child:
    told = 0
    for call in (service.is_leader, lambda: service.get("k")):
        try:
            call()
        except NotStartedError as error:
            told += "forked" in str(error)
    told += client.get("k") == 2
    service.stop()
    client.close()
    os._exit(told)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
assert service.is_leader() and service.get("k") == client.get("k") == 2
service.stop()
"""


def test_a_call_in_a_forked_process_says_that_the_node_is_not_in_it(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING, str(tmp_path / "n1")]
    done = subprocess.run(command, cwd=ROOT, timeout=15, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_service_is_used_in_an_event_loop(services: Services) -> None:
    async def main() -> None:
        async with services.make() as service, service.async_client() as client:
            await client.put("a", 1)
            assert await client.get("a") == 1
        with pytest.raises(NotStartedError):
            service.get("a")

    asyncio.run(main())


def test_completion_of_a_service_offers_no_internals(services: Services) -> None:
    service = services.make()
    names = {name for name in dir(service) if not name.startswith("_")}
    assert {"start", "stop", "put", "status", "bus", "address"} <= names
    assert not names & service.internal
    assert repr(service) == "<ConsensusService n1 of cluster test, thread, not started>"


# --- the end of the process ------------------------------------------------------------------------------------------

PROGRAM = """
import sys
from forge_consensus import ConsensusService
service = ConsensusService("n1", bind="127.0.0.1:0", storage_path=sys.argv[2], mode=sys.argv[1]).start()
service.put("k", 1)
"""


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_a_program_ends_without_stopping_its_service(mode: str, tmp_path: Path, services: Services) -> None:
    folder = tmp_path / "n1"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode, str(folder)], cwd=ROOT, timeout=15, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")

    def reopened() -> Any:
        try:
            return ConsensusService("n1", bind=ANY, storage_path=folder).start()
        except FolderLockedError:
            return None

    service = eventually(reopened)
    services.made.append(service)
    assert service.get("k") == 1
