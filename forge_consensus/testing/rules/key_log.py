"""The rule of keys: what nodes answer, hold and tell of keys and leases is what a model makes of the log.

The model executes each entry when the first machine has applied it, so whatever was answered can be compared with the
state after that very entry. Time is in the entries; that it is right is compared with the virtual time, by which no
lease may end early.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf
from typing import Any, Final

from forge_consensus.storage.ledger.record import parse
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import Entry
from forge_consensus.testing.rules.agreement import WatchedMachine, named
from forge_consensus.testing.rules.invariants import Invariants
from forge_consensus.testing.rules.key_answers import answer_of, row_of
from forge_consensus.testing.rules.key_model import Held, KeyModel, RefusedError, State
from forge_consensus.testing.rules.violations import ViolationError, demand
from forge_consensus.testing.world.base import SimulatedBase

CLOCK_ERROR_MAX: Final = 0.1
"""The rates of two hosts' clocks differ by less than this share."""
SLACK_SECONDS: Final = 0.002
"""Times in the log are whole milliseconds."""
HOUR_MS: Final = 3_600_000
"""A lease of that time does not end within a run."""
REFUSED: Final = ("raised ValueError: ", "raised TypeError: ")
RULE: Final = "keys"


class KeyLog:
    """Follows the log of a cluster of key-value machines, and knows what each state answers.

    Args:
        invariants: knows when each entry was written, and by whom.
        judged: whether the model executes an entry's command; of others it only knows that leases end before them.

    """

    def __init__(self, invariants: Invariants, judged: Callable[[Entry], bool] = lambda entry: True) -> None:
        self.invariants = invariants
        self.judged = judged
        self.model = KeyModel()
        self.indexes: list[int] = [0]
        self.states: list[State] = [State()]
        """After each of the indexes."""
        self.terms: dict[int, int] = {}
        self.index_of: dict[str, int] = {}
        """By correlation id: the entry of a command."""
        self.effects: dict[int, str] = {}
        """By index: the result, as text."""
        self.ended = 0
        """How many leases have ended because their time was over."""
        self.healed_at = inf
        """Since when no fault strikes: a lease that was granted or kept alive since then must not end late."""
        self.late_seconds_max = 0.0
        """How late it may end, beside the error of clocks."""

    # --- the log -----------------------------------------------------------------------------------------------------

    def applies(self, entry: Entry, effect: str) -> None:
        """Execute an entry that a machine was the first to apply, with this effect. Raises `ViolationError`."""
        model, index = self.model, entry.index
        demand(index > model.index, "I5", f"{named(entry)} is applied first after entry {model.index}")
        self.terms[index], self.effects[index] = entry.term, effect
        name = entry.command.correlation_id
        if name is not None:
            first = self.index_of.setdefault(name, index)
            demand(first == index, "I14", f"the command {name!r} is applied at {first} and at {index}")
        if self.judged(entry):
            self.compare(entry, effect)
        else:
            model.begin(index, entry.elapsed_ms)
        for lease, held in model.expired:
            self.ended += 1
            self.check_time(entry, lease, held)
        self.keep()

    def compare(self, entry: Entry, effect: str) -> None:
        """Demand the result that the model finds. Raises `ViolationError`."""
        command = entry.command
        try:
            told = repr(self.model.apply(entry.index, entry.elapsed_ms, command.type, command.payload))
        except RefusedError as refused:
            fails = effect.startswith(REFUSED)
            demand(fails, RULE, f"{named(entry)}: {effect} on the first node, and it must fail: {refused}")
            return
        demand(told == effect, RULE, f"{named(entry)}: {effect} on the first node, by the model {told}")

    @property
    def waits(self) -> bool:
        """Whether there is a lease that ends within a run if nobody keeps it alive."""
        return any(held.ttl_ms < HOUR_MS for held in self.model.leases.values())

    def keep(self) -> None:
        """Keep the state; what did not change is shared with the one before."""
        model, last = self.model, self.states[-1]
        keys = last.keys if last.keys == model.keys else dict(model.keys)
        leases = last.leases if last.leases == model.leases else dict(model.leases)
        self.indexes.append(model.index)
        self.states.append(State(model.index, model.now_ms, keys, leases))

    def check_time(self, entry: Entry, lease: int, held: Held) -> None:
        """Demand that a lease that ends has lived for its time, by virtual time, and, while all is well, not longer.

        Raises `ViolationError`.
        """
        since, until = self.written(held.renewed), self.written(entry.index, by_leader=False)
        if since is None or until is None:
            return
        lived, least = until - since, held.ttl_ms / 1000
        told = (
            f"{named(entry)} ends lease {lease} of {held.ttl_ms} ms, {lived:.3f} s after entry {held.renewed} granted "
            "it or kept it alive"
        )
        demand(lived * (1 + CLOCK_ERROR_MAX) + SLACK_SECONDS >= least, "lease", told)
        if since >= self.healed_at and self.terms[held.renewed] == entry.term:
            most = least * (1 + CLOCK_ERROR_MAX) + self.late_seconds_max
            demand(lived <= most, "lease", f"{told}, and all is well: {most:.3f} s are the most")

    def written(self, index: int, *, by_leader: bool = True) -> float | None:
        """Return when an entry was proposed, or, without `by_leader`, when it was at the latest; None if unknown.

        It is unknown if another disk had it before that of its leader.
        """
        key = index, self.terms[index]
        sessions = self.invariants.sessions
        if by_leader and sessions.written_by.get(key) != self.invariants.leaders.get(key[1]):
            return None
        return sessions.written.get(key)

    # --- what is known of it -----------------------------------------------------------------------------------------

    @property
    def last(self) -> int:
        """The last entry with a command."""
        return self.indexes[-1]

    def state_at(self, index: int) -> State:
        """Return the state after an entry, and as of its time, because time goes on with entries of every kind."""
        state = self.states[bisect_right(self.indexes, index) - 1]
        term = self.invariants.committed.get(index)
        if term is None:
            return state
        elapsed_ms = parse(index, self.invariants.entries[index, term][0]).elapsed_ms
        return replace(state, now_ms=max(state.now_ms, elapsed_ms))

    def changes(self, since: int, until: int, prefix: str, *, exact: bool = False) -> list[list[Any]]:
        """Return the changes of entries from `since` on and below `until`, of one key or of those with a prefix."""
        history = self.model.history
        first, stop = (bisect_right(history, index - 1, key=lambda change: change[0]) for index in (since, until))
        return [
            change for change in history[first:stop] if (change[1] == prefix if exact else change[1].startswith(prefix))
        ]

    def check_answer(self, who: str, query: Any, applied: int, answer: Any) -> None:
        """Demand that a state answers so after entry `applied`. Raises `ViolationError`."""
        if isinstance(query, dict) and "changes" in query:
            self.check_changes(who, query, applied, answer)
            return
        wanted = answer_of(self.state_at(applied), query)
        demand(
            repr(wanted) == repr(answer),
            RULE,
            f"{who} asked {query!r} and got {answer!r} as of entry {applied}, by the model {wanted!r}",
        )

    def check_changes(self, who: str, query: Mapping[str, Any], applied: int, answer: Any) -> None:
        """Demand that an answer has the changes before its `next`, and all that there are unless that history is gone.

        A question that has waited may have seen that nothing changed before a snapshot gave the node another history.
        """
        since, following, oldest, found = query["since"], answer["next"], answer["oldest"], answer["changes"]
        told = f"{who} asked {dict(query)!r} and got next {following}, oldest {oldest}, as of entry {applied}"
        demand(since <= following <= max(since, applied + 1), RULE, told)
        wanted = self.changes(since, following, query["changes"], exact=query.get("key", False))
        demand(repr(wanted) == repr(found), RULE, f"{told}, with {found!r}, and there are {wanted!r}")
        full = len(found) >= query.get("limit", 1000) or following < oldest
        there = self.indexes[bisect_right(self.indexes, applied) - 1]
        demand(full or following > there, RULE, f"{told}, and was told of too little: it has applied {there}")

    def check_state(self, base: SimulatedBase, wanted: Callable[[str], bool]) -> None:
        """Demand that a node at rest holds the keys and leases of the model. `wanted` says of which keys.

        Raises `ViolationError`.
        """
        machine = bare_machine(base)
        state = self.state_at(base.engine.ledger.applied)
        keys = [key for key in sorted(state.keys) if wanted(key)]
        found = [row for row in machine.query({"entries": "", "limit": 10_000}) if wanted(row[0])]
        rows = [row_of(state, key) for key in keys]
        demand(repr(found) == repr(rows), RULE, f"{base.name} holds {differing(found, rows)}")
        held = [[lease, one.ttl_ms, one.ends_ms, one.own] for lease, one in sorted(machine.leases.live.items())]
        leases = [[lease, one.ttl_ms, one.ends_ms, one.own] for lease, one in sorted(state.leases.items())]
        demand(held == leases, RULE, f"{base.name} holds the leases {differing(held, leases)}")
        for lease in state.leases:
            names, attached = machine.query({"lease": lease})[3], state.attached(lease)
            demand(names == attached, RULE, f"{base.name} holds on lease {lease} {differing(names, attached)}")


class KeyHistories:
    """A watcher that demands of each node the changes since its process began, or since a snapshot gave it a state.

    After a snapshot a node must not claim to know earlier ones, because it has not seen what lies between.
    """

    def __init__(self) -> None:
        self.begins: dict[str, tuple[int, int]] = {}
        """By node: the generation of its state, and the entry as of which it got that state."""
        self.applied: dict[str, int] = {}
        """By node: what it had applied after its last turn."""

    def began(self, node: SimulatedBase) -> None:
        """Note the state with which a process begins."""
        applier = node.engine.ledger.applier
        self.begins[node.name] = applier.generation, applier.index
        self.applied[node.name] = applier.index

    def turned(self, node: SimulatedBase) -> None:
        """Demand that the history of a node goes back to its beginning. Raises `ViolationError`."""
        applier = node.engine.ledger.applier
        generation, index = self.begins[node.name]
        oldest = bare_machine(node).history.oldest
        before, self.applied[node.name] = self.applied[node.name], applier.index
        if generation != applier.generation:
            generation, index = self.begins[node.name] = applier.generation, applier.on_disk
            demand(
                oldest > before,
                RULE,
                f"the history of {node.name} begins with entry {oldest}, it had applied {before} and was given another "
                f"state",
            )
        if oldest > index + 1:
            raise ViolationError(
                f"{RULE}: the history of {node.name} begins with entry {oldest}, its state was given to it as of "
                f"entry {index}"
            )

    def ended(self, node: SimulatedBase, error: BaseException | None) -> None:
        """Do nothing."""

    def durable(self, node: SimulatedBase, batch: Any) -> None:
        """Do nothing."""

    def asks(self, node: SimulatedBase, to: str, data: bytes) -> None:
        """Do nothing."""

    def answers(self, node: SimulatedBase, connection: Any, frame: Any) -> None:
        """Do nothing."""


def bare_machine(base: SimulatedBase) -> KeyValueMachine:
    """Return the key-value machine of a node."""
    machine = base.engine.ledger.applier.machine
    found = machine.machine if isinstance(machine, WatchedMachine) else machine
    assert isinstance(found, KeyValueMachine)
    return found


def differing(found: list[Any], wanted: list[Any]) -> str:
    """Return what only one of two lists has, as a short text."""
    only = [one for one in found if one not in wanted], [one for one in wanted if one not in found]
    return f"{only[0][:4]!r}, by the model {only[1][:4]!r}"
