"""Forks: a child process keeps nothing of its parent's node, and what it has of the package works or says why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from forge_consensus.testing.local.ports import free_ports
from tests.worlds.source_tree import ROOT

START = """
import os, signal, sys, time
from forge_consensus import *
from forge_consensus.config.raft import RaftSettings
folder, port, metrics = sys.argv[1:]
def make(**more):
    raft = RaftSettings(heartbeat_interval=0.05, election_timeout_min=0.3, election_timeout_max=0.6)
    return ConsensusService("n1", "t", bind="127.0.0.1:" + port, storage_path=folder, raft=raft, **more)
def fork(work):
    pid = os.fork()
    if not pid:
        try:
            work()
        except BaseException as error:
            print("child:", type(error).__name__, error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return pid
def ended(pid):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def command(program: str, folder: Path) -> list[str]:
    """A program that begins with `START`, in a process of its own."""
    port, metrics = free_ports(2)
    arguments = [str(folder / "n1"), str(port), str(metrics)]
    return [sys.executable, "-W", "ignore::DeprecationWarning", "-c", START + program, *arguments]


def run(program: str, folder: Path) -> None:
    """Run such a program, which must end well and say nothing."""
    done = subprocess.run(command(program, folder), cwd=ROOT, timeout=40, capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_a_node_stops_and_starts_again_beside_a_worker_that_was_forked_from_it(mode: str, tmp_path: Path) -> None:
    more = "{'metrics': '127.0.0.1:' + metrics}"
    run(
        f"""
service = make(mode={mode!r}, **{more}).start()
service.put("a", 1)
worker = fork(lambda: time.sleep(30))
began = time.monotonic()
service.stop()
took = time.monotonic() - began
assert took < 3, took
service.start()
assert service.get("a") == 1
os.kill(worker, signal.SIGKILL)
service.close()
""",
        tmp_path,
    )


def test_a_program_that_was_killed_starts_again_while_its_worker_lives(tmp_path: Path) -> None:
    started = command(
        """
service = make(metrics="127.0.0.1:" + metrics).start()
service.put("a", 1)
worker = fork(lambda: time.sleep(30))
print(worker, flush=True)
time.sleep(30)
""",
        tmp_path,
    )
    first = subprocess.Popen(started, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    worker = int(first.stdout.readline())
    try:
        first.kill()
        first.wait(10)
        again = [*started[:4], START + "make(metrics='127.0.0.1:' + metrics).start().close()", *started[5:]]
        done = subprocess.run(again, cwd=ROOT, timeout=40, capture_output=True, check=False)
        assert (done.returncode, done.stderr.decode()) == (0, "")
    finally:
        first.stdout.close()
        os.kill(worker, signal.SIGKILL)


def test_a_client_is_a_new_one_in_a_forked_worker_and_the_calls_of_the_parent_stay_there(tmp_path: Path) -> None:
    run(
        """
import asyncio
from forge_consensus.storage.machines.machine import Command
service = make().start()
client, loopless = Client(service.address, correlate=True), AsyncClient(service.address)
client.put("a", 0)
fast = [client.submit(Command("increment", {"key": "a", "by": 1})) for _ in range(500)]
read = client.ask_query("a")
def work():
    unknown = [pending for pending in fast if isinstance(pending.exception(), OutcomeUnknownError)]
    assert all(pending.done() for pending in fast)
    assert isinstance(read.exception(), NotStartedError) or read.done()
    assert client.incr("b") == 1
    assert client.correlation_ids is not None and next(client.correlation_ids) not in ids
    async def inside():
        await loopless.put("c", 1)
        await loopless.close()
    asyncio.run(inside())
    grandchild = fork(lambda: client.incr("b"))
    ended(grandchild)
    assert client.get("b") == 2
    client.close()
    try:
        client.get("b")
    except NotStartedError:
        pass
ids = {next(client.correlation_ids) for _ in range(10)}
child = fork(work)
assert [pending.result() for pending in fast][-1] == 500
ended(child)
assert (client.get("a"), client.get("b"), client.get("c")) == (500, 2, 1)
client.close()
service.close()
""",
        tmp_path,
    )


def test_a_feed_and_a_service_say_in_a_forked_worker_that_they_are_not_there(tmp_path: Path) -> None:
    run(
        """
service = make().start()
service.put("a", 1)
feed = EventFeed(service.address, since=0)
feed.get(5)
embedded = service.async_client()
seen = []
service.bus.subscribe(ConsensusEvent, seen.append)
def work():
    while True:
        try:
            feed.get(5)
        except NotStartedError as error:
            assert "forked" in str(error)
            break
    for call in (service.is_leader, lambda: service.get("a"), lambda: service.put("a", 2), service.status):
        try:
            call()
        except NotStartedError as error:
            assert "forked" in str(error), error
        else:
            raise AssertionError(call)
    feed.close()
    service.stop()
    other = ConsensusService("n1", storage_path=folder + "-child", bind="127.0.0.1:0").start()
    other.put("a", 3)
    assert other.get("a") == 3
    other.close()
    try:
        make().start()
    except (FolderLockedError, TransportUnavailableError):
        pass
    else:
        raise AssertionError("two nodes in one folder")
ended(fork(work))
assert service.get("a") == 1 and feed.get(5) is not None
feed.close()
service.close()
""",
        tmp_path,
    )


def test_a_forked_worker_holds_no_socket_and_no_lock_of_the_node(tmp_path: Path) -> None:
    run(
        """
from forge_consensus.process.fork import addresses_of
service = make(metrics="127.0.0.1:" + metrics).start()
service.put("a", 1)
client = Client(service.address)
client.get("a")
def held():
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink("/proc/self/fd/" + name)
        except OSError:
            continue
        here, there = addresses_of(int(name)) if target.startswith("socket:") else ("", "")
        if target.endswith("LOCK") or here.endswith((":" + port, ":" + metrics)) or there.endswith(":" + port):
            found.append((target, here, there))
    return found
assert len(held()) >= 5, held()
def work():
    assert held() == [], held()
ended(fork(work))
assert len(held()) >= 5 and service.get("a") == client.get("a") == 1
client.close()
service.close()
""",
        tmp_path,
    )
