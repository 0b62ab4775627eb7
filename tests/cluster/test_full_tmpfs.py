"""A real file system that is small: writes go on although the log would fill it many times over."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, subprocess, sys
from forge_consensus import Command, ConsensusService
from forge_consensus.config.storage import StorageSettings
from forge_consensus.storage.machines.kv import KeyValueMachine
from tests.worlds.slow_machines import SlowMachine
place, count, writer = sys.argv[1], int(sys.argv[2]), sys.argv[3]
machine, storage = KeyValueMachine, None
if writer == "slow":  # and it begins soon
    machine, storage = SlowMachine, StorageSettings(snapshot_entries=50, snapshot_seconds_min=0.1)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", place], check=True)
folder = f"{place}/n1"
with ConsensusService("n1", storage_path=folder, bind="127.0.0.1:0", state_machine=machine, storage=storage) as service:
    service.wait_for_leader(timeout=10)
    for number in range(count):
        key = f"k{number % 300}"
        service.apply(Command("set", {"key": key, "value": os.urandom(100_000)}), timeout=20)
    status = service.client.status()
    print("written", status["last_applied"], status["health"], os.statvfs(place).f_bavail > 0)
"""


REPOSITORY = Path(__file__).parents[2]


def run_on_small_disk(place: Path, count: int, writer: str) -> str:
    """What the script prints that writes so often to a disk of 100 MB, whose snapshots are written by such a writer."""
    if subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("this place allows no mounts")
    command = ["unshare", "-m", sys.executable, "-c", SCRIPT, str(place), str(count), writer]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-2_000:]
    return done.stdout


needs_mounts = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="mounting needs root")


@needs_mounts
def test_a_small_disk_takes_writes_for_ever_if_its_state_fits(tmp_path: Path) -> None:
    """200 MB of log and 30 MB of state on a disk of 100 MB, without a restart and with the settings as they are."""
    told = run_on_small_disk(tmp_path, 2_000, "quick")
    assert told.startswith("written 200"), told
    assert told.endswith("True\n")


@needs_mounts
def test_a_snapshot_that_is_not_done_before_the_disk_is_full_does_not_keep_it_full(tmp_path: Path) -> None:
    """While it is written no page is used again and the log is not cut, so no write could be taken until it ends."""
    told = run_on_small_disk(tmp_path, 700, "slow")
    assert told.startswith("written 70"), told
    assert told.endswith("True\n")
