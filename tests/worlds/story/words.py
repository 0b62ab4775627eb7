"""The words of a story: the text of frames, entries and numbers, and its parser."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any

import msgpack

from forge_consensus.actors.messages import (
    AppendEntries,
    AppendReply,
    ChangeMembers,
    CheckPeer,
    CheckPeerReply,
    Hello,
    HelloReply,
    InstallSnapshot,
    MembersPlanned,
    OpenSession,
    PreVoteReply,
    Read,
    ReadIndexReply,
    ReadResults,
    Refused,
    RequestPreVote,
    RequestReadIndex,
    RequestVote,
    Results,
    SessionOpened,
    SnapshotReply,
    Submit,
    TimeoutNow,
    TransferLeadership,
    TransferStarted,
    VoteReply,
)
from forge_consensus.storage.ledger.changes import Action
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.record import Kind, data_of, encode, kind_of, term_of
from forge_consensus.storage.machines.machine import Command
from tests.worlds.story.script import StoryError
from tests.worlds.story.world import address_of

SPANS = {"ms": 0.001, "s": 1.0}
KINDS = {Kind.CONFIGURATION: "members", Kind.NOOP: "no-op", Kind.SESSION: "session"}
WIDE = "x"
ENTRIES_TOLD = 6


def seconds_of(word: str) -> float:
    """Parse `100ms` or `2s` as seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)", word)
    if match is None:
        raise StoryError(f"{word!r} is no time: write 100ms or 2s")
    return float(match[1]) * SPANS[match[2]]


def point_of(word: str) -> tuple[int, int]:
    """Parse `5/2` as index and term."""
    match = re.fullmatch(r"(\d+)/(\d+)", word)
    if match is None:
        raise StoryError(f"{word!r} is no entry: write index/term, as in 5/2")
    return int(match[1]), int(match[2])


# --- commands --------------------------------------------------------------------------------------------------------


def command_of(word: str) -> bytes:
    """Parse a command: `a` sets a to "a", `a=5` to 5, `a:100` to a text of 100 characters, `+a` increments it."""
    if word.startswith("+"):
        return Command("increment", {"key": word[1:]}).encode()
    if match := re.fullmatch(r"(\w+)=(\d+)", word):
        return Command("set", {"key": match[1], "value": int(match[2])}).encode()
    if match := re.fullmatch(r"(\w+):(\d+)", word):
        return Command("set", {"key": match[1], "value": WIDE * int(match[2])}).encode()
    if re.fullmatch(r"\w+", word) is None:
        raise StoryError(f"{word!r} is no command: write a, a=5, a:100 or +a")
    return Command("set", {"key": word, "value": word}).encode()


def told_command(data: bytes) -> str:
    """Return the word of a command."""
    command = Command.decode(data)
    key = command.payload.get("key")
    if command.type == "increment":
        return f"+{key}"
    value = command.payload.get("value")
    if value == key:
        return str(key)
    return f"{key}:{len(value)}" if isinstance(value, str) else f"{key}={value}"


# --- entries ---------------------------------------------------------------------------------------------------------


def told_entry(index: int, record: bytes) -> str:
    """Return an entry as `5/2 word`."""
    kind = kind_of(record)
    what = told_command(data_of(record)) if kind == Kind.COMMAND else KINDS[Kind(kind)]
    return f"{index}/{term_of(record)} {what}"


def told_entries(first: int, records: Sequence[bytes]) -> str:
    """Return entries in order; of many, only the indexes of each term."""
    if len(records) <= ENTRIES_TOLD:
        return ", ".join(told_entry(index, record) for index, record in enumerate(records, first))
    runs = groupby(enumerate(map(term_of, records), first), key=lambda row: row[1])
    spans = [(term, [index for index, _ in rows]) for term, rows in runs]
    return ", ".join(f"{told_range(indexes[0], indexes[-1])}/{term}" for term, indexes in spans)


def entry_of(index: int, term: int, what: str) -> bytes:
    """Return the record of a hand-made entry; `no-op` or a command."""
    if what == KINDS[Kind.NOOP]:
        return encode(index, term, Kind.NOOP, 0)
    return encode(index, term, Kind.COMMAND, 0, data=command_of(what))


def told_range(first: int, last: int) -> str:
    """Return a range of indexes as text."""
    return str(first) if first == last else f"{first}..{last}"


# --- configurations --------------------------------------------------------------------------------------------------


def told_configuration(configuration: Configuration) -> str:
    """Return the sets of a configuration that are not empty, and the addresses of those that moved."""
    sets: dict[str, Collection[str]] = {
        "voters": configuration.incoming_voters,
        "outgoing": configuration.outgoing,
        "learners": configuration.learners,
        "joining": configuration.joining,
    }
    said = [f"{word} {' '.join(sorted(nodes))}" for word, nodes in sets.items() if nodes]
    moved = [f"{node} at {address}" for node, address in configuration.members if address != address_of(node)]
    return ", ".join([*said, *moved]) or "none"


def told_changes(message: ChangeMembers) -> str:
    """Return the changes of a request, each with its member, and the address of a member that moves."""
    changes = [
        f"{action} {node}" + (f" {to}" if action == Action.UPDATE else "") for action, node, to in message.changes
    ]
    return ", ".join(changes) + (" (forced)" if message.force else "")


# --- messages --------------------------------------------------------------------------------------------------------


def granted(message: Any) -> str:
    """Return the end of a vote reply's text."""
    return "granted" if message.granted else "refused"


def told_append(message: AppendEntries) -> str:
    """Return a leader's entries, or its heartbeat, as text."""
    parts = [f"term {message.term} prev {message.prev_index}/{message.prev_term}"]
    if message.records:
        parts.append("entries " + told_entries(message.prev_index + 1, message.records))
    parts.append(f"commit {message.commit}")
    if message.round:
        parts.append(f"round {message.round}")
    return " ".join(parts)


def told_append_reply(message: AppendReply) -> str:
    """Return a follower's reply as text."""
    end = f" round {message.round}" if message.round else ""
    if message.success:
        return f"term {message.term} ok {message.index}{end}"
    return f"term {message.term} refused, hint {message.index}/{message.entry_term}{end}"


def told_chunk(message: InstallSnapshot) -> str:
    """Return a chunk of a snapshot as text; without its size, which is no part of a story."""
    where = "first" if message.offset == 0 else "further"
    end = " and last" if message.offset + len(message.data) == message.size else ""
    return f"term {message.term} snapshot {message.index}/{message.entry_term} {where}{end} chunk"


def told_outcomes(message: Results | ReadResults, words: dict[int, str]) -> str:
    """Return the outcomes of commands or queries, which the client knows by these words."""
    nothing = NOTHING[type(message)]
    said = [f"{words.get(number, number)} {code or told_value(data, nothing)}" for number, code, data in message.items]
    return f"{type(message).__name__} " + ", ".join(said)


def told_value(payload: bytes, nothing: str) -> str:
    """Return a result as text."""
    value = msgpack.unpackb(payload) if payload else None
    return nothing if value is None else str(value)


def told_round(message: RequestReadIndex | ReadIndexReply) -> str:
    """Return the term and the read round of a follower, whose number has the boot in its upper half."""
    return f"term {message.term} round {message.number % (1 << 32)}"


NOTHING: dict[type, str] = {Results: "ok", ReadResults: "nothing"}
"""The text of an answer without a value."""
TOLD: dict[type, Any] = {
    Hello: lambda m: f"boot {m.boot}",
    HelloReply: lambda m: f"boot {m.boot}" + (f" {m.reason}" if m.reason else ""),
    RequestPreVote: lambda m: f"term {m.term} round {m.round} last {m.last_index}/{m.last_term}",
    PreVoteReply: lambda m: f"term {m.term} round {m.round} {granted(m)}",
    RequestVote: lambda m: f"term {m.term} last {m.last_index}/{m.last_term}" + (" handover" if m.transfer else ""),
    VoteReply: lambda m: f"term {m.term} {granted(m)}",
    AppendEntries: told_append,
    AppendReply: told_append_reply,
    InstallSnapshot: told_chunk,
    SnapshotReply: lambda m: f"term {m.term} snapshot {m.index} " + ("done" if m.done else "more"),
    RequestReadIndex: lambda m: f"term {m.term} round {m.number % (1 << 32)}" + (" lease" if m.lease else ""),
    ReadIndexReply: lambda m: (
        f"term {m.term} round {m.number % (1 << 32)} " + (f"index {m.index}" if m.index else "no")
    ),
    CheckPeer: lambda m: "",
    CheckPeerReply: lambda m: "",
    OpenSession: lambda m: "",
    SessionOpened: lambda m: f"session {m.session}",
    Submit: lambda m: " ".join(told_command(data) for _, data in m.commands),
    Read: lambda m: m.consistency,
    ChangeMembers: told_changes,
    MembersPlanned: lambda m: f"entry {m.index}",
    TransferLeadership: lambda m: f"to {m.target or 'any'}",
    TransferStarted: lambda m: f"to {m.target} term {m.term}",
    TimeoutNow: lambda m: f"term {m.term}",
    Refused: lambda m: m.code + (f", {m.leader} leads" if m.leader else ""),
}
"""The function that writes each message, after its name."""


def told(message: Any) -> str:
    """Return a message in a line."""
    return f"{type(message).__name__} {TOLD[type(message)](message)}".rstrip()
