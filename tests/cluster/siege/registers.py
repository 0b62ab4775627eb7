"""The load of registers: clients that read and write single keys, whose calls must be linearizable."""

from __future__ import annotations

import random
import threading
from collections import Counter
from pathlib import Path

from forge_consensus.testing.histories.history import History
from forge_consensus.testing.local.cluster import LocalCluster
from tests.cluster.siege.callers import Caller
from tests.cluster.siege.keys import Keys
from tests.cluster.siege.tally import Tally
from tests.cluster.siege.verdicts import final_reads, judge_history, judge_machines, judge_sums

KEYS_AT_ONCE = 14


class RegisterLoad:
    """One round of calls of clients that live longer than it."""

    def __init__(self, cluster: LocalCluster, number: int, dice: random.Random, callers: list[Caller]) -> None:
        self.cluster = cluster
        self.callers = callers
        self.history = History()
        self.keys = Keys(f"r{number}", KEYS_AT_ONCE, dice)
        self.ended = threading.Event()
        self.slowest = 0.0

    def start(self) -> None:
        """Let the clients call."""
        for caller in self.callers:
            caller.start(self.ended, self.history, self.keys)

    def stop(self) -> None:
        """Let the clients end."""
        self.ended.set()

    def join(self) -> None:
        """Wait for the clients. Raises what went wrong with them."""
        for caller in self.callers:
            caller.join()

    def judge(self, seconds: float) -> str:
        """Demand that every history is linearizable and all nodes are equal; returns a short account.

        Raises `AssertionError`, `UndecidedError`.
        """
        self.cluster.wait_until_settled(*self.cluster.names, timeout=seconds)
        final_reads(self.callers[0].client, self.history, self.keys.made)
        state = judge_machines(self.cluster, seconds)
        self.slowest = judge_history(self.history)
        judge_sums(self.history, state)
        return (
            f"{len(self.history)} calls of {len(self.keys.made)} keys linearizable, slowest in {self.slowest:.2f} s, "
            "nodes equal"
        )

    def count(self, tally: Tally) -> None:
        """Add what there was to the tally, also of a round that failed."""
        tally.note_calls(self.history)
        tally.errors.update(sum((caller.errors for caller in self.callers), Counter[str]()))
        tally.keys += len(self.keys.made)
        tally.slowest_check = max(tally.slowest_check, self.slowest)

    def keep(self, folder: Path) -> None:
        """Keep what explains a failure."""
        with (folder / "history.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in self.history.lines())

    def close(self) -> None:
        """Do nothing: the clients go on in the next round."""
