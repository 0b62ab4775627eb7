"""The state machines of a simulation: what one node's machine makes of a command is compared with all others'."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgpack

from forge_consensus.storage.machines.machine import ADDRESS, Entry, Machine, StateMachine
from forge_consensus.testing.rules.snapshot_rules import checked_snapshot
from forge_consensus.testing.rules.violations import ViolationError, demand

ADVICE = (
    "A machine must depend on nothing but its state and the entry: no clock but entry.time_ms, no random, no id(), no "
    "order of a set, nothing read from outside; restore() must bring back all that later commands depend on; and "
    "snapshot() must give a copy that does not see what is applied later."
)


@dataclass(frozen=True, slots=True)
class Effect:
    """What the machine of one node made of an entry."""

    node: str
    result: str
    state: str = ""
    """What `state` told of it afterwards."""
    snapshot: int = 0
    """The snapshot that the machine's state came from in this process, 0 if from none."""

    @property
    def text(self) -> str:
        """The effect, as a violation tells of it."""
        return f"{self.result}, state {self.state}" if self.state else self.result


@dataclass(slots=True)
class Agreement:
    """I5: whatever node applies an entry, it comes to the same result and, if `state` is given, the same state.

    `state` makes of a machine what identifies its state, anything with a `repr`; it is taken after each command.
    """

    state: Callable[[Any], Any] | None = None
    effects_by_index: dict[int, Effect] = field(default_factory=dict)
    """Of each applied index: who applied it first, and what came of it."""
    entries: list[Entry] = field(default_factory=list)
    """What was applied, in the order in which it was first."""
    observe: Callable[[Entry], None] = lambda entry: None
    """Who else is told of each command that a machine executes."""

    def applied(self, node: str, machine: Machine, entry: Entry, result: str, snapshot: int = 0) -> None:
        """Compare. Raises `ViolationError` that names the entry, both nodes and what each made of it."""
        self.observe(entry)
        effect = Effect(node, result, state_text(machine, self.state), snapshot)
        first = self.effects_by_index.get(entry.index)
        if first is None:
            self.entries.append(entry)
            self.effects_by_index[entry.index] = effect
        elif (first.result, first.state) != (effect.result, effect.state):
            raise ViolationError(
                f"I5: {named(entry)}, was applied with two results by {type(machine).__name__}: "
                f"{compared(first, effect)}. {ADVICE}"
            )

    def unchanged(self, node: str, machine: Machine, entry: Entry, result: str, before: str) -> None:
        """Demand that a command which raised left the state as `before`, which is "" where nobody can tell."""
        after = state_text(machine, self.state)
        if after != before:
            raise ViolationError(
                f"I5: {named(entry)}, {result} in {type(machine).__name__} on {node} and changed the state all the "
                f"same: before it {before}; after it {after}. A machine must not have changed anything when it raises: "
                "check all that may fail first, then change"
            )

    @property
    def effects(self) -> list[Effect]:
        """What came of each of the entries."""
        return [self.effects_by_index[entry.index] for entry in self.entries]


def compared(first: Effect, effect: Effect) -> str:
    """Two effects of one entry and where each happened; the same node applies an entry again only after a restart."""
    if first.node == effect.node:
        restart = f"after a restart from the snapshot of {effect.snapshot}" if effect.snapshot else "after a restart"
        return f"on {first.node} first {first.text}; on {effect.node} again, {restart}, {effect.text}"
    return "; ".join(
        f"on {one.node}{f', its state from the snapshot of {one.snapshot},' if one.snapshot else ''} {one.text}"
        for one in (first, effect)
    )


def named(entry: Entry) -> str:
    """An entry, as a violation names it."""
    return f"entry {entry.index}, {entry.command.type!r} {entry.command.payload}"


def state_text(machine: Machine, state: Callable[[Any], Any] | None) -> str:
    """What identifies the state of a machine, as a text; "" where nobody can tell.

    Raises `ViolationError` for what `state` raises, for it is called where an error would pass for the command's.
    """
    if state is None:
        return ""
    try:
        return text_of_value(state(machine))
    except Exception as error:
        raise ViolationError(
            f"state: the function that was given as state= raised {type(error).__name__}: {error}, for a "
            f"{type(machine).__name__}: it must tell the state of a machine at any time, that of a new one as well"
        ) from error


def text_of_value(value: Any) -> str:
    """The `repr` of a value, but sets in one order: two equal ones may be told in two, above all in two processes."""
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__}({', '.join(sorted(map(text_of_value, value)))})"
    if type(value) is dict:
        return f"{{{', '.join(f'{text_of_value(key)}: {text_of_value(one)}' for key, one in value.items())}}}"
    if type(value) in {list, tuple}:
        inner = ", ".join(map(text_of_value, value))
        return f"[{inner}]" if type(value) is list else f"({inner}{',' * (len(value) == 1)})"
    return repr(value)


def text_of(error: BaseException) -> str:
    """What an error says, without what differs between nodes, as in a command's outcome."""
    return f"raised {type(error).__name__}: {ADDRESS.sub('', str(error))}"


def answer_text(code: str, value: Any) -> str:
    """An answer of a node to a query, as a text."""
    return f"raised {value[0]}: {value[1]}" if code else repr(value)


def result_of(machine: Machine, entry: Entry) -> tuple[str, Any, Exception | None]:
    """Apply an entry: what came of it as a text, the result, and the error if it was one."""
    try:
        result = machine.apply(entry)
    except Exception as error:
        return text_of(error), None, error
    return repr(result), result, None


class WatchedMachine:
    """A machine that reports each step to an `Agreement`; in all else it is the machine that it stands for.

    `saved` tells of which entry the newest snapshot is that is on the node's disk.
    """

    def __init__(self, machine: Machine, node: str, agreement: Agreement, saved: Callable[[], int] = lambda: 0) -> None:
        self.machine = machine
        self.node = node
        self.agreement = agreement
        self.saved = saved
        self.restored = False
        """Whether it was, and has applied nothing since."""
        self.snapshot_of = 0

    def __getattr__(self, name: str) -> Any:
        """What else the machine has: thereby a user's machine and one in the ledger stay what they are."""
        found = getattr(self.machine, name)
        if name == "apply_run":
            return self.applying_run(found)
        if name == "snapshot":
            return lambda: checked_snapshot(self.node, cast("StateMachine", self.machine))
        if name == "restore":
            return self.restoring(found)
        return found

    def apply(self, entry: Entry) -> Any:
        """Apply and report; an error of the command is a result like any other."""
        agreement, machine = self.agreement, self.machine
        before = state_text(machine, agreement.state)
        text, result, error = result_of(machine, entry)
        if error is not None:
            agreement.unchanged(self.node, machine, entry, text, before)
        self.report(entry, text)
        if error is not None:
            raise error
        return result

    def report(self, entry: Entry, text: str) -> None:
        """Tell what came of an entry, and what the machine began with."""
        if self.restored:  # only now is it on disk of which entry that snapshot is
            self.restored, self.snapshot_of = False, self.saved()
        self.agreement.applied(self.node, self.machine, entry, text, self.snapshot_of)

    def applying_run(self, run: Callable[[Sequence[Entry]], Sequence[Any]]) -> Callable[[Sequence[Entry]], Any]:
        """A machine's `apply_run` that reports; the states in the midst of a run are not seen."""

        def watched(entries: Sequence[Entry]) -> Sequence[Any]:
            results = run(entries)
            for entry, result in zip(entries, results, strict=False):
                self.report(entry, text_of(result) if isinstance(result, BaseException) else repr(result))
            return results

        return watched

    def restoring(self, restore: Callable[[Iterable[bytes]], None]) -> Callable[[Iterable[bytes]], None]:
        """A machine's `restore`, noted."""

        def noted(chunks: Iterable[bytes]) -> None:
            self.restored = True
            restore(chunks)

        return noted


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
