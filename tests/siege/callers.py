"""The clients of a siege: threads that call without pause, and note what each call answered or that nobody knows."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import Any, Final

from forge_consensus.client.sync import Client
from forge_consensus.errors import CommandError, ConsensusError, OutcomeUnknownError, UnavailableError
from forge_consensus.testing.history import History, Operation, Outcome
from tests.siege.keys import COUNTER, Keys

TIMEOUTS: Final = (0.3, 0.6, 1.0, 2.0)
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


def carry_out(client: Client, call: Operation, timeout: float) -> Any:
    """Make the call; returns what the client returned. Raises its error."""
    match call.kind:
        case "get":
            return client.get(call.key, timeout=timeout)
        case "set":
            return client.put(call.key, call.argument, timeout=timeout)
        case "delete":
            return client.delete(call.key, timeout=timeout)
        case "increment":
            return client.incr(call.key, call.argument, timeout=timeout)
        case "cas":
            expected, value = call.argument
            return client.cas(call.key, expected=expected, value=value, timeout=timeout)
    raise ValueError(f"no client knows {call.kind!r}")


def record(client: Client, history: History, call: Operation, timeout: float) -> BaseException | None:
    """Make a call and note it from its beginning to its end; returns its error."""
    call.began = time.monotonic()
    history.begin(call)
    error: BaseException | None = None
    try:
        call.result = carry_out(client, call, timeout)
    except ConsensusError as failure:
        error = failure
    ended = time.monotonic()
    call.outcome = outcome_of(error)
    call.ended = None if call.outcome is Outcome.OPEN else ended
    return error


class Caller:
    """One client in its session, on a thread of its own."""

    def __init__(self, name: str, client: Client, dice: random.Random) -> None:
        self.name = name
        self.client = client
        self.dice = dice
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
                call = self.call(keys)
                error = record(self.client, history, call, self.dice.choice(TIMEOUTS))
                if error is not None:
                    self.errors[type(error).__name__] += 1
                if call.outcome is Outcome.OPEN:
                    self.lives += 1  # one client makes one call after the other, and that one may still be going on
                elif call.outcome is Outcome.OK and call.kind == "get":
                    self.seen[call.key] = call.result
                stop.wait(self.dice.uniform(0.0, REST_SECONDS_MAX))
        except BaseException as failure:
            self.failure = failure

    def call(self, keys: Keys) -> Operation:
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
        return Operation(f"{self.name}.{self.lives}", kind, key, argument)
