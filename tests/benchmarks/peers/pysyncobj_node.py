"""A node of PySyncObj: ``python -m tests.benchmarks.peers.pysyncobj_node OWN OTHER...``, asked on its input.

An empty object as a line of JSON asks whether it leads; one with the fields of a load begins one. Entries leave every
2 ms, because the default of 100 ms would measure nothing but that.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
import time
from dataclasses import asdict
from typing import Any, Final

from tests.benchmarks.peers.load import BEGAN, Loaded

KEYS: Final = 10_000
QUEUE_MAX: Final = 1_000_000
ANSWER_SECONDS_MAX: Final = 20.0


def store_of(own: str, others: list[str]) -> Any:
    """A node that holds a dictionary; the library has no types."""
    library = importlib.import_module("pysyncobj")

    class Store(library.SyncObj):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            settings = library.SyncObjConf(
                autoTick=True, commandsQueueSize=QUEUE_MAX, appendEntriesPeriod=0.002, autoTickPeriod=0.001
            )
            super().__init__(own, others, settings)
            self.values: dict[str, str] = {}

        @library.replicated  # type: ignore[untyped-decorator]
        def put(self, key: str, value: str) -> None:
            self.values[key] = value

    return Store()


class InsideLoop:
    """Keeps so many writes under way; the library calls back on its own thread."""

    def __init__(self, store: Any, outstanding: int, value: str) -> None:
        self.store, self.value = store, value
        self.free = threading.Semaphore(outstanding)
        self.outstanding = outstanding
        self.took: list[float] = []
        self.failed = 0

    def run(self, seconds: float) -> float:
        """Write for so many seconds and wait for the last answers; return how many seconds all of it took."""
        began = time.perf_counter()
        number = 0
        while time.perf_counter() - began < seconds:
            self.free.acquire()
            self.write(number)
            number += 1
        for _ in range(self.outstanding):
            self.free.acquire(timeout=ANSWER_SECONDS_MAX)
        self.free = threading.Semaphore(self.outstanding)
        return time.perf_counter() - began

    def write(self, number: int) -> None:
        """Begin a write."""
        began = time.perf_counter()

        def ended(result: object, error: int) -> None:
            if error:
                self.failed += 1
            else:
                self.took.append(time.perf_counter() - began)
            self.free.release()

        self.store.put(f"k{number % KEYS}", self.value, callback=ended)


def carry_out(store: Any, outstanding: int, seconds: float, warm_seconds: float, value_bytes: int) -> None:
    """Do the work of a load and say what it found."""
    loop = InsideLoop(store, outstanding, "x" * value_bytes)
    loop.run(warm_seconds)
    loop.took.clear()
    loop.failed = 0
    print(BEGAN, flush=True)
    lasted = loop.run(seconds)
    print(json.dumps(asdict(Loaded.of_times(loop.took, lasted, loop.failed))), flush=True)


def main() -> None:
    """Serve questions until the input ends."""
    store = store_of(sys.argv[1], sys.argv[2:])
    for line in sys.stdin:
        if question := json.loads(line):
            carry_out(store, **question)
        else:
            print(json.dumps(bool(store._isLeader() and store.isReady())), flush=True)


if __name__ == "__main__":
    main()
