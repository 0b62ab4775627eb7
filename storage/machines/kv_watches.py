"""Watches of the key-value machine: questions for changes that wait until there is one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import cast

from forge_consensus.storage.machines.kv_history import Below, ChangesQuery, History, changes_page
from forge_consensus.storage.machines.steps import Encoded, WaitingQuery


class Watch(WaitingQuery):
    """One question for changes that may wait."""

    def __init__(self, query: ChangesQuery, state: Callable[[], tuple[History, Below]]) -> None:
        self.query = query
        self.wait_ms = query.wait_ms
        self.state = state
        self.goes_on = False

    def answer(self, *, over: bool) -> Encoded | None:
        """Return the answer, None if there is no change and the history is there; see `WaitingQuery`."""
        history, below = self.state()
        query = self.query
        answer, count, following = changes_page(history, query, below)
        if over or count or query.since < history.oldest:
            return answer
        self.goes_on = following <= history.last
        query.since = following
        return None


class Watches:
    """The questions that wait, by what they ask for.

    A look at the changes since the last one costs about as much for a hundred questions as for one, and nothing
    happens at all while nobody waits.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self.exact: dict[str, dict[Watch, None]] = {}
        self.prefixes: dict[str, dict[Watch, None]] = {}
        self.seen = 0
        """How many changes of the history were looked at."""
        self.all = False
        """Whether all are woken next time, because the history is another one."""

    def __len__(self) -> int:
        return sum(map(len, (*self.exact.values(), *self.prefixes.values())))

    def add(self, query: WaitingQuery) -> None:
        """Let a question wait that has just looked at the whole history."""
        watch = cast("Watch", query)
        if not self.exact and not self.prefixes:
            self.seen = self.history.count
        table = self.exact if watch.query.exact else self.prefixes
        table.setdefault(watch.query.prefix, {})[watch] = None

    def remove(self, query: WaitingQuery) -> None:
        """Forget a question, also if it does not wait; if it does, there was nothing for it up to the last look."""
        watch = cast("Watch", query)
        table = self.exact if watch.query.exact else self.prefixes
        waiting = table.get(watch.query.prefix, {})
        if watch in waiting:
            del waiting[watch]
            if self.seen == self.history.count:
                watch.query.since = max(watch.query.since, self.history.last + 1)
        if not waiting:
            table.pop(watch.query.prefix, None)

    def clear(self) -> None:
        """Forget all questions."""
        self.exact.clear()
        self.prefixes.clear()

    def follow(self, history: History) -> None:
        """Look at another history from now on, and wake all, because what they ask for may be gone."""
        self.history, self.seen, self.all = history, 0, True

    def woken(self) -> Iterable[WaitingQuery]:
        """Take out the questions for whose keys there are changes since the last look.

        For the others there was none, so their questions begin behind those changes. Otherwise a question that waits
        for long would ask for a history that is gone, although nothing in it was for it.
        """
        history, exact, prefixes = self.history, self.exact, self.prefixes
        new = history.newest(self.seen)
        self.seen = history.count
        if new is None or self.all:
            self.all = False
            found = [watch for table in (exact, prefixes) for key in list(table) for watch in table.pop(key)]
        elif new:
            keys = {change[1] for change in new}
            found = [watch for key in sorted(exact.keys() & keys) for watch in exact.pop(key)]
            found += [watch for prefix in matching(prefixes, sorted(keys)) for watch in prefixes.pop(prefix)]
            for watch in found:
                watch.query.since = max(watch.query.since, new[0][0])
        else:
            found = []
        return found


def matching(prefixes: Iterable[str], keys: list[str]) -> list[str]:
    """Return the prefixes that one of some sorted keys has."""
    found: list[str] = []
    for prefix in prefixes:
        place = bisect_left(keys, prefix)
        if place < len(keys) and keys[place].startswith(prefix):
            found.append(prefix)
    return found
