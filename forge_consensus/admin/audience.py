"""Readers of events who want the same ones, and what they get next: it is made once for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from forge_consensus.admin.event_history import GAP_KIND, EventHistory, Seen, place_text
from forge_consensus.events.encoding import to_json_line
from forge_consensus.events.types import ConsensusEvent

Fits = Callable[[ConsensusEvent], bool]
BATCH: Final = 200
"""So many events are looked through before others have their turn."""


class Portion(NamedTuple):
    """What comes next for a reader."""

    begin: int
    before: Seen
    """Where the reader was: the number of the next event, and what it had seen."""
    end: int
    after: Seen
    """Where it is behind this."""
    data: bytes


class Audience:
    """The readers who want the same kinds. Those who are at the same place get the same bytes, which are made once.

    Args:
        history: the events of the cluster.
        fits: which of them they want.

    """

    def __init__(self, history: EventHistory, fits: Fits) -> None:
        self.history = history
        self.fits = fits
        self.last: Portion | None = None

    def portion(self, number: int, seen: Seen) -> Portion:
        """Return what comes next for a reader that is at this place."""
        last = self.last
        if (
            last is not None
            and last.begin == number
            and last.before == seen
            and (last.data or last.end == self.history.end)
        ):
            return last
        self.last = made = self.made(number, seen)
        return made

    def made(self, number: int, seen: Seen) -> Portion:
        """Write a portion: what the reader lacks, and at most `BATCH` events."""
        after, end = dict(seen), number
        parts = [written(GAP_KIND, after, to_json_line(gap)) for gap in self.history.missing(after)]
        for place, entry in self.history.after(number, BATCH):
            end = place + 1
            if entry.is_new_to(after):
                after[entry.node] = entry.place
                if self.fits(entry.event):
                    parts.append(written(entry.event.topic, after, entry.text))
        return Portion(number, seen, end, after, "".join(parts).encode())


def written(kind: str, seen: Seen, data: str) -> str:
    """Return one event of a stream for a reader that has then seen so much; the data is one line."""
    return f"id: {place_text(seen)}\nevent: {kind}\ndata: {data}\n\n"
