"""The name and the version of a state machine, by which nodes notice that they do not all run the same one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

from forge_consensus.errors import InvalidConfigError
from forge_consensus.storage.machines.kv import KeyValueMachine

BUILT_IN: Final = "kv"
"""The name of the built-in key-value machine."""
CHARS_MAX: Final = 255
VERSION_MAX: Final = (1 << 31) - 1
PROGRAMS: Final = ("__main__", "__mp_main__")
"""The names of the module that a process was started with."""


class MachineName(NamedTuple):
    """What a machine is called, and which version of it this is."""

    name: str
    version: int = 0

    @property
    def text(self) -> str:
        """The name for people, with the version if there is one."""
        return f"{self.name!r} (version {self.version})" if self.version else repr(self.name)


def name_of(machine: Any) -> MachineName:
    """Return the name and the version of a machine, given as an instance or a class.

    A machine may give both itself, by its attributes `machine_name` (a text) and `machine_version` (a whole number).
    Without a name the import path ``module:Class`` is the name, and without a version it has version 0. The class of a
    program that is run as a script is named after the script's file, so that it is the same class when another program
    imports it. Raises `InvalidConfigError` for a name or a version that cannot be.
    """
    kind = machine if isinstance(machine, type) else type(machine)
    name = getattr(machine, "machine_name", None)
    version = getattr(machine, "machine_version", 0)
    if name is None:
        name = BUILT_IN if kind is KeyValueMachine else f"{module_of(kind)}:{kind.__qualname__}"[:CHARS_MAX]
    elif not isinstance(name, str) or not 0 < len(name) <= CHARS_MAX or not name.isprintable():
        raise InvalidConfigError(
            f"machine_name of {kind.__qualname__} is {name!r}: it must be a printable text of 1 to {CHARS_MAX} "
            "characters, the same on all nodes and for ever"
        )
    if type(version) is not int or not 0 <= version <= VERSION_MAX:
        raise InvalidConfigError(
            f"machine_version of {kind.__qualname__} is {version!r}: it must be a whole number, raised with every "
            "change of what the machine does"
        )
    return MachineName(name, version)


def module_of(kind: type) -> str:
    """Return the name under which a class's module is imported, also if it is the program that was started."""
    module = kind.__module__
    if module not in PROGRAMS:
        return module
    program = sys.modules.get(module)
    spec = getattr(program, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(program, "__file__", None)
    return Path(file).stem if file else module
