"""The twin: the commands of a run applied once more in another process, with another hash seed and another clock.

All simulated nodes share one interpreter. A machine that depends on the order of a set of strings, or on `hash`, would
agree with itself on all of them, but differ on real nodes; one that depends on the date would agree for a day. Compared
are the results, the answers to the final queries and, if another process can import `state`, the states.

Run as ``python -m forge_consensus.testing.simulator.twin NAME FILE NAME FILE`` with the names ``MODULE:QUALNAME`` of
the machine and of `state`, or empty texts. Commands and queries come by standard input, the results go to standard
output.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, BinaryIO

import msgpack

from forge_consensus.errors import InvalidConfigError, OperationFailedError
from forge_consensus.storage.machines.machine import Command, Entry, Machine, failed_query, outcome_of
from forge_consensus.testing.rules.agreement import ADVICE, Effect, answer_text, named, result_of, state_text
from forge_consensus.testing.rules.violations import ViolationError
from forge_consensus.testing.simulator.shifted_clock import WORDS, shift_clock

SECONDS_MAX = 60.0
HASH_SEEDS = ("4057", "8114")
"""The hash seeds of a twin; it uses the one that this process does not have."""
IN_TWIN = "FORGE_CONSENSUS_TWIN"
"""The environment variable that is set in a twin."""
THERE = f"in a process with another hash seed and {WORDS}"


@dataclass(frozen=True, slots=True)
class Run:
    """The entries that the nodes have applied, the results, and their answers at the end."""

    entries: Sequence[Entry]
    effects: Sequence[Effect]
    """One for each entry."""
    queries: Sequence[Any] = ()
    answers: Sequence[str] = ()
    """The result of `answer_of` for each query."""

    @classmethod
    def of(cls, entries: Sequence[Entry], effects: Sequence[Effect], queries: Iterable[Any], machine: Machine) -> Run:
        """Make a run from a `machine` that has applied it."""
        queries = list(queries)
        return cls(entries, effects, queries, [answer_of(machine, query) for query in queries])


def importable(made: Callable[..., Any]) -> bool:
    """Return whether another process can import this class or function: it is at the top of a module with a file."""
    module = sys.modules.get(getattr(made, "__module__", None) or "")
    name = getattr(made, "__qualname__", "<")
    return getattr(module, "__file__", None) is not None and name.isascii() and "<" not in name


def place_of(made: Callable[..., Any] | None) -> tuple[str, str]:
    """Return the name by which another process imports it, and the file of its module; empty texts if it cannot."""
    if made is None or not importable(made):
        return "", ""
    return f"{made.__module__}:{made.__qualname__}", str(sys.modules[made.__module__].__file__)


def compare_with_twin(machine: Callable[[], Machine], run: Run, state: Callable[[Any], Any] | None = None) -> None:
    """Apply the entries in another process, ask it the queries, and compare.

    Raises `ViolationError` for the first difference, `OperationFailedError` if the process fails or takes longer than
    `SECONDS_MAX`.
    """
    results, states, answers = run_twin(machine, run, place_of(state))
    for number, (entry, effect) in enumerate(zip(run.entries, run.effects, strict=True)):
        here, there = (effect.result, effect.state), (results[number], states[number] if states else effect.state)
        if here != there:
            raise ViolationError(
                f"I5: {named(entry)}, was applied with two results by {machine.__qualname__}: here {effect.text}; "
                f"{THERE} {Effect('', *there).text}. {ADVICE}"
            )
    for query, here_said, there_said in zip(run.queries, run.answers, answers, strict=True):
        if here_said != there_said:
            raise ViolationError(
                f"I5: the query {query!r} has two answers by {machine.__qualname__} after the same "
                f"{len(run.entries)} commands: here {here_said}; {THERE} {there_said}. {ADVICE}"
            )


def run_twin(
    machine: Callable[[], Machine], run: Run, state: tuple[str, str]
) -> tuple[list[str], list[str], list[str]]:
    """Run the other process; return its results, its states if any, and its answers. Raises `OperationFailedError`."""
    hash_seed = HASH_SEEDS[os.environ.get("PYTHONHASHSEED") == HASH_SEEDS[0]]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment[IN_TWIN] = "1"
    rows = [(e.index, e.term, e.time_ms, e.command.encode(), e.elapsed_ms) for e in run.entries]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "forge_consensus.testing.simulator.twin", *place_of(machine), *state],
            input=msgpack.packb((rows, list(run.queries))),
            env=environment,
            capture_output=True,
            timeout=SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise OperationFailedError(f"the twin of {machine.__qualname__} took over {SECONDS_MAX} s") from error
    if done.returncode:
        raise OperationFailedError(
            f"the twin of {machine.__qualname__} failed (twin=False runs none): {done.stderr.decode()[-2000:]}"
        )
    results, states, answers = msgpack.unpackb(done.stdout)
    return results, states, answers


def answer_of(machine: Machine, query: Any) -> str:
    """Return the answer of a node to a query, as text."""
    try:
        outcome = outcome_of(machine.query(msgpack.unpackb(msgpack.packb(query))), 0, "")
    except BaseException as error:
        outcome = failed_query(error)
    return answer_text(outcome.code, msgpack.unpackb(outcome.payload))


def refuse_in_twin() -> None:
    """Raise `InvalidConfigError` in a twin.

    A script that simulates when it is imported would otherwise start a twin of the twin, and so on forever.
    """
    if IN_TWIN in os.environ:
        raise InvalidConfigError(
            "importing the module of the machine starts a simulation, so its twin, another process, would start one "
            'too: put it below `if __name__ == "__main__":`'
        )


def found(name: str, file: str) -> Any:
    """Return a class or function: from its module, or from its file if the module cannot be imported by name."""
    module_name, _, path = name.partition(":")
    try:
        if module_name == "__main__":
            raise ImportError("here that is this module")
        module = importlib.import_module(module_name)
    except ImportError:
        # Another name than __main__, so that the main program of the module does not run here.
        module_name = f"twin_of_{module_name.strip('_')}"
        if module_name in sys.modules:
            return attrgetter(path)(sys.modules[module_name])
        spec = importlib.util.spec_from_file_location(module_name, file)
        if spec is None or spec.loader is None:
            raise
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        spec.loader.exec_module(module)
    return attrgetter(path)(module)


def main(arguments: Sequence[str], commands: BinaryIO, output: BinaryIO) -> None:
    """Apply the commands and answer the queries of the input; write the results of both."""
    shift_clock()
    machine: Machine = found(*arguments[:2])()
    state = found(*arguments[2:]) if arguments[2] else None
    rows, queries = msgpack.unpackb(commands.read())
    results: list[str] = []
    states: list[str] = []
    for index, term, time_ms, command, elapsed_ms in rows:
        entry = Entry(index, term, time_ms, Command.decode(command), elapsed_ms)
        results.append(result_of(machine, entry)[0])
        if state is not None:
            states.append(state_text(machine, state))
    output.write(msgpack.packb((results, states, [answer_of(machine, query) for query in queries])))


if __name__ == "__main__":
    output: Any = sys.stdout.buffer
    sys.stdout = sys.stderr  # so that what a machine prints does not mix with the results
    main(sys.argv[1:], sys.stdin.buffer, output)
    output.flush()
