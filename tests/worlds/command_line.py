"""The command line as a process of its own, as an operator runs it."""

from __future__ import annotations

import subprocess
import sys

from tests.worlds.source_tree import ROOT

SECONDS_MAX = 60.0


def run_command(*arguments: str, expect: int = 0) -> str:
    """Run ``forge-consensus`` with these arguments, and without a terminal.

    Returns what it printed, or with another exit code than 0 its error. Raises `AssertionError` for another exit code
    than is expected.
    """
    done = subprocess.run(
        [sys.executable, "-m", "forge_consensus", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert done.returncode == expect, f"{arguments} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout if expect == 0 else done.stderr
