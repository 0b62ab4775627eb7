"""Nodes that a test starts as ``forge-consensus node`` with arguments of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from types import TracebackType
from typing import Self

from tests.worlds.source_tree import ROOT

END_SECONDS_MAX = 15.0


class CommandNodes:
    """Node processes of one test; a context manager that ends all of them."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a node; both of its streams are pipes."""
        process = subprocess.Popen(
            [sys.executable, "-m", "forge_consensus", "node", *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes:
            process.kill()
            process.communicate(timeout=END_SECONDS_MAX)
