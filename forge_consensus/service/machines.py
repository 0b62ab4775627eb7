"""The state machine that a user gave, as an instance, a class or an import path, made ready for a node."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

from forge_consensus.errors import InvalidConfigError
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import Machine
from forge_consensus.storage.machines.naming import name_of

NEEDED = ("apply", "query", "snapshot", "restore")
LEDGER_NEEDED = ("apply", "query", "checkpoint", "bind")
"""The methods of a machine that keeps its state in the ledger."""


class MachineChoice:
    """A user's choice of a state machine; None is the built-in key-value machine.

    Raises `InvalidConfigError` for anything that is no state machine.
    """

    def __init__(self, given: object) -> None:
        self.given = imported(given) if isinstance(given, str) else given
        self.initial: list[bytes] | None = None
        """The state that a given instance had before it first ran."""
        self.used = False
        if self.given is not None:
            self.check()

    @property
    def kind(self) -> type[Any]:
        """The class of the machine, also where an instance was given."""
        return self.given if isinstance(self.given, type) else type(self.given)

    @property
    def is_built_in(self) -> bool:
        """Whether it is the built-in key-value machine."""
        return self.given is None or self.kind is KeyValueMachine

    def check(self) -> None:
        """Raise `InvalidConfigError` if a method of a state machine is missing, or its name or version cannot be."""
        in_ledger = hasattr(self.kind, "checkpoint")
        missing = [
            name for name in (LEDGER_NEEDED if in_ledger else NEEDED) if not callable(getattr(self.given, name, None))
        ]
        if missing:
            raise InvalidConfigError(
                f"{self.kind.__qualname__} is no state machine: it has no {', '.join(missing)}. "
                f"A state machine has {', '.join(NEEDED)} (see forge_consensus.StateMachine)"
            )
        name_of(self.given)

    def fresh(self) -> Machine | None:
        """Return the machine for a node that starts now, in its first state; None for the built-in one.

        The node restores the state from its snapshot and its log. An instance that still held the state of an earlier
        run would apply commands twice; so it is set back to its first state. Raises `InvalidConfigError`.
        """
        given: Any = self.given
        if given is None:
            return None
        if isinstance(given, type):
            try:
                return cast("Machine", given())
            except (Exception, SystemExit) as error:  # a constructor that exits must not look like an orderly end
                raise InvalidConfigError(
                    f"a {given.__qualname__} could not be made, {type(error).__name__}: {error}. Each start makes one "
                    "without arguments: give its arguments defaults, or give an instance"
                ) from error
        if hasattr(given, "checkpoint"):  # the node binds it to its tables anew
            return cast("Machine", given)
        if not self.used:
            self.used = True
            self.initial = first_state(given)
        elif self.initial is None:
            raise InvalidConfigError(
                f"this {self.kind.__qualname__} ran before and its first state could not be saved, because its "
                "snapshot() raised: give the class instead of an instance, and each start makes a new one"
            )
        else:
            given.restore(iter(self.initial))
        return cast("Machine", given)

    def path(self) -> str:
        """Return the import path ``module:Class`` by which another process makes the same machine.

        It is empty for the built-in one. Raises `InvalidConfigError` if there is no such path.
        """
        if self.given is None:
            return ""
        kind = self.kind
        name = f"{kind.__module__}:{kind.__qualname__}"
        advice = "put the class into a module of its own that can be imported, or use mode='thread'"
        if kind.__module__ == "__main__" or "<" in kind.__qualname__:
            raise InvalidConfigError(f"another process cannot import {name}: {advice}")
        if imported(name, advice) is not kind:
            raise InvalidConfigError(f"{name} is another class when it is imported: {advice}")
        try:
            inspect.signature(kind).bind()
        except TypeError as error:
            raise InvalidConfigError(
                f"{name} cannot be made without arguments ({error}), as another process would have to: "
                "give its arguments defaults, or use mode='thread'"
            ) from error
        except ValueError:  # the class has no signature: the other process will find out
            pass
        return name


def first_state(machine: Any) -> list[bytes] | None:
    """Return the state of a machine, None if its snapshot() raises."""
    try:
        return list(machine.snapshot())
    except Exception:  # it is the user's code, and matters only if there is a second start
        return None


def imported(path: str, advice: str = "give it as 'package.module:Class'") -> Callable[[], Machine]:
    """Return the class that a path ``module:Class`` names. Raises `InvalidConfigError`."""
    module, colon, qualname = path.partition(":")
    if not (module and colon and qualname):
        raise InvalidConfigError(f"state machine {path!r} is no import path: {advice}")
    try:
        found: Any = sys.modules.get(module) or import_module(module)
        for name in qualname.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise InvalidConfigError(f"state machine {path!r} cannot be imported ({error}): {advice}") from error
    except Exception as error:  # the module is the user's code, and may raise anything
        raise InvalidConfigError(
            f"state machine {path!r} cannot be imported, because its module raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, type):
        raise InvalidConfigError(f"state machine {path!r} is a {type(found).__name__} and not a class: {advice}")
    return found
