"""The Python interpreter for processes of the package's own, where `sys.executable` may be another program.

In a frozen program and inside a host such as uWSGI, `sys.executable` is that program, and running it would start the
application once more. It can also be empty.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from pathlib import Path

from forge_consensus.errors import InvalidConfigError

PYTHON = re.compile(r"(python|pypy|graalpy)[\d.]*[a-z]?(\.exe)?")
"""The names of interpreters, such as python3.11."""


def candidates() -> list[str]:
    """Where this process' interpreter may be, the likeliest first."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folders = [Path(sys.exec_prefix) / "bin", Path(sysconfig.get_config_var("BINDIR") or sys.base_exec_prefix)]
    names = [f"python{version}", "python3", "python"]
    return [sys.executable or "", *(str(folder / name) for folder in folders for name in names)]


def find_python() -> str | None:
    """The path of an interpreter like the one that runs this; None if there is none to be found."""
    if getattr(sys, "frozen", False):  # its modules are inside the program, where no other interpreter finds them
        return None
    for path in candidates():
        if PYTHON.fullmatch(Path(path).name) and os.access(path, os.X_OK):
            return path
    return None


def python() -> str:
    """The path of an interpreter. Raises `InvalidConfigError` if there is none to be found."""
    path = find_python()
    if path is None:
        raise InvalidConfigError(
            f"sys.executable is {sys.executable!r}, which is no Python interpreter, and none was found beside it: use "
            "mode='thread', or run the node with the command forge-consensus node"
        )
    return path
