"""The gateway, on one node alone: packing, at most once, limits, locating, reads."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from forge_consensus.actors import gateway
from forge_consensus.actors.gateway import GatewayActor
from forge_consensus.actors.messages import (
    NEVER_MS,
    AppendEntries,
    AppendReply,
    GetStatus,
    Locate,
    Located,
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
from forge_consensus.actors.notices import SnapshotInstalled
from forge_consensus.actors.raft.answering import Answers
from forge_consensus.actors.raft.waiting import PendingRead
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.events.types import LogAppended
from forge_consensus.storage.ledger.record import Kind, parse
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.kv_batches import BATCH_OPS_MAX
from forge_consensus.storage.machines.machine import Command
from tests.unit.actors.test_election import lead, stand
from tests.worlds.one_node import OneNode

INCREMENT = Command("increment", {"key": "n"}).encode()


def single(**options: int) -> tuple[OneNode, int]:
    """A cluster of one, with a session."""
    node = OneNode(1, options=RaftSettings(**options))
    node.request("", "gateway", OpenSession(60_000))
    return node, node.last(SessionOpened).session


def test_outcomes_of_one_frame_come_back_in_one_frame() -> None:
    node, session = single()
    node.request("", "gateway", Submit(session, 1, tuple((seq, INCREMENT) for seq in range(1, 101))))
    (answer,) = [message for _, message in node.messages(Results)]
    assert [(seq, msgpack.unpackb(payload)) for seq, _, payload in answer.items] == [(n, n) for n in range(1, 101)]


def test_a_repeated_command_is_applied_once_and_answered_twice() -> None:
    node, session = single()
    for _ in range(2):
        node.request("", "gateway", Submit(session, 1, ((1, INCREMENT),)))
    assert [message.items for _, message in node.messages(Results)] == [((1, "", b"\x01"),)] * 2


def test_commands_of_a_pipeline_may_arrive_out_of_order() -> None:
    node, session = single()
    for seq in (1, 3, 2):
        node.request("", "gateway", Submit(session, 1, ((seq, INCREMENT),)))
    assert msgpack.unpackb(node.last(Results).items[0][2]) == 3


def test_an_undecodable_command_fails_alone() -> None:
    node, session = single()
    node.request("", "gateway", Submit(session, 1, ((1, b"\xc1garbage"), (2, INCREMENT))))
    (_, code, _), (_, fine, _) = node.last(Results).items
    assert (code, fine) == ("CONSENSUS_COMMAND_FAILED", "")


def test_commands_outside_a_session_are_refused() -> None:
    node, _ = single()
    last = node.ledger.log.last
    node.request("", "gateway", Submit(0, 1, ((1, INCREMENT),)))
    assert node.last(Refused).code == "CONSENSUS_PROTOCOL"
    assert node.ledger.log.last == last


def test_an_oversized_command_is_refused_and_the_others_of_its_frame_are_not() -> None:
    node, session = single(command_bytes_max=100)
    node.request("", "gateway", Submit(session, 1, ((1, b"x" * 200), (2, INCREMENT))))
    refused = node.last(Refused)
    assert (refused.code, refused.numbers) == ("CONSENSUS_COMMAND_TOO_LARGE", (1,))
    assert [seq for seq, _, _ in node.last(Results).items] == [2]


def test_a_client_with_too_many_outstanding_commands_is_refused_as_busy() -> None:
    node = OneNode(options=RaftSettings(outstanding_max=3))
    lead(node)
    node.request("", "gateway", Submit(5, 1, ((1, INCREMENT), (2, INCREMENT))))
    node.request("", "gateway", Submit(5, 1, ((3, INCREMENT), (4, INCREMENT))))
    assert node.last(Refused).code == "CONSENSUS_BUSY"


def test_uncommitted_entries_are_bounded_and_commands_pass_again_after_a_commit() -> None:
    node = OneNode(limits=StorageSettings(uncommitted_entries_max=3))
    lead(node)
    for seq in range(1, 6):
        node.request("", "gateway", Submit(5, 1, ((seq, INCREMENT),)))
    assert [message.code for _, message in node.messages(Refused)] == ["CONSENSUS_BUSY"] * 2
    node.answer("n2", "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))
    node.sent.clear()
    node.request("", "gateway", Submit(5, 1, ((6, INCREMENT),)))
    assert not node.messages(Refused)


def test_an_unknown_session_is_never_applied() -> None:
    node, _ = single()
    node.request("", "gateway", Submit(999, 1, ((1, INCREMENT),)))
    assert node.last(Results).items[0][1] == "CONSENSUS_SESSION_EXPIRED"
    assert node.ledger.applier.machine.query("n") is None


def test_proposals_stop_before_the_disk_is_full_and_nothing_is_lost() -> None:
    node, session = single()
    node.tables.disk_free_bytes = 1000
    node.request("", "gateway", Submit(session, 1, ((1, INCREMENT),)))
    assert node.last(Refused).code == "CONSENSUS_STORAGE_FULL"
    node.tables.disk_free_bytes = 1 << 40
    node.request("", "gateway", Submit(session, 1, ((1, INCREMENT),)))
    assert node.last(Results).items == ((1, "", b"\x01"),)


def test_a_command_received_in_the_turn_of_the_election_follows_the_no_op() -> None:
    node = OneNode()
    stand(node)
    vote = node.frame("n2", "election", VoteReply(node.ledger.term, True))
    submit = node.frame("", "gateway", Submit(5, 1, ((1, INCREMENT),)))
    node.turn((vote, None), (submit, "->client"))
    kinds = [parse(index, node.ledger.log.get(index)).kind for index in (2, 3)]
    assert kinds == [Kind.NOOP, Kind.COMMAND]
    assert [(event.first_index, event.last_index) for event in node.told(LogAppended)] == [(2, 3)]


def test_only_so_many_clients_wait_for_a_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "LOCATORS_MAX", 3)
    node = OneNode()
    for _ in range(5):
        node.request("", "gateway", Locate(0, 5000))
    assert len(node.messages(Located)) == 2, "those beyond the bound are answered at once"


def test_a_search_for_the_leader_is_answered_once_there_is_one() -> None:
    node = OneNode()
    node.request("", "gateway", Locate(0, 5000))
    assert not node.messages(Located)
    node.request("n2", "replication", AppendEntries(3, 1, 0, 1, 0, ()))
    located = node.last(Located)
    assert (located.leader, located.address, located.term) == ("n2", "127.0.0.1:2", 3)
    assert dict(located.members) == node.peers


def test_a_search_without_a_leader_is_answered_at_its_deadline() -> None:
    node = OneNode()
    node.request("", "gateway", Locate(0, 200))
    node.wait(0.3)
    assert node.last(Located).leader == ""


def test_a_follower_names_the_leader() -> None:
    node = OneNode()
    node.request("n2", "replication", AppendEntries(3, 1, 0, 1, 0, ()))
    node.request("", "gateway", Submit(5, 1, ((1, INCREMENT),)))
    refused = node.last(Refused)
    assert (refused.code, refused.leader, refused.address) == ("CONSENSUS_NOT_LEADER", "n2", "127.0.0.1:2")


def heartbeat(node: OneNode, confirmed: float, *, commit: int = 1, covered: int = 1, **sent: Any) -> None:
    """A heartbeat of the leader n2, which a majority has answered until that second."""
    message = AppendEntries(3, 1, 0, commit, 0, (), covered=covered, confirmed_ns=int(confirmed * 1e9))
    node.request("n2", "replication", message, **sent)


def stale_ms(node: OneNode) -> int:
    node.request("", "gateway", Read("stale", ((1, msgpack.packb("n")),)))
    return int(node.last(ReadResults).stale_ms)


def test_a_stale_read_says_how_old_the_state_is_at_most() -> None:
    node = OneNode()
    assert stale_ms(node) == NEVER_MS
    heartbeat(node, node.clock.seconds - 0.1)
    node.clock.seconds += 0.25
    assert stale_ms(node) == 350


def test_hearing_a_leader_does_not_make_a_state_fresh_that_lacks_what_is_committed() -> None:
    node = OneNode()
    heartbeat(node, node.clock.seconds)
    for _ in range(10):
        node.clock.seconds += 1.0
        heartbeat(node, node.clock.seconds, commit=9, covered=9)
    assert stale_ms(node) == 10_000


def test_a_leader_that_nobody_answers_makes_its_followers_no_fresher() -> None:
    node, cut_at = OneNode(), 100.0
    for _ in range(10):
        node.clock.seconds += 0.1
        heartbeat(node, cut_at)
    assert stale_ms(node) == 1001, "what the clocks may have run apart in a second is allowed for"


def test_a_request_that_was_long_on_its_way_does_not_look_fresh() -> None:
    node = OneNode()
    heartbeat(node, node.clock.seconds)
    sent = node.clock.seconds + 1.0
    node.clock.seconds += 6.0
    heartbeat(node, sent, sent=int(sent * 1e9))
    assert stale_ms(node) == 5006, "what the clocks may have run apart in six seconds is allowed for"


def test_a_leader_says_how_long_no_majority_answered_it() -> None:
    node = OneNode()
    lead(node)
    index = node.ledger.log.last
    for peer in ("n2", "n3"):
        node.answer(peer, "replication", AppendReply(node.ledger.term, True, index, 0, 0))
    node.wait(node.settings.heartbeat_interval)
    answered_ms = stale_ms(node)
    node.clock.seconds += 0.4
    node.engine.turn([], [])
    assert stale_ms(node) == pytest.approx(answered_ms + 400, abs=1)


def test_the_age_of_a_slice_goes_on_while_a_helper_works_at_it() -> None:
    node = OneNode()
    actor = node.engine.cells.actor("gateway")
    assert isinstance(actor, GatewayActor)
    actor.slice_began = node.clock.seconds
    read = PendingRead(actor.myAddress, (), True, 0)
    node.clock.seconds += 0.5
    assert actor.stale_ms_of(Answers(read, [], node.ledger.applied - 1, 6)) == pytest.approx(506, abs=1)


def test_a_cluster_of_one_is_never_stale() -> None:
    node, _ = single()
    node.clock.seconds += 5.0
    assert stale_ms(node) == 0


def test_a_client_answered_by_a_failed_turn_learns_that_the_outcome_is_unknown() -> None:
    node, session = single()
    submit = Submit(session, 1, ((1, INCREMENT),))
    node.engine.turn([(node.frame("", "gateway", submit), "->client")], [])
    node.engine.after(0.0, node.engine.actor("health"), "no message of an actor's")
    applied = node.ledger.applied
    node.turn()
    assert node.ledger.applied > applied
    assert not node.messages(Results)
    assert node.last(Refused).code == "CONSENSUS_OUTCOME_UNKNOWN"
    assert not node.engine.unanswered
    node.wait(2.0)
    node.request("", "gateway", submit)
    assert node.last(Results).items == ((1, "", b"\x01"),)


def test_waiting_commands_are_answered_although_a_snapshot_is_installed() -> None:
    """A leader may have begun to install it before it led; the turn that ends it tells of no entries."""
    node, session = single()
    node.engine.turn([(node.frame("", "gateway", Submit(session, 1, ((1, INCREMENT),))), "->client")], [])
    node.engine.next_turn(node.engine.actor("replication"), SnapshotInstalled(1))
    node.turn()
    assert node.last(Results).items == ((1, "", b"\x01"),)
    assert not node.engine.unanswered


def test_a_failed_query_does_not_affect_the_others() -> None:
    node, _ = single()
    queries = ((1, msgpack.packb({"nonsense": 1})), (2, msgpack.packb("n")), (3, b"\xc1"))
    node.request("", "gateway", Read("linearizable", queries))
    codes = [code for _, code, _ in node.last(ReadResults).items]
    assert codes == ["CONSENSUS_COMMAND_FAILED", "", "CONSENSUS_COMMAND_FAILED"]


def test_an_unknown_consistency_is_refused() -> None:
    node, _ = single()
    node.request("", "gateway", Read("sometimes", ((1, b"\xc0"),)))
    assert node.last(Refused).code == "INVALID_CONFIG"


def test_status_has_every_field_always() -> None:
    node, _ = single()
    follower = OneNode()
    for one in (node, follower):
        one.request("", "gateway", GetStatus())
    assert node.last(Status).fields.keys() == follower.last(Status).fields.keys()


def test_a_batch_that_is_too_large_gets_its_error_without_a_place_in_the_log() -> None:
    node, session = single(command_bytes_max=4 << 20)
    large = Command("batch", {"ops": [{"type": "get", "key": "k"}] * (BATCH_OPS_MAX + 1)}).encode()
    last, failed = node.ledger.log.last, node.engine.totals.commands_failed
    node.request("", "gateway", Submit(session, 1, ((1, large), (2, INCREMENT))))
    first, second = [message.items for _, message in node.messages(Results)]
    assert first[0][:2] == (1, "CONSENSUS_COMMAND_FAILED")
    assert f"at most {BATCH_OPS_MAX} commands" in msgpack.unpackb(first[0][2])[1]
    assert second == ((2, "", b"\x01"),)
    assert node.ledger.log.last == last + 1
    assert node.engine.totals.commands_failed == failed + 1


class Choosy(KeyValueMachine):
    """Admits increments only, and raises what a machine may raise."""

    admit_bytes_min = 0

    @staticmethod
    def admit(command: Command) -> None:
        if command.type == "quit":
            raise SystemExit(3)
        if command.type != "increment":
            raise PermissionError(f"{command.type} is not for you")


def test_a_machine_refuses_commands_before_they_enter_the_log() -> None:
    node = OneNode(1, machine=Choosy)
    node.request("", "gateway", OpenSession(60_000))
    session, last = node.last(SessionOpened).session, node.ledger.log.last
    sent = (Command("set", {"key": "a", "value": 1}).encode(), b"\xc1", Command("quit").encode(), INCREMENT)
    node.request("", "gateway", Submit(session, 1, tuple(enumerate(sent, 1))))
    refused, done = [message.items for _, message in node.messages(Results)]
    assert [msgpack.unpackb(payload)[0] for _, _, payload in refused] == [
        "PermissionError",
        "ProtocolError",
        "SystemExit",
    ]
    assert done == ((4, "", b"\x01"),)
    assert node.ledger.log.last == last + 1
