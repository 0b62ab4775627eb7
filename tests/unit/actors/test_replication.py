"""Replication, on one node alone: a follower's acceptance, a leader's commit rule and reads."""

from __future__ import annotations

from typing import Any

import pytest

from forge_consensus.actors.messages import (
    AppendEntries,
    AppendReply,
    GetStatus,
    OpenSession,
    Read,
    ReadResults,
    Refused,
    Results,
    SessionOpened,
    Status,
    Submit,
    VoteReply,
)
from forge_consensus.actors.notices import ReadIndex
from forge_consensus.actors.replication import ReplicationActor
from forge_consensus.actors.runtime.address import SenderAddress
from forge_consensus.errors import CorruptionError
from forge_consensus.events.types import ApplySlow, LogTruncated
from forge_consensus.storage.ledger.record import Kind, encode, key_of, term_of
from forge_consensus.storage.ledger.tips import Tip
from forge_consensus.storage.machines.machine import Command, Entry
from tests.unit.actors.test_election import lead, stand
from tests.worlds.one_node import OneNode


def noop(index: int, term: int) -> bytes:
    return encode(index, term, Kind.NOOP, 0)


def put(index: int, term: int, key: str, value: str) -> bytes:
    data = Command("set", {"key": key, "value": value}).encode()
    return encode(index, term, Kind.COMMAND, 0, data=data)


def follow(node: OneNode, term: int, *records: bytes, commit: int = 1) -> None:
    """Have the node take entries behind the first from the leader n2."""
    node.request("n2", "replication", AppendEntries(term, 1, 0, commit, 0, records))


# --- following -------------------------------------------------------------------------------------------------------


def test_an_acknowledgement_leaves_after_the_entries_are_on_disk() -> None:
    node = OneNode()
    follow(node, 1, noop(2, 1), noop(3, 1))
    assert node.last(AppendReply) == AppendReply(1, True, 3, 0, 0)
    kinds = [to if to == "disk" else type(message).__name__ for to, message in node.sent]
    assert kinds.index("disk") < kinds.index("AppendReply")
    assert node.tables.clone_durable().count("log") == 3


def test_a_redelivered_older_append_truncates_nothing() -> None:
    node = OneNode()
    follow(node, 1, noop(2, 1), noop(3, 1), noop(4, 1), commit=4)
    follow(node, 1, noop(2, 1))
    assert node.ledger.log.last == 4
    assert node.last(AppendReply) == AppendReply(1, True, 2, 0, 0)


def test_a_follower_commits_only_entries_that_the_message_verified() -> None:
    node = OneNode()
    follow(node, 1, noop(2, 1), noop(3, 1))
    node.request("n3", "replication", AppendEntries(2, 1, 0, 3, 0, ()))
    assert node.ledger.commit_index == 1


def test_entries_of_another_term_replace_ours_from_the_first_difference_on() -> None:
    node = OneNode()
    follow(node, 1, noop(2, 1), noop(3, 1), noop(4, 1))
    node.request("n3", "replication", AppendEntries(2, 2, 1, 1, 0, (noop(3, 2),)))
    assert node.ledger.log.last == 3
    assert term_of(node.ledger.log.get(3)) == 2
    assert (node.told(LogTruncated)[0].from_index, node.told(LogTruncated)[0].removed) == (3, 2)


def test_a_mismatch_is_answered_with_a_hint_of_one_term() -> None:
    node = OneNode()
    follow(node, 1, *[noop(index, 1) for index in range(2, 50)])
    node.request("n3", "replication", AppendEntries(4, 60, 3, 1, 0, ()))
    assert node.last(AppendReply) == AppendReply(4, False, 49, 1, 0)
    node.request("n3", "replication", AppendEntries(4, 40, 3, 1, 0, ()))
    assert node.last(AppendReply) == AppendReply(4, False, 40, 1, 0)


def test_a_follower_does_not_append_a_damaged_record() -> None:
    node = OneNode()
    damaged = bytearray(put(2, 1, "k", "v"))
    damaged[-1] ^= 1
    follow(node, 1, bytes(damaged))
    assert node.ledger.log.last == 1
    assert node.last(AppendReply) == AppendReply(1, False, 0, 0, 0, refusal="damaged")
    assert node.engine.refusals.counts["CONSENSUS_PROTOCOL"] == 1


def test_what_a_successor_commits_is_not_held_against_those_who_followed_before() -> None:
    node = OneNode(5)
    lead(node)
    term, last = node.ledger.term, node.ledger.log.last
    node.request("", "gateway", OpenSession(60_000))
    node.answer("n2", "replication", AppendReply(term, True, last + 1, 0, 0))  # nobody else has the entry
    assert node.ledger.commit_index == last
    others = tuple(noop(index, term + 1) for index in range(last + 1, last + 6))
    node.request("n3", "replication", AppendEntries(term + 1, last, term, last + 5, 0, others))
    assert node.ledger.commit_index == last + 5
    known = node.ledger.identity.tips.members["n2"]
    assert (known.verified_term, known.verified) == (term, last + 1)
    assert known.committed <= last
    assert not node.ledger.identity.tips.went_back("n2", Tip(term + 1, term + 1, last + 1)), "it took only the first"


def test_an_append_of_a_former_term_has_no_effect_and_is_answered_with_the_current_term() -> None:
    node = OneNode()
    follow(node, 5, noop(2, 5))
    node.request("n3", "replication", AppendEntries(4, 1, 0, 1, 0, (noop(2, 4),)))
    assert node.last(AppendReply) == AppendReply(5, False, 0, 0, 0)
    assert term_of(node.ledger.log.get(2)) == 5


def test_applying_waits_until_the_entry_is_on_disk_and_costs_no_flush() -> None:
    node = OneNode()
    follow(node, 1, put(2, 1, "k", "v"), commit=2)
    assert node.ledger.applied == 2
    flushes = node.tables.commits
    follow(node, 1, put(2, 1, "k", "v"), commit=2)
    assert node.tables.commits == flushes


# --- leading ---------------------------------------------------------------------------------------------------------


def test_an_entry_of_an_earlier_term_commits_only_with_one_of_the_current_term() -> None:
    """Figure 8 of the paper: a majority alone is not enough."""
    node = OneNode()
    follow(node, 1, put(2, 1, "k", "v"))
    node.wait(3.0)
    stand(node)
    node.answer("n3", "election", VoteReply(node.ledger.term, True))
    term = node.ledger.leading_term
    assert term is not None
    node.answer("n3", "replication", AppendReply(term, True, 2, 0, 0))
    assert node.ledger.commit_index == 1
    node.answer("n3", "replication", AppendReply(term, True, 3, 0, 0))
    assert node.ledger.commit_index == 3


def test_a_stale_acknowledgement_does_not_commit() -> None:
    node = OneNode()
    lead(node)
    open_session(node)
    before = node.ledger.commit_index
    submit(node, 1)
    stale = AppendReply(node.ledger.term - 1, True, node.ledger.log.last, 0, 0)
    node.answer("n2", "replication", stale)
    assert node.ledger.commit_index == before


def test_an_acknowledgement_of_an_earlier_boot_does_not_commit() -> None:
    node = OneNode()
    lead(node)
    open_session(node)
    submit(node, 1)
    before = node.ledger.commit_index
    reply = AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0)
    node.answer("n2", "replication", reply, boot=0)
    node.answer("n2", "replication", reply, incarnation="another folder")
    node.answer("n2", "replication", reply, to_boot=7)
    assert node.ledger.commit_index == before


def test_a_leader_counts_itself_only_when_its_entries_are_on_disk() -> None:
    """The turn that appends sends the entries early, and the next one counts them."""
    node = OneNode()
    lead(node)
    session = open_session(node)
    data = Command("set", {"key": "k", "value": "v"}).encode()
    index = node.ledger.log.last + 1
    node.engine.turn([(node.frame("", "gateway", Submit(session, 1, ((1, data),))), "->client")], [])
    assert node.ledger.log.last == index
    assert node.engine.shared.match["n1"] == index - 1
    node.engine.turn([], [])
    assert node.engine.shared.match["n1"] == index


def open_session(node: OneNode) -> int:
    node.request("", "gateway", OpenSession(60_000))
    reply = AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0)
    node.answer("n2", "replication", reply)
    session = node.last(SessionOpened).session
    assert session == node.ledger.log.last
    return int(session)


def submit(node: OneNode, seq: int, session: int = 5) -> None:
    data = Command("increment", {"key": "n"}).encode()
    node.request("", "gateway", Submit(session, 1, ((seq, data),)))


def test_a_leader_sends_each_follower_at_most_one_batch_before_the_commit() -> None:
    node = OneNode()
    lead(node)
    open_session(node)
    node.sent.clear()
    submit(node, 1)
    kinds = [to if to == "disk" else type(message).__name__ for to, message in node.sent]
    assert kinds[:3] == ["AppendEntries", "AppendEntries", "disk"]


def test_the_turn_that_wins_an_election_sends_nothing_early() -> None:
    node = OneNode()
    stand(node)
    node.sent.clear()
    node.answer("n2", "election", VoteReply(node.ledger.term, True))
    kinds = [to if to == "disk" else type(message).__name__ for to, message in node.sent]
    assert kinds.index("disk") < kinds.index("AppendEntries")


def test_a_silent_follower_gets_empty_probes_only() -> None:
    """What a stopped process does not take lies in our memory."""
    node = OneNode()
    lead(node)
    open_session(node)
    for seq in range(1, 4):
        submit(node, seq)
        node.answer("n2", "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))
    node.wait(0.5)
    node.sent.clear()
    for _ in range(10):
        node.wait(0.1)
        node.answer("n2", "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))
    silent = [message for to, message in node.messages(AppendEntries) if to == "n3"]
    assert len(silent) >= 9
    assert sum(len(message.records) for message in silent) <= 4


def test_a_refused_append_never_goes_back_below_the_match_index() -> None:
    node = OneNode()
    lead(node)
    open_session(node)
    node.sent.clear()
    node.answer("n3", "replication", AppendReply(node.ledger.term, False, 1, 0, 0))
    sent = node.last(AppendEntries)
    assert (sent.prev_index, sent.prev_term, len(sent.records)) == (2, 1, 1)


# --- reads -----------------------------------------------------------------------------------------------------------

QUERY = ((1, b"\xa1n"),)


def test_a_linearizable_read_waits_for_a_round_that_began_after_it() -> None:
    node = OneNode()
    lead(node)
    node.request("", "gateway", Read("linearizable", QUERY))
    assert not node.messages(ReadResults)
    asked = node.last(AppendEntries)
    node.answer("n2", "replication", AppendReply(node.ledger.term, True, 2, 0, asked.round - 1))
    assert not node.messages(ReadResults)
    node.answer("n2", "replication", AppendReply(node.ledger.term, True, 2, 0, asked.round))
    assert node.last(ReadResults).items == ((1, "", b"\xc0"),)


def test_a_read_of_a_new_leader_waits_for_its_no_op() -> None:
    node = OneNode()
    stand(node)
    node.answer("n2", "election", VoteReply(node.ledger.term, True))
    node.request("", "gateway", Read("linearizable", QUERY))
    asked = node.last(AppendEntries)
    node.answer("n3", "replication", AppendReply(node.ledger.term, False, 0, 0, asked.round))
    assert not node.messages(ReadResults)
    node.answer("n2", "replication", AppendReply(node.ledger.term, True, 2, 0, asked.round))
    assert node.messages(ReadResults)


def test_a_lease_read_is_answered_at_once_only_while_the_lease_holds() -> None:
    node = OneNode(lease_reads=True)
    node.wait(1.0)
    lead(node)
    node.request("", "gateway", Read("lease", QUERY))
    assert node.messages(ReadResults)
    node.sent.clear()
    node.clock.seconds += 0.75
    node.request("", "gateway", Read("lease", QUERY))
    assert not node.messages(ReadResults)


@pytest.mark.parametrize("embedded", [False, True])
def test_a_lease_is_judged_by_a_clock_that_is_read_after_the_request_was_taken(embedded: bool) -> None:
    """Time passes between the begin of the turn, when other clocks stand still, and the request of a client."""
    node = OneNode(lease_reads=True)
    node.wait(1.0)
    lead(node)
    engine, replication = node.engine, node.engine.cells.actor("replication")
    assert isinstance(replication, ReplicationActor)
    ask = replication.receiveMsg_ReadIndex

    def late(message: ReadIndex, sender: Any) -> None:
        node.clock.seconds += 0.75  # the turn is slow before it comes to this request
        ask(message, sender)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ReplicationActor.handlers, ReadIndex, lambda actor, message, sender: late(message, sender))
        if embedded:
            sender = SenderAddress("", "gateway", "->client", 1, 0, engine.outbox)
            engine.next_turn(engine.actor("gateway"), Read("lease", QUERY), sender)
            engine.turn([], [])
        else:
            node.request("", "gateway", Read("lease", QUERY))
    assert not node.messages(ReadResults)


@pytest.mark.parametrize("embedded", [False, True])
def test_a_request_that_waited_for_its_turn_is_not_answered_under_a_lease_that_has_ended(embedded: bool) -> None:
    """Requests of this process come before the answers of peers in a turn, all others after them."""
    node = OneNode(lease_reads=True)
    node.wait(1.0)
    lead(node)
    engine = node.engine
    frames: list[tuple[bytes, Any]] = [
        (node.frame("n2", "replication", AppendReply(node.ledger.term, True, 2, 0, 0)), None)
    ]
    if embedded:
        sender = SenderAddress("", "gateway", "->client", 1, 0, engine.outbox)
        engine.next_turn(engine.actor("gateway"), Read("lease", QUERY), sender)
    else:
        frames.append((node.frame("", "gateway", Read("lease", QUERY)), "->client"))
    node.clock.seconds += 0.75
    engine.turn(frames, [])
    assert not node.messages(ReadResults)


def test_a_leader_reads_the_answers_of_a_turn_before_it_judges_its_followers() -> None:
    node = OneNode()
    lead(node)
    node.wait(0.2)
    node.clock.seconds += 5.0
    node.answer("n2", "replication", AppendReply(node.ledger.term, True, 2, 0, 0))
    assert node.engine.shared.role == "leader"


def test_without_leases_in_the_configuration_a_lease_read_asks_a_majority() -> None:
    node = OneNode()
    lead(node)
    node.request("", "gateway", Read("lease", QUERY))
    assert not node.messages(ReadResults)


def test_a_leader_that_loses_its_term_answers_waiting_requests() -> None:
    node = OneNode()
    lead(node)
    open_session(node)
    submit(node, 1)
    node.request("", "gateway", Read("linearizable", QUERY))
    node.request("n2", "replication", AppendEntries(9, 1, 0, 1, 0, ()))
    refused = [(message.code, message.leader) for _, message in node.messages(Refused)]
    assert refused == [("CONSENSUS_OUTCOME_UNKNOWN", "n2"), ("CONSENSUS_NOT_LEADER", "n2")]


# --- the time of a turn ----------------------------------------------------------------------------------------------


class Sleeper:
    """A machine whose command {s} takes that many seconds of the node's clock."""

    node: OneNode
    total = 0

    def apply(self, entry: Entry) -> Any:
        self.node.clock.seconds += entry.command.payload["s"]
        self.total += 1
        return self.total

    def query(self, query: Any) -> Any:
        return self.total

    def snapshot(self) -> list[bytes]:
        return [b"%d" % self.total]

    def restore(self, chunks: Any) -> None:
        self.total = int(b"".join(chunks))


def sleeper() -> tuple[OneNode, int]:
    node = OneNode(1, machine=Sleeper)
    node.ledger.applier.machine.node = node  # type: ignore[attr-defined]
    node.request("", "gateway", OpenSession(60_000))
    return node, node.last(SessionOpened).session


def test_a_turn_applies_for_a_quarter_of_a_heartbeat_and_the_next_turns_do_the_rest() -> None:
    node, session = sleeper()
    commands = tuple((seq, Command("nap", {"s": 0.01}).encode()) for seq in range(1, 101))
    before = node.engine.totals.turns
    node.request("", "gateway", Submit(session, 1, commands))
    answers = [message for _, message in node.messages(Results)]
    assert [len(answer.items) for answer in answers] == [3] * 33 + [1]
    assert node.engine.totals.turns - before >= 34
    assert not [event for event in node.events if isinstance(event, ApplySlow)]


def test_a_command_that_takes_longer_than_a_heartbeat_is_told_by_name_once_a_second() -> None:
    node, session = sleeper()
    times = [0.09, 0.3, 0.3, 0.3, 0.3, 0.3]
    commands = tuple((seq, Command(f"nap{seq}", {"s": s}).encode()) for seq, s in enumerate(times, 1))
    node.request("", "gateway", Submit(session, 1, commands))
    told = [event for event in node.events if isinstance(event, ApplySlow)]
    assert [(event.command, event.count, event.untold) for event in told] == [("nap2", 1, 0), ("nap6", 1, 3)]
    assert told[0].index == node.ledger.log.last - 4
    assert told[0].duration == pytest.approx(0.3)
    node.request("", "gateway", GetStatus())
    assert node.last(Status).fields["slow_applies_total"] == 5


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_follower_says_why_it_takes_no_entries_and_takes_a_no_op_all_the_same() -> None:
    node = OneNode()
    node.tables.disk_free_bytes = node.ledger.settings.reserve_bytes
    follow(node, 1, put(2, 1, "k", "v"))
    assert node.last(AppendReply) == AppendReply(1, False, 0, 0, 0, refusal="full")
    follow(node, 1, noop(2, 1))
    assert node.last(AppendReply) == AppendReply(1, True, 2, 0, 0, refusal="full")
    node.request("n2", "replication", AppendEntries(1, 2, 1, 2, 0, ()))
    assert node.last(AppendReply).refusal == "full"
    node.tables.disk_free_bytes *= 2
    node.request("n2", "replication", AppendEntries(1, 2, 1, 2, 0, ()))
    assert node.last(AppendReply) == AppendReply(1, True, 2, 0, 0)


def test_a_leader_reads_entries_from_disk_again_if_a_follower_found_one_damaged() -> None:
    """A bit may have flipped in this node's memory; without that it would send the damaged record for ever."""
    node = OneNode()
    lead(node)
    open_session(node)
    submit(node, 1)
    log = node.ledger.log
    whole = log.get(log.last)
    log.tail[-1] = bytes([*whole[:-1], whole[-1] ^ 1])
    node.answer("n3", "replication", AppendReply(node.ledger.term, False, 0, 0, 0, refusal="damaged"))
    assert log.get(log.last) == whole
    node.sent.clear()
    for _ in range(3):
        node.wait(node.settings.heartbeat_interval)
        node.answer("n2", "replication", AppendReply(node.ledger.term, True, log.last, 0, 0))
    sent = [m.records for to, m in node.messages(AppendEntries) if to == "n3" and m.records]
    assert sent[0][-1] == whole


def test_a_record_that_is_damaged_on_disk_too_ends_the_leader() -> None:
    node = OneNode()
    lead(node)
    log = node.ledger.log
    key = key_of(log.last)
    whole = node.tables.tables["log"].values[key]
    node.tables.tables["log"].values[key] = log.tail[-1] = bytes([*whole[:-1], whole[-1] ^ 1])
    with pytest.raises(CorruptionError, match="fails its checksum"):
        for _ in range(4):
            node.answer("n3", "replication", AppendReply(node.ledger.term, False, 0, 0, 0, refusal="damaged"))
            node.wait(0.3)
