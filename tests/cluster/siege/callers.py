"""The clients of a siege: threads that call without pause, and note what each call answered or that nobody knows."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from forge_consensus.client.sync import Client
from forge_consensus.errors import CommandError, ConsensusError, OutcomeUnknownError, UnavailableError
from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.histories.history import History, Operation, Outcome
from tests.cluster.siege.keys import COUNTER, Keys

TIMEOUTS: Final = (0.1, 0.3, 1.0, 2.0)
LANES: Final = ("", "a", "b", "c")
"""Calls that one client has under way at once count as those of several."""
REST_SECONDS_MAX: Final = 0.02
"""Between two calls of one client, so that seven of them leave a small machine some time for the nodes."""
JOIN_SECONDS_MAX: Final = 30.0
KINDS: Final = ("get", "get", "get", "set", "set", "set", "cas", "cas", "increment", "delete")
COUNTER_KINDS: Final = ("increment", "increment", "get")


def outcome_of(error: BaseException | None) -> Outcome:
    """What a caller knows of a call that ended so; whatever is not proven is open.

    `UnavailableError` and its kinds, `ConsensusTimeoutError` too, promise that nothing was done, and a `CommandError`
    that the machine refused the command and changed nothing; the judge holds them to it.
    """
    if error is None:
        return Outcome.OK
    if isinstance(error, OutcomeUnknownError):
        return Outcome.OPEN
    return Outcome.REFUSED if isinstance(error, UnavailableError | CommandError) else Outcome.OPEN


def command_of(call: Operation) -> Command:
    """The command of a write. Raises ValueError for what is none."""
    match call.kind:
        case "set":
            payload: dict[str, Any] = {"value": call.argument}
        case "delete":
            payload = {}
        case "increment":
            payload = {"by": call.argument}
        case "cas":
            payload = {"expected": call.argument[0], "value": call.argument[1]}
        case _:
            raise ValueError(f"{call.kind!r} is no write")
    return Command(call.kind, {"key": call.key, **payload})


def hand_over(client: Client, call: Operation, timeout: float) -> Callable[[], Any]:
    """Send a call off; returns what waits for its answer. Both raise its error."""
    if call.kind == "get":
        return client.ask_query(call.key, call.consistency, timeout).result
    return client.submit(command_of(call), timeout).result


def record(client: Client, history: History, calls: Sequence[Operation], timeout: float) -> list[BaseException]:
    """Make these calls at once, and note each from its beginning to its end; returns the errors."""
    errors: list[BaseException] = []
    waiting: list[tuple[Operation, Callable[[], Any]]] = []
    for call in calls:
        call.began = time.monotonic()
        history.begin(call)
        try:
            waiting.append((call, hand_over(client, call, timeout)))
        except ConsensusError as error:
            note(call, None, error)
            errors.append(error)
    for call, wait in waiting:
        try:
            note(call, wait(), None)
        except ConsensusError as error:
            note(call, None, error)
            errors.append(error)
    return errors


def note(call: Operation, result: Any, error: BaseException | None) -> None:
    """A call ended now."""
    call.result = result
    call.outcome = outcome_of(error)
    call.ended = None if call.outcome is Outcome.OPEN else time.monotonic()


def known(call: Operation) -> bool:
    """Whether it showed what a key holds."""
    return call.kind == "get" and call.outcome is Outcome.OK


class Caller:
    """One client in its session, on a thread of its own, with so many calls under way at once."""

    def __init__(self, name: str, client: Client, dice: random.Random, *, leases: bool, at_once: int) -> None:
        self.name = name
        self.client = client
        self.dice = dice
        self.leases = leases
        """Whether half of its reads go by the lease."""
        self.at_once = at_once
        self.lives = 0
        self.seen: dict[str, Any] = {}
        """The last value that it read of each key, to be expected by a cas."""
        self.errors: Counter[str] = Counter()
        """Of the round that goes on or was last."""
        self.failure: BaseException | None = None
        self.thread: threading.Thread | None = None

    def start(self, stop: threading.Event, history: History, keys: Keys) -> None:
        """Call until `stop` is set."""
        self.seen.clear()
        self.errors.clear()
        self.thread = threading.Thread(target=self.run, args=(stop, history, keys), name=self.name, daemon=True)
        self.thread.start()

    def join(self) -> None:
        """Wait for the end. Raises AssertionError when it hangs, and what it raised."""
        thread = self.thread
        assert thread is not None, "it was started"
        thread.join(JOIN_SECONDS_MAX)
        assert not thread.is_alive(), f"client {self.name} hangs: a call took over {JOIN_SECONDS_MAX:g} s"
        if self.failure is not None:
            raise self.failure

    def run(self, stop: threading.Event, history: History, keys: Keys) -> None:
        """The thread."""
        try:
            while not stop.is_set():
                calls = [self.call(keys, lane) for lane in LANES[: self.at_once]]
                for error in record(self.client, history, calls, self.dice.choice(TIMEOUTS)):
                    self.errors[type(error).__name__] += 1
                if any(call.outcome is Outcome.OPEN for call in calls):
                    self.lives += 1  # one client makes one call after the other, and that one may still be going on
                self.seen.update({call.key: call.result for call in calls if known(call)})
                stop.wait(self.dice.uniform(0.0, REST_SECONDS_MAX))
        except BaseException as failure:
            self.failure = failure

    def call(self, keys: Keys, lane: str) -> Operation:
        """The next call, not begun yet."""
        key = keys.take(self.dice)
        kind = self.dice.choice(COUNTER_KINDS if COUNTER in key else KINDS)
        argument: Any = None
        if kind == "set":
            argument = keys.value()
        elif kind == "increment":
            argument = self.dice.randint(1, 3)
        elif kind == "cas":
            argument = (self.seen.get(key), keys.value())
        consistency = "lease" if kind == "get" and self.leases and self.dice.random() < 0.5 else "linearizable"
        return Operation(f"{self.name}.{self.lives}{lane}", kind, key, argument, consistency=consistency)
