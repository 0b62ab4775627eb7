"""The twin: one run's commands applied once more in another process, whose strings hash to other numbers.

All simulated nodes share one interpreter, so a machine that depends on the order of a set of strings, or on `hash`,
would agree with itself on every one of them, and differ on real ones. Run as
``python -m forge_consensus.testing.simulator.twin MODULE:CLASS FILE``: commands come by standard input, results go to
standard output.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, BinaryIO

import msgpack

from forge_consensus.errors import InvalidConfigError, OperationFailedError
from forge_consensus.storage.machine import Command, Entry, Machine
from forge_consensus.testing.rules.violations import ViolationError
from forge_consensus.testing.simulator.agreement import ADVICE, result_of

SECONDS_MAX = 60.0
HASH_SEEDS = ("4057", "8114")
"""The twin's seed is one that this process does not have."""
IN_TWIN = "FORGE_CONSENSUS_TWIN"
"""The variable that says so, in a twin's environment."""


def importable(machine: Callable[[], Machine]) -> bool:
    """Whether another process can make the machine as well: it is a class or function of some module's file."""
    module = sys.modules.get(machine.__module__)
    return (
        getattr(module, "__file__", None) is not None
        and getattr(machine, "__qualname__", "<").isascii()
        and "<" not in machine.__qualname__
    )


def compare_with_twin(machine: Callable[[], Machine], entries: Sequence[Entry], results: Sequence[str]) -> None:
    """Apply the entries in another process and compare; `results` are what `result_of` made of them here.

    Raises `ViolationError` for the first difference, `OperationFailedError` when the process fails or takes longer
    than `SECONDS_MAX`.
    """
    module = machine.__module__
    file = str(getattr(sys.modules[module], "__file__", ""))
    hash_seed = HASH_SEEDS[os.environ.get("PYTHONHASHSEED") == HASH_SEEDS[0]]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment[IN_TWIN] = "1"
    rows = [(entry.index, entry.term, entry.time_ms, entry.command.encode()) for entry in entries]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "forge_consensus.testing.simulator.twin", f"{module}:{machine.__qualname__}", file],
            input=msgpack.packb(rows),
            env=environment,
            capture_output=True,
            timeout=SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise OperationFailedError(f"the twin of {machine.__qualname__} took over {SECONDS_MAX} s") from error
    if done.returncode:
        raise OperationFailedError(
            f"the twin of {machine.__qualname__} failed; with twin=False there is none: {done.stderr.decode()[-2000:]}"
        )
    for entry, here, there in zip(entries, results, msgpack.unpackb(done.stdout), strict=True):
        if here != there:
            command = entry.command
            raise ViolationError(
                f"I5: entry {entry.index}, {command.type!r} {command.payload}, was applied with two results by "
                f"{machine.__qualname__}: here {here}; in a process with another hash seed {there}. {ADVICE}"
            )


def refuse_in_twin() -> None:
    """A script that simulates whenever it is imported would make a twin of the twin, and so on, for ever.

    Raises `InvalidConfigError` in a twin.
    """
    if IN_TWIN in os.environ:
        raise InvalidConfigError(
            "a simulation begins where its machine is imported, so that its twin, another process, would begin it too: "
            'put it below `if __name__ == "__main__":`'
        )


def machine_of(name: str, file: str) -> Machine:
    """Make the machine: from its module, or from its file where the module cannot be imported by name."""
    module_name, _, path = name.partition(":")
    try:
        if module_name == "__main__":
            raise ImportError("here that is this module")
        module = importlib.import_module(module_name)
    except ImportError:
        module_name = f"twin_of_{module_name.strip('_')}"  # so that what it runs as a program does not run here
        spec = importlib.util.spec_from_file_location(module_name, file)
        if spec is None or spec.loader is None:
            raise
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        spec.loader.exec_module(module)
    made: Machine = attrgetter(path)(module)()
    return made


def main(arguments: Sequence[str], commands: BinaryIO, results: BinaryIO) -> None:
    """Apply what comes in, tell what came of it."""
    machine = machine_of(*arguments)
    told: list[str] = []
    for index, term, time_ms, command in msgpack.unpackb(commands.read()):
        entry = Entry(index, term, time_ms, Command.decode(command))
        told.append(result_of(machine, entry)[0])
    results.write(msgpack.packb(told))


if __name__ == "__main__":
    answers: Any = sys.stdout.buffer
    sys.stdout = sys.stderr  # what a machine prints is no answer
    main(sys.argv[1:], sys.stdin.buffer, answers)
    answers.flush()
