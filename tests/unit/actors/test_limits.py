"""Limits that agree: each message whose fields are as large as they may be passes the codec."""

from __future__ import annotations

from typing import Any, get_origin, get_type_hints

import pytest

from forge_consensus.actors.codec import NUMBER_MAX, TEXT_MAX, Frame, decode, encode
from forge_consensus.actors.messages import (
    CLIENT_REQUESTS,
    WIRE_TAGS,
    AppendEntries,
    ConfigReport,
    EventPage,
    Hello,
    InstallSnapshot,
    Located,
    Members,
    MembersPlanned,
    Read,
    ReadEvents,
    ReadResults,
    Refused,
    Results,
    Status,
    Submit,
    WireMessage,
)
from forge_consensus.actors.raft.answering import ANSWER_BYTES_MAX
from forge_consensus.actors.raft.journal_pages import KIND_CHARS_MAX, KINDS_MAX, ROWS_MAX
from forge_consensus.actors.runtime.gate import ANSWERS, DESTINATION
from forge_consensus.client.connections import FRAME_BYTES_MAX
from forge_consensus.config.client import ClientSettings
from forge_consensus.config.node import NAME_CHARS_MAX
from forge_consensus.config.raft import RaftSettings
from forge_consensus.errors import InvalidConfigError
from forge_consensus.events.encoding import BODY_BYTES_MAX
from forge_consensus.storage.ledger.configuration import MEMBERS_MAX, Configuration
from forge_consensus.storage.ledger.journal import READ_BYTES_MAX
from forge_consensus.storage.machines.machine import RESULT_BYTES_MAX

RAFT, CLIENT = RaftSettings(), ClientSettings()
NUMBER = NUMBER_MAX - 1
NAME = "\U0001d52b" * NAME_CHARS_MAX  # each takes four bytes
ADDRESS = "h" * 253 + ":65535"
MEMBERS = tuple((f"{number:03}{NAME[3:]}", ADDRESS) for number in range(MEMBERS_MAX))
NAMES = tuple(name for name, _ in MEMBERS)
CONFIGURATION = Configuration(
    MEMBERS,
    incoming=NAMES[1:],
    outgoing=NAMES[:-1],
    learners_next=NAMES[:1],
    folders=tuple((n, "f" * 32) for n in NAMES),
)
COMMAND = bytes(RAFT.command_bytes_max)
SMALL = tuple((NUMBER, bytes(CLIENT.frame_bytes_max // CLIENT.frame_items_max)) for _ in range(CLIENT.frame_items_max))
RECORD_BYTES = 64
RESULTS = (
    *((NUMBER, "CONSENSUS_COMMAND_FAILED", b"") for _ in range(ANSWER_BYTES_MAX // 16 - 1)),
    (NUMBER, "", bytes(RESULT_BYTES_MAX)),
)
ROWS = tuple((NUMBER, bytes(READ_BYTES_MAX // ROWS_MAX)) for _ in range(ROWS_MAX - 1))
LARGE: dict[type[Any], list[dict[str, Any]]] = {
    AppendEntries: [
        {"records": (bytes(RECORD_BYTES),) * (RAFT.append_bytes_max // RECORD_BYTES)},
        {"records": (bytes(RAFT.append_bytes_max - 1), bytes(RAFT.command_bytes_max + RECORD_BYTES))},
    ],
    Hello: [{"configuration": CONFIGURATION.text}],
    Members: [{"configuration": CONFIGURATION.encode(), "initial": CONFIGURATION.encode()}],
    MembersPlanned: [{"configurations": (CONFIGURATION.encode(),) * 3}],
    InstallSnapshot: [{"data": bytes(RAFT.chunk_bytes)}],
    Located: [{"members": MEMBERS}],
    Submit: [{"commands": ((NUMBER, COMMAND),)}, {"commands": SMALL}],
    Read: [{"queries": ((NUMBER, COMMAND),)}, {"queries": SMALL}],
    Results: [{"items": RESULTS}],
    ReadResults: [{"items": RESULTS}],
    Refused: [{"numbers": (NUMBER,) * RAFT.outstanding_max}],
    ReadEvents: [{"kinds": ("k" * KIND_CHARS_MAX,) * KINDS_MAX}],
    EventPage: [{"rows": (*ROWS, (NUMBER, bytes(BODY_BYTES_MAX))), "gaps": ((NUMBER, NUMBER, NAME),) * ROWS_MAX}],
    ConfigReport: [{"fields": {"changed": [{"name": "n" * 60, "old": "o" * 200, "new": "n" * 200}] * 200}}],
    Status: [{"fields": {"nodes": [{"id": name, "address": place, "problem": "p" * 300} for name, place in MEMBERS]}}],
}
"""The fields of messages that have a bound of their own, as large as that allows."""


def largest(annotation: Any) -> Any:
    """A value of a field that has no bound of its own, as large as its type allows."""
    if get_origin(annotation) is tuple:
        return tuple(largest(each) for each in annotation.__args__ if each is not Ellipsis)
    values: dict[Any, Any] = {int: NUMBER, str: "t" * TEXT_MAX, bool: True, bytes: b"b" * 1000}
    return values[annotation]


def messages() -> list[WireMessage]:
    """At least one message of every class."""
    found: list[WireMessage] = []
    for kind in WIRE_TAGS.values():
        hints = get_type_hints(kind)
        for given in LARGE.get(kind, [{}]):
            found.append(kind(**{name: given.get(name) or largest(hint) for name, hint in hints.items()}))
    return found


@pytest.mark.parametrize("message", messages(), ids=lambda message: type(message).__name__)
def test_each_message_at_the_limits_of_its_fields_passes_the_codec(message: WireMessage) -> None:
    kind = type(message)
    frame = Frame(DESTINATION.get(kind, "gateway"), NAME, NAME, "t" * 64, NUMBER, NUMBER, NUMBER, NUMBER, message)
    to_node = isinstance(message, CLIENT_REQUESTS) or kind in ANSWERS or kind in DESTINATION
    limit = RAFT.message_bytes_max if to_node else FRAME_BYTES_MAX
    data = encode(frame)
    assert len(data) <= limit
    assert decode(data, limit) == frame


def test_settings_of_frames_that_do_not_fit_into_one_are_refused() -> None:
    with pytest.raises(InvalidConfigError, match=r"raft\.chunk_bytes"):
        RaftSettings(chunk_bytes=8 << 20)
    with pytest.raises(InvalidConfigError, match=r"raft\.message_bytes_max"):
        RaftSettings(command_bytes_max=8 << 20)
