"""Bad disks and bad clocks, by libraries that stand between one node's process and its system, where there are any."""

from __future__ import annotations

import random
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
"""What LMDB makes a commit durable with."""
DISK_SECONDS_MAX: Final = 10.0
EIO: Final = 5
JUMPS: Final = (-86_400, -3_600, -30, -1, 1, 30, 3_600, 86_400)
RATES: Final = (0.5, 0.9, 1.1, 2.0)
QUOTA_BYTES: Final = 16 * MIB
"""No more than what a store keeps back from proposals, so it is full at once."""


def library(pattern: str) -> Path | None:
    """The first library of that name where Debian, Fedora and Arch put them."""
    folders = ("/usr/lib", "/usr/lib64", "/usr/local/lib")
    return next((path for folder in folders for path in sorted(Path(folder).glob(pattern))), None)


FIU_RUN: Final = library("**/fiu/fiu_run_preload.so")
FIU_POSIX: Final = library("**/fiu/fiu_posix_preload.so")
FAKETIME: Final = library("**/faketime/libfaketimeMT.so.1")


def launch(node: NodeProcess, environment: Mapping[str, str]) -> None:
    """Kill a node and start it with these variables, in place of those that it had."""
    node.kill()
    node.environment = environment
    node.launch()


def back_to_normal(cluster: LocalCluster, node: NodeProcess) -> None:
    """Start it as it was at first."""
    node.kill()
    cluster.restart(node.name, environment={})


def disk_fails(cluster: LocalCluster, node: NodeProcess, dice: random.Random) -> str:
    """A call that writes to the disk fails some time; the node must end at once, and say why by its exit code."""
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


def disk_full(cluster: LocalCluster, node: NodeProcess, dice: random.Random) -> str:
    """A store, or all of them, have no room for a while: they refuse what they cannot keep, and have it later."""
    nodes = [cluster.process(name) for name in cluster.names] if dice.random() < 0.3 else [node]
    whole = {each.name: each.settings for each in nodes}
    for each in nodes:
        each.kill()
        each.settings = replace(each.settings, storage=replace(each.settings.storage, quota_bytes=QUOTA_BYTES))
        each.launch()
    try:
        cluster.wait_serving(*whole)
        time.sleep(dice.uniform(1.0, 4.0))
        for each in nodes:
            assert each.running, f"{each.name} ended when its store was full: {each.written()}"
    finally:
        for each in nodes:
            each.settings = whole[each.name]
    for each in nodes:
        back_to_normal(cluster, each)
    return "all" if len(nodes) > 1 else ""


def clock(cluster: LocalCluster, node: NodeProcess, dice: random.Random, steps: list[str], **how: str) -> str:
    """A node's clock says other things than those of the others; `steps` are one after the other."""
    with tempfile.TemporaryDirectory(prefix="forge-clock-") as folder:
        file = Path(folder, "clock")

        def set_clock(text: str) -> None:
            Path(folder, "next").write_text(f"{text}\n", encoding="ascii")
            Path(folder, "next").rename(file)  # at once: the node reads it whenever it asks for the time

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
    """The wall clock of a node is set, forwards and back."""
    steps = [f"{seconds:+}" for seconds in dice.sample(JUMPS, dice.randint(1, 3))]
    return clock(cluster, node, dice, steps, FAKETIME_DONT_FAKE_MONOTONIC="1")


def clock_drifts(cluster: LocalCluster, node: NodeProcess, dice: random.Random) -> str:
    """All clocks of a node run too fast or too slowly."""
    return clock(cluster, node, dice, [f"+0 x{dice.choice(RATES)}"])


Fault = Callable[[LocalCluster, NodeProcess, random.Random], str]
FAULTS: Final[dict[str, Fault]] = {
    "disk-fails": disk_fails,
    "disk-full": disk_full,
    "clock-jumps": clock_jumps,
    "clock-drifts": clock_drifts,
}


def missing() -> dict[str, str]:
    """The faults that this machine cannot have -> why."""
    found: dict[str, str] = {}
    if FIU_RUN is None or FIU_POSIX is None:
        found["disk-fails"] = "the libraries of libfiu are not installed (Debian: apt-get install fiu-utils libfiu0)"
    if FAKETIME is None:
        for name in ("clock-jumps", "clock-drifts"):
            found[name] = "libfaketime is not installed (Debian: apt-get install libfaketime)"
    return found
