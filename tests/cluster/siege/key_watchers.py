"""The watchers of a siege: each follows the changes of a prefix or a key from a known entry on, over all faults."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from forge_consensus.client.key_records import KeyChange, KeyEntry
from forge_consensus.client.sync import Client
from forge_consensus.client.watch import Watch
from forge_consensus.errors import CompactedError, UnavailableError
from tests.cluster.siege.key_notes import KeyNotes

LOOK_SECONDS: Final = 0.5
ANEW_SHARE: Final = 0.01
"""The share of changes after which another client goes on with another watch."""
ROWS_MAX: Final = 10_000
END_SECONDS: Final = 30.0
"""How long a watcher may take to come to the end when all is well again: it asks another node after 5 seconds."""

State = dict[str, KeyEntry]


@dataclass(slots=True)
class Segment:
    """The changes of the entries from `begin` on and below `end`, and the state before them."""

    begin: int
    base: State
    changes: list[KeyChange] = field(default_factory=list)
    end: int = 0


def state_of(client: Client, text: str, *, exact: bool, seconds: float) -> tuple[int, State]:
    """The keys with a prefix, or that key, and the entry after which they are so. Raises the error of the call."""
    query: dict[str, Any] = {"entry": text} if exact else {"entries": text, "limit": ROWS_MAX}
    detail = client.read_detail(query, timeout=seconds)
    rows = [row for row in ([detail.value] if exact else detail.value) if row is not None]
    assert len(rows) < ROWS_MAX, "one page has all keys"
    return detail.applied, {row[0]: KeyEntry.of_row(row) for row in rows}


class KeyWatcher(threading.Thread):
    """Follows all changes until it is told where the end is; `join_well` raises what went wrong."""

    def __init__(
        self, make: Callable[[], Client], dice: random.Random, notes: KeyNotes, text: str, *, exact: bool = False
    ) -> None:
        super().__init__(name=f"siege-watch {text!r}", daemon=True)
        self.make = make
        self.dice = dice
        self.notes = notes
        self.text, self.exact = text, exact
        self.client = make()
        self.segments: list[Segment] = []
        self.clients = 1
        self.last: int | None = None
        """The entry with which it ends; None while that is not known."""
        self.failure: BaseException | None = None

    def wants(self, key: str) -> bool:
        """Whether it follows that key."""
        return key == self.text if self.exact else key.startswith(self.text)

    def begin(self, seconds: float) -> None:
        """Read the state, and begin a segment behind it. Raises the error of the call."""
        applied, base = state_of(self.client, self.text, exact=self.exact, seconds=seconds)
        self.segments.append(Segment(applied + 1, base))

    def run(self) -> None:
        """Follow the changes; the body of the thread."""
        try:
            watch = self.watch(self.segments[0].begin)
            while not self.at_the_end(watch):
                try:
                    self.take(watch.get(LOOK_SECONDS))
                except TimeoutError:
                    continue
                except CompactedError:
                    self.segments[-1].end = watch.next_index
                    self.begin_anew()
                    watch = self.watch(self.segments[-1].begin)
                if self.dice.random() < ANEW_SHARE:
                    watch = self.go_on_with_another(watch)
            self.client.close()
        except BaseException as failure:
            self.failure = failure

    def take(self, change: KeyChange) -> None:
        """Take a change."""
        if change.kind == "expire":
            self.notes.expired(change.lease)
        self.segments[-1].changes.append(change)

    def watch(self, since: int) -> Watch:
        """A watch of what comes from that entry on."""
        return self.client.watch(
            self.text if self.exact else None, prefix=None if self.exact else self.text, since=since
        )

    def go_on_with_another(self, watch: Watch) -> Watch:
        """Go on where a watch is with another client; if it is amid the changes of one entry, those come again."""
        segment, since = self.segments[-1], watch.next_index
        while segment.changes and segment.changes[-1].index >= since:
            segment.changes.pop()
        watch.close()
        self.client.close()
        self.client = self.make()
        self.clients += 1
        return self.watch(since)

    def begin_anew(self) -> None:
        """Begin behind the present state, because the history is gone, as after a restart of all nodes."""
        end = time.monotonic() + END_SECONDS
        while True:
            try:
                self.begin(1.0)
                return
            except UnavailableError:
                assert time.monotonic() < end, f"{self.name}: the state cannot be read"

    def at_the_end(self, watch: Watch) -> bool:
        """Whether it was told all changes up to the last entry."""
        if self.last is None or watch.next_index <= self.last:
            return False
        self.segments[-1].end = watch.next_index
        return True

    def join_well(self, last: int) -> None:
        """Wait until it has come to the entry `last`. Raises its error, `AssertionError` if it does not come there."""
        self.last = last
        self.join(END_SECONDS)
        if self.failure is not None:
            raise self.failure
        assert not self.is_alive(), f"{self.name} does not come to entry {last} within {END_SECONDS:g} s"
