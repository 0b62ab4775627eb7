"""The rule of sessions: none ends before its client has been idle for as long as the session lives.

Only when there are too many, the one whose last use is the oldest ends, and no other.
"""

from __future__ import annotations

from forge_consensus.actors.messages import Results
from forge_consensus.storage.ledger.record import Kind, Record, data_of, kind_of, session_of
from forge_consensus.storage.machines.sessions import EXPIRED, TTL_BYTES
from forge_consensus.testing.rules.violations import demand

CLOCK_ERROR_MAX = 0.1
"""The rates of two hosts' clocks differ by less than this share."""


class SessionRules:
    """Follows the commands of each session, from the disk of the leader that proposed them to the machines."""

    def __init__(self) -> None:
        self.written: dict[tuple[int, int], float] = {}
        """By (index, term): when the turn began in which the entry was first on a disk; it was proposed later."""
        self.lives: dict[tuple[int, int], float] = {}
        """By (index, term) of the entry that opens a session: how long the session lives without a command."""
        self.touched: dict[int, float] = {}
        """By session: when the last command that a machine has executed was written."""
        self.executed: dict[int, int] = {}
        """By session: the index of that command."""
        self.newest: dict[int, int] = {}
        """By session: the index of its newest command on any disk, executed or not."""

    def writes(self, key: tuple[int, int], record: bytes, now: float) -> None:
        """Note an entry that is on a disk for the first time, written by a turn that began `now`."""
        self.written[key] = now
        kind, index = kind_of(record), key[0]
        if kind == Kind.COMMAND:
            session = session_of(record)
            if index > self.newest.get(session, 0):
                self.newest[session] = index
        elif kind == Kind.SESSION:
            self.lives[key] = int.from_bytes(data_of(record)[:TTL_BYTES]) / 1000
            self.newest.setdefault(index, index)

    def applies(self, record: Record) -> None:
        """Note that a machine executes a session's command."""
        at = self.written[record.index, record.term]
        self.touched[record.session] = max(at, self.touched.get(record.session, 0.0))
        self.executed[record.session] = max(record.index, self.executed.get(record.session, 0))

    def others_since(self, session: int) -> int:
        """Return how many other sessions may have been used since this one was used last."""
        last = self.executed.get(session, session)
        return sum(newest > last for other, newest in self.newest.items() if other != session)

    def answers(self, message: Results, committed: dict[int, int], now: float, sessions_max: int) -> None:
        """Demand that no answer calls a session expired too early, or one in the place of an idler one."""
        refused = [number for number, code, _ in message.items if code == EXPIRED.code]
        key = message.session, committed.get(message.session, 0)
        if not refused or key not in self.lives:
            return
        idle, life = now - max(self.written[key], self.touched.get(message.session, 0.0)), self.lives[key]
        if idle * (1 + CLOCK_ERROR_MAX) >= life:
            return
        others = self.others_since(message.session)
        demand(
            others >= sessions_max,
            "session",
            f"session {message.session} is called expired {idle:.3f} s after its last command, and lives {life:.3f} s "
            f"without one; {others} sessions were used since then, and there may be {sessions_max}; command "
            f"{refused[0]} was refused",
        )
