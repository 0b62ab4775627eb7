"""Expiry: when a leader lets an entry into the log by itself, because the machine waits for a time to pass."""

from __future__ import annotations

from typing import Final

from forge_consensus.process.log import LogLines
from forge_consensus.storage.ledger.ledger import Ledger
from forge_consensus.storage.machines.machine import EXPIRE

LINES = LogLines(__name__)
EXPIRE_BYTES: Final = EXPIRE.encode()
MS: Final = 1000


class Expiry:
    """Says when the machine's entry is due, for the leader of one term at a time.

    A machine may want an entry at some elapsed time, see `StateMachine`: what ends by time must end although nobody
    writes. The leader proposes a command that says nothing but that this time has come. It has no session, and need
    not: who proposes it twice lets twice end what is over by the time of the entries, and the second time that is
    nothing. So a leader may know too little, and forget all: it proposes for what its own machine still waits for.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.proposed = (0, 0)
        """Term and index of the last entry that it let in."""
        self.failed = False
        """Whether the machine failed to say what it waits for, which is told once."""

    def wait_seconds(self, term: int) -> float | None:
        """In how many seconds the entry is due, 0 or less for now; None if none is wanted, or one is under way."""
        ledger = self.ledger
        if self.proposed[0] == term and self.proposed[1] > ledger.applied:
            return None
        due_ms = self.due_ms()
        return None if due_ms is None else (due_ms - ledger.elapsed_ms) / MS

    def due_ms(self) -> int | None:
        """The elapsed time at which the machine wants an entry, as far as it may be asked now."""
        applier = self.ledger.applier
        if applier.lent or applier.replacing:
            return None
        try:
            found = getattr(applier.machine, "due_ms", None)
        except Exception as error:
            found = error
        if found is None or type(found) is int:
            return found
        if not self.failed:
            self.failed = True
            LINES.error("due_ms of the machine is no whole number and not None: nothing expires by itself", value=found)
        return None

    def note(self, term: int, index: int) -> None:
        """Note that this leader has let the entry in."""
        self.proposed = term, index
