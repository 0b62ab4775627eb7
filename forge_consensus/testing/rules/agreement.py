"""I5, agreement: the effect of a command on the machine of one node is compared with its effects on all others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgpack

from forge_consensus.storage.machines.bounds import larger_than
from forge_consensus.storage.machines.machine import (
    ADDRESS,
    RESULT_BYTES_MAX,
    Command,
    Entry,
    Machine,
    PlainRun,
    StateMachine,
    failed_query,
    interrupts,
)
from forge_consensus.testing.rules.machine_cost import CostOfMachine, check_size
from forge_consensus.testing.rules.snapshot_rules import checked_snapshot
from forge_consensus.testing.rules.violations import ViolationError, demand

ADVICE = (
    "A machine must depend on nothing but its state and the entry: no clock but entry.elapsed_ms and entry.time_ms, no "
    "random, no id(), no order of a set, nothing read from outside; restore() must bring back all that later commands "
    "depend on; and snapshot() must give a copy that does not see what is applied later."
)


@dataclass(frozen=True, slots=True)
class Effect:
    """The effect of an entry on the machine of one node."""

    node: str
    result: str
    state: str = ""
    """The state afterwards, as the function `state` returns it; empty without one."""
    snapshot: int = 0
    """The index of the snapshot that this process's machine was restored from; 0 if it was not."""

    @property
    def text(self) -> str:
        """The effect, as a violation describes it."""
        return f"{self.result}, state {self.state}" if self.state else self.result


@dataclass(slots=True)
class Agreement:
    """I5: whichever node applies an entry, it gets the same result and, if `state` is given, the same state.

    `state` returns what identifies the state of a machine, anything with a `repr`; it is called after each command.
    """

    state: Callable[[Any], Any] | None = None
    effects_by_index: dict[int, Effect] = field(default_factory=dict)
    """For each applied index, the effect on the node that applied it first."""
    entries: list[Entry] = field(default_factory=list)
    """The entries that were applied, in the order in which each was applied first."""
    observe: Callable[[Entry], None] = lambda entry: None
    """Called with each entry that a machine applies."""
    first: Callable[[Entry, str], None] = lambda entry, result: None
    """Called with each entry that a machine applies as the first one, and its result as text."""

    def applied(self, node: str, machine: Machine, entry: Entry, result: str, snapshot: int = 0) -> None:
        """Compare an effect with the first one of the entry.

        Raises `ViolationError`, which names the entry, both nodes and both effects.
        """
        self.observe(entry)
        effect = Effect(node, result, state_text(machine, self.state), snapshot)
        first = self.effects_by_index.get(entry.index)
        if first is None:
            self.entries.append(entry)
            self.effects_by_index[entry.index] = effect
            self.first(entry, result)
        elif (first.result, first.state) != (effect.result, effect.state):
            raise ViolationError(
                f"I5: {named(entry)}, was applied with two results by {type(machine).__name__}: "
                f"{compared(first, effect)}. {ADVICE}"
            )

    def unchanged(self, node: str, machine: Machine, entry: Entry, result: str, before: str) -> None:
        """Demand that a command that raised left the state as `before`, which is "" if the state is unknown."""
        after = state_text(machine, self.state)
        if after != before:
            raise ViolationError(
                f"I5: {named(entry)}, {result} in {type(machine).__name__} on {node} and changed the state all the "
                f"same: before it {before}; after it {after}. A machine must not have changed anything when it raises: "
                "check all that may fail first, then change"
            )

    @property
    def effects(self) -> list[Effect]:
        """The first effect of each of the entries."""
        return [self.effects_by_index[entry.index] for entry in self.entries]


def compared(first: Effect, effect: Effect) -> str:
    """Describe two effects of one entry; a node applies an entry a second time only after a restart."""
    if first.node == effect.node:
        restart = f"after a restart from the snapshot of {effect.snapshot}" if effect.snapshot else "after a restart"
        return f"on {first.node} first {first.text}; on {effect.node} again, {restart}, {effect.text}"
    return "; ".join(
        f"on {one.node}{f', its state from the snapshot of {one.snapshot},' if one.snapshot else ''} {one.text}"
        for one in (first, effect)
    )


def named(entry: Entry) -> str:
    """Return an entry as a violation names it."""
    return f"entry {entry.index}, {entry.command.type!r} {entry.command.payload}"


def state_text(machine: Machine, state: Callable[[Any], Any] | None) -> str:
    """Return what identifies the state of a machine, as text; "" without a `state` function.

    Raises `ViolationError` for an error of `state`, because an error raised here would pass for one of the command.
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
    """Return the `repr` of a value with sets in sorted order; their own order differs between processes."""
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__}({', '.join(sorted(map(text_of_value, value)))})"
    if type(value) is dict:
        return f"{{{', '.join(f'{text_of_value(key)}: {text_of_value(one)}' for key, one in value.items())}}}"
    if type(value) in {list, tuple}:
        inner = ", ".join(map(text_of_value, value))
        return f"[{inner}]" if type(value) is list else f"({inner}{',' * (len(value) == 1)})"
    return repr(value)


def text_of(error: BaseException) -> str:
    """Return an error as text, without what differs between nodes, as in a command's outcome."""
    kind, text = msgpack.unpackb(failed_query(error).payload)
    return f"raised {kind}: {text}"


def answer_text(code: str, value: Any) -> str:
    """Return a node's answer to a query as text."""
    return f"raised {value[0]}: {value[1]}" if code else repr(value)


def result_of(machine: Machine, entry: Entry) -> tuple[str, Any, BaseException | None]:
    """Apply an entry; return the outcome as text, the result, and the error that was raised, if any."""
    try:
        result = machine.apply(entry)
    except BaseException as error:
        if interrupts(error):
            raise
        return text_of(error), None, error
    return result_text(result), result, None


def result_text(result: Any) -> str:
    """Return a result as text, without addresses; one that is too large for a client is not made into text."""
    if larger_than(result, RESULT_BYTES_MAX):
        return f"a {type(result).__name__} that is too large"
    return ADDRESS.sub("", repr(result))


def waits_for(machine: Machine, entry: Entry) -> bool:
    """Return whether a machine has waited for the time of this entry, so that even a command that fails changes it."""
    due_ms = getattr(machine, "due_ms", None)
    return type(due_ms) is int and due_ms <= entry.elapsed_ms


class WatchedMachine:
    """A wrapper that reports each step of a machine to an `Agreement`; in all else it behaves like the machine.

    `saved` returns the index of the newest snapshot on the node's disk; `cost` lets commands and queries take time.
    """

    def __init__(
        self,
        machine: Machine,
        node: str,
        agreement: Agreement,
        saved: Callable[[], int] = lambda: 0,
        cost: CostOfMachine | None = None,
    ) -> None:
        self.cost = cost
        self.machine = machine
        self.node = node
        self.agreement = agreement
        self.saved = saved
        self.restored = False
        """Whether it was restored and has applied nothing since."""
        self.snapshot_of = 0

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the machine, so that each kind of machine stays recognizable."""
        found = getattr(self.machine, name)
        if name == "apply_run":
            return self.applying_run(found)
        if name == "apply_plain":
            return self.applying_plain(found)
        if name == "query" and self.cost is not None:
            return self.cost.of_query(found)
        if name == "snapshot":
            return self.timed(name, lambda: checked_snapshot(self.node, cast("StateMachine", self.machine)))
        if name == "restore":
            return self.timed(name, self.restoring(found))
        return self.timed(name, found) if name == "import_chunk" else found

    def timed(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap what a machine does with its state, so that it takes time."""
        cost = self.cost
        if cost is None:
            return act

        def taking_time(*given: Any) -> Any:
            cost.of_state(name)
            return act(*given)

        return taking_time

    def apply(self, entry: Entry) -> Any:
        """Apply an entry and report the effect; an error of the command is a result like any other."""
        agreement, machine = self.agreement, self.machine
        if self.cost is not None:
            self.cost.of_command(entry)
        before, is_due = state_text(machine, agreement.state), waits_for(machine, entry)
        text, result, error = result_of(machine, entry)
        if error is not None and not is_due:
            agreement.unchanged(self.node, machine, entry, text, before)
        check_size(entry, result)
        self.report(entry, text)
        if error is not None:
            raise error
        return result

    def report(self, entry: Entry, text: str) -> None:
        """Report the effect of an entry, and the snapshot that the machine was restored from."""
        if self.restored:  # only now is the index of that snapshot on the disk
            self.restored, self.snapshot_of = False, self.saved()
        self.agreement.applied(self.node, self.machine, entry, text, self.snapshot_of)

    def applying_run(self, run: Callable[[Sequence[Entry]], Sequence[Any]]) -> Callable[[Sequence[Entry]], Any]:
        """Wrap a machine's `apply_run` to report each entry; the states within a run are not seen."""

        def watched(entries: Sequence[Entry]) -> Sequence[Any]:
            if self.cost is not None:
                for entry in entries:
                    self.cost.of_command(entry)
            results = run(entries)
            for entry, result in zip(entries, results, strict=False):
                check_size(entry, result)
                self.report(entry, text_of(result) if isinstance(result, BaseException) else result_text(result))
            return results

        return watched

    def applying_plain(self, apply: Callable[[PlainRun], int]) -> Callable[[PlainRun], int]:
        """Wrap a machine's `apply_plain` to report each command that it applies.

        Where each state or the time of each command counts, nothing is applied that way, so that `apply` sees them all.
        """
        one_by_one = self.cost is not None or self.agreement.state is not None

        def watched(run: PlainRun) -> int:
            count = 0 if one_by_one else apply(run)
            for index, data in enumerate(run.commands[:count], run.first):
                entry = Entry(index, run.term, run.time_ms, Command.decode(data), run.elapsed_ms)
                self.report(entry, result_text(None))
            return count

        return watched

    def restoring(self, restore: Callable[[Iterable[bytes]], None]) -> Callable[[Iterable[bytes]], None]:
        """Wrap a machine's `restore` to record the call."""

        def noted(chunks: Iterable[bytes]) -> None:
            self.restored = True
            restore(chunks)

        return noted


class CountingMachine:
    """A small state machine as a user might write it: counters, and a hash over all applied entries."""

    def __init__(self) -> None:
        self.counters: dict[str, int] = {}
        self.history = 0
        self.index = 0

    def apply(self, entry: Entry) -> Any:
        """Count a key; return its count."""
        demand(entry.index > self.index, "I5", f"entry {entry.index} is applied after {self.index}")
        self.index = entry.index
        self.history = hash((self.history, entry.index, entry.term, entry.time_ms, entry.elapsed_ms))
        key = entry.command.payload["key"]
        self.counters[key] = self.counters.get(key, 0) + 1
        return self.counters[key]

    def query(self, query: Any) -> Any:
        """Return a counter, None if its key was never counted."""
        return self.counters.get(query["get"])

    def snapshot(self) -> list[bytes]:
        """Return the whole state as chunks."""
        row = (self.index, self.history, self.counters)
        return [msgpack.packb(part) for part in row]

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Restore the state from the chunks of a snapshot."""
        self.index, self.history, self.counters = (msgpack.unpackb(chunk) for chunk in chunks)


def counting_state(machine: CountingMachine) -> Any:
    """Return what identifies the state of a `CountingMachine`."""
    return machine.history, sorted(machine.counters.items())
