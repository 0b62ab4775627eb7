"""The text of a message in one line: the fields that matter, in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from forge_consensus.actors.messages import (
    AppendEntries,
    AppendReply,
    Hello,
    HelloReply,
    InstallSnapshot,
    Locate,
    Located,
    PreVoteReply,
    Read,
    ReadResults,
    Refused,
    RequestPreVote,
    RequestVote,
    Results,
    Submit,
    VoteReply,
)
from forge_consensus.storage.ledger.record import term_of

SAID_CHARS_MAX = 80
ROUND = ", round "
"""Precedes the number of a read round, which is the last item of a line."""


def says(message: Any) -> str:
    """Return the fields of a message that matter, as text."""
    write = WORDS.get(type(message))
    if write is not None:
        return write(message)
    said = [(slot.name, getattr(message, slot.name)) for slot in fields(message)]
    return ", ".join(f"{name} {value}"[:SAID_CHARS_MAX] for name, value in said if value not in ("", None, ()))


def append_entries(message: AppendEntries) -> str:
    """Return the position of the entries, and which they are."""
    text = f"term {message.term}, after {message.prev_index} of term {message.prev_term}: "
    if message.records:
        first, last = message.prev_index + 1, message.prev_index + len(message.records)
        terms = sorted({term_of(record) for record in message.records})
        text += f"entries {first}..{last}" if last > first else f"entry {first}"
        text += f" of term {', '.join(map(str, terms))}; "
    return text + f"commit {message.commit}" + of_round(message.round)


def append_reply(message: AppendReply) -> str:
    """Return the index up to which the log matches, or the hint for the next attempt."""
    text = f"term {message.term}: "
    if message.success:
        text += f"has all up to {message.index}"
    else:
        text += f"refused, hint {message.index} of term {message.entry_term}"
    return text + of_round(message.round)


def of_round(number: int) -> str:
    """Return the read round, if there is one."""
    return f"{ROUND}{number}" if number else ""


def vote_request(message: RequestVote | RequestPreVote) -> str:
    """Return the term of the election and the end of the log."""
    return f"term {message.term}, log ends at {message.last_index} of term {message.last_term}"


def vote_reply(message: VoteReply | PreVoteReply) -> str:
    """Return whether the vote was granted."""
    return f"term {message.term}: " + ("granted" if message.granted else "not granted")


def refused(message: Refused) -> str:
    """Return the reason, and the leader."""
    leader = f", {message.leader} leads term {message.term}" if message.leader else ""
    return message.code.removeprefix("CONSENSUS_").lower().replace("_", " ") + leader


def install_snapshot(message: InstallSnapshot) -> str:
    """Return the range of bytes in a chunk, and its snapshot."""
    at = f"{message.offset}+{len(message.data)} of {message.size} bytes"
    return f"term {message.term}, index {message.index} of term {message.entry_term}, {at}"


def numbers(items: Any) -> str:
    """Return the numbers of commands, queries or results."""
    said = [f"{number}" + (f": {code}" if code else "") for number, code in items]
    return ", ".join(said[:6]) + (" ..." if said[6:] else "")


WORDS: dict[type, Callable[[Any], str]] = {
    AppendEntries: append_entries,
    InstallSnapshot: install_snapshot,
    Hello: lambda message: f"boot {message.boot}, incarnation {message.incarnation}",
    HelloReply: lambda message: f"boot {message.boot} {message.reason} {message.detail}".rstrip(),
    RequestPreVote: lambda message: vote_request(message) + of_round(message.round),
    PreVoteReply: lambda message: vote_reply(message) + of_round(message.round),
    RequestVote: vote_request,
    VoteReply: vote_reply,
    AppendReply: append_reply,
    Refused: refused,
    Locate: lambda message: f"known term {message.known_term}",
    Located: lambda message: f"leader {message.leader or '-'} in term {message.term}",
    Submit: lambda message: (
        f"session {message.session}, commands {numbers((seq, '') for seq, _ in message.commands)}, "
        f"done below {message.done_below}"
    ),
    Results: lambda message: (
        f"session {message.session}, results {numbers((seq, code) for seq, code, _ in message.items)}"
    ),
    Read: lambda message: f"{message.consistency}, queries {numbers((number, '') for number, _ in message.queries)}",
    ReadResults: lambda message: (
        f"applied {message.applied}, answers {numbers((number, code) for number, code, _ in message.items)}"
    ),
}
