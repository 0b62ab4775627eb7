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
place = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", place], check=True)
with ConsensusService("n1", storage_path=f"{place}/n1", bind="127.0.0.1:0") as service:
    service.wait_for_leader(timeout=10)
    for number in range(2_000):
        key = f"k{number % 300}"
        service.apply(Command("set", {"key": key, "value": os.urandom(100_000)}), timeout=20)
    status = service.client.status()
    print("written", status["last_applied"], status["health"], os.statvfs(place).f_bavail > 0)
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="mounting needs root")
def test_a_small_disk_takes_writes_for_ever_if_its_state_fits(tmp_path: Path) -> None:
    """200 MB of log and 30 MB of state on a disk of 100 MB, without a restart and with the settings as they are."""
    if subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("this place allows no mounts")
    command = ["unshare", "-m", sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    assert done.stdout.startswith("written 200"), done.stdout
    assert done.stdout.endswith("True\n")
