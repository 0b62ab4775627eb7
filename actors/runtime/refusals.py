"""The refusals: frames and requests that the node did not accept, counted by reason."""

from __future__ import annotations

from collections import Counter
from typing import Final

from forge_consensus.process.log import LogLines

LINES = LogLines(__name__)


REPORT_EVERY: Final = 1000
"""Each reason's first refusal gets a line in the log, and then one of every this many."""


class Refusals:
    """Counts the refusals since the process began; `counts` maps reasons to numbers."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def count(self, reason: str) -> None:
        """Count a refusal that is part of ordinary work, such as an answer of an earlier term."""
        self.counts[reason] += 1

    def report(self, reason: str, detail: str) -> None:
        """Count a refusal that somebody should look into, and write the first and some later ones to the log."""
        count = self.counts[reason] = self.counts[reason] + 1
        if count == 1 or count % REPORT_EVERY == 0:
            LINES.warning("refused ({} times): {}: {}", count, reason, detail)
