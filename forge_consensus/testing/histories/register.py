"""The model of one key of the key-value machine: the effect of each call on the key, and its result."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import replace
from enum import Enum
from math import isnan
from typing import Any, Final

from forge_consensus.storage.machines.kv_commands import INT_MAX, INT_MIN
from forge_consensus.testing.histories.history import Operation, Outcome
from forge_consensus.testing.histories.models import ANY, Unknown

ABSENT: Final = None
"""The state of a key that does not exist; every other state is a frozen value."""
STATES_MAX: Final = 10_000
"""Beyond this number, every number counts as one that some call compares with."""


class Unseen(Enum):
    """A placeholder for all values that no answer distinguishes."""

    VALUE = "a value that nobody asks for"


def frozen(value: Any) -> Hashable:
    """Return a value as a state.

    Two states are equal exactly if the machine takes the values as equal, so neither True nor 1.0 equals 1.
    """
    kind = type(value)
    if kind is int or kind is str or kind is bytes or kind is Unseen:
        return value  # type: ignore[no-any-return]
    if kind is list or kind is tuple:
        return ("list", tuple(map(frozen, value)))
    if kind is float and isnan(value):
        return ("float", "nan")
    if kind is dict:
        return ("map", frozenset((frozen(key), frozen(held)) for key, held in value.items()))
    return (kind.__name__, value)


NULL: Final = frozen(None)
"""The state of a key that holds None."""


def by(operation: Operation) -> int:
    """Return the amount by which a call increments."""
    return 1 if operation.argument is None else int(operation.argument)


def looked_at(operation: Operation) -> Hashable:
    """Return the value with which a call compares the key's value, or ANY."""
    if operation.kind == "get" and operation.outcome is Outcome.OK:
        return frozen(operation.result)
    if operation.kind == "cas" and operation.argument[0] is not None:
        return frozen(operation.argument[0])
    if operation.kind == "increment" and type(operation.result) is int and operation.outcome is Outcome.OK:
        return operation.result - by(operation)
    return ANY


def ancestors(values: set[Hashable], steps: list[int]) -> set[Hashable]:
    """Return the values, and the numbers that become one by some of the steps; stops beyond `STATES_MAX`."""
    found = set(values)
    for step in steps:
        found |= {value - step for value in found if type(value) is int}
        if len(found) > STATES_MAX:
            break
    return found


class Register:
    """One key: "set", "get", "delete", "increment" and "cas" as the built-in machine executes them."""

    def initial(self) -> Hashable:
        """Return the state of a key that does not exist."""
        return ABSENT

    def step(self, state: Hashable, operation: Operation) -> tuple[bool, Hashable]:
        """Execute a call. Raises `ValueError` for an unknown kind."""
        known = operation.outcome is Outcome.OK
        result = operation.result
        match operation.kind:
            case "get":
                return not known or state == frozen(result) or (result is None and state is ABSENT), state
            case "set":
                return True, frozen(operation.argument)
            case "delete":
                return not known or result == (state is not ABSENT), ABSENT
            case "cas":
                expected, value = operation.argument
                matches = state == (ABSENT if expected is None else frozen(expected))
                return not known or result == matches, frozen(value) if matches else state
            case "increment":
                number = 0 if state is ABSENT else state
                if type(number) is not int or not INT_MIN <= number + by(operation) <= INT_MAX:
                    return not known, state  # the machine refuses it, so the caller has no result
                total = number + by(operation)
                return not known or frozen(result) == total, total
        raise ValueError(f"the model of one key does not know {operation.kind!r}")

    def insight(self, operations: list[Operation]) -> RegisterInsight:
        """Return the facts that these calls show about the values."""
        return RegisterInsight(operations)


class RegisterInsight:
    """The values that the calls of one key write, and those that they compare with."""

    def __init__(self, operations: list[Operation]) -> None:
        steps = [by(call) for call in operations if call.kind == "increment" and call.outcome is Outcome.OPEN]
        self.shown = ancestors({value for value in map(looked_at, operations) if value is not ANY}, steps)
        """The values that a call compares with the key, and those that open increments may turn into one."""
        made = {self.makes(call) for call in operations}
        self.null = NULL in made
        """Whether a key may hold None, so that a read None does not prove that the key is absent."""
        up, down = sum(step for step in steps if step > 0), sum(step for step in steps if step < 0)
        numbers = [number for number in made if type(number) is int] + ([0] if up and down else [])
        self.zero = any(number + down <= 0 <= number + up for number in numbers)
        """Whether a key may hold 0, to which an increment adds as to an absent one."""

    def simplified(self, operation: Operation) -> Operation:
        """Replace a value that no answer shows by one placeholder, the same in all calls.

        Only get, cas and increment compare the value itself rather than whether there is one, each with one value, see
        `looked_at`. If, in an order of the calls, another value that no call compares with takes the place of one,
        every comparison ends as before, so every answer stays right; and the other way round.
        """
        if operation.kind == "set":
            return replace(operation, argument=self.hidden(operation.argument))
        if operation.kind == "cas":
            expected, value = operation.argument
            return replace(operation, argument=(expected, self.hidden(value)))
        return operation

    def hidden(self, value: Any) -> Any:
        """Return the value, or the placeholder for all values that no call compares with."""
        state = frozen(value)
        shown = state in self.shown or (type(state) is int and len(self.shown) > STATES_MAX)
        return value if shown else Unseen.VALUE

    def reads(self, operation: Operation) -> bool:
        """A get, or a call that found nothing to change."""
        return operation.kind == "get" or (operation.kind in {"cas", "delete"} and not operation.result)

    def alike(self, operation: Operation) -> Hashable:
        """Kind, argument, and the result if it shows something."""
        result = None if operation.kind == "set" else frozen(operation.result)
        return operation.kind, frozen(operation.argument), result

    def needs(self, operation: Operation) -> Hashable:
        """The value that was read, expected or added to."""
        match operation.kind:
            case "get" if operation.result is None:
                return ANY if self.null else ABSENT
            case "increment" if operation.result == by(operation):
                return ANY if self.zero else ABSENT
            case "cas" if operation.result and operation.argument[0] is None:
                return ABSENT
            case "delete" if not operation.result:
                return ABSENT
            case "set" | "delete":
                return ANY
            case "cas" if not operation.result:
                return ANY
        return looked_at(operation)

    def compares(self, operation: Operation) -> Hashable:
        """The value that the call compares with. An absent key is the initial state; both may be read as None."""
        if operation.kind == "cas" and operation.argument[0] is None:
            return ABSENT
        return looked_at(operation)

    def makes(self, operation: Operation) -> Hashable:
        """The value that is written."""
        match operation.kind:
            case "set":
                return frozen(operation.argument)
            case "cas":
                return frozen(operation.argument[1])
            case "delete":
                return ABSENT
            case "increment" if operation.outcome is Outcome.OK:
                return frozen(operation.result)
        return ANY

    def before(self, operation: Operation, state: Hashable) -> Iterable[Hashable] | Unknown:
        """For a cas its expected value, for an increment the number that it adds to; an absent key counts as 0."""
        if operation.kind == "increment":
            if type(state) is not int:
                return ()
            number = state - by(operation)
            return (number,) if number else (number, ABSENT)
        if self.makes(operation) != state:
            return ()
        if operation.kind == "cas":
            expected = operation.argument[0]
            return (ABSENT if expected is None else frozen(expected),)
        return ANY

    def adds(self, operation: Operation) -> int | None:
        """The amount of an increment."""
        return by(operation) if operation.kind == "increment" else None


REGISTER: Final = Register()
