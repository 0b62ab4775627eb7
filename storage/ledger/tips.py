"""The tips: what this node knows of the other members' disks, to notice a folder that went back in time.

A folder that is copied while its node runs, and put back later, counts to a boot that descends from the one that its
peers know. But it has forgotten what its node promised meanwhile. So each greeting names the tip of the sender's disk,
and the first greeting of each boot is compared with what the member's earlier boots are known to have had on disk.

Why no honest member is ever refused. Knowledge is taken only from what a member sent after it was on its disk, and is
compared only with a later boot of it, whose disk begins where the earlier one's ended. Three things are known, and no
correct node ever takes one of them back:

- its term, which only rises (I9);
- a verified prefix: in a term it acknowledged the leader's entries up to an index, or its own log ended with an entry
  of that term. While it is in that term it never truncates that prefix, because only that term's leader could make it
  do so and that leader's log has the same entries (I2, I3). In a later term it may lose them, so nothing is compared
  then;
- a committed prefix: the part of a verified prefix that this node knows to be committed. Nobody ever truncates that
  (I7); a snapshot that takes the place of the log covers committed entries and ends no earlier.

What is not known is not missed. A leader knows its followers' disks by their acknowledgements, every node those of all
others by greetings and by the answers to its health checks. What is known is stored with a commit that is made anyway,
at most once in `STORED_SECONDS`, and at once when a member's boot is recorded: so a process that is killed forgets what
it heard since the last commit, and about a second more while it is busy.

A tip does not name the vote, so a copy that was made in the term in which it is put back, before the vote in it, is not
noticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

Boot = tuple[str, int]
"""A boot of a member's folder: its boot token and its number."""
UNMET: Final[Boot] = ("", 0)
"""Stands for the boot of a member that was never met."""
STORED_SECONDS: Final = 1.0
"""How many seconds pass between two commits that carry the tips along."""


class Tip(NamedTuple):
    """The tip of a node's disk: its term, and index and term of the last entry of its log."""

    term: int
    last_term: int
    last_index: int


class LogView(Protocol):
    """The part of the log that is compared with a member's tip."""

    def term_at(self, index: int) -> int | None:
        """The term of the entry at an index; None if the log does not hold it."""


@dataclass(slots=True)
class Known:
    """What one member is known to have had on its disk."""

    term: int = 0
    verified_term: int = 0
    verified: int = 0
    """In `verified_term` the member had the entries of that term's leader up to this index."""
    committed: int = 0
    """It had committed entries up to this index."""
    told_by: Boot = UNMET
    """The boot of it that told the newest of these facts."""

    @property
    def facts(self) -> tuple[int, int, int, int]:
        """All but who told them."""
        return self.term, self.verified_term, self.verified, self.committed


class Tips:
    """What is known of each member's disk, by node id. It outlives the actors, because promises do.

    `boots` holds the boot of each member whose frames are accepted. A turn that is rolled back takes no fact away.
    """

    def __init__(self, boots: Mapping[str, Boot] | None = None) -> None:
        self.members: dict[str, Known] = {}
        self.boots = {} if boots is None else boots
        self.unsaved = False
        """Whether anything is known that is not on disk."""

    def of(self, node: str) -> Known:
        """What is known of a member."""
        return self.members.setdefault(node, Known())

    def raise_to(self, node: str, known: Known, term: int, verified: tuple[int, int], committed: int) -> None:
        """Raise what is known of a member to these facts, where they are more."""
        before = known.facts
        known.term = max(known.term, term)
        known.verified_term, known.verified = max((known.verified_term, known.verified), verified)
        known.committed = max(known.committed, committed)
        if known.facts != before:
            known.told_by, self.unsaved = self.boots.get(node, known.told_by), True

    def note_term(self, node: str, term: int) -> None:
        """Note that a member had this term on its disk."""
        self.raise_to(node, self.of(node), term, (0, 0), 0)

    def note_match(self, node: str, term: int, match: int, commit: int) -> None:
        """Note that a member acknowledged this leader's entries up to `match` in `term`; 0 means that it did not."""
        if match:
            self.raise_to(node, self.of(node), term, (term, match), min(match, commit))

    def note_tip(self, node: str, tip: Tip, log: LogView, commit: int) -> None:
        """Note the tip that a member told; `log` and `commit` are this node's own."""
        verified = (tip.term, tip.last_index) if tip.last_term == tip.term else (0, 0)
        known, committed = self.of(node), 0
        if known.committed < tip.last_index <= commit and log.term_at(tip.last_index) == tip.last_term:
            committed = tip.last_index  # the member holds the committed entry
        self.raise_to(node, known, tip.term, verified, committed)

    def went_back(self, node: str, tip: Tip) -> str:
        """Why a member whose new boot tells this tip cannot have the disk of its earlier boots; empty if it can."""
        known = self.members.get(node)
        if known is None:
            return ""
        if tip.term < known.term:
            return f"it was in term {known.term} and now is in term {tip.term}"
        least = known.committed
        if tip.term == known.verified_term:
            least = max(least, known.verified)
        if tip.last_index < least:
            return f"it had acknowledged the log up to entry {least}, and now its log ends at entry {tip.last_index}"
        return ""

    def rows(self) -> dict[str, Any]:
        """What is known, as it is stored."""
        return {node: (*known.facts, *known.told_by) for node, known in self.members.items()}

    def load(self, rows: Mapping[str, Any]) -> None:
        """Know what was stored; to be called before anything else is noted."""
        for node, (term, verified_term, verified, committed, token, boot) in rows.items():
            self.members[node] = Known(term, verified_term, verified, committed, (token, boot))
