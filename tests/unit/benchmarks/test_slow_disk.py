"""The library that makes flushes slow, in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.slow_disk import library

FLUSH = """
import os, sys, time
file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
os.write(file, b"x")
began = time.monotonic()
for flush in (os.fdatasync, os.fsync):
    flush(file)
print(time.monotonic() - began)
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="cc is not installed (Debian: apt-get install gcc libc6-dev)")
def test_each_flush_takes_at_least_so_long(tmp_path: Path) -> None:
    environment = {**os.environ, "LD_PRELOAD": str(library(tmp_path)), "FLUSH_MS": "40"}
    done = subprocess.run(
        [sys.executable, "-c", FLUSH, str(tmp_path / "file")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert float(done.stdout) >= 0.08
