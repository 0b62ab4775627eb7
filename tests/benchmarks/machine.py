"""The machine while something is measured: processor time by process, how busy it is otherwise, which Python runs."""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from forge_consensus.checks.host import slow_build_here

TICKS: Final = os.sysconf("SC_CLK_TCK")
"""So many units of processor time of /proc are a second."""
IDLE_COLUMNS: Final = (3, 4)
"""Those of /proc/stat that are no work: idle, and waiting for a disk."""
COUNTED_COLUMNS: Final = 8
"""Time of guests, in the columns behind, is in the first ones already."""


def cpu_seconds(pid: int) -> float:
    """The processor time that a process used and all that it started and that still run; 0 if it is gone."""
    children = children_by_parent()
    return sum(seconds_of(each) for each in family(pid, children))


def seconds_of(pid: int) -> float:
    """The processor time of a single process; 0 if it is gone."""
    fields = fields_of(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS if fields else 0.0


def fields_of(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name of the program; none if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return []


def children_by_parent() -> dict[int, list[int]]:
    """All processes by the one that started them."""
    children: dict[int, list[int]] = defaultdict(list)
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        if fields := fields_of(pid):
            children[int(fields[1])].append(pid)
    return children


def family(pid: int, children: dict[int, list[int]]) -> list[int]:
    """A process and all that it started."""
    return [pid, *(each for child in children.get(pid, []) for each in family(child, children))]


def busy_seconds(text: str | None = None) -> float:
    """The processor time of all processes of the machine; `text` is what /proc/stat says, None to read it."""
    line = (Path("/proc/stat").read_text() if text is None else text).partition("\n")[0]
    columns = [int(each) for each in line.split()[1 : 1 + COUNTED_COLUMNS]]
    return sum(each for number, each in enumerate(columns) if number not in IDLE_COLUMNS) / TICKS


def others_percent(busy: float, ours: Iterable[float], seconds: float) -> float:
    """How much of the machine's processors went to what is not measured, in percent; clocks of /proc are coarse."""
    return max(0.0, round(100 * (busy - sum(ours)) / seconds / (os.cpu_count() or 1), 1))


def python_build() -> str:
    """Which Python this is, and why it is slower than it could be if it is: all figures depend on it."""
    name = f"{platform.python_implementation()} {platform.python_version()}"
    slow = slow_build_here()
    return f"{name} ({slow})" if slow else name


def machine_facts() -> dict[str, Any]:
    """What figures depend on and another machine has otherwise."""
    return {
        "processors": os.cpu_count(),
        "processor": processor_name(),
        "kernel": platform.release(),
        "python": python_build(),
        "load_average": [round(each, 2) for each in os.getloadavg()],
    }


def processor_name() -> str:
    """The processor as the kernel names it; its architecture where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
