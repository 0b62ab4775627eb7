"""The place of a watch in the changes of the state: what to ask next, whom, and what an answer means; no I/O."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from forge_consensus.actors.messages import STALE
from forge_consensus.client.key_records import KeyChange
from forge_consensus.client.routes import INDEX_MAX, NEAREST, Route
from forge_consensus.errors import CompactedError, ConsensusError, InvalidConfigError, NotStartedError

KEPT_SECONDS: Final = 5.0
"""For so long a node keeps a question while there is no change. A node that hangs is noticed soon after that."""
STALE_SECONDS_MAX: Final = 5.0
"""A node whose state may be older is passed over: one that is cut off would never tell a change."""
PAGE_CHANGES: Final = 1000
PAUSE_SECONDS_MIN: Final = 0.02
PAUSE_SECONDS_MAX: Final = 1.0
QUICK_SECONDS: Final = 0.05
"""A node that answers sooner, and has nothing to tell, does not keep questions now; it is asked after a pause."""
NEAR: Final = Route.of(STALE, NEAREST, STALE_SECONDS_MAX, 0, int(KEPT_SECONDS * 1000))
AT_LEADER: Final = NEAR.at_the_leader
"""It must prove that it leads: one that was the leader, and does not know of the new one, would never tell a change."""


class ChangeCursor:
    """Where a watch of one key, or of all keys with a prefix, is.

    Args:
        key: the key, None for a prefix.
        prefix: what the keys begin with; None for "".
        since: the first index wanted; None if that is to be asked for.

    Raises `InvalidConfigError` for what cannot be.

    """

    def __init__(self, key: str | None, prefix: str | None, since: int | None) -> None:
        if key is not None and prefix is not None:
            raise InvalidConfigError("key and prefix are both given: watch one key, or all with a prefix")
        text = key if key is not None else prefix if prefix is not None else ""
        if not isinstance(text, str):
            raise InvalidConfigError(f"a key is a text, and this is {text!r:.99}")
        if since is not None and (type(since) is not int or not 0 <= since <= INDEX_MAX):
            raise InvalidConfigError(f"since is {since!r:.99}: expected the index of a log entry, or None for now")
        self.text, self.exact = text, key is not None
        self.next = None if since is None else max(1, since)
        """The first index of which the changes were not asked for successfully; None while that is unknown."""
        self.near_oldest = 0
        """Where the history of the node that is asked usually begins, if that was too late."""
        self.at_leader = False
        """Whether the question that is under way went to the leader."""
        self.changes: deque[KeyChange] = deque()
        """The changes that nobody has taken yet."""
        self.pauses = 0
        """How many questions in a row have failed or brought nothing at once."""

    @property
    def position(self) -> int | None:
        """The index from which another watch goes on.

        Changes that were made as one with the last that was taken come again if some of them were not taken.
        """
        try:
            return self.changes[0].index
        except IndexError:
            return self.next

    @property
    def forgotten(self) -> bool:
        """Whether the node that is asked usually has forgotten what comes next."""
        return self.next is not None and self.next < self.near_oldest

    def question(self) -> tuple[dict[str, Any], Route]:
        """The next question, and its route."""
        assert self.next is not None, "the start is known"
        self.at_leader = self.forgotten
        wait_ms = AT_LEADER.wait_ms if self.at_leader else NEAR.wait_ms
        query: dict[str, Any] = {
            "changes": self.text,
            "since": self.next,
            "limit": PAGE_CHANGES,
            "wait_ms": wait_ms,
        }
        if self.exact:
            query["key"] = True
        return query, AT_LEADER if self.at_leader else NEAR

    def start(self, applied: int) -> None:
        """Begin behind the entry that was applied last."""
        self.next = applied + 1

    def take(self, answer: dict[str, Any], seconds: float) -> float:
        """Take an answer that took so many seconds, and return how long to wait before the next question.

        Raises `CompactedError` if neither the usual node nor the leader has the history.
        """
        assert self.next is not None, "the start is known"
        since, following, oldest = self.next, int(answer["next"]), int(answer["oldest"])
        found = [KeyChange.of_row(row) for row in answer["changes"] if row[0] >= since]
        self.changes.extend(found)
        self.next = max(since, following)
        if following < oldest:  # and not `since`: while a question waits, what it has looked at may be forgotten
            if self.at_leader:
                raise CompactedError(
                    f"the changes from entry {self.next} on are not kept any more, those from {oldest} on are: read "
                    "the keys anew, and watch from the entry after that read",
                    oldest=oldest,
                )
            self.near_oldest = oldest
            return 0.0
        if found or seconds >= QUICK_SECONDS:
            self.pauses = 0
            return 0.0
        return self.paused()

    def failed(self, error: ConsensusError) -> float:
        """How long to wait after a failed question. Raises the error if asking again would not help."""
        if not error.retryable or isinstance(error, NotStartedError):
            raise error
        return self.paused()

    def paused(self) -> float:
        """The next pause, each twice as long as the one before."""
        self.pauses += 1
        return min(PAUSE_SECONDS_MIN * (1 << min(self.pauses - 1, 10)), PAUSE_SECONDS_MAX)
