"""The unread answers: how much was sent on each connection of a client that the client has not read yet.

ZeroMQ bounds what it holds for a connection in frames, whose sizes differ by a factor of 10,000, and it does not say
what it holds. So the client says what it has read: now and then an answer carries a stamp in its header's extension,
and each request repeats the last stamp that its client read on that connection. Everything up to that answer is read.

A stamp is a random number, so that only who read it can repeat it, and so that one of an earlier connection means
nothing. A client that repeats none is sent `UNREAD_BYTES_MAX` in all.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any, Final

from forge_consensus.actors.codec import STAMP

STAMP_BITS: Final = 62
STAMP_BYTES: Final = 256 << 10
"""An answer is stamped when so much was sent since the last stamp, so small answers are not and an account is short."""
UNREAD_BYTES_MAX: Final = 64 << 20
"""A connection on which so much is unread is sent no more results, and its requests are answered with busy."""
UNREAD_TEXT: Final = (
    f"{UNREAD_BYTES_MAX >> 20} MiB of answers on this connection are unread: read them, and repeat the last stamp of "
    f"an answer (key {STAMP} of the header's extension) in each request"
)


@dataclass(slots=True)
class Account:
    """What was sent on one connection."""

    stamped: dict[int, int] = field(default_factory=dict)
    """By stamp, in the order of sending: the bytes up to that answer from the stamp before on."""
    later: int = 0
    """The bytes after the last stamp."""
    unread: int = 0


class UnreadAnswers:
    """The accounts of connections; of more than `accounts_max` the one that was sent nothing for longest is forgotten.

    Nobody says that a connection has ended. So `accounts_max` is to be above the number of connections that there can
    be at a time.
    """

    def __init__(self, accounts_max: int) -> None:
        self.accounts_max = accounts_max
        self.accounts: dict[Any, Account] = {}
        self.held: dict[Any, int] = {}
        """By connection: about how many bytes of results this turn is going to send."""

    def is_full(self, connection: Any) -> bool:
        """Whether too much is unread on a connection, or is going to be after this turn."""
        account = self.accounts.get(connection)
        unread = 0 if account is None else account.unread
        return unread + self.held.get(connection, 0) >= UNREAD_BYTES_MAX

    def takes(self, connection: Any, size: int) -> bool:
        """Whether a connection takes results of about so many bytes; then they are counted as held by this turn.

        The last ones that it takes may exceed the bound, because they may be larger than it.
        """
        if self.is_full(connection):
            return False
        self.held[connection] = self.held.get(connection, 0) + size
        return True

    def end_turn(self) -> None:
        """Forget what the turn held: it is sent, or the turn was rolled back."""
        self.held.clear()

    def next_stamp(self, connection: Any) -> int:
        """The stamp for the next answer on a connection; 0 if it needs none."""
        account = self.accounts.get(connection)
        if account is None or account.later < STAMP_BYTES:
            return 0
        return secrets.randbits(STAMP_BITS) + 1

    def sent(self, connection: Any, size: int, stamp: int) -> None:
        """Note an answer of so many bytes that was sent with that stamp, 0 for none."""
        account = self.accounts.pop(connection, None) or Account()
        self.accounts[connection] = account
        account.unread += size
        account.later += size
        if stamp:
            account.stamped[stamp] = account.later
            account.later = 0
        if len(self.accounts) > self.accounts_max:
            del self.accounts[next(iter(self.accounts))]

    def note_read(self, connection: Any, stamp: Any) -> None:
        """Note that the client has read everything up to the answer with that stamp, if that is known."""
        account = self.accounts.get(connection)
        if account is None or stamp not in account.stamped:
            return
        for earlier in list(account.stamped):
            account.unread -= account.stamped.pop(earlier)
            if earlier == stamp:
                return
