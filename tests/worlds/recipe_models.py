"""What recipes promise, as sequential models for the linearizability checker."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from forge_consensus.testing.histories.history import Operation, Outcome


class LockModel:
    """One holder at a time, with growing tokens. The state is (holder's token or 0, largest token so far).

    - "acquire": the result is the token
    - "write" of a token under its guard: the result is whether it was allowed
    - "release" of a token: the result is whether it was still held
    - "expire" of a token has no answer: the cluster may have taken the lock away at some time, or not
    - "look": the result is the holder's token, 0 without one
    """

    def initial(self) -> Hashable:
        return 0, 0

    def step(self, state: Any, operation: Operation) -> tuple[bool, Hashable]:
        holder, last = state
        known, result, token = operation.outcome is Outcome.OK, operation.result, operation.argument
        match operation.kind:
            case "acquire":
                return holder == 0 and result > last, (result, result)
            case "write":
                return result == (holder == token), state
            case "look":
                return result == holder, state
            case "release":
                return not known or result == (holder == token), (0 if holder == token else holder, last)
            case "expire":
                return True, (0 if holder == token else holder, last)
        raise ValueError(operation.kind)


class SemaphoreModel:
    """Some holders at a time. The state is the set of their tokens; the calls are those of a lock."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def initial(self) -> Hashable:
        return frozenset()

    def step(self, state: Any, operation: Operation) -> tuple[bool, Hashable]:
        known, result, token = operation.outcome is Outcome.OK, operation.result, operation.argument
        if operation.kind == "acquire":
            return len(state) < self.limit, state | {result}
        if operation.kind == "release":
            return not known or result == (token in state), state - {token}
        return True, state - {token}


class QueueModel:
    """First in, first out. The state is the items in their order.

    - "put" of an item
    - "pop": the result is the first item, None for an empty queue
    """

    def initial(self) -> Hashable:
        return ()

    def step(self, state: Any, operation: Operation) -> tuple[bool, Hashable]:
        if operation.kind == "put":
            return True, (*state, operation.argument)
        first = state[0] if state else None
        return operation.outcome is not Outcome.OK or operation.result == first, state[1:]


class WorkModel:
    """Items that are taken, and acknowledged or given again. The state is pairs of (item, token of its taker or 0).

    - "put" of an item
    - "take": the result is (item, token)
    - "ack" of (item, token): the result is whether it was still the taker's
    - "expire" of (item, token) has no answer: the cluster may have taken it away at some time, or not
    """

    def initial(self) -> Hashable:
        return frozenset()

    def step(self, state: Any, operation: Operation) -> tuple[bool, Hashable]:
        known, result, argument = operation.outcome is Outcome.OK, operation.result, operation.argument
        match operation.kind:
            case "put":
                return True, state | {(argument, 0)}
            case "take":
                item, token = result
                return (item, 0) in state, state - {(item, 0)} | {(item, token)}
            case "ack":
                return not known or result == (tuple(argument) in state), state - {tuple(argument)}
            case "expire":
                held = tuple(argument) in state
                return True, state - {tuple(argument)} | ({(argument[0], 0)} if held else frozenset())
        raise ValueError(operation.kind)


class BarrierModel:
    """A barrier is there or not. "create" and "remove" tell whether they changed that; "wait" ends while it is not."""

    def initial(self) -> Hashable:
        return False

    def step(self, state: Any, operation: Operation) -> tuple[bool, Hashable]:
        known, result = operation.outcome is Outcome.OK, operation.result
        match operation.kind:
            case "create":
                return not known or result == (not state), True
            case "remove":
                return not known or result == state, False
            case "wait":
                return not state, state
        raise ValueError(operation.kind)
