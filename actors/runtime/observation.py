"""The observation of turns: what each turn cost, reported to one observer such as the metrics."""

from __future__ import annotations

import time
from collections.abc import Callable

from forge_consensus.events.metrics.turn_report import TurnReport
from forge_consensus.process.log import LogLines
from forge_consensus.storage.ledger.ledger import Ledger

LINES = LogLines(__name__)


class TurnObservation:
    """Makes a `TurnReport` of each turn for an observer; without one, a turn pays for one comparison."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.observer: Callable[[TurnReport], None] | None = None
        self.turn_began = 0.0
        """When this turn began, in seconds of `time.perf_counter`; 0 while nobody observes."""
        self.operations: list[tuple[float, int]] = []
        """The commands that this turn answered: (`turn_began` of the turn that received them, their number)."""
        self.commits = self.applied = 0
        """The ledger's numbers when the turn began."""

    def observe(self, observer: Callable[[TurnReport], None] | None) -> None:
        """Call `observer` at the end of each turn, on the node's thread; None ends it. There is at most one."""
        self.observer = observer
        self.operations = []
        self.turn_began = 0.0

    def begin(self, frames: int) -> TurnReport:
        """Start the report of a turn that receives this many frames."""
        if self.operations:
            self.operations = []
        self.commits, self.applied = self.ledger.commits, self.ledger.applied
        self.turn_began = time.perf_counter()
        return TurnReport(self.turn_began, frames)

    def answered(self, began: float, commands: int) -> None:
        """Note answered commands that arrived with the turn that began at `began`."""
        if self.observer is not None:
            self.operations.append((began, commands))

    def finish(self, report: TurnReport, messages: int, commit_seconds: float) -> None:
        """Complete the report and pass it on; an observer that raises receives no further report."""
        report.messages = messages
        report.commit_seconds = commit_seconds if self.ledger.commits > self.commits else None
        report.applied = self.ledger.applied - self.applied
        report.operations = self.operations or ()
        report.seconds = time.perf_counter() - report.began
        observer = self.observer
        try:
            if observer is not None:
                observer(report)
        except Exception as fault:
            self.observe(None)
            LINES.error("the observer of turns failed; it is told no more", error=fault)
