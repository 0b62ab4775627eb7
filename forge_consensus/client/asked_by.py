"""For whom a client speaks: whoever asked the program that has the client, such as a user of a node's admin API.

The nodes record it in their audit, beside the client itself. It gives no right to anything.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final, NamedTuple


class AskedBy(NamedTuple):
    """Somebody who asked a program for something; the fields are those of `AuditRecorded`."""

    name: str
    identity: str
    role: str
    origin: str


ASKED_BY: Final[ContextVar[AskedBy | None]] = ContextVar("asked_by", default=None)
"""For whom the calls of this context are made; None for the program itself."""
