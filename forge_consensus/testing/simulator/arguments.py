"""Checks the arguments of a simulation before it uses them: each refusal says what is wrong, why, and what to do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

from forge_consensus.errors import InvalidConfigError
from forge_consensus.events.selection import Selection
from forge_consensus.events.types import ConsensusEvent
from forge_consensus.service.machines import MachineChoice
from forge_consensus.storage.machines.machine import Command, Machine
from forge_consensus.testing.faults.drawn import KINDS
from forge_consensus.testing.simulator.conditions import Conditions
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.workload import Workload

NODES_MAX = 9


def given_plan(plan: object, *, seed: object, nodes: object, seconds: object, faults: object) -> Plan:
    """Return the plan with the given changes; None for the plan of the seed. Raises `InvalidConfigError`."""
    if plan is not None and not isinstance(plan, Plan):
        raise InvalidConfigError(
            f"{shown(plan)} is not a Plan: pass the arguments of a simulation by name, such as nodes=3, seed=7"
        )
    changes: dict[str, Any] = {}
    if nodes is not None:
        changes["nodes"] = nodes
    if seconds is not None:
        changes["seconds"] = seconds
    if isinstance(faults, bool):
        changes["faults"] = faults
    elif faults is not None:
        kinds = fault_kinds(faults)
        changes |= {"faults": bool(kinds), "kinds": kinds}
    made = replace(
        plan if plan is not None else replace(Plan.of(whole_seed(seed)), pace=1.0, conditions=Conditions()), **changes
    )
    check_plan(made)
    return made


def check_plan(plan: Plan) -> None:
    """Raise `InvalidConfigError` for a plan that cannot be simulated."""
    whole_seed(plan.seed)
    if type(plan.nodes) is not int or not 1 <= plan.nodes <= NODES_MAX:
        raise InvalidConfigError(f"nodes={plan.nodes!r}: a simulation has 1 to {NODES_MAX} nodes, as a whole number")
    seconds_of("seconds", plan.seconds)
    if unknown := sorted(set(plan.kinds) - KINDS.keys()):
        raise InvalidConfigError(f"there is no kind of fault {unknown[0]!r}; the kinds are {', '.join(sorted(KINDS))}")


def whole_seed(seed: object) -> int:
    """Return the seed. Raises `InvalidConfigError` for anything but a whole number from 0."""
    if type(seed) is not int or seed < 0:
        raise InvalidConfigError(f"seed={seed!r}: a seed is a whole number from 0, because it identifies a run")
    return seed


def seconds_of(name: str, seconds: object) -> float:
    """Return a number of virtual seconds. Raises `InvalidConfigError` for anything else."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidConfigError(f"{name}={seconds!r}: virtual seconds are a number, not a {type(seconds).__name__}")
    if not (math.isfinite(seconds) and seconds >= 0):
        raise InvalidConfigError(f"{name}={seconds!r}: virtual seconds are 0 or more, and finite")
    return seconds


def fault_kinds(faults: object) -> tuple[str, ...]:
    """Return the names of the kinds of faults; an empty list means no faults. Raises `InvalidConfigError`."""
    if isinstance(faults, str):
        raise InvalidConfigError(f"faults={faults!r} is a single text: give a list of kinds, faults=[{faults!r}]")
    if not isinstance(faults, Sequence) or not all(isinstance(kind, str) for kind in faults):
        raise InvalidConfigError(
            f"faults={faults!r}: give True, False, or a list of kinds; the kinds are {', '.join(sorted(KINDS))}"
        )
    return tuple(faults)


def machine_maker(given: object) -> Callable[[], Machine]:
    """Return the function that makes a machine for each process; it is called once, to check what it returns.

    Raises `InvalidConfigError`.
    """
    if not callable(given) or (not isinstance(given, type) and callable(getattr(given, "apply", None))):
        raise InvalidConfigError(
            f"state_machine={shown(given)} makes no machines, it is an instance of {type(given).__name__}: give the "
            "class itself or a function that returns a new machine, because each process of each node needs its own"
        )
    name = getattr(given, "__qualname__", shown(given))
    try:
        made: object = given()
    except Exception as error:
        raise InvalidConfigError(
            f"{name}() failed, {type(error).__name__}: {error}. Each process of each node calls it without arguments: "
            "give its parameters defaults, or give a function that returns a machine"
        ) from error
    if made is None or isinstance(made, str | type):
        raise InvalidConfigError(
            f"state_machine={name} returned {shown(made)}, which is not a machine: have it return a new one"
        )
    MachineChoice(made)  # raises if the machine lacks a method
    return cast("Callable[[], Machine]", given)


def given_workload(given: object) -> Workload:
    """Return the workload. Raises `InvalidConfigError` if it lacks any part of one."""
    advice = "inherit from forge_consensus.testing.Workload, and write command() and query()"
    if isinstance(given, type):
        raise InvalidConfigError(f"workload={given.__qualname__} is a class: give an instance, {given.__qualname__}()")
    kind = type(given)
    lacking = [name for name in ("command", "query", "at_the_end") if not callable(getattr(given, name, None))]
    lacking += [name for name in ("model", "may_fail") if not hasattr(given, name)]
    if lacking:
        raise InvalidConfigError(f"{shown(given)} is not a workload, it has no {', '.join(lacking)}: {advice}")
    unwritten = [name for name in ("command", "query") if getattr(kind, name, None) is getattr(Workload, name)]
    if unwritten:
        raise InvalidConfigError(
            f"the workload {kind.__qualname__} does not define {' and '.join(unwritten)}: {advice}"
        )
    return cast("Workload", given)


def check_function(name: str, given: object, what: str) -> None:
    """Raise `InvalidConfigError` unless the argument can be called."""
    if not callable(given):
        raise InvalidConfigError(f"{name}={shown(given)} cannot be called: give a function that {what}")


def check_selection(kind: object) -> None:
    """Raise `InvalidConfigError` unless some events match the class or pattern."""
    try:
        Selection.of(cast("type[ConsensusEvent] | str", kind))
    except ValueError as error:
        raise InvalidConfigError(
            f"{error}. Give a class such as forge_consensus.events.LeaderElected, or a pattern such as "
            "'consensus.leader.elected', 'consensus.leader.*' or '*'"
        ) from error


def check_command(command: object) -> Command:
    """Return the command. Raises `InvalidConfigError` for anything else and for a command that cannot be encoded."""
    if not isinstance(command, Command):
        raise InvalidConfigError(f"{shown(command)} is not a command: give forge_consensus.Command('type', {{...}})")
    try:
        command.encode()
    except ValueError as error:
        raise InvalidConfigError(str(error)) from error
    return command


def check_groups(groups: Iterable[Sequence[str]]) -> None:
    """Raise `InvalidConfigError` for a node that is in two groups, or twice in one."""
    named = [name for group in groups for name in group]
    for name in named:
        if named.count(name) > 1:
            raise InvalidConfigError(f"{name} is in two groups of a partition: name each node only once")


def shown(value: object) -> str:
    """Return a value as a short text."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
