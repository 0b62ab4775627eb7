"""The arguments of a local cluster, its proxy and its paths: all are checked here, before any of them has an effect."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Final, TypeGuard

from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import InvalidConfigError

NODES_MAX: Final = 15
LAUNCHING: Final = ("extra_args", "environment", "before", "program")
"""The arguments about the start of a process, which `LocalCluster.restart` can change."""


# --- single values ---------------------------------------------------------------------------------------------------


def check_kind(name: str, value: object, kind: type | tuple[type, ...], advice: str) -> None:
    """Raise `InvalidConfigError` for a value of another type; True counts as no number here."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InvalidConfigError(f"{name} is {value!r}: {advice}")


def check_flag(name: str, value: object) -> None:
    """Raise `InvalidConfigError` unless `value` is True or False."""
    check_kind(name, value, bool, "it is switched on or off: give True or False")


def check_chance(name: str, value: object) -> None:
    """Raise `InvalidConfigError` unless `value` is a probability from 0 to 1."""
    if not is_number(value) or not 0 <= value <= 1:
        raise InvalidConfigError(f"{name} is {value!r}: it is a chance from 0 to 1, such as 0.1")


def check_seconds(name: str, value: object) -> None:
    """Raise `InvalidConfigError` unless `value` is a finite number of seconds that is not negative."""
    if not is_number(value) or value < 0:
        raise InvalidConfigError(f"{name} is {value!r}: it is a time in seconds, a number that is not negative")


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite real number, of whatever library."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


# --- the cluster -----------------------------------------------------------------------------------------------------


def check_choices(nodes: object, mode: object, transport: object, state_machine: object) -> None:
    """Raise `InvalidConfigError` for a size, mode, transport or state machine that no cluster can have."""
    if not isinstance(nodes, int) or isinstance(nodes, bool) or not 1 <= nodes <= NODES_MAX:
        raise InvalidConfigError(f"nodes is {nodes!r}: a local cluster has 1 to {NODES_MAX}")
    for name, value, choices in (("mode", mode, ("process", "thread")), ("transport", transport, ("tcp", "ipc"))):
        if value not in choices:
            raise InvalidConfigError(f"{name} is {value!r}: expected {' or '.join(map(repr, choices))}")
    if state_machine is None or isinstance(state_machine, str | type):
        return
    if mode == "process" or not callable(state_machine):
        raise InvalidConfigError(
            f"state_machine is {state_machine!r}: each node makes its own, so give the class, or 'module:Class'"
            + ("" if mode == "process" else ", or a function that makes one")
        )


def check_settings(proxy: object, seed: object, folder: object, settings: Mapping[str, object]) -> None:
    """Raise `InvalidConfigError` for a setting of the wrong type; the nodes check the values themselves."""
    check_flag("proxy", proxy)
    check_kind("seed", seed, int, "chances are drawn from a whole number: give one, such as 7")
    check_kind("folder", folder, (str, os.PathLike, type(None)), "name a folder, or give None for a temporary one")
    for name, kind in (("raft", RaftSettings), ("storage", StorageSettings)):
        advice = f"give {kind.__module__}.{kind.__name__}(...), or None for the usual ones"
        check_kind(name, settings[name], (kind, type(None)), advice)
    check_flag("lease_reads", settings["lease_reads"])


def check_secure(secure: object, proxy: object) -> None:
    """Raise `InvalidConfigError` unless `secure` is a flag, and for a secure cluster with a proxy."""
    check_flag("secure", secure)
    if secure and proxy:
        raise InvalidConfigError(
            "secure and proxy are both given: a proxy knows by what nodes send who they are, and here that is "
            "encrypted; leave one out"
        )


def check_launching(launching: Mapping[str, object], mode: str = "process") -> None:
    """Raise `InvalidConfigError` for malformed start arguments of a process, and for any with threads."""
    if mode == "thread" and any(launching.values()):
        raise InvalidConfigError(
            f"{', '.join(launching)} say how a process is started, and a thread is none: leave them out, or use "
            "LocalCluster(mode='process')"
        )
    for name, value in launching.items():
        if name == "environment":
            if not isinstance(value, Mapping) or not are_texts([*value.keys(), *value.values()]):
                raise InvalidConfigError(f"environment is {value!r}: give texts by name, such as {{'TZ': 'UTC'}}")
        elif name not in LAUNCHING:
            raise InvalidConfigError(
                f"a node cannot be started with {name}={value!r}: what may be given is {', '.join(LAUNCHING)}"
            )
        elif not isinstance(value, Sequence) or isinstance(value, str | bytes) or not are_texts(value):
            raise InvalidConfigError(f"{name} is {value!r}: give a list of words, such as ['nice', '-n', '5']")


def are_texts(values: Iterable[object]) -> bool:
    """Whether all of them are text or paths; commands may hold both."""
    return all(isinstance(value, str | os.PathLike) for value in values)


# --- the network -----------------------------------------------------------------------------------------------------


def check_sides(groups: Sequence[object], sides: Sequence[Sequence[str]], *, one_way: bool) -> None:
    """Raise `InvalidConfigError` unless these sides, made of those groups, partition a cluster."""
    check_flag("one_way", one_way)
    named = [name for side in sides for name in side]
    if len(sides) < 2:
        why = "no group was given"
    elif not all(sides):
        why = "no node is on one of the sides"
    elif len(named) != len(set(named)):
        why = "a node is on two sides"
    elif one_way and len(sides) != 2:
        why = f"there are {len(sides)} sides, of which one_way says nothing"
    else:
        return
    given = ", ".join(map(repr, groups))
    raise InvalidConfigError(
        f"partition({given}) does not part a cluster, for {why}: give one group or several with a node each at least "
        "and a node in one at most; two for one_way"
    )


def check_fronts(fronts: object) -> None:
    """Raise `InvalidConfigError` unless `fronts` maps each node to its two addresses."""
    advice = "map each node to (its front's address, its real address), as {'n2': ('127.0.0.1:7002', '127.0.0.1:8002')}"
    if not isinstance(fronts, Mapping) or not all(
        isinstance(name, str) and is_pair(places) for name, places in fronts.items()
    ):
        raise InvalidConfigError(f"fronts is {fronts!r}: {advice}")


def pairs_of(pairs: object) -> list[tuple[str, str]]:
    """Return these paths as a list. Raises `InvalidConfigError` if they are no pairs of names."""
    advice = "give (source, target) for each path, such as [('n1', 'n2')]"
    if not isinstance(pairs, Iterable) or isinstance(pairs, str | bytes):
        raise InvalidConfigError(f"{pairs!r} names no paths: {advice}")
    found = list(pairs)
    for pair in found:
        if not is_pair(pair):
            raise InvalidConfigError(f"{pair!r} is no path between two nodes: {advice}")
    return [(source, target) for source, target in found]


def is_pair(value: object) -> bool:
    """Whether it is a pair of texts."""
    return isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(part, str) for part in value)
