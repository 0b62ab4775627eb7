"""The audit of one node: each act once, with who asked and what came of it, and never of a turn that was taken back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest
import zmq
from zmq.utils import z85

from forge_consensus.actors.messages import (
    AppendEntries,
    AppendReply,
    ChangeMembers,
    CheckPeer,
    CheckPeerReply,
    MakeSnapshot,
    OpenSession,
    Read,
    ReadLog,
    ReadSnapshot,
    Refused,
    ReloadConfig,
    RequestVote,
    Results,
    SessionOpened,
    Submit,
    TransferLeadership,
)
from forge_consensus.actors.runtime.audit import AUDITED, SUBJECTS, Who
from forge_consensus.actors.runtime.audit_folding import KINDS_MAX, PAUSE_SECONDS
from forge_consensus.actors.transport.zap import EVENTS, NODE, ZapHandler
from forge_consensus.errors import NotLeaderError, OperationFailedError, OutcomeUnknownError
from forge_consensus.events.types import AuditRecorded
from forge_consensus.security.access import AccessList, Token
from forge_consensus.security.permissions import ACTS
from forge_consensus.storage.machines.machine import Command
from tests.unit.actors.test_election import lead
from tests.unit.actors.test_permits import DENIED, KEYS, Guarded, command
from tests.unit.actors.test_replication import noop
from tests.worlds.one_node import OneNode

TOKEN: dict[str, Any] = {"name": "shop", "id": "i" * 12, "sha256": "5ec" * 21 + "7", "ends_ms": 0}
ADD_TOKEN = Command("@access", {"do": "add_token", "roles": ["read"], **TOKEN}).encode()
CHANGE = ChangeMembers((("no-leader", "n3", ""),), force=True)


class Audited(Guarded):
    """A guarded node whose audit knows the same people, and whose clients come from an address."""

    def __init__(self, size: int = 1) -> None:
        super().__init__(size)
        self.audit = self.node.engine.audit
        self.audit.access = self.control
        self.audit.origin_of = lambda connection: f"10.0.0.{len(str(connection))}"

    def told(self) -> list[AuditRecorded]:
        """What was recorded since the last call, after a turn more, because denials are told with the next one."""
        self.node.turn()
        found = self.node.told(AuditRecorded)
        self.node.events.clear()
        return found

    def one(self) -> AuditRecorded:
        (found,) = self.told()
        return found


def brief(record: AuditRecorded) -> tuple[str, ...]:
    return record.who, record.identity, record.action, record.subject, record.outcome, record.code


def test_the_table_of_permissions_names_what_the_node_describes() -> None:
    assert {kind.__name__ for kind in SUBJECTS} == ACTS
    assert AUDITED - SUBJECTS.keys() == {Submit}


# --- acts ------------------------------------------------------------------------------------------------------------


def test_a_change_of_the_list_of_access_is_recorded_when_it_is_applied_without_what_proves_a_token() -> None:
    audited = Audited()
    session = audited.session()
    audited.told()
    audited.ask("admin", Submit(session, 1, ((1, ADD_TOKEN),)))
    record = audited.one()
    assert brief(record) == ("admin", "client", "@access.add_token", f"shop {'i' * 12} roles read", "done", "")
    assert (record.role, record.origin, record.via) == ("admin", "10.0.0.7", "")
    assert TOKEN["sha256"] not in repr(record)
    audited.ask("admin", Submit(session, 1, ((2, Command("@access", {"do": "remove", "name": "nobody"}).encode()),)))
    assert brief(audited.one())[2:] == ("@access.remove", "nobody", "failed", "CONSENSUS_COMMAND_FAILED")
    audited.ask("admin", Submit(session, 1, ((3, command("set", key="@access", value=1)),)))
    assert audited.told() == [], "an ordinary command is none"


@pytest.mark.parametrize(
    "head", [b"\x92\xd9\x07@access", b"\xdc\x00\x02\xa7@access", b"\xdd\0\0\0\x02\xda\0\x07@access"]
)
def test_nobody_hides_a_command_by_writing_its_type_in_another_way(head: bytes) -> None:
    audited = Audited()
    session = audited.session()
    payload = msgpack.packb({"do": "add_token", "roles": ["read"], **TOKEN})
    commands = ((1, b"\x92"), (2, head + payload), (3, command("set", key="k", value=1)))
    audited.ask("admin", Submit(session, 1, commands))
    assert [record.action for record in audited.told()] == ["@access.add_token"]


def test_a_command_that_is_sent_again_is_recorded_once() -> None:
    audited = Audited()
    session = audited.session()
    submit = Submit(session, 1, ((1, ADD_TOKEN),))
    audited.ask("admin", submit)
    audited.ask("admin", submit)
    assert [record.outcome for record in audited.told()] == ["done"]
    assert not audited.audit.commands


REMOVE_NOBODY = Command("@access", {"do": "remove", "name": "nobody"}).encode()


def test_no_command_hides_behind_another_with_its_number() -> None:
    """Neither one of another session, nor one in the same or the next frame, of which the ledger applies the first."""
    audited = Audited(3)
    with unguarded(audited):
        lead(audited.node)
    acknowledge(audited)
    sessions = []
    for _ in range(2):
        audited.ask("admin", OpenSession(60_000))
        acknowledge(audited)
        (opened,) = [answer for _, answer in audited.node.sent if isinstance(answer, SessionOpened)][-1:]
        sessions.append(opened.session)
    audited.told()
    audited.ask("admin", Submit(sessions[0], 1, ((1, ADD_TOKEN), (1, REMOVE_NOBODY))))
    audited.ask("admin", Submit(sessions[0], 1, ((1, ADD_TOKEN),)))
    audited.ask("admin", Submit(sessions[1], 1, ((1, REMOVE_NOBODY),)))
    acknowledge(audited)
    told = [(record.action, record.outcome) for record in audited.told()]
    assert told.count(("@access.add_token", "done")) == 1
    assert ("@access.remove", "failed") in told, "the one of the other session"


def test_a_copy_that_is_refused_does_not_end_the_command_that_waits() -> None:
    audited = leading()
    audited.ask("admin", OpenSession(60_000))
    acknowledge(audited)
    (opened,) = [answer for _, answer in audited.node.sent if isinstance(answer, SessionOpened)][-1:]
    audited.ask("admin", Submit(opened.session, 1, ((1, ADD_TOKEN),)))
    shared, shared.blocked = audited.node.engine.shared, "planted"
    audited.ask("admin", Submit(opened.session, 1, ((1, ADD_TOKEN),)))
    shared.blocked = ""
    assert audited.told() == []
    acknowledge(audited)
    assert brief(audited.one())[2:5:2] == ("@access.add_token", "done")


def test_copies_on_two_connections_are_recorded_once() -> None:
    audited = leading()
    audited.audit.origin_of = lambda connection: "10.0.0.1"
    audited.ask("admin", OpenSession(60_000))
    acknowledge(audited)
    (opened,) = [answer for _, answer in audited.node.sent if isinstance(answer, SessionOpened)][-1:]
    for connection in ("->one", "->two"):
        frame = audited.node.frame("", "gateway", Submit(opened.session, 1, ((1, ADD_TOKEN),)))
        audited.node.turn((frame, connection, KEYS["admin"]))
    acknowledge(audited)
    assert [record.outcome for record in audited.told()] == ["done"]


def test_a_change_that_a_full_session_did_not_take_is_recorded_when_it_is_done() -> None:
    audited = Audited()
    session = audited.session()
    audited.node.ledger.applier.sessions.outcomes_max = 1
    audited.ask("admin", Submit(session, 1, ((1, command("set", key="k", value=1)),)))
    audited.ask("admin", Submit(session, 1, ((2, ADD_TOKEN),)))
    assert brief(audited.one())[4:] == ("failed", "CONSENSUS_BUSY")
    audited.ask("admin", Submit(session, 2, ((2, ADD_TOKEN),)))
    assert brief(audited.one())[4:] == ("done", "")


def test_a_token_in_the_place_of_its_id_is_not_recorded() -> None:
    audited = Audited()
    session = audited.session()
    audited.told()
    text = Token.made()[1]
    changes: list[dict[str, Any]] = [{"do": "revoke_token", "id": text}, {"do": text}, {"do": "put", "roles": [text]}]
    for number, fields in enumerate(changes, 1):
        audited.ask("admin", Submit(session, 1, ((number, Command("@access", fields).encode()),)))
        for record in audited.told():
            assert record.outcome == "failed"
            assert text[-20:] not in repr(record)


def test_for_whom_a_client_speaks_is_recorded_beside_the_client() -> None:
    """It cannot hide itself by that: what its key proves stays there."""
    audited = Audited()
    session = audited.session()
    asked_by = ((2, ("ann\n", "token", "admin", "192.0.2.7")), (1, ("bob", "root", "", "")), (3, ("too", "few")))
    commands = tuple((n, ADD_TOKEN) for n in (1, 2, 3))
    audited.ask("admin", Submit(session, 1, commands, asked_by))
    first, second, third = audited.told()
    assert (first.who, first.identity, first.via) == ("bob", "unknown", "admin at 10.0.0.7")
    assert (second.who, second.identity, second.origin) == ("ann\\n", "token", "192.0.2.7")
    assert (third.who, third.via) == ("admin", "")


def test_a_change_of_members_is_done_when_it_is_committed() -> None:
    audited = leading()
    audited.ask("admin", CHANGE)
    assert audited.told() == []
    acknowledge(audited)
    assert brief(audited.one()) == ("admin", "client", "ChangeMembers", "no-leader n3, by force", "done", "")


def test_a_change_of_members_that_another_leader_took_back_has_failed() -> None:
    audited = leading()
    node = audited.node
    audited.ask("admin", CHANGE)
    index, term = node.ledger.log.last, node.ledger.term
    with unguarded(audited):
        newer = AppendEntries(term + 1, index - 1, term, index - 1, 0, (noop(index, term + 1),))
        node.request("n2", "replication", newer)
    assert node.ledger.log.term_at(index) == term + 1
    assert brief(audited.one())[4:] == ("failed", OperationFailedError.code)


def test_a_handover_is_done_when_the_target_leads() -> None:
    audited = leading()
    node = audited.node
    audited.ask("admin", TransferLeadership("n2"))
    assert audited.told() == []
    with unguarded(audited):
        tip = node.ledger.log.last
        node.request("n2", "replication", AppendEntries(node.ledger.term + 1, tip, node.ledger.term, tip, 0, ()))
    assert brief(audited.one())[2:] == ("TransferLeadership", "n2", "done", "")


def test_a_handover_that_was_given_up_has_failed() -> None:
    audited = leading()
    audited.ask("admin", TransferLeadership("n2"))
    audited.node.wait(audited.node.settings.election_timeout_min * 0.9)
    assert audited.told() == []
    for _ in range(8):
        acknowledge(audited)
        audited.node.wait(audited.node.settings.election_timeout_min / 3)
    assert brief(audited.one())[2:] == ("TransferLeadership", "n2", "failed", OperationFailedError.code)


def leading() -> Audited:
    """Node n1 of three, which leads and has its no-op committed."""
    audited = Audited(3)
    node = audited.node
    with unguarded(audited):
        lead(node)
        for peer in ("n2", "n3"):
            node.answer(peer, "health", CheckPeerReply(node.last(CheckPeer).number))
    acknowledge(audited)
    audited.told()
    return audited


@contextmanager
def unguarded(audited: Audited) -> Iterator[None]:
    """Peers that are let in without keys."""
    gate = audited.node.engine.gate
    permits, gate.permits = gate.permits, None
    yield
    gate.permits = permits


def acknowledge(audited: Audited) -> None:
    """Have n2 take all entries."""
    node = audited.node
    with unguarded(audited):
        node.answer("n2", "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))


def test_what_is_only_planned_and_what_is_asked_of_another_node_is_no_act_here() -> None:
    audited = Audited(3)
    audited.ask("admin", ChangeMembers((("add", "n9", "127.0.0.1:9"),), dry_run=True))
    audited.ask("admin", ReloadConfig(dry_run=True))
    (refused,) = audited.ask("admin", ChangeMembers((("remove", "n3", ""),)))
    assert refused.code in {NotLeaderError.code, "CONSENSUS_NO_LEADER"}
    assert audited.told() == []


def test_a_failure_is_recorded_with_its_code() -> None:
    audited = Audited()
    audited.ask("admin", TransferLeadership("n9"))
    assert brief(audited.one())[2:] == ("TransferLeadership", "n9", "failed", "INVALID_CONFIG")
    audited.ask("admin", ReloadConfig())
    assert brief(audited.one())[2:] == ("ReloadConfig", "", "failed", "INVALID_CONFIG")


def test_a_snapshot_is_recorded_when_it_is_made_and_its_parts_once() -> None:
    audited = Audited()
    audited.session()
    audited.ask("admin", MakeSnapshot(1))
    assert audited.told() == []
    audited.node.wait(0.1)
    audited.node.run_jobs()
    audited.node.wait(0.1)
    assert brief(audited.one())[2:5] == ("MakeSnapshot", "", "done")
    info = audited.node.engine.opened.snapshots.newest
    assert info is not None
    for offset in (100, 0, 200):
        audited.ask("admin", ReadSnapshot(info.index, info.term, offset, 50))
        audited.node.run_jobs()
    assert brief(audited.one())[2:5] == ("ReadSnapshot", f"snapshot of entry {info.index}", "done")
    audited.ask("admin", ReadLog(0, 1, 0))
    audited.ask("admin", ReadLog(0, 1, 0))
    assert [record.action for record in audited.told()] == ["ReadLog"]
    audited.node.wait(120)
    audited.ask("admin", ReadLog(0, 1, 0))
    assert [record.action for record in audited.told()] == ["ReadLog"], "again after a rest"


def test_a_turn_that_is_taken_back_records_nothing_as_done() -> None:
    audited = Audited()
    session = audited.session()
    audited.told()
    node = audited.node
    failing = [True]
    inner = node.engine.audit.hold

    def hold() -> None:
        inner()
        if failing.pop() if failing else False:
            raise RuntimeError("planted")

    node.engine.audit.hold = hold  # type: ignore[method-assign]
    audited.ask("admin", Submit(session, 1, ((1, ADD_TOKEN),)))
    node.wait(30.0)
    assert "done" not in [record.outcome for record in audited.told()]
    assert not failing
    audited.session()
    answers = audited.ask("admin", Submit(session, 1, ((1, ADD_TOKEN),)))
    assert [type(answer) for answer in answers] == [Results]
    assert [record.outcome for record in audited.told()] == ["done"]


def test_what_is_open_when_the_node_ends_is_unknown() -> None:
    audited = leading()
    audited.ask("admin", CHANGE)
    audited.told()
    audited.node.engine.finish()
    (record,) = audited.node.told(AuditRecorded)
    assert (record.outcome, record.code) == ("unknown", OutcomeUnknownError.code)


def test_the_nodes_own_application_and_nobody_in_particular() -> None:
    node = OneNode(1)
    node.request("", "gateway", ReadLog(0, 1, 0))
    (record,) = node.told(AuditRecorded)
    assert (record.who, record.identity) == ("", "anonymous")
    assert node.engine.audit.who(None, "", local=True) == Who("n1", "application", origin="local")


# --- denials ---------------------------------------------------------------------------------------------------------


def test_each_denial_is_recorded_with_who_and_what_was_missing() -> None:
    audited = Audited()
    audited.ask("reader", OpenSession(60_000))
    record = audited.one()
    assert brief(record) == ("reader", "client", "OpenSession", "write: OpenSession", "denied", DENIED)
    audited.ask("stranger", ReadLog(0, 1, 0))
    record = audited.one()
    assert brief(record) == (KEYS["stranger"], "unknown", "ReadLog", "unknown key", "denied", DENIED)
    session = audited.session()
    audited.ask("shop", Submit(session, 1, ((1, command("set", key="prices/1", value=1)),)))
    assert brief(audited.one())[:4] == ("shop", "client", "Submit", "write 'prices/1'")
    audited.ask("shop", Read("linearizable", ((1, b"\xa3any"),), 100))
    assert brief(audited.one())[:4] == ("shop", "client", "Read", "read 'any'")


def test_a_denial_is_told_of_the_key_whatever_name_it_claims() -> None:
    """Else a reader could pass for others in the audit, and push their names out of it."""
    audited = Audited()
    for n in range(KINDS_MAX + 1):
        audited.ask(
            "reader", ChangeMembers((("remove", "n2", ""),), asked_by=(f"ann{n}", "token", "admin", f"10.9.9.{n}"))
        )
    audited.ask("meter", OpenSession(60_000))
    audited.node.wait(PAUSE_SECONDS)
    told = audited.told()
    assert {(record.who, record.identity, record.via) for record in told} == {
        ("reader", "client", ""),
        ("meter", "client", ""),
    }
    assert sum(record.count for record in told) == KINDS_MAX + 2
    assert "for ann100" in [record.subject.split(", ")[-1] for record in told]


def test_a_key_that_speaks_as_another_node_is_recorded() -> None:
    audited = Audited(3)
    frame = audited.node.frame("n2", "election", RequestVote(9, 0, 0))
    audited.node.turn((frame, "->n2", KEYS["n3"]))
    assert brief(audited.one())[:4] == ("n3", "node", "RequestVote", "as node n2: key of another node")


@pytest.mark.parametrize(
    ("name", "domain", "who"),
    [
        ("stranger", NODE, ("", "unknown", "handshake", "unknown key")),
        ("writer", NODE, ("", "unknown", "handshake", "revoked key")),
        ("meter", EVENTS, ("meter", "client", "handshake", "read, for events")),
    ],
)
def test_each_handshake_that_is_refused_is_recorded(name: str, domain: str, who: tuple[str, ...]) -> None:
    audited = Audited()
    access = audited.control
    access.take_file(AccessList(access.current.by_name.values(), {KEYS["writer"]}))
    with zmq.Context() as context:
        zap = ZapHandler(context, access)
        zap.audit = audited.audit
        key = z85.decode(KEYS[name].encode())
        assert zap.judged([b"1.0", b"1", domain.encode(), b"192.0.2.9", b"", b"CURVE", key], 1.0)[2] == b"400"
        zap.socket.close(0)
    record = audited.one()
    assert brief(record) == (who[0] or KEYS[name], *who[1:], "denied", DENIED)
    assert record.origin == "192.0.2.9"


def test_a_flood_of_denials_makes_one_event_and_no_flush() -> None:
    audited = Audited()
    audited.ask("reader", OpenSession(60_000))
    audited.told()
    commits = audited.node.ledger.commits
    for _ in range(500):
        audited.ask("reader", OpenSession(60_000))
    assert audited.told() == []
    assert audited.node.ledger.commits == commits
    assert audited.audit.counts["denied"] == 501
    audited.node.wait(PAUSE_SECONDS)
    assert sum(record.count for record in audited.told()) == 500


@pytest.mark.parametrize("outcome", ["denied", "done"])
def test_what_others_hand_over_is_told_and_counted(outcome: Any) -> None:
    audited = Audited()
    record = AuditRecorded(
        who="ann", identity="token", role="", origin="", via="", action="get", subject="", outcome=outcome
    )
    audited.audit.take(record)
    assert audited.one().who == "ann"
    assert audited.audit.counts[outcome] == 1
    assert [type(each) for each in audited.ask("admin", OpenSession(1))] == [SessionOpened]
    assert not [each for each in audited.node.sent if isinstance(each[1], Refused)]
