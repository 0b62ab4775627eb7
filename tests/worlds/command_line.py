"""The command line as one call, which takes its exit code for granted."""

from __future__ import annotations

from tests.worlds.cli_world import Shell


def run_command(*arguments: str, expect: int = 0) -> str:
    """Run ``forge-consensus`` with these arguments, in this process and without a terminal.

    That a process of its own does the same is what `tests/cluster/test_cli_node.py` and others beside it look at.

    Returns what it printed, or with another exit code than 0 its error. Raises `AssertionError` for another exit code
    than is expected.
    """
    done = Shell("").run(*arguments)
    assert done.exit_code == expect, f"{arguments} ended with {done.exit_code}: {done.stdout}{done.stderr}"
    return done.stdout if expect == 0 else done.stderr
