"""The rule of sessions: none ends before its client has been idle for as long as it lives, or too many others live."""

from __future__ import annotations

from forge_consensus.actors.messages import Results
from forge_consensus.storage.ledger.record import Kind, Record, kind_of, parse
from forge_consensus.storage.machines.session_owner import opened
from forge_consensus.storage.machines.sessions import EXPIRED, SESSIONS_MAX
from forge_consensus.testing.rules.violations import demand

CLOCK_ERROR_MAX = 0.1
"""The rates of two hosts' clocks differ by less than this share."""


class SessionRules:
    """Follows the commands of each session, from the disk of the leader that proposed them to the machines."""

    def __init__(self) -> None:
        self.sessions_max = SESSIONS_MAX
        self.written: dict[tuple[int, int], float] = {}
        """By (index, term): when the turn began in which the entry was first on a disk; it was proposed later."""
        self.written_by: dict[tuple[int, int], str] = {}
        """By (index, term): the node whose disk that was."""
        self.lives: dict[tuple[int, int], float] = {}
        """By (index, term) of the entry that opens a session: how long the session lives without a command."""
        self.touched: dict[int, float] = {}
        """By session: when the last command that a machine has executed was written."""
        self.used: dict[int, int] = {}
        """By session: the index of that command."""

    def opens(self, key: tuple[int, int], data: bytes) -> None:
        """Note an entry that opens a session."""
        self.lives[key] = opened(data)[0] / 1000

    def applies(self, record: Record) -> None:
        """Note that a machine executes a session's command."""
        at = self.written[record.index, record.term]
        self.touched[record.session] = max(at, self.touched.get(record.session, 0.0))
        self.used[record.session] = max(record.index, self.used.get(record.session, 0))

    def answers(
        self, message: Results, committed: dict[int, int], now: float, entries: dict[tuple[int, int], tuple[bytes, int]]
    ) -> None:
        """Demand that no answer calls a session expired too early. `entries` has the records by (index, term)."""
        refused = [number for number, code, _ in message.items if code == EXPIRED.code]
        key = message.session, committed.get(message.session, 0)
        if not refused or key not in self.lives:
            return
        idle, life = now - max(self.written[key], self.touched.get(message.session, 0.0)), self.lives[key]
        if idle * (1 + CLOCK_ERROR_MAX) >= life:
            return
        last = self.used.get(message.session, message.session)
        later = {index: entries[index, term][0] for index, term in committed.items() if index > last}
        busier = {used_by(index, record) for index, record in later.items()} - {0, message.session}
        demand(
            len(busier) >= self.sessions_max,
            "session",
            f"session {message.session} is called expired {idle:.3f} s after its last command, and lives {life:.3f} s "
            f"without one; only {len(busier)} others were used since, and {self.sessions_max} may live; command "
            f"{refused[0]} was refused",
        )


def used_by(index: int, record: bytes) -> int:
    """Return the session that an entry opens or uses, 0 if it is of none."""
    return index if kind_of(record) == Kind.SESSION else parse(index, record).session
