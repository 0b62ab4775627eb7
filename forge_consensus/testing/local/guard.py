"""The guard: a small process that ends the nodes and removes the folders of a test that was killed itself.

It runs by its path, without the package. Each line of its input names something to clean up: ``+PID`` adds and ``-PID``
removes a process that leads a group, any other line is a folder. When the input ends, the test has ended.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, cast

END_SECONDS_MAX = 5.0


class Guard:
    """The guard as the test sees it. `stop` ends and removes everything that is still registered."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the test only
        )

    def tell(self, line: str) -> None:
        """Write a line; does nothing if the guard has ended."""
        stdin = cast("IO[bytes]", self.process.stdin)
        with contextlib.suppress(OSError, ValueError):
            stdin.write(line.encode() + b"\n")
            stdin.flush()

    def folder(self, path: Path) -> None:
        """Register a folder to be removed at the end."""
        self.tell(str(path))

    def began(self, pid: int) -> None:
        """Register a new process that leads a group of its own."""
        self.tell(f"+{pid}")

    def ended(self, pid: int) -> None:
        """Remove a process that has ended, because its id may soon belong to another process."""
        self.tell(f"-{pid}")

    def stop(self) -> None:
        """Let the guard clean up and end; kill it if that takes too long."""
        with contextlib.suppress(OSError):
            cast("IO[bytes]", self.process.stdin).close()
        try:
            self.process.wait(END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(END_SECONDS_MAX)


def main() -> None:
    """Read the input until it ends, then clean up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    folders: list[str] = []
    for line in sys.stdin:
        text = line.rstrip("\n")
        if text[:1] in {"+", "-"}:
            (groups.add if text[0] == "+" else groups.discard)(int(text[1:]))
        else:
            folders.append(text)
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
