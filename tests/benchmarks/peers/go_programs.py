"""The clients and nodes that are written in Go: built once, with the libraries that Debian has as packages."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.benchmarks.peers.figures import Work
from tests.benchmarks.peers.load import LoadFailedError
from tests.benchmarks.peers.system import files_missing, programs_missing
from tests.worlds.source_tree import ROOT

SOURCES: Final = Path(__file__).parent / "go"
PROGRAMS: Final = ROOT / "build" / "benchmark-programs"
LIBRARIES: Final = "/usr/share/gocode"
"""Where Debian keeps the sources of libraries for Go."""
BUILD_SECONDS_MAX: Final = 600
LOOP: Final = "loop.go"
"""What all clients share."""


def go_missing(*libraries: str) -> list[str]:
    """Return what is not installed of the compiler and these libraries."""
    folders = {f"{LIBRARIES}/src/{library}": library for library in libraries}
    return [*programs_missing("go"), *(folders[each] for each in files_missing(*folders))]


def go_program(*files: str) -> str:
    """Return the path of the program that these sources make, the first of which names it; built if it is not yet.

    Raises `LoadFailedError` with what the compiler says.
    """
    sources = [SOURCES / each for each in files]
    program = PROGRAMS / sources[0].stem
    if not program.exists() or program.stat().st_mtime < max(each.stat().st_mtime for each in sources):
        build(program, sources)
    return str(program)


def build(program: Path, sources: Sequence[Path]) -> None:
    """Build a program. Raises `LoadFailedError`."""
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["go", "build", "-o", str(program), *map(str, sources)],
        env={**os.environ, "GO111MODULE": "off", "GOPATH": LIBRARIES, "GOFLAGS": ""},
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS_MAX,
        check=False,
    )
    if done.returncode:
        raise LoadFailedError(f"go could not build {program.name}: {done.stderr.strip()[-400:]}")


def client_command(file: str, to: str, work: Work) -> list[str]:
    """Return the command line of a client that loads the node at that address. Raises `LoadFailedError`."""
    options = {
        "to": to,
        "outstanding": work.outstanding,
        "seconds": work.seconds,
        "warm-seconds": work.warm_seconds,
        "value-bytes": work.value_bytes,
        "kind": work.kind,
    }
    return [go_program(file, LOOP), *(f"-{name}={value}" for name, value in options.items())]
