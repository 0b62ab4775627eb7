"""The writer of the demo: it writes keys without a pause and records which writes were acknowledged."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from forge_consensus.client.pending import Pending
from forge_consensus.client.sync import Client
from forge_consensus.errors import ConsensusError, OutcomeUnknownError
from forge_consensus.security.credentials import Credentials
from forge_consensus.storage.machines.machine import Command

WRITES_A_SECOND = 1500
OUTSTANDING_MAX = 1000
PAUSE_SECONDS = 0.002
TIMEOUT_SECONDS = 10.0
PREFIX = "demo/"


class Writer:
    """Writes on a thread of its own from `start` to `finish`; each key is written once, with its own value."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        writes_a_second: float = WRITES_A_SECOND,
        credentials: Credentials | None = None,
    ) -> None:
        self.client = Client(endpoints, timeout=TIMEOUT_SECONDS, credentials=credentials)
        self.writes_a_second = writes_a_second
        self.submitted = 0
        self.acknowledged: dict[str, str] = {}
        """The writes that the cluster acknowledged."""
        self.uncertain: dict[str, str] = {}
        """The writes whose outcome is unknown."""
        self.refused: Counter[str] = Counter()
        self.answered = 0
        self.waits: list[tuple[float, threading.Event, list[float]]] = []
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.run, name="demo-writer", daemon=True)

    def start(self) -> None:
        """Start the thread that writes; returns before the first write."""
        self.thread.start()

    def run(self) -> None:
        """Submit writes at the wanted rate, with a limited number outstanding; runs on the thread."""
        began = time.monotonic()
        while not self.ending.is_set():
            due = int((time.monotonic() - began) * self.writes_a_second)
            if due - self.submitted > OUTSTANDING_MAX:  # writes that were not possible are not made up for
                began = time.monotonic() - self.submitted / self.writes_a_second
            while self.submitted < due and self.submitted - self.answered < OUTSTANDING_MAX:
                self.write()
            time.sleep(PAUSE_SECONDS)

    def write(self) -> None:
        """Submit a new key with a random value without waiting; a refused one counts as answered."""
        self.submitted += 1
        key, value = f"{PREFIX}{self.submitted:08}", secrets.token_hex(16)
        began = time.monotonic()
        try:
            pending = self.client.submit(Command("set", {"key": key, "value": value}))
        except ConsensusError as error:
            self.refused[error.code] += 1
            self.answered += 1
            return
        pending.add_done_callback(lambda done: self.note(key, value, began, done))

    def note(self, key: str, value: str, began: float, done: Pending[Any]) -> None:
        """Record the outcome of a write."""
        now = time.monotonic()
        error = done.error
        if error is None:
            self.acknowledged[key] = value
            for since, event, when in self.waits:
                if began >= since and not when:
                    when.append(now)
                    event.set()
        elif isinstance(error, OutcomeUnknownError):
            self.uncertain[key] = value
        else:
            self.refused[error.code] += 1
        self.answered += 1

    def wait_acknowledged(self, since: float, seconds_max: float) -> float | None:
        """Return when the first write begun after `since` was acknowledged (monotonic); None if none was in time."""
        event, when = threading.Event(), list[float]()
        self.waits.append((since, event, when))
        event.wait(seconds_max)
        return when[0] if when else None

    def finish(self) -> None:
        """Stop writing and wait for outstanding writes, at most as long as a write may take."""
        self.ending.set()
        if self.thread.is_alive():
            self.thread.join(TIMEOUT_SECONDS)
        deadline = time.monotonic() + TIMEOUT_SECONDS + 1
        while self.answered < self.submitted and time.monotonic() < deadline:
            time.sleep(PAUSE_SECONDS)

    def close(self) -> None:
        """Stop the writing and close the client; what is under way ends with an error."""
        self.ending.set()
        self.client.close()
