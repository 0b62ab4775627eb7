"""What a slow disk costs: the same load on nodes whose every flush takes at least so long, and on usual ones, in turns.

    python -m tests.benchmarks.slow_disk [--ms 5] [--rounds 1] [--seconds 2] [--outstanding 1,64,1000]

A library that is preloaded into all three nodes delays ``fdatasync`` and ``fsync`` (needs a C compiler). LMDB calls
``fdatasync`` once for each commit. One JSON line for each measurement, and a table of medians at the end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

from forge_consensus.output import table
from tests.benchmarks.peers.figures import Run, Work
from tests.benchmarks.peers.own import Own
from tests.benchmarks.peers.rounds import WARM_WORK, measure

VALUE_BYTES: Final = 128
COMPILE_SECONDS_MAX: Final = 60
SOURCE: Final = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}
static int slow(const char *name, int fd) {
    double began = now();
    int done = ((int (*)(int))dlsym(RTLD_NEXT, name))(fd);
    double left = began + atof(getenv("FLUSH_MS")) * 1000 - now();
    if (left > 0) usleep((useconds_t)left);
    return done;
}
int fdatasync(int fd) { return slow("fdatasync", fd); }
int fsync(int fd) { return slow("fsync", fd); }
"""
"""A library that lets each flush last FLUSH_MS milliseconds at least."""


def library(folder: Path) -> Path:
    """Compile the library; ends the program where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        sys.exit("cc is missing: apt-get install gcc libc6-dev")
    made = folder / "slow.so"
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(made), "-ldl"]
    subprocess.run(command, input=SOURCE, text=True, check=True, timeout=COMPILE_SECONDS_MAX)
    return made


def take_turn(environment: dict[str, str], works: list[Work], number: int) -> list[Run]:
    """Do all works on a fresh cluster whose nodes have these variables."""
    with TemporaryDirectory(prefix="slow-", ignore_cleanup_errors=True) as folder:
        system = Own(Path(folder), environment=environment)
        try:
            system.start()
            with system.load(WARM_WORK) as load:
                load.wait_until_begun()
                load.result()
            return [measure(system, work, number) for work in works]
        finally:
            system.stop()


def main() -> None:
    """Measure as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ms", type=float, default=5.0, help="how long a flush takes at least; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement; default: %(default)s")
    parser.add_argument("--outstanding", default="1,64,1000", help="default: %(default)s")
    arguments = parser.parse_args()
    works = [Work(int(each), arguments.seconds, VALUE_BYTES) for each in arguments.outstanding.split(",")]
    slow = f"at least {arguments.ms:g} ms"
    found: dict[tuple[int, str], list[Run]] = {
        (work.outstanding, kind): [] for work in works for kind in ("usual", slow)
    }
    with TemporaryDirectory(prefix="slow-library-") as folder:
        preload = {"LD_PRELOAD": str(library(Path(folder))), "FLUSH_MS": str(arguments.ms)}
        for number in range(1, arguments.rounds + 1):
            for kind, environment in (("usual", {}), (slow, preload)):
                for run in take_turn(environment, works, number):
                    found[run.outstanding, kind].append(run)
                    print(json.dumps({"flushes": kind, **asdict(run)}), flush=True)
    figures = ("per_second", "p50_ms", "p99_ms", "flushes_per_write")
    rows = [
        (
            f"{outstanding:,}",
            kind,
            *(f"{median(getattr(run, figure) or 0.0 for run in runs):,.3f}" for figure in figures),
        )
        for (outstanding, kind), runs in found.items()
    ]
    print("\n".join(table(("AT ONCE", "A FLUSH", "PER SECOND", "P50 MS", "P99 MS", "FLUSHES"), rows)))


if __name__ == "__main__":
    main()
