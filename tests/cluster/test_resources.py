"""Threads, descriptors, ports and locks: what is dropped or fails to start leaves none of them behind."""

from __future__ import annotations

import gc
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.client.aio import AsyncClient
from forge_consensus.client.sync import Client
from forge_consensus.errors import ConsensusError, InvalidConfigError, NotStartedError, TransportUnavailableError
from forge_consensus.feed.event_feed import EventFeed
from forge_consensus.process.fork import addresses_of
from forge_consensus.process.threads import ForgeThread
from forge_consensus.service.consensus import ConsensusService
from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.local.ports import free_ports
from tests.worlds.client_fakes import FakeCluster
from tests.worlds.service_world import Services, eventually
from tests.worlds.source_tree import ROOT

NOBODY = "127.0.0.1:1"
WRITERS = ("forge-log", "forge-stderr")
"""Threads that are there for the whole process, from the first line of a log on."""


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    services = Services(tmp_path)
    yield services
    services.close()


def held() -> tuple[int, int]:
    """How many threads of the package and descriptors this process has."""
    gc.collect()
    names = [name for thread in threading.enumerate() if (name := thread.name).startswith("forge-")]
    names = [name for name in names if name not in WRITERS]
    return len(names), len(os.listdir("/proc/self/fd"))


def use_client() -> None:
    Client(NOBODY).driver.rouse()


def use_feed() -> None:
    for _ in EventFeed(NOBODY, timeout=0.01):
        return


@pytest.mark.parametrize("use", [use_client, use_feed])
def test_what_is_dropped_is_freed(use: Callable[[], None]) -> None:
    use()
    before = held()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for _ in range(10):
            use()
        eventually(lambda: held() <= before, 5)


def test_a_call_of_a_client_that_was_dropped_ends_as_any_other() -> None:
    cluster = FakeCluster(1)
    try:
        before = held()
        pendings = [Client(cluster.addresses).submit(Command("set", {"key": "k", "value": 1})) for _ in range(5)]
        for pending in pendings:
            pending.result()
        eventually(lambda: held() <= before, 5)
    finally:
        cluster.stop()


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_a_service_that_is_dropped_warns_and_stops_its_node(mode: Any, tmp_path: Path) -> None:
    def use() -> None:
        ConsensusService("n1", storage_path=tmp_path / mode, bind="127.0.0.1:0", mode=mode).start().put("a", 1)

    before = held()
    with pytest.warns(ResourceWarning, match="of node n1 was dropped"):
        use()
        gc.collect()
    eventually(lambda: held() <= before, 10)
    use_again = ConsensusService("n1", storage_path=tmp_path / mode, bind="127.0.0.1:0").start()
    assert use_again.get("a") == 1
    use_again.close()


STEPS = [
    "forge_consensus.storage.backends.folder.Folder.remove_temporary_files",
    "forge_consensus.storage.backends.lmdb.open_databases",
    "forge_consensus.service.node.open_ledger",
    "forge_consensus.actors.transport.zeromq.Engine",
    "forge_consensus.actors.transport.zeromq.Wakeup",
    "forge_consensus.actors.transport.sockets.endpoint_of",
    "forge_consensus.service.node.start_system",
    "forge_consensus.service.node_metrics.serve",
    "forge_consensus.service.lifecycle.Client",
    "forge_consensus.client.driver.Wakeup",
    "forge_consensus.client.driver.Connections",
]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", [RuntimeError, OSError, KeyboardInterrupt])
def test_a_start_that_fails_leaves_nothing_behind(
    step: str, kind: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **more: object) -> object:
        raise kind("on purpose")

    threads = held()[0]

    def check(name: str) -> None:
        bind, metrics = (f"127.0.0.1:{port}" for port in free_ports(2))
        service = ConsensusService("n1", storage_path=tmp_path / name, bind=bind, metrics=metrics)
        with monkeypatch.context() as patch:
            patch.setattr(step, fail)
            with pytest.raises((kind, ConsensusError)):
                service.start(5)
        eventually(lambda: held()[0] <= threads, 5)
        service.start()
        service.put("a", 1)
        service.close()

    check("first")  # what a first start leaves, such as modules, is not what a failed one leaves
    before = held()
    check("second")
    eventually(lambda: held() <= before, 5)


@pytest.mark.parametrize("taken", ["bind", "events_bind", "metrics"])
def test_a_start_whose_port_is_taken_founds_no_folder(taken: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        ports: dict[str, Any] = {"bind": "127.0.0.1:0", taken: address}
        with pytest.raises(TransportUnavailableError, match=f"{address} is in use by another program"):
            ConsensusService("n1", cluster_id="one", storage_path=tmp_path, **ports).start(5)
    with ConsensusService("n2", cluster_id="another", storage_path=tmp_path, bind="127.0.0.1:0") as service:
        service.put("a", 1)


@pytest.mark.parametrize("name", ["no/n1", "file/n1", "taken"])
def test_a_start_whose_path_cannot_be_used_founds_no_folder(name: str, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as short:  # the path of a socket is bounded
        (Path(short) / "file").write_text("")
        (Path(short) / "taken.events").write_text("")
        with pytest.raises((TransportUnavailableError, InvalidConfigError), match=r"choose .* a folder|events: .*file"):
            ConsensusService("n1", cluster_id="one", storage_path=tmp_path, bind=f"ipc://{short}/{name}").start(5)
    with ConsensusService("n2", cluster_id="another", storage_path=tmp_path, bind="127.0.0.1:0") as service:
        service.put("a", 1)


def test_a_thread_that_cannot_be_started_is_a_typed_error_and_leaves_nothing(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    before = held()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for use in (lambda: Client(NOBODY), lambda: EventFeed(NOBODY), lambda: services.make().start()):
            with pytest.raises(TransportUnavailableError, match="no thread could be started"):
                use()
    eventually(lambda: held() <= before, 5)


FEW = """
import os, resource, sys
from forge_consensus import *
from forge_consensus.process.log import enable_logging
kind, folder = sys.argv[1:]
uses = {
    "client": lambda: Client("127.0.0.1:1,127.0.0.1:2", timeout=0.02).get("a"),
    "feed": lambda: EventFeed("127.0.0.1:1", follow=False, connect_seconds=0.02).get(5),
    "thread": lambda: ConsensusService("n1", storage_path=folder, bind="127.0.0.1:0").start().close(),
    "process": lambda: ConsensusService("n1", storage_path=folder, bind="127.0.0.1:0", mode="process").start().close(),
}
def attempt():
    try:
        uses[kind]()
    except ConsensusError as error:
        return type(error).__name__
    return "works"
attempt()
used = len(os.listdir("/proc/self/fd"))
seen = []
for more in range(0, 60, 1 if kind in ("client", "feed") else 6):
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + more, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    seen.append(attempt())
print(*dict.fromkeys(seen))
"""


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("client", "TransportUnavailableError ConnectionFailedError"),
        ("feed", "TransportUnavailableError ConnectionFailedError"),
        ("thread", "TransportUnavailableError works"),
        ("process", "TransportUnavailableError works"),
    ],
)
def test_too_few_descriptors_are_a_typed_error_and_never_an_abort(kind: str, told: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FEW, kind, str(tmp_path / "n1")],
        cwd=ROOT, timeout=60, capture_output=True, check=False, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, told, "")


def test_an_error_that_is_kept_does_not_grow_when_it_is_raised_again() -> None:
    client = Client(NOBODY, timeout=0.01)
    pending = client.submit(Command("set", {"key": "k", "value": 1}))
    client.close()
    feed = EventFeed(NOBODY, follow=False, connect_seconds=0.01)
    for call in (pending.result, lambda: client.get("a"), lambda: feed.get(5)):
        lengths = set()
        for _ in range(5):
            try:
                call()
            except ConsensusError as error:
                lengths.add((len(traceback.extract_tb(error.__traceback__)), repr(error.__context__)))
        assert len(lengths) == 1
    feed.close()


def test_clients_feeds_and_services_are_not_sent_to_other_processes(services: Services) -> None:
    with Client(NOBODY) as client, EventFeed(NOBODY) as feed:
        for one in (client, feed, AsyncClient(NOBODY), services.make()):
            with pytest.raises(TypeError, match="cannot be pickled or copied"):
                pickle.dumps(one)


def test_a_closed_client_says_so_and_frees_its_descriptors_at_once() -> None:
    client = Client(NOBODY)
    before = held()
    client.close()
    assert held()[1] < before[1]
    with pytest.raises(NotStartedError, match="closed"):
        client.get("a")


def test_a_thread_is_joined_within_its_time_and_knows_itself() -> None:
    release, seen = threading.Event(), list[bool]()

    def work() -> None:
        seen.append(thread.is_current())
        release.wait(10)

    thread = ForgeThread(target=work, name="forge-test")
    assert not thread.is_alive()
    thread.join(0.01)
    thread.start()
    thread.join(0.01)
    assert thread.is_alive() and not thread.is_current()
    release.set()
    thread.join(5)
    assert not thread.is_alive() and seen == [True]


def test_what_is_no_socket_has_no_address(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        assert addresses_of(file.fileno()) == ("", "")
