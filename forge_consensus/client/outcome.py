"""The errors with which calls end: from an answer with a code, a refusal, or a missed deadline."""

from __future__ import annotations

from typing import Any

import msgpack

from forge_consensus.actors.messages import Locate, Refused
from forge_consensus.client.endpoints import Directory
from forge_consensus.client.pending import Pending, PendingNodeQuery, PendingRead
from forge_consensus.errors import (
    BY_CODE,
    AuthenticationFailedError,
    BusyError,
    ClusterNotFoundError,
    CommandError,
    ConnectionFailedError,
    ConsensusError,
    ConsensusTimeoutError,
    NoLeaderError,
    NotLeaderError,
    NotStartedError,
    OutcomeUnknownError,
    StorageFullError,
    error_from_code,
)

COMMAND_FAILED = CommandError.code
OUTCOME_UNKNOWN = OutcomeUnknownError.code
SESSION_TEXT = "the session is no more; whether the command was carried out is unknown"
NOT_LEADING = frozenset({NotLeaderError.code, NoLeaderError.code})
OF_NODE = frozenset({*NOT_LEADING, ClusterNotFoundError.code, NotStartedError.code, StorageFullError.code})
"""Codes of refusals that are about the node and not about what was asked."""
CONNECTED = "connected, no answer yet"
RETRIED = frozenset({OUTCOME_UNKNOWN, NotStartedError.code})
"""Codes after which a client sends again though they are not retryable: its session makes that safe."""


def said_by(message: Refused, before: str) -> str:
    """What an endpoint is known to have said after a refusal; that of a single call is told by its error only."""
    if message.code in OF_NODE:
        return f"{message.code}: {message.text}" if message.text else message.code
    return "it answers" if before == CONNECTED else before


def retried(code: str) -> bool:
    """Whether a client sends again what was refused with that code."""
    kind = BY_CODE.get(code)
    return code in RETRIED or (kind is not None and kind.retryable)


def result_error(code: str, payload: bytes, *, sent_again: bool = False) -> ConsensusError:
    """The error in an answer, whose payload is msgpack [class name, text] or empty.

    A session that keeps too much refuses one copy of a command and may carry out the next, so the refusal of a command
    that was `sent_again` says nothing of its outcome.
    """
    try:
        kind, text = msgpack.unpackb(payload)
    except Exception:  # msgpack raises a family of its own; the code alone says enough
        kind, text = "", ""
    if code == COMMAND_FAILED:
        return CommandError(str(kind), str(text))
    if sent_again and code == BusyError.code:
        return OutcomeUnknownError(f"a copy of the command was refused, another one may be carried out: {text}")
    return error_from_code(code, str(text))


def refused_error(message: Refused, *, outcome_unknown: bool) -> ConsensusError:
    """The error of a refusal that no repetition cures; `outcome_unknown`: an earlier attempt can have had an effect."""
    if outcome_unknown:
        return OutcomeUnknownError(
            f"an earlier attempt may have been carried out; the last was refused: {message.code} {message.text}"
        )
    if message.code == NotLeaderError.code:
        leader, address = message.leader or None, message.address or None
        return NotLeaderError(message.text, leader=leader, address=address, term=message.term)
    return error_from_code(message.code, message.text)


def late_error(pending: Pending[Any], directory: Directory, *, outcome_unknown: bool) -> ConsensusError:
    """The error of a missed deadline; its text says what is known and what every endpoint said."""
    account, refusal = directory.account(), pending.refusal
    why = "" if refusal is None or refusal.text in account else f": {refusal.text}"
    if outcome_unknown:
        return OutcomeUnknownError(
            "no answer before the deadline: the command was sent "
            f"and may have been or may still be carried out ({account}{why and f'; refused{why}'}): "
            "read before you repeat it"
        )
    if isinstance(pending, PendingNodeQuery):
        asked = directory.endpoints.get(pending.endpoint)
        unreachable = not (asked.connected if asked is not None else directory.connected())
        leaderless = isinstance(pending.message, Locate)
    else:
        unreachable = not directory.connected()
        leaderless = directory.ready() is None
    if unreachable and any(one.denied for one in directory.endpoints.values()):
        return AuthenticationFailedError(
            f"no node that answers lets this client in ({account}): show another key, or have this one added to the "
            "list of access"
        )
    if unreachable:
        return ConnectionFailedError(
            f"no connection before the deadline ({account}): check that the nodes run and their addresses"
        )
    elsewhere = isinstance(pending, PendingRead) and not pending.route.by_leader
    if refusal is not None and (elsewhere or refusal.code not in NOT_LEADING):
        return error_from_code(refusal.code, f"refused until the deadline{why} ({account})")
    if leaderless:
        return NoLeaderError(
            f"no leader was found before the deadline ({account}): check that a majority of the members runs, or "
            "allow more time"
        )
    return ConsensusTimeoutError(
        f"no answer before the deadline ({account}): nothing was changed; try again, or allow more time"
    )
