"""Recipes in virtual time: their steps on the real machine, in any order, with lost answers, pauses and deaths.

There is no cluster: a command is applied when the schedule says so. What a recipe must bear is all here: an answer that
comes late or never, a command that is carried out after its caller gave up, a process that stands still while its lease
ends, one that dies. One random seed decides everything.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from forge_consensus.client.calls import ReadDetail
from forge_consensus.client.key_commands import append_command, transaction_command
from forge_consensus.client.key_records import KeyChange, KeyEntry, TransactionResult
from forge_consensus.errors import (
    CommandError,
    ConsensusError,
    NoLeaderError,
    OutcomeUnknownError,
)
from forge_consensus.recipes.steps import NextChange, Pause, Step, Steps
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import Command, Entry

CALL_SECONDS = 0.01
"""The longest time from the beginning of a call to its effect, and from there to its answer."""
LATE_SECONDS = 8.0
"""A command whose caller gave up may be carried out so much later."""
PAUSE_SECONDS = 6.0
"""The longest time that a process stands still: some times to live."""
KEEP_ALIVES = 3


@dataclass
class Faults:
    """How often what goes wrong, for each call or step."""

    unknown: float = 0.0
    """A call whose outcome nobody knows: it happens, or happens later, or never."""
    refused: float = 0.0
    """A call that finds no leader."""
    pause: float = 0.0
    """The process stands still, its lease with it."""
    death: float = 0.0
    """The process ends without a word."""


class Alarm:
    """What a lease's holder looks at: whether it must be regarded as lost."""

    def __init__(self, world: RecipeWorld, until: float) -> None:
        self.world, self.until, self.flag = world, until, False

    def is_set(self) -> bool:
        return self.flag or self.world.now >= self.until


@dataclass(eq=False)
class WorldLease:
    """A lease as its holder has it; the world keeps it alive while its process runs."""

    client: WorldClient
    id: int
    ttl: float
    lost: Alarm
    due_at: float
    is_kept: bool = False
    on_lost: Callable[[Any], object] | None = None

    def kept(self, on_lost: Callable[[Any], object] | None = None) -> WorldLease:
        self.on_lost = on_lost
        return self

    def begin(self) -> None:
        self.is_kept = True

    def stop_keeping(self) -> None:
        self.is_kept = False

    def revoke(self, timeout: float | None = None) -> int:
        self.is_kept = False
        gone = int(self.client.apply(Command("lease_revoke", {"lease": self.id})))
        self.lost.flag = True
        return gone


@dataclass
class WorldWatch:
    """A watch, which the world looks at."""

    query: dict[str, Any]
    until: float
    seen: int = -1
    """The entry as of which there was no change that matters."""


class WorldClient:
    """The client of one process. Each call happens at once: the schedule decides when it is called."""

    timeout = 5.0

    def __init__(self, world: RecipeWorld, process: Process) -> None:
        self.world, self.process = world, process

    def apply(self, command: Command, timeout: float | None = None) -> Any:
        """A command, which may meet its fault."""
        return self.world.apply_for(self.process, command)

    def read(self, query: Any, timeout: float | None = None) -> Any:
        return self.read_detail(query, timeout=timeout).value

    def read_detail(self, query: Any, timeout: float | None = None) -> ReadDetail:
        self.world.maybe_refuse(self.process)
        self.world.expire()
        return ReadDetail(self.world.machine.query(query), self.world.index, 0)

    def append(self, prefix: str, value: Any, timeout: float | None = None, *, lease: WorldLease | None = None) -> str:
        return str(self.apply(append_command(prefix, value, None, None, lease)))

    def lease(self, ttl: float, timeout: float | None = None) -> WorldLease:
        sent = self.world.now
        number = int(self.apply(Command("lease_grant", {"ttl_ms": round(ttl * 1000)})))
        lease = WorldLease(self, number, ttl, Alarm(self.world, sent + ttl), sent + ttl / KEEP_ALIVES)
        self.process.leases.append(lease)
        return lease

    def transaction(self, when: Any, then: Any, otherwise: Any = (), timeout: float | None = None) -> TransactionResult:
        outcome = self.apply(transaction_command(when, then, otherwise, None))
        return TransactionResult(outcome["succeeded"], outcome["results"])

    def watch(
        self, key: str | None = None, *, prefix: str | None = None, since: int, timeout: float = 5.0
    ) -> WorldWatch:
        query: dict[str, Any] = {"changes": key if key is not None else prefix, "since": since, "limit": 1000}
        if key is not None:
            query["key"] = True
        return WorldWatch(query, self.world.now + timeout)

    def unsupported(self, *arguments: Any, **options: Any) -> Any:
        raise AssertionError("no recipe of these tests calls this")

    cas = delete = entry = get = incr = put = unsupported


@dataclass(eq=False)
class Process:
    """One process: a generator of steps, and where it stands."""

    name: str
    faults: Faults
    steps: Steps[Any] | None = None
    pending: Step | None = None
    answer: tuple[Any, BaseException | None] | None = (None, None)
    """What the generator gets next; None while a step is to be carried out."""
    wake_at: float = 0.0
    paused_until: float = 0.0
    watch: WorldWatch | None = None
    leases: list[WorldLease] = field(default_factory=list)
    inside: Any = None
    """The turn that it has, as far as it knows."""
    dead: bool = False
    done: bool = False
    result: Any = None
    error: BaseException | None = None

    @property
    def over(self) -> bool:
        return self.dead or self.done


Work = Callable[[WorldClient, Process], Steps[Any]]
"""What a process does."""


class RecipeWorld:
    """The machine, the processes and the time."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.machine = KeyValueMachine()
        self.index = 0
        self.now = 1.0
        self.processes: list[Process] = []
        self.later: list[tuple[float, Command]] = []
        """Commands that nobody waits for any more, and when they are carried out."""

    # --- the machine ---

    def apply(self, command: Command) -> Any:
        """Apply a command. Raises `CommandError` as a client does."""
        self.index += 1
        milliseconds = int(self.now * 1000)
        try:
            return self.machine.apply(Entry(self.index, 1, milliseconds, command, milliseconds))
        except (ValueError, TypeError) as error:
            raise CommandError(type(error).__name__, str(error)) from error

    def expire(self) -> None:
        """What a leader proposes when leases are due."""
        self.apply(Command("expire", {}))

    def apply_for(self, process: Process, command: Command) -> Any:
        """Apply a process' command, unless it meets a fault."""
        self.maybe_refuse(process)
        if self.random.random() < process.faults.unknown:
            fate = self.random.randrange(3)
            if fate == 0:
                self.later.append((self.now + self.random.uniform(0, LATE_SECONDS), command))
            elif fate == 1:
                self.quietly(command)
            raise OutcomeUnknownError
        return self.apply(command)

    def maybe_refuse(self, process: Process) -> None:
        if self.random.random() < process.faults.refused:
            raise NoLeaderError

    def quietly(self, command: Command) -> None:
        """Carry out a command whose result nobody hears."""
        try:
            self.apply(command)
        except CommandError:
            return

    def entries(self, prefix: str) -> list[KeyEntry]:
        """What the machine holds now."""
        self.expire()
        return [KeyEntry.of_row(row) for row in self.machine.query({"entries": prefix, "limit": 1000})]

    def inside(self) -> list[Process]:
        """The processes that have their turn, as far as they know, and have it for certain."""
        return [each for each in self.processes if each.inside is not None and not each.inside.lease.lost.is_set()]

    def forget(self) -> None:
        """Let all leases end that nobody keeps alive."""
        self.later.clear()
        self.now += 100.0
        self.expire()

    # --- processes ---

    def process(self, name: str, work: Work, faults: Faults | None = None) -> Process:
        """Add a process that does this work."""
        process = Process(name, faults or Faults())
        process.steps = work(WorldClient(self, process), process)
        process.wake_at = self.now + self.random.uniform(0, CALL_SECONDS)
        self.processes.append(process)
        return process

    def run(self, seconds: float = 300.0) -> None:
        """Run until all processes are over, or so many virtual seconds have passed."""
        end = self.now + seconds
        while self.now < end and not all(process.over for process in self.processes):
            self.turn()

    def turn(self) -> None:
        """Let the next thing happen: a process' step, a keep-alive, a late command."""
        due = min(self.times(), key=lambda item: item[0])
        self.now = max(self.now, due[0])
        due[1]()

    def times(self) -> Iterator[tuple[float, Callable[[], object]]]:
        """What can happen next, and when."""
        for late in self.later:
            yield late[0], partial(self.carry_out_late, late)
        yield self.now + 1.0, self.expire
        for process in self.processes:
            if process.over:
                continue
            yield self.next_of(process), partial(self.move, process)
            for lease in process.leases:
                if lease.is_kept:
                    yield max(lease.due_at, process.paused_until), partial(self.keep, lease)

    def carry_out_late(self, late: tuple[float, Command]) -> None:
        """Carry out a command whose caller gave up."""
        self.later.remove(late)
        self.quietly(late[1])

    def next_of(self, process: Process) -> float:
        """When a process goes on."""
        if process.watch is None:
            return process.wake_at
        return max(process.wake_at, self.now if self.changed(process) is not None else process.watch.until)

    def changed(self, process: Process) -> KeyChange | None:
        """The first change that a process waits for, if it is there."""
        watch, step = process.watch, process.pending
        assert watch is not None
        assert isinstance(step, NextChange)
        if watch.seen == self.index:
            return None
        rows = self.machine.query(watch.query)["changes"]
        found = next((change for change in map(KeyChange.of_row, rows) if step.matters(change)), None)
        if found is None:
            watch.seen = self.index
        return found

    def keep(self, lease: WorldLease) -> None:
        """Keep a lease alive, as the client's thread does."""
        lease.due_at = self.now + lease.ttl / KEEP_ALIVES
        if lease.lost.is_set():
            lease.is_kept = False
            lease.lost.flag = True
        else:
            try:
                self.apply(Command("lease_keep_alive", {"lease": lease.id}))
                lease.lost.until = self.now + lease.ttl
                return
            except CommandError:
                lease.is_kept = False
                lease.lost.flag = True
        if lease.on_lost is not None:
            lease.on_lost(lease)

    def move(self, process: Process) -> None:
        """Let a process take one step, unless it meets a fault."""
        faults = process.faults
        if self.random.random() < faults.death:
            process.dead = True
            return
        if self.random.random() < faults.pause:
            process.wake_at = process.paused_until = self.now + self.random.uniform(0, PAUSE_SECONDS)
            return
        if process.answer is None:
            self.carry_out(process)
        else:
            self.go_on(process)
        if process.watch is None:
            process.wake_at = max(process.wake_at, self.now + self.random.uniform(0, CALL_SECONDS))

    def go_on(self, process: Process) -> None:
        """Give a process the answer that it waits for, and take its next step."""
        assert process.steps is not None and process.answer is not None
        value, error = process.answer
        try:
            process.pending = process.steps.send(value) if error is None else process.steps.throw(error)
            process.answer = None
        except StopIteration as stop:
            process.done, process.result = True, stop.value
        except ConsensusError as failed:
            process.done, process.error = True, failed
        if isinstance(process.pending, NextChange) and not process.done:
            process.watch = process.pending.watch()
            process.wake_at = self.now + self.random.uniform(0, CALL_SECONDS)

    def carry_out(self, process: Process) -> None:
        """Carry out the step of a process."""
        step = process.pending
        assert step is not None
        if isinstance(step, NextChange):
            process.answer, process.watch = (self.changed(process), None), None
        elif isinstance(step, Pause):
            process.answer = (None, None)
            process.wake_at = self.now + step.seconds
        else:
            try:
                process.answer = (step(), None)
            except ConsensusError as error:
                process.answer = (None, error)
