"""The patch: names and table rows replaced for a while, the same for a test and for the command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MISSING = object()


class Patch:
    """Replaces things until its ``with`` statement ends; then everything is as it was, in the reverse order.

    What is patched are classes and modules, so a fault is in every node that runs meanwhile.
    """

    def __init__(self) -> None:
        self.undone: list[Callable[[], None]] = []

    def __enter__(self) -> Patch:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.undo()

    def setattr(self, target: Any, name: str, value: Any) -> None:
        """Replace an attribute that a class or module has, be it a property or inherited. Raises `AttributeError`."""
        getattr(target, name)
        was = vars(target).get(name, MISSING)
        self.undone.append(lambda: delattr(target, name) if was is MISSING else setattr(target, name, was))
        setattr(target, name, value)

    def setitem(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        """Replace a row that a table has. Raises `KeyError`."""
        was = table[key]
        self.undone.append(lambda: table.__setitem__(key, was))
        table[key] = value

    def handler(self, actor: Any, message: type, make: Callable[[Callable[..., None]], Callable[..., None]]) -> None:
        """Replace an actor's handler by what `make` makes of it.

        Actors are called through their class' table, and sometimes call a handler of their own by its name.
        """
        made = make(actor.handlers[message])
        self.setitem(actor.handlers, message, made)
        self.setattr(actor, f"receiveMsg_{message.__name__}", made)

    def undo(self) -> None:
        """Put everything back."""
        while self.undone:
            self.undone.pop()()
