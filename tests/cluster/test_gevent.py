"""gevent: clients and feeds work on real threads while other greenlets go on, and a node is refused at once."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.worlds.client_fakes import FakeCluster
from tests.worlds.source_tree import ROOT

pytestmark = pytest.mark.skipif(importlib.util.find_spec("gevent") is None, reason="gevent is not installed")

START = """
from gevent import monkey
monkey.patch_all()
import gevent, sys, threading, time
from forge_consensus import *
from forge_consensus.storage.machines.machine import Command
addresses = sys.argv[1]
ticks = []
def tick():
    while True:
        ticks.append(1)
        gevent.sleep(0.01)
gevent.spawn(tick)
def ticking(call):
    before, began = len(ticks), time.monotonic()
    try:
        return call()
    except ConsensusError as error:
        return type(error).__name__
    finally:
        took = time.monotonic() - began
        assert len(ticks) - before >= took / 0.01 / 3, (len(ticks) - before, took)
"""

PROGRAMS = {
    "calls": """
with Client(addresses, timeout=5) as client:
    client.put("a", 1)
    assert client.get("a") == 1
    pendings = [client.submit(Command("set", {"key": str(n), "value": n})) for n in range(1000)]
    assert all(pending.exception() is None for pending in pendings)
    got = []
    together = [gevent.spawn(lambda n=n: got.append(client.get(str(n)))) for n in range(50)]
    gevent.joinall(together, timeout=5)
    assert sorted(got) == list(range(50))
""",
    "waits": """
with Client("127.0.0.1:1", timeout=0.5) as client:
    assert ticking(lambda: client.get("a")) == "ConnectionFailedError"
feed = EventFeed("127.0.0.1:1")
def late():
    try:
        return feed.get(0.3)
    except TimeoutError:
        return "late"
assert ticking(late) == "late"
feed.close()
""",
    "threads of its own": """
with Client(addresses, timeout=5) as client:
    client.put("a", 1)
    assert gevent.get_hub().threadpool.apply(client.get, ("a",)) == 1
    threads = [threading.Thread(target=client.put, args=(str(n), n)) for n in range(5)]
    [thread.start() for thread in threads]
    [thread.join(5) for thread in threads]
    assert client.get("4") == 4
""",
    "watches and leases": """
with Client(addresses, timeout=5) as client, client.lease(3) as lease:
    watch = client.watch("k")
    def quiet():
        try:
            return watch.get(0.5)
        except TimeoutError:
            return "quiet"
    assert ticking(quiet) == "quiet"
    gevent.spawn_later(0.2, client.put, "k", 1)
    assert ticking(lambda: watch.get(5)).value == 1
    gevent.spawn_later(0.2, watch.close)
    assert ticking(lambda: list(watch)) == []
    assert not ticking(lambda: lease.lost.wait(1))
    lost = client.lease(0.3)
    told = []
    with lost.kept(on_lost=lambda one: told.append(client.get("k"))):
        client.apply(Command("lease_revoke", {"lease": lost.id}))
        assert ticking(lambda: lost.lost.wait(5))
        with gevent.Timeout(5):
            while not told:
                gevent.sleep(0.01)
        assert told == [1], told
""",
    "node": """
import tempfile
for mode in ("thread", "process"):
    service = ConsensusService("n1", storage_path=tempfile.mkdtemp(), bind="127.0.0.1:0", mode=mode)
    began = time.monotonic()
    try:
        service.start(timeout=5)
    except InvalidConfigError as error:
        assert "gevent" in str(error) and "forge-consensus node" in str(error), error
    else:
        raise AssertionError("it started")
    assert time.monotonic() - began < 1
""",
}


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    cluster = FakeCluster(1)
    yield cluster
    cluster.stop()


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_with_greenlets_for_threads(program: str, cluster: FakeCluster) -> None:
    done = subprocess.run(
        [sys.executable, "-c", START + PROGRAMS[program], *cluster.addresses],
        cwd=ROOT, timeout=40, capture_output=True, check=False, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_another_library_that_replaces_threads_is_refused() -> None:
    program = (
        "import _thread; start = _thread.start_new_thread\n"
        "_thread.start_new_thread = lambda *arguments: start(*arguments)\n"
        "from forge_consensus import Client, InvalidConfigError\n"
        "try: Client('127.0.0.1:1')\n"
        "except InvalidConfigError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=30, capture_output=True, check=False, text=True)
    assert "a client or feed cannot run here" in done.stdout, done.stderr
