"""Faulty disks and clocks, by preloaded libraries between one node's process and its system, where installed."""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from forge_consensus.config.storage import MIB
from forge_consensus.errors import StorageError
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.node_process import NodeProcess

DISK_CALLS: Final = ("sync/fdatasync", "rw/pwrite", "rw/writev")
"""The system calls with which LMDB makes a commit durable."""
DISK_SECONDS_MAX: Final = 10.0
EIO: Final = 5
YEARS: Final = 10 * 365 * 86_400
JUMPS: Final = (-YEARS, -86_400, -3_600, -30, -1, 1, 30, 3_600, 86_400, YEARS)
"""By how many seconds a clock is set wrong."""
RATES: Final = (0.5, 0.9, 1.1, 2.0)
RESERVE_BYTES: Final = MIB // 2
"""What a store withholds from proposals while it is to be full."""

QUOTA_BYTES: Final = RESERVE_BYTES + RESERVE_BYTES // 4
"""So little beyond the reserve that the store is full at once, and as much as the settings' check asks for."""


def library(pattern: str) -> Path | None:
    """The first library of that name in the folders of Debian, Fedora and Arch."""
    folders = ("/usr/lib", "/usr/lib64", "/usr/local/lib")
    places = [(folder, depth) for folder in folders for depth in ("", "*/")]  # Debian: a folder for each machine
    return next((path for folder, depth in places for path in sorted(Path(folder).glob(depth + pattern))), None)


FIU_RUN: Final = library("fiu/fiu_run_preload.so")
FIU_POSIX: Final = library("fiu/fiu_posix_preload.so")
COMPILER: Final = shutil.which("cc")
SLOW_SOURCE: Final = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
static int slow(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    usleep((useconds_t)(atof(getenv("SLOW_MS")) * 1000 * drand48()));
    return real(fd);
}
int fdatasync(int fd) { return slow("fdatasync", fd); }
int fsync(int fd) { return slow("fsync", fd); }
"""
"""A library that makes each flush take up to SLOW_MS milliseconds longer."""
FAKETIME: Final = library("faketime/libfaketimeMT.so.1")


def launch(node: NodeProcess, environment: Mapping[str, str]) -> None:
    """Kill a node and start it with these variables, in place of its present ones."""
    node.kill()
    node.environment = environment
    node.launch()


def back_to_normal(cluster: LocalCluster, node: NodeProcess) -> None:
    """Start the node as it was started at first."""
    node.kill()
    cluster.restart(node.name, environment={})


def disk_fails(cluster: LocalCluster, node: NodeProcess, dice: random.Random) -> str:
    """Let a system call on the disk fail after some time; the node must end at once, with the right exit code."""
    call = dice.choice(DISK_CALLS)
    fault = f"enable_random name=posix/io/{call},probability={dice.choice([0.002, 0.01, 0.05])},failinfo={EIO}"
    launch(node, {"LD_PRELOAD": f"{FIU_RUN} {FIU_POSIX}", "FIU_ENABLE": fault})
    end = time.monotonic() + DISK_SECONDS_MAX
    while node.running and time.monotonic() < end:
        time.sleep(0.02)
    code = None if node.process is None or node.running else node.process.returncode
    written = node.written()
    assert code in {None, StorageError.exit_code}, f"{node.name} ended with {code} when {call} failed: {written}"
    back_to_normal(cluster, node)
    return f"{call.split('/')[1]} {'did not fail' if code is None else 'failed'}"


def disk_slow(cluster: LocalCluster, node: NodeProcess, dice: random.Random) -> str:
    """Let every flush of one node take up to some tenths of a second longer, for a while."""
    slowest_ms = dice.choice([20, 150, 600])
    with tempfile.TemporaryDirectory(prefix="forge-slow-") as folder:
        made = Path(folder, "slow.so")
        command = [str(COMPILER), "-shared", "-fPIC", "-x", "c", "-", "-o", str(made), "-ldl"]
        subprocess.run(command, input=SLOW_SOURCE, text=True, check=True, timeout=60)
        launch(node, {"LD_PRELOAD": str(made), "SLOW_MS": str(slowest_ms)})
        cluster.wait_serving(node.name)
        time.sleep(dice.uniform(1.0, 5.0))
        assert node.running, f"{node.name} ended when its disk was slow: {node.written()}"
        back_to_normal(cluster, node)
    return f"up to {slowest_ms} ms a flush"


def disk_full(cluster: LocalCluster, node: NodeProcess, dice: random.Random) -> str:
    """Let one store or all have no room for a while: they must refuse proposals then, and accept them later."""
    nodes = [cluster.process(name) for name in cluster.names] if dice.random() < 0.3 else [node]
    whole = {each.name: each.settings for each in nodes}
    for each in nodes:
        each.kill()
        limits = replace(each.settings.storage, quota_bytes=QUOTA_BYTES, reserve_bytes=RESERVE_BYTES)
        each.settings = replace(each.settings, storage=limits)
        each.launch()
    try:
        cluster.wait_serving(*whole)
        time.sleep(dice.uniform(1.0, 4.0))
        for each in nodes:
            assert each.running, f"{each.name} ended when its store was full: {each.written()}"
        told = sum("is full" in each.output() for each in nodes)
    finally:
        for each in nodes:
            each.settings = whole[each.name]
    for each in nodes:
        back_to_normal(cluster, each)
    return f"{told} of {len(nodes)} told"


def clock(cluster: LocalCluster, node: NodeProcess, dice: random.Random, steps: list[str], **how: str) -> str:
    """Let a node's clock differ from those of the others; `steps` are applied one after the other."""
    with tempfile.TemporaryDirectory(prefix="forge-clock-") as folder:
        file = Path(folder, "clock")

        def set_clock(text: str) -> None:
            Path(folder, "next").write_text(f"{text}\n", encoding="ascii")
            Path(folder, "next").rename(file)  # atomically: the node reads it with every reading of the clock

        set_clock("+0")
        environment = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1"}
        launch(node, {**environment, **how})
        cluster.wait_serving(node.name)
        for step in steps:
            time.sleep(dice.uniform(0.3, 1.5))
            set_clock(step)
        time.sleep(dice.uniform(0.5, 3.0))
        assert node.running, f"{node.name} ended when its clock was set: {node.written()}"
        back_to_normal(cluster, node)
    return " ".join(steps)


def clock_jumps(cluster: LocalCluster, node: NodeProcess, dice: random.Random) -> str:
    """Set the wall clock of a node forwards and back."""
    steps = [f"{seconds:+}" for seconds in dice.sample(JUMPS, dice.randint(1, 3))]
    return clock(cluster, node, dice, steps, FAKETIME_DONT_FAKE_MONOTONIC="1")


def clock_drifts(cluster: LocalCluster, node: NodeProcess, dice: random.Random) -> str:
    """Let all clocks of a node run too fast or too slowly."""
    return clock(cluster, node, dice, [f"+0 x{dice.choice(RATES)}"])


Fault = Callable[[LocalCluster, NodeProcess, random.Random], str]
FAULTS: Final[dict[str, Fault]] = {
    "disk-fails": disk_fails,
    "disk-full": disk_full,
    "disk-slow": disk_slow,
    "clock-jumps": clock_jumps,
    "clock-drifts": clock_drifts,
}


def missing() -> dict[str, str]:
    """The faults that this machine cannot have -> the reason."""
    found: dict[str, str] = {}
    if FIU_RUN is None or FIU_POSIX is None:
        found["disk-fails"] = "the libraries of libfiu are not installed (Debian: apt-get install fiu-utils libfiu0)"
    if COMPILER is None:
        found["disk-slow"] = "there is no C compiler (Debian: apt-get install gcc libc6-dev)"
    if FAKETIME is None:
        for name in ("clock-jumps", "clock-drifts"):
            found[name] = "libfaketime is not installed (Debian: apt-get install libfaketime)"
    return found
