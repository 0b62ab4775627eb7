"""Log pages: entries of a running node's log, for whoever asks what is in it."""

from __future__ import annotations

from typing import Final

from forge_consensus.actors.messages import LogPage, ReadLog
from forge_consensus.storage.backends.sealed import CRC_BYTES
from forge_consensus.storage.ledger.ledger import Ledger
from forge_consensus.storage.ledger.record import Kind, head_bytes, kind_of

ENTRIES_MAX: Final = 500
"""The greatest number of entries in one page."""
READ_BYTES_MAX: Final = 1 << 20
"""So many bytes of the log are read for a page, whatever is sent of them; a single entry may be larger."""
PAGE_BYTES_MAX: Final = 1 << 20
"""So many bytes of entries are sent in a page, or one entry of which about so many are sent."""
COMMAND_BYTES_MIN: Final = 1024
"""So much of a command is always sent: its type is in that."""


def log_page(asked: ReadLog, ledger: Ledger) -> LogPage:
    """The requested page of the log; it is bounded in entries and bytes, and may have fewer than are asked for.

    Raises `CorruptionError` if an entry of it is damaged.
    """
    log, limit = ledger.log, min(asked.limit, ENTRIES_MAX)
    begin = asked.first or log.last - limit + 1
    begin = max(begin, log.base_index + 1)
    records = log.read(begin, begin + limit - 1, READ_BYTES_MAX) if limit else []
    rows: list[tuple[int, int, bytes]] = []
    left, data_bytes = PAGE_BYTES_MAX, min(max(asked.data_bytes, COMMAND_BYTES_MIN), PAGE_BYTES_MAX)
    for index, record in enumerate(records, begin):
        data = part_of(record, data_bytes)
        if rows and len(data) > left:
            break
        left -= len(data)
        rows.append((index, len(record), data))
    identity = ledger.identity
    return LogPage(
        node=identity.node_id,
        cluster=identity.cluster_id,
        first=log.base_index + 1,
        last=log.last,
        commit=ledger.commit_index,
        applied=ledger.applied,
        rows=tuple(rows),
    )


def part_of(record: bytes, data_bytes: int) -> bytes:
    """The head of a record and so much of what it carries; all of it if it is no command, because those are short."""
    whole = record[:-CRC_BYTES]
    return whole[: head_bytes(record) + data_bytes] if kind_of(record) == Kind.COMMAND else whole
