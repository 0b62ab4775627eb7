"""Pages of the log as a client reads them while the node runs."""

from __future__ import annotations

import pytest

from forge_consensus.actors.messages import (
    LogPage,
    OpenSession,
    ReadLog,
    Refused,
    SessionOpened,
    Submit,
)
from forge_consensus.actors.raft import log_pages
from forge_consensus.storage.backends.sealed import CRC_BYTES
from forge_consensus.storage.ledger.log import TABLE
from forge_consensus.storage.ledger.record import key_of, parse
from forge_consensus.storage.machines.machine import Command
from tests.worlds.one_node import OneNode


def leader(*sizes: int) -> OneNode:
    """A cluster of one whose log ends with commands that carry so many bytes."""
    node = OneNode(1)
    node.request("", "gateway", OpenSession(60_000))
    session = node.last(SessionOpened).session
    for seq, size in enumerate(sizes, 1):
        command = Command("set", {"key": "k", "value": "x" * size}).encode()
        node.request("", "gateway", Submit(session, 1, ((seq, command),)))
    return node


def page_of(node: OneNode, first: int, limit: int = 100, data_bytes: int = 0) -> LogPage:
    """Ask for a page."""
    node.request("", "gateway", ReadLog(first, limit, data_bytes))
    page = node.last(LogPage)
    assert isinstance(page, LogPage)
    return page


def test_a_client_reads_the_log_of_a_running_node() -> None:
    node = leader(10, 20)
    page, ledger = page_of(node, 0), node.ledger
    assert (page.node, page.cluster) == (ledger.identity.node_id, ledger.identity.cluster_id)
    assert (page.first, page.last, page.commit, page.applied) == (
        1,
        ledger.log.last,
        ledger.commit_index,
        ledger.applied,
    )
    assert [index for index, *_ in page.rows] == list(range(1, ledger.log.last + 1))
    for index, size, data in page.rows:
        stored = ledger.log.get(index)
        assert (len(stored), stored[:-CRC_BYTES]) == (size, data)
    record = parse(page.last, page.rows[-1][2] + bytes(CRC_BYTES))
    assert Command.decode(record.data).payload["value"] == "x" * 20


def test_a_page_begins_where_it_is_asked_and_ends_at_the_limit() -> None:
    node = leader(1, 1, 1, 1)
    last = node.ledger.log.last
    assert [index for index, *_ in page_of(node, 2, 2).rows] == [2, 3]
    assert [index for index, *_ in page_of(node, 0, 2).rows] == [last - 1, last]
    assert page_of(node, last + 1).rows == ()
    assert page_of(node, (1 << 62)).rows == ()
    assert page_of(node, 1, 0).rows == ()


def test_what_is_sent_and_what_is_read_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    node = leader(5_000, 5_000, 200_000, 10)
    first = node.ledger.log.last - 3
    cut = page_of(node, first, data_bytes=0).rows
    assert [len(data) < 1_200 for _, _, data in cut] == [True] * 4
    assert [size > 5_000 for _, size, _ in cut] == [True, True, True, False]
    monkeypatch.setattr(log_pages, "PAGE_BYTES_MAX", 6_000)
    assert len(page_of(node, first, data_bytes=1 << 40).rows) == 1, "the next one would be too much"
    assert len(page_of(node, first + 2, data_bytes=1 << 40).rows[0][2]) < 6_200, "one is always sent, cut"
    monkeypatch.setattr(log_pages, "PAGE_BYTES_MAX", 1 << 20)
    monkeypatch.setattr(log_pages, "READ_BYTES_MAX", 11_000)
    assert len(page_of(node, first).rows) == 2
    monkeypatch.setattr(log_pages, "ENTRIES_MAX", 1)
    assert len(page_of(node, first).rows) == 1


def test_what_was_compacted_away_is_passed_over() -> None:
    node = leader(1, 1, 1)
    log = node.ledger.log
    log.rebase(2, log.term_at(2) or 0)
    page = log_pages.log_page(ReadLog(1, 1, 0), node.ledger)
    assert (page.first, [index for index, *_ in page.rows]) == (3, [3])


def test_a_damaged_entry_is_told_and_ends_no_node() -> None:
    node = leader(100)
    index = node.ledger.log.last
    node.ledger.log.forget_tail()
    rows = node.tables.tables[TABLE].values
    rows[key_of(index)] = b"?" * len(rows[key_of(index)])
    node.request("", "gateway", ReadLog(index, 1, 0))
    refused = node.last(Refused)
    assert f"log entry {index} fails its checksum" in refused.text
    assert page_of(node, 1, 1).rows
