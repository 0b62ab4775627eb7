"""The state machines of a simulation: what one node's machine makes of a command is compared with all others'."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgpack

from forge_consensus.storage.machine import ADDRESS, Entry, LedgerMachine, Machine
from forge_consensus.testing.rules.violations import ViolationError, demand

ADVICE = (
    "A machine must depend on nothing but its state and the entry: no clock but entry.time_ms, no random, no id(), no "
    "order of a set, nothing read from outside; and restore() must bring back all that later commands depend on."
)


@dataclass(slots=True)
class Agreement:
    """I5: whatever node applies an entry, it comes to the same result and, if `state` is given, the same state.

    `state` makes of a machine what identifies its state, anything with a `repr`; it is taken after each command.
    """

    state: Callable[[Any], Any] | None = None
    told: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Of each applied index: who applied it first, and what came of it."""
    entries: list[Entry] = field(default_factory=list)
    """What was applied, in the order in which it was first."""
    results: list[str] = field(default_factory=list)
    heard: Callable[[Entry], None] = lambda entry: None
    """Who else is told of each command that a machine executes."""

    def applied(self, node: str, machine: Machine, entry: Entry, result: str) -> None:
        """Compare. Raises `ViolationError` that names the entry, both nodes and what each made of it."""
        self.heard(entry)
        came_of_it = result if self.state is None else f"{result}, state {self.state(machine)!r}"
        told = self.told.get(entry.index)
        if told is None:
            self.entries.append(entry)
            self.results.append(result)
            self.told[entry.index] = (node, came_of_it)
            return
        first, known = told
        if known == came_of_it:
            return
        command = entry.command
        raise ViolationError(
            f"I5: entry {entry.index}, {command.type!r} {command.payload}, was applied with two results by "
            f"{type(machine).__name__}: on {first} {known}; on {node} {came_of_it}. {ADVICE}"
        )


def text_of(error: BaseException) -> str:
    """What an error says, without what differs between nodes, as in a command's outcome."""
    return f"raised {type(error).__name__}: {ADDRESS.sub('', str(error))}"


def result_of(machine: Machine, entry: Entry) -> tuple[str, Any, Exception | None]:
    """Apply an entry: what came of it as a text, the result, and the error if it was one."""
    try:
        result = machine.apply(entry)
    except Exception as error:
        return text_of(error), None, error
    return repr(result), result, None


class WatchedMachine:
    """A machine that reports each step to an `Agreement`; in all else it is the machine that it stands for."""

    def __init__(self, machine: Machine, node: str, agreement: Agreement) -> None:
        self.machine = machine
        self.node = node
        self.agreement = agreement

    def __getattr__(self, name: str) -> Any:
        """What else the machine has: thereby a user's machine and one in the ledger stay what they are."""
        if name == "apply_run":
            return self.applying_run(self.machine.apply_run)  # type: ignore[attr-defined]
        return getattr(self.machine, name)

    @property
    def dirty(self) -> tuple[int, int]:
        """That of a machine in the ledger; written out because it is asked for at the end of every turn."""
        return cast("LedgerMachine", self.machine).dirty

    def apply(self, entry: Entry) -> Any:
        """Apply and report; an error of the command is a result like any other."""
        text, result, error = result_of(self.machine, entry)
        self.agreement.applied(self.node, self.machine, entry, text)
        if error is not None:
            raise error
        return result

    def applying_run(self, run: Callable[[Sequence[Entry]], Sequence[Any]]) -> Callable[[Sequence[Entry]], Any]:
        """A machine's `apply_run` that reports; the states in the midst of a run are not seen."""

        def watched(entries: Sequence[Entry]) -> Sequence[Any]:
            results = run(entries)
            for entry, result in zip(entries, results, strict=False):
                text = text_of(result) if isinstance(result, BaseException) else repr(result)
                self.agreement.applied(self.node, self.machine, entry, text)
            return results

        return watched


class CountingMachine:
    """A user's machine, as small as one can be: counters, and a hash over all that was applied."""

    def __init__(self) -> None:
        self.counters: dict[str, int] = {}
        self.history = 0
        self.index = 0

    def apply(self, entry: Entry) -> Any:
        """Count a key; returns how often it was counted."""
        demand(entry.index > self.index, "I5", f"entry {entry.index} is applied after {self.index}")
        self.index = entry.index
        self.history = hash((self.history, entry.index, entry.term, entry.time_ms))
        key = entry.command.payload["key"]
        self.counters[key] = self.counters.get(key, 0) + 1
        return self.counters[key]

    def query(self, query: Any) -> Any:
        """A counter, None if nothing was counted."""
        return self.counters.get(query["get"])

    def snapshot(self) -> list[bytes]:
        """Everything."""
        row = (self.index, self.history, self.counters)
        return [msgpack.packb(part) for part in row]

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Everything again."""
        self.index, self.history, self.counters = (msgpack.unpackb(chunk) for chunk in chunks)


def counting_state(machine: CountingMachine) -> Any:
    """What identifies the state of a `CountingMachine`."""
    return machine.history, sorted(machine.counters.items())
