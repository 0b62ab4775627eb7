"""The clients of a siege: threads that call without pause, and record the answer of each call or that it is unknown."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from forge_consensus.client.routes import ANY
from forge_consensus.client.sync import Client
from forge_consensus.errors import CommandError, ConsensusError, OutcomeUnknownError, UnavailableError
from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.histories.history import History, Operation, Outcome
from tests.cluster.siege.keys import COUNTER, Keys

TIMEOUTS: Final = (0.1, 0.3, 1.0, 2.0)
LANES: Final = ("", "a", "b", "c")
"""The lanes of a client: concurrent calls of one client count as those of several."""
ELSEWHERE: Final = ("b", "c")
"""The lanes whose reads any node may answer, not only the leader."""
REST_SECONDS_MAX: Final = 0.02
"""The longest pause between two calls of one client, so that seven clients leave a small machine time for the nodes."""
JOIN_SECONDS_MAX: Final = 30.0
KINDS: Final = ("get", "get", "get", "set", "set", "set", "cas", "cas", "increment", "delete")
COUNTER_KINDS: Final = ("increment", "increment", "get")


def outcome_of(error: BaseException | None) -> Outcome:
    """The outcome of a call that ended with this error; without proof it is open.

    `UnavailableError` and its subclasses, `ConsensusTimeoutError` too, promise that nothing was done, and a
    `CommandError` promises that the machine refused the command and changed nothing; the judge checks these promises.
    """
    if error is None:
        return Outcome.OK
    if isinstance(error, OutcomeUnknownError):
        return Outcome.OPEN
    return Outcome.REFUSED if isinstance(error, UnavailableError | CommandError) else Outcome.OPEN


def command_of(call: Operation) -> Command:
    """Return the command of a write. Raises `ValueError` for any other call."""
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
    """Start a call; returns the object that waits for its answer. Both raise the call's error."""
    if call.kind == "get":
        read_from = ANY if call.client.endswith(ELSEWHERE) else None
        return client.ask_query(call.key, call.consistency, timeout, read_from=read_from).result
    return client.submit(command_of(call), timeout).result


def record(client: Client, history: History, calls: Sequence[Operation], timeout: float) -> list[BaseException]:
    """Make these calls concurrently, and record each from its beginning to its end; returns the errors."""
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
    """Record that a call ended now."""
    call.result = result
    call.outcome = outcome_of(error)
    call.ended = None if call.outcome is Outcome.OPEN else time.monotonic()


def known(call: Operation) -> bool:
    """Whether a call showed the value of its key."""
    return call.kind == "get" and call.outcome is Outcome.OK


class Caller:
    """One client in its session, on a thread of its own, with several concurrent calls."""

    def __init__(self, name: str, client: Client, dice: random.Random, *, leases: bool, at_once: int) -> None:
        self.name = name
        self.client = client
        self.dice = dice
        self.leases = leases
        """Whether half of its reads are lease reads."""
        self.at_once = at_once
        self.lives = 0
        self.seen: dict[str, Any] = {}
        """The last value that it read of each key, which a cas expects."""
        self.errors: Counter[str] = Counter()
        """The errors of the present or the last round."""
        self.failure: BaseException | None = None
        self.thread: threading.Thread | None = None

    def start(self, stop: threading.Event, history: History, keys: Keys) -> None:
        """Call until `stop` is set."""
        self.seen.clear()
        self.errors.clear()
        self.thread = threading.Thread(target=self.run, args=(stop, history, keys), name=self.name, daemon=True)
        self.thread.start()

    def join(self) -> None:
        """Wait for the thread. Raises its error, `AssertionError` if it hangs."""
        thread = self.thread
        assert thread is not None, "it was started"
        thread.join(JOIN_SECONDS_MAX)
        assert not thread.is_alive(), f"client {self.name} hangs: a call took over {JOIN_SECONDS_MAX:g} s"
        if self.failure is not None:
            raise self.failure

    def run(self, stop: threading.Event, history: History, keys: Keys) -> None:
        """Call until `stop` is set; the body of the thread."""
        try:
            while not stop.is_set():
                calls = [self.call(keys, lane) for lane in LANES[: self.at_once]]
                for error in record(self.client, history, calls, self.dice.choice(TIMEOUTS)):
                    self.errors[type(error).__name__] += 1
                if any(call.outcome is Outcome.OPEN for call in calls):
                    self.lives += 1  # a client makes one call at a time, and this one may be open
                self.seen.update({call.key: call.result for call in calls if known(call)})
                stop.wait(self.dice.uniform(0.0, REST_SECONDS_MAX))
        except BaseException as failure:
            self.failure = failure

    def call(self, keys: Keys, lane: str) -> Operation:
        """Return the next call, not begun yet."""
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
