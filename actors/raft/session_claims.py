"""Whether a session is somebody else's: its commands enter the log only from whoever opened it.

A leader looks at the session in its state, or, if it has not applied it yet, at the entry that opens it: the session's
number is that entry's index. Of an entry that the log does not have yet nothing need be known, because a command that
is appended now lies before it, and is applied while there is no such session. An entry that the leader looked at may be
replaced only if another leader replaces the command behind it as well.
"""

from __future__ import annotations

from typing import Final

from forge_consensus.storage.ledger.ledger import Ledger
from forge_consensus.storage.ledger.record import Kind, parse
from forge_consensus.storage.machines.session_owner import NO_OWNER, opened, owner_of

ANOTHERS: Final = "session of another"
"""The reason by which such refusals are counted."""


def is_anothers(ledger: Ledger, session: int, identity: str) -> bool:
    """Whether a session was opened by somebody else.

    Args:
        ledger: that of a node which leads.
        session: the number of the session.
        identity: the name of whoever asks; empty where nobody is asked who they are, and inside the node's process.

    Raises `CorruptionError` if the entry that opens the session is damaged.

    """
    if not identity:
        return False
    owner = opener_of(ledger, session)
    return owner != NO_OWNER and owner != owner_of(identity)


def opener_of(ledger: Ledger, session: int) -> int:
    """Return the owner of a session, `NO_OWNER` also for one that there is not."""
    applier = ledger.applier
    known = applier.sessions.live.get(session)
    if known is not None:
        return known.owner
    if not applier.index < session <= ledger.log.last:
        return NO_OWNER
    record = parse(session, ledger.log.get(session))
    return opened(record.data)[1] if record.kind == Kind.SESSION else NO_OWNER
