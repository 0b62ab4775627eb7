"""The simulated watcher: a user who follows changes from node to node by the shipped cursor, and misses none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgpack

from forge_consensus.client.change_cursor import KEPT_SECONDS, ChangeCursor
from forge_consensus.client.pending import BARRIER, Pending, PendingRead
from forge_consensus.client.routes import NEAREST, Route
from forge_consensus.errors import CompactedError
from forge_consensus.testing.rules.key_log import KeyLog
from forge_consensus.testing.rules.violations import demand
from forge_consensus.testing.simulator.session_driver import SimulatedDriver
from forge_consensus.testing.world.cluster import SimulatedCluster

KILL_SHARE: Final = 0.02
"""The share of questions after which the user's process is killed, and another one goes on from where it was."""
TIMEOUT_SECONDS: Final = 10.0


class SimulatedWatcher:
    """Follows the changes of a key or of a prefix; each answer is judged at once, all of them together at the end.

    Whenever the history is gone at the node that it asks and at the leader, it begins anew with what is then the newest
    state, as a program has to. Its clients come and go, the place where it is stays.
    """

    def __init__(
        self, cluster: SimulatedCluster, name: str, log: KeyLog, text: str, *, exact: bool, pace: float
    ) -> None:
        self.cluster = cluster
        self.timeline = cluster.timeline
        self.name = name
        self.log = log
        self.text, self.exact = text, exact
        self.pace = pace
        self.chance = self.timeline.chance(name)
        self.lives = 0
        self.begins = 0
        """The index with which the present cursor began; 0 while that is asked for."""
        self.found: list[list[Any]] = []
        """The changes that the present cursor has told."""
        self.told = 0
        """How many changes all cursors have told."""
        self.anew = 0
        """How often the history was gone."""
        self.cursor = self.new_cursor()
        self.driver: SimulatedDriver | None = None
        self.asked_at = 0.0
        self.stopped = False

    # --- acting ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the first client, and ask."""
        self.begin_life()
        self.ask()

    def stop(self) -> None:
        """Ask no more."""
        self.stopped = True
        if self.driver is not None:
            self.driver.kill()

    def new_cursor(self) -> ChangeCursor:
        """Return a cursor that is nowhere yet."""
        self.begins, self.found = 0, []
        return ChangeCursor(self.text if self.exact else None, None if self.exact else self.text, None)

    def begin_life(self) -> None:
        """Start a client, which has connections of its own."""
        if self.driver is not None:
            self.driver.kill()
        self.lives += 1
        addresses = list(self.cluster.addresses().values())
        self.driver = SimulatedDriver(
            self.cluster,
            f"{self.name}.{self.lives}",
            self.ended,
            endpoints=addresses,
            pace=self.pace,
            prefer=self.chance.choice(("", *addresses)),
        )

    def ask(self) -> None:
        """Ask for the changes that come next, or where to begin."""
        driver = self.driver
        if self.stopped or driver is None:
            return
        self.asked_at = driver.now
        if self.cursor.next is None:
            driver.submit([PendingRead(BARRIER, driver.now + TIMEOUT_SECONDS, Route.of(read_from=NEAREST))])
            return
        question, route = self.cursor.question()
        data: bytes = msgpack.packb(question)
        driver.submit([PendingRead(data, driver.now + KEPT_SECONDS + TIMEOUT_SECONDS, route)])

    def ended(self, calls: Sequence[Pending[Any]]) -> None:
        """Take the answer, and ask again, perhaps after a pause."""
        assert self.driver is not None
        for pending in calls:
            pause = self.taken(pending)
            if self.chance.random() < KILL_SHARE:
                self.begin_life()
            self.timeline.after(pause * self.pace, self.ask)

    def taken(self, pending: Pending[Any]) -> float:
        """Take an answer or an error; returns the seconds until the next question. Raises `ViolationError`."""
        assert self.driver is not None
        cursor = self.cursor
        if pending.error is not None:
            return cursor.failed(pending.error)
        if cursor.next is None:
            cursor.start(pending.applied)
            self.begins = cursor.next = pending.applied + 1
            return 0.0
        answer = pending.value()
        query = {"changes": self.text, "since": cursor.next, "key": self.exact}
        self.log.check_answer(self.name, query, pending.applied, answer)
        try:
            return cursor.take(answer, self.driver.now - self.asked_at)
        except CompactedError:
            self.conclude()
            self.anew += 1
            self.cursor = self.new_cursor()
            return 0.0
        finally:
            self.take_changes(cursor)

    def take_changes(self, cursor: ChangeCursor) -> None:
        """Take what the cursor has to tell."""
        while cursor.changes:
            change = cursor.changes.popleft()
            self.told += 1
            self.found.append([change.index, change.key, change.value, change.created, change.lease, change.kind])

    # --- at the end --------------------------------------------------------------------------------------------------

    @property
    def is_at_the_end(self) -> bool:
        """Whether it has told all that there is."""
        return (self.cursor.next or 0) > self.log.last

    def conclude(self) -> None:
        """Demand that the cursor has told each change since its beginning once, in order. Raises `ViolationError`."""
        if not self.begins or self.cursor.next is None:
            return
        wanted = self.log.changes(self.begins, self.cursor.next, self.text, exact=self.exact)
        told = f"{self.name} followed {self.text!r} from entry {self.begins} on, below {self.cursor.next}"
        for one, other in zip(self.found, wanted, strict=False):
            demand(repr(one) == repr(other), "watch", f"{told}, and was told {one!r} in the place of {other!r}")
        counts = len(self.found), len(wanted)
        demand(counts[0] == counts[1], "watch", f"{told}, and was told {counts[0]} changes, there are {counts[1]}")
