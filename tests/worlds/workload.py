"""Writers that record whether each of their writes was acknowledged, certainly not done, or unknown."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

from forge_consensus.client.sync import Client
from forge_consensus.errors import ConsensusError, OutcomeUnknownError
from forge_consensus.storage.machines.machine import Command

TOTAL = "total"
PIPELINE = 40
"""How many commands a pipelined writer has outstanding."""
REST_SECONDS = 0.02
"""The rest of a pipelined writer after a burst, so that a long siege has few enough keys to compare."""


class Ledgerbook:
    """The answers to all writers; `lock` guards it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.acknowledged: dict[str, Any] = {}
        self.unknown: dict[str, Any] = {}
        self.refused: dict[str, Any] = {}
        self.sums: list[int] = []
        self.sums_unknown = 0
        self.errors: Counter[str] = Counter()

    def note(self, key: str, value: Any, error: BaseException | None) -> None:
        """Record the end of a write of a key."""
        with self.lock:
            if error is None:
                self.acknowledged[key] = value
                return
            self.errors[type(error).__name__] += 1
            (self.unknown if isinstance(error, OutcomeUnknownError) else self.refused)[key] = value

    def note_sum(self, total: int | None, error: BaseException | None) -> None:
        """Record the end of an increment."""
        with self.lock:
            if total is not None:
                self.sums.append(total)
                return
            self.errors[type(error).__name__] += 1
            self.sums_unknown += isinstance(error, OutcomeUnknownError)

    def check(self, state: dict[str, Any]) -> None:
        """Compare a node's whole state with the recorded answers. Raises `AssertionError`."""
        lost = {key for key, value in self.acknowledged.items() if state.get(key) != value}
        assert not lost, f"acknowledged and lost: {sorted(lost)[:20]} ({len(lost)})"
        denied = {key for key in self.refused if key in state}
        assert not denied, f"said to be not carried out, and there: {sorted(denied)[:20]} ({len(denied)})"
        foreign = state.keys() - self.acknowledged.keys() - self.unknown.keys() - {TOTAL}
        assert not foreign, f"nobody wrote: {sorted(foreign)[:20]} ({len(foreign)})"
        wrong = {key for key, value in self.unknown.items() if key in state and state[key] != value}
        assert not wrong, f"other values than written: {sorted(wrong)[:20]}"
        total = state.get(TOTAL, 0)
        assert len(set(self.sums)) == len(self.sums), "two increments were told the same sum"
        told = f"{len(self.sums)} acknowledged, {self.sums_unknown} unknown, and the sum is {total}"
        assert len(self.sums) <= total <= len(self.sums) + self.sums_unknown, told


class Writer:
    """One client that writes unique keys and increments a shared sum until it is stopped."""

    def __init__(self, name: str, client: Client, book: Ledgerbook, *, pipelined: bool) -> None:
        self.name = name
        self.client = client
        self.book = book
        self.pipelined = pipelined
        self.number = 0
        self.failure: BaseException | None = None
        self.thread: threading.Thread | None = None

    def start(self, stop: threading.Event) -> None:
        """Write on a thread of its own until `stop` is set."""
        self.thread = threading.Thread(target=self.run, args=(stop,), daemon=True)
        self.thread.start()

    def join(self, seconds_max: float) -> None:
        """Wait for the thread. Raises the error of the thread, `AssertionError` if it hangs."""
        assert self.thread is not None, "the writer was started"
        self.thread.join(seconds_max)
        assert not self.thread.is_alive(), f"writer {self.name} hangs"
        if self.failure is not None:
            raise self.failure

    def run(self, stop: threading.Event) -> None:
        """Write until `stop` is set."""
        try:
            while not stop.is_set():
                if self.pipelined:
                    self.write_many()
                else:
                    self.write_one()
        except BaseException as failure:
            self.failure = failure

    def pair(self) -> tuple[str, str]:
        """The next key, never used before, and its value."""
        self.number += 1
        return f"{self.name}-{self.number:07}", f"value {self.number} of {self.name}"

    def write_one(self) -> None:
        """Write a key, or add to the sum, and wait for the answer."""
        key, value = self.pair()
        if self.number % 2:
            try:
                self.client.put(key, value)
            except ConsensusError as error:
                self.book.note(key, value, error)
            else:
                self.book.note(key, value, None)
            return
        try:
            total = self.client.incr(TOTAL)
        except ConsensusError as error:
            self.book.note_sum(None, error)
        else:
            self.book.note_sum(total, None)
            self.read_back(total)

    def read_back(self, total: int) -> None:
        """Demand that a linearizable read sees at least the sum acknowledged before it. Raises `AssertionError`."""
        try:
            seen = self.client.get(TOTAL)
        except ConsensusError as error:
            assert not isinstance(error, OutcomeUnknownError), "a read changes nothing, so its outcome is known"
            return
        assert seen >= total, f"{self.name} was told the sum {total} and then read {seen}"

    def write_many(self) -> None:
        """Write a burst of keys and wait for all answers."""
        pairs = [self.pair() for _ in range(PIPELINE)]
        futures = [
            (key, value, self.client.submit(Command("set", {"key": key, "value": value}))) for key, value in pairs
        ]
        for key, value, future in futures:
            self.book.note(key, value, future.exception())
        time.sleep(REST_SECONDS)
