"""The exporter: a snapshot from a process of its own, which may fail, hang or be killed without harm."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.errors import SnapshotFailedError
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import Command
from forge_consensus.storage.snapshots import export
from forge_consensus.storage.snapshots.export import NICER, ExportProcess, export_in_process
from forge_consensus.storage.snapshots.file import verify
from tests.worlds.ledger_world import World, put
from tests.worlds.slow_machines import FailingMachine, SlowMachine


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World("lmdb", tmp_path)
    made.lead()
    made.do(*[put(f"k{n}", n) for n in range(100)])
    made.checkpoint()
    yield made
    made.close()


HALF_WRITTEN = re.compile(r".+\.writing-[0-9]+-([0-9]+)\.tmp")
"""What `write_snapshot` calls a file that it writes, with the process that does."""


def parent_of(process: int) -> int:
    """The process that started that one; 0 where there is none."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except FileNotFoundError:
        return 0


def writer_of(file: Path) -> int:
    """The child of ours that writes this file. Raises AssertionError for any other, which nobody here may end."""
    matched = HALF_WRITTEN.fullmatch(file.name)
    assert matched is not None, f"{file.name} does not name who writes it"
    process = int(matched[1])
    assert process > 1, f"{file.name} names process {process}"
    assert parent_of(process) == os.getpid(), f"process {process}, which {file.name} names, is no child of ours"
    return process


@pytest.mark.parametrize("name", ["x.fcs.writing-1-0.tmp", "x.fcs.writing-1-1.tmp", "x.fcs.writing-1.tmp", "x-{}.tmp"])
def test_only_a_child_of_this_process_is_accepted_as_the_writer(name: str) -> None:
    with pytest.raises(AssertionError):
        writer_of(Path(name.format(os.getpid())))
    with pytest.raises(AssertionError, match="is no child of ours"):
        writer_of(Path(f"x.fcs.writing-1-{os.getpid()}.tmp"))


def left_behind(world: World) -> list[str]:
    return [path.name for path in world.folder.iterdir() if path.suffix != ".fcs"]


def test_a_child_writes_the_state_on_disk_while_the_node_goes_on(world: World) -> None:
    world.do(Command("lease_grant", {"ttl_ms": 60_000}).encode())
    lease = world.ledger.applied
    world.do(Command("set", {"key": "held", "value": 1, "lease": lease}).encode())
    with world.turn():
        world.ledger.request_checkpoint()
    job = export_in_process(world.path / "tables", world.folder, KeyValueMachine, 30.0)
    index = world.ledger.applier.on_disk
    world.do(put("later", 1))
    info = job()
    assert info == verify(info.path)
    assert info.index == index
    assert not left_behind(world)
    follower = World("memory", world.path / "follower", node="n2")
    with follower.turn():
        follower.ledger.advance(5)
        installation = follower.snapshots.begin_install(info)
    while True:
        with follower.turn():
            if not follower.snapshots.install_step(installation):
                break
    with follower.turn():
        assert follower.snapshots.finish_install(installation)
    assert follower.state == {f"k{n}": n for n in range(100)} | {"held": 1}
    machine: Any = follower.ledger.applier.machine
    assert machine.query({"lease": lease})[3] == ["held"]
    assert machine.due_ms is not None
    assert machine.query({"changes": "", "since": 1})["oldest"] == index + 1


def test_a_slow_child_is_ended_and_leaves_no_file(world: World) -> None:
    job = export_in_process(world.path / "tables", world.folder, SlowMachine, 1.0)
    began = time.monotonic()
    with pytest.raises(SnapshotFailedError, match="did not finish in 1 s"):
        job()
    assert time.monotonic() - began < 5
    assert not list(world.folder.iterdir())


def test_a_child_that_is_killed_in_the_middle_leaves_nothing(world: World) -> None:
    job = export_in_process(world.path / "tables", world.folder, SlowMachine, 30.0)
    failures: list[SnapshotFailedError] = []

    def work() -> None:
        try:
            job()
        except SnapshotFailedError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    written: list[Path] = []
    for _ in range(1000):
        written = list(world.folder.glob("*.writing-*"))
        if written:
            break
        time.sleep(0.01)
    os.kill(writer_of(written[0]), signal.SIGKILL)
    thread.join(10)
    assert "ended with -9" in str(failures[0])
    assert not list(world.folder.iterdir())
    world.do(put("k", 1))


def test_a_child_is_ended_on_request_and_leaves_nothing(world: World) -> None:
    job = export_in_process(world.path / "tables", world.folder, SlowMachine, 30.0)
    job.end("nothing runs")

    def end() -> None:
        while not list(world.folder.glob("*.writing-*")):
            time.sleep(0.01)
        job.end("the disk was full")

    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    with pytest.raises(SnapshotFailedError, match="was ended: the disk was full"):
        job()
    thread.join(10)
    assert not list(world.folder.iterdir())


def test_a_child_that_fails_says_why(world: World) -> None:
    with pytest.raises(SnapshotFailedError, match=r"ended with 1: .*this state cannot be exported"):
        export_in_process(world.path / "tables", world.folder, FailingMachine, 30.0)()
    assert not list(world.folder.iterdir())
    with pytest.raises(SnapshotFailedError, match="ended with 1"):
        export_in_process(world.path / "nowhere", world.folder, KeyValueMachine, 30.0)()


def test_an_orphan_ends_itself(world: World) -> None:
    arguments = [str(world.path / "tables"), str(world.folder), f"{SlowMachine.__module__}:SlowMachine", "0.2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", export.__name__, *arguments]
    assert subprocess.run(command, env=environment, timeout=20, check=False).returncode == -signal.SIGALRM


def test_the_exporter_is_nicer_than_the_node_before_it_does_anything(tmp_path: Path) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    script = "import json, os, sys; sys.stdin.read(); nice = os.getpriority(os.PRIO_PROCESS, 0)"
    told = 'print(json.dumps({"path": "x", "index": nice, "term": 1, "size_bytes": 1}))'
    job = ExportProcess([sys.executable, "-c", f"{script}; {told}"], tmp_path, 60.0)
    assert job().index == min(19, own + NICER)
