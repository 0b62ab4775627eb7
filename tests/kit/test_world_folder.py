"""The folder of a simulated cluster goes with it, with its process, or with the next one after a process was killed."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from forge_consensus.testing.world import folder as simulated_folder
from forge_consensus.testing.world.cluster import SimulatedCluster
from forge_consensus.testing.world.folder import PREFIX, is_gone
from tests.worlds.source_tree import ROOT

UNCLOSED = """
import os, signal, sys
from forge_consensus.testing import Simulation
simulation = Simulation(nodes=1, seed=1)
simulation.advance(1.0)
print(simulation.cluster.folder, flush=True)
if sys.argv[1:]:
    os.kill(os.getpid(), signal.SIGTERM)
"""


def unclosed(*arguments: str) -> tuple[int, Path]:
    """The exit code and the folder of a process that does not close its simulation."""
    done = subprocess.run(
        [sys.executable, "-c", UNCLOSED, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout, done.stderr
    return done.returncode, Path(done.stdout.strip())


@pytest.fixture
def dead() -> int:
    """The id of a process that is over."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the folders of this test lie."""
    monkeypatch.setattr(simulated_folder, "SHARED_MEMORY", tmp_path)
    return tmp_path


def test_an_unclosed_simulation_leaves_no_folder_when_its_process_ends() -> None:
    code, folder = unclosed()
    assert code == 0
    assert not folder.exists()


def test_the_next_simulation_removes_the_folder_of_a_terminated_process() -> None:
    code, folder = unclosed("terminated")
    assert code == -signal.SIGTERM
    assert folder.name.startswith(PREFIX)
    SimulatedCluster(1).close()
    assert not folder.exists()


def test_a_garbage_collected_cluster_removes_its_folder(place: Path) -> None:
    cluster = SimulatedCluster(1)
    assert list(place.iterdir()) == [cluster.folder]
    del cluster
    gc.collect()
    assert not list(place.iterdir())


def test_a_cluster_may_be_closed_twice_and_lets_go_of_everything(place: Path) -> None:
    before = os.listdir("/proc/self/fd")
    cluster = SimulatedCluster(1)
    cluster.close()
    cluster.close()
    assert not list(place.iterdir())
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_only_folders_of_ended_processes_are_removed(place: Path, dead: int) -> None:
    kept = [place / name for name in (f"{PREFIX}{os.getpid()}-a", f"{PREFIX}1-a", f"{PREFIX}x-a", f"other-{dead}-a")]
    held, link, left = (place / f"{PREFIX}{dead}-{name}" for name in ("held", "link", "left"))
    for folder in (*kept, held, left):
        folder.mkdir()
    link.symlink_to(kept[-1])
    (left / "n1").mkdir()
    (left / "n1" / "file").touch()
    lock = os.open(held, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # as a process of another container does, whose id says nothing here
    SimulatedCluster(1).close()
    assert sorted(place.iterdir()) == sorted([*kept, held, link])
    os.close(lock)
    SimulatedCluster(1).close()
    assert sorted(place.iterdir()) == sorted([*kept, link])


def test_a_forked_child_leaves_the_folder_to_its_parent(place: Path) -> None:
    cluster = SimulatedCluster(1)
    child = os.fork()
    if child == 0:
        cluster.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert cluster.folder.exists()
    cluster.close()
    assert not list(place.iterdir())


def test_a_live_process_does_not_count_as_gone(dead: int) -> None:
    assert is_gone(dead)
    assert not is_gone(os.getpid())
    assert not is_gone(1)
