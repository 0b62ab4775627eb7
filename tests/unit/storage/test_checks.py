"""The checks: each test breaks one, and no wrong frame leaves the node and no wrong entry enters its log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from forge_consensus.actors.messages import AppendEntries, AppendReply, RequestVote, VoteReply
from forge_consensus.errors import (
    LogInconsistentError,
    ProtocolError,
    StorageError,
    UnsupportedVersionError,
    is_fatal,
)
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.ledger.checks import check_records, check_vote, same_entry
from forge_consensus.storage.ledger.configuration import VERSION
from forge_consensus.storage.ledger.ledger import Ledger
from forge_consensus.storage.ledger.record import Kind
from tests.unit.actors.test_replication import follow, noop, put
from tests.worlds.ledger_world import CONFIGURATION, entry
from tests.worlds.one_node import OneNode

Break = Callable[[Ledger], None]


def replying(node: OneNode) -> list[Any]:
    """The votes and acknowledgements that left."""
    return [message for _, message in node.sent if isinstance(message, AppendReply | VoteReply)]


def forget_to_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that says that it committed, and did not."""
    monkeypatch.setattr(Ledger, "commit", lambda self: False)


def test_another_entry_of_the_same_index_and_term_stops_the_node() -> None:
    node = OneNode()
    follow(node, 1, put(2, 1, "k", "one"))
    node.sent.clear()
    with pytest.raises(LogInconsistentError, match=r"I3 .*two entries 2 of term 1"):
        follow(node, 1, put(2, 1, "k", "two"))
    assert not replying(node)


def test_an_entry_that_is_sent_again_damaged_is_only_refused() -> None:
    record = put(2, 1, "k", "one")
    assert same_entry(2, record, record)
    assert not same_entry(2, record, put(2, 2, "k", "one"))
    with pytest.raises(ProtocolError, match="damaged"):
        same_entry(2, record, record[:-1] + bytes([record[-1] ^ 1]))


def test_an_entry_of_a_lower_term_than_the_state_is_not_applied() -> None:
    node = OneNode()
    follow(node, 3, put(2, 3, "k", "one"), commit=2)
    node.ledger.applier.term = 5
    before = node.ledger.applied
    with pytest.raises(LogInconsistentError, match=r"I5 .*entry 3 of term 3 follows one of 5"):
        node.request("n2", "replication", AppendEntries(3, 2, 3, 3, 0, (put(3, 3, "k", "two"),)))
        node.turn()
    assert node.ledger.applied == before


@pytest.mark.parametrize("field", ["on_disk", "index"])
def test_a_state_ahead_of_the_commit_index_stops_the_node(field: str) -> None:
    node = OneNode()
    follow(node, 1, put(2, 1, "k", "v"), commit=2)
    setattr(node.ledger.applier, field, 3)
    node.sent.clear()
    with pytest.raises(LogInconsistentError, match=r"I8 .*applied .*commit 2, last 2"):
        node.request("n2", "replication", AppendEntries(1, 2, 1, 2, 0, ()))
    assert not replying(node)


def test_a_log_cut_behind_the_state_on_disk_stops_the_node() -> None:
    node = OneNode()
    follow(node, 1, put(2, 1, "k", "v"), commit=2)
    node.ledger.log.base_index = 2
    with pytest.raises(LogInconsistentError, match=r"I8 .*base 2, applied on disk 0"):
        node.turn()


def test_a_decreasing_commit_index_stops_the_node() -> None:
    node = OneNode()
    follow(node, 1, put(2, 1, "k", "v"), put(3, 1, "k", "v"), commit=2)
    node.ledger.begin(0.0)
    node.ledger.commit_before = 3
    with pytest.raises(LogInconsistentError, match=r"I9 .*from 3 to 2 in term 1"):
        node.ledger.check_turn()


@pytest.mark.parametrize(
    ("before", "after", "number"),
    [
        ((4, "n2"), (4, "n3"), "I10"),
        ((4, "n2"), (4, ""), "I10"),
        ((4, "n2"), (3, "n2"), "I9"),
        ((4, ""), (3, "n1"), "I9"),
    ],
)
def test_a_vote_or_term_that_goes_back_is_not_written(
    before: tuple[int, str], after: tuple[int, str], number: str
) -> None:
    node = OneNode()
    node.request("n2", "election", RequestVote(before[0], 1, 0))
    ledger = node.ledger
    ledger.begin(0.0)
    ledger.hard_on_disk = (*before, 1, 1)
    ledger.term, ledger.vote = after
    commits = ledger.commits
    with pytest.raises(LogInconsistentError, match=f"{number} .*term {before[0]} with vote '{before[1]}' would become"):
        ledger.commit()
    assert ledger.commits == commits


def test_a_vote_may_be_given_once_and_a_term_may_rise() -> None:
    for before, after in (((4, ""), (4, "n2")), ((4, "n2"), (4, "n2")), ((4, "n2"), (5, "")), ((4, "n2"), (9, "n3"))):
        check_vote((*before, 1, 1), (*after, 1, 1))


def test_a_vote_that_is_not_on_disk_does_not_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    node = OneNode()
    node.sent.clear()
    forget_to_commit(monkeypatch)
    with pytest.raises(LogInconsistentError, match=r"I10 .*term 1 with vote 'n2' is not on disk, 0 with '' is"):
        node.request("n2", "election", RequestVote(1, 1, 0))
    assert not replying(node)


def test_an_acknowledgement_of_entries_not_on_disk_does_not_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    node = OneNode()
    follow(node, 1, noop(2, 1))
    node.sent.clear()
    forget_to_commit(monkeypatch)
    with pytest.raises(LogInconsistentError, match=r"I11 .*the log ends at 3, on disk at 2, in term 1"):
        node.request("n2", "replication", AppendEntries(1, 2, 1, 1, 0, (noop(3, 1),)))
    assert not replying(node)


def test_a_storage_error_stops_all_frames_and_all_later_turns() -> None:
    node = OneNode()
    node.sent.clear()

    def fail(batch: Batch) -> None:
        raise StorageError("the flush failed")

    node.tables.before_commit = fail
    with pytest.raises(StorageError):
        node.request("n2", "election", RequestVote(1, 1, 0))
    node.tables.before_commit = None  # a repeated flush could lie
    with pytest.raises(StorageError):
        node.request("n3", "election", RequestVote(2, 1, 0))
    assert not replying(node)


def test_a_broken_invariant_ends_the_process_with_a_code_that_is_not_0() -> None:
    error = LogInconsistentError("any")
    assert is_fatal(error)
    assert error.exit_code == 70


# --- what a leader sent ----------------------------------------------------------------------------------------------


def test_checking_accepts_good_records_and_finds_configurations() -> None:
    configuration = entry(6, 3, CONFIGURATION.encode(), Kind.CONFIGURATION)
    assert check_records(4, 2, 5, [entry(5, 2), configuration, entry(7, 4)]) == [6]
    assert check_records(4, 2, 5, []) == []


@pytest.mark.parametrize(
    ("what", "records"),
    [
        ("a damaged one", [entry(5, 2), entry(6, 2)[:-1] + b"?"]),
        ("one of another place", [entry(5, 2), entry(7, 2)]),
        ("an empty one", [b""]),
        ("one of a term above the leader's", [entry(5, 5)]),
        ("one of a term below its predecessor's", [entry(5, 1)]),
        ("terms that fall", [entry(5, 3), entry(6, 2)]),
        ("a configuration that is none", [entry(5, 2, b"\xc1", Kind.CONFIGURATION)]),
    ],
)
def test_checking_refuses_bad_records(what: str, records: list[bytes]) -> None:
    with pytest.raises(ProtocolError, match=r"entry [56] of an append"):
        check_records(4, 2, 5, records)


def test_a_configuration_of_a_later_version_is_refused_by_its_version() -> None:
    later = entry(5, 2, msgpack.packb([9, [["n1", "a:1"]], False]), Kind.CONFIGURATION)
    with pytest.raises(UnsupportedVersionError, match=rf"version 9.*reads versions up to {VERSION}"):
        check_records(4, 2, 5, [later])
