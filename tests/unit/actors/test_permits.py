"""The permits at the gate: who may send what, and what reaches the actors of a frame that may not."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from forge_consensus.actors.messages import (
    AppendEntries,
    ChangeMembers,
    CheckPeer,
    CheckPeerReply,
    GetMembers,
    GetStatus,
    Hello,
    HelloReply,
    Locate,
    Located,
    Members,
    OpenSession,
    Read,
    ReadLog,
    ReadResults,
    Refused,
    RequestVote,
    Results,
    SessionOpened,
    Status,
    Submit,
    VoteReply,
)
from forge_consensus.actors.runtime.access_control import AccessControl
from forge_consensus.actors.runtime.gate import KEY
from forge_consensus.actors.runtime.permits import (
    CLIENT_AS_MEMBER,
    KEY_OF_ANOTHER,
    MEMBER_AS_CLIENT,
    NOT_PERMITTED,
    UNKNOWN_KEY,
    Permits,
)
from forge_consensus.errors import AuthenticationFailedError
from forge_consensus.events.types import NodeRefused
from forge_consensus.security.access import AccessList, Principal, Rule
from forge_consensus.security.curve import KeyPair
from forge_consensus.storage.machines.machine import Command
from tests.worlds.one_node import OneNode

DENIED = AuthenticationFailedError.code
NAMES = ("n1", "n2", "n3", "admin", "writer", "reader", "meter", "shop", "looker", "stranger")
KEYS = {name: KeyPair.made().public for name in NAMES}


def principals() -> list[Principal]:
    """Three members, and a client of each kind."""
    members = [Principal(name, frozenset({"peer"}), keys=(KEYS[name],)) for name in ("n1", "n2", "n3")]
    roles: dict[str, Any] = {"admin": "admin", "writer": "write", "reader": "read", "meter": "metrics"}
    clients = [Principal(name, frozenset({role}), keys=(KEYS[name],)) for name, role in roles.items()]
    rules = {"shop": ("write shop/*", "read prices/*"), "looker": ("read prices/*",)}
    ruled = [Principal(name, rules=tuple(map(Rule.of, texts)), keys=(KEYS[name],)) for name, texts in rules.items()]
    return [*members, *clients, *ruled]


class Guarded:
    """A cluster of one, or node n1 of three, whose gate asks who speaks."""

    def __init__(self, size: int = 1, *, keyed: bool = True) -> None:
        self.node = OneNode(size)
        self.control = AccessControl(KeyPair.made(), AccessList(principals()))
        self.node.engine.gate.permits = Permits(self.control, keyed=keyed)
        self.node.sent.clear()

    def ask(self, name: str, message: Any) -> list[Any]:
        """What a client of that name is answered."""
        self.node.sent.clear()
        self.node.turn((self.node.frame("", "gateway", message), f"->{name}", KEYS[name]))
        return [answer for to, answer in self.node.sent if to != "disk"]

    def session(self, name: str = "admin") -> int:
        """A session of that client."""
        (opened,) = [answer for answer in self.ask(name, OpenSession(60_000)) if type(answer) is SessionOpened]
        return opened.session

    def count(self, reason: str) -> int:
        return self.node.engine.refusals.counts[reason]


def command(name: str, **payload: Any) -> bytes:
    return Command(name, payload).encode()


def read(*queries: Any, **more: Any) -> Read:
    return Read("linearizable", tuple((n, msgpack.packb(query)) for n, query in enumerate(queries, 1)), 1000, **more)


def kinds(answers: list[Any]) -> list[type]:
    return [type(answer) for answer in answers]


# --- clients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "allowed"),
    [
        (Locate(0, 0), set(NAMES) - {"stranger"}),
        (GetMembers(), set(NAMES) - {"stranger"}),
        (GetStatus(), {"n1", "n2", "n3", "admin", "writer", "reader", "meter"}),
        (OpenSession(60_000), {"admin", "writer", "shop"}),
        (ReadLog(0, 1, 0), {"admin"}),
        (ChangeMembers((("add", "n9", "127.0.0.1:9"),), dry_run=True), {"admin"}),
        (ChangeMembers((("add", "n3", "127.0.0.1:9"),), dry_run=True), {"admin", "n3"}),
        (ChangeMembers((("promote", "n3", ""),), dry_run=True), {"admin"}),
        (ChangeMembers((("remove", "n3", ""),), force=True, dry_run=True), {"admin"}),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, set) else "",
)
def test_who_may_ask_what(message: Any, allowed: set[str]) -> None:
    """Everybody else gets the one code, and no actor hears of it."""
    guarded = Guarded()
    for name in NAMES:
        answers = guarded.ask(name, message)
        refused = [answer.code for answer in answers if type(answer) is Refused]
        assert (DENIED in refused) == (name not in allowed), (name, answers)
        if name not in allowed:
            assert kinds(answers) == [Refused]


def test_each_kind_of_denial_is_counted_by_a_reason_of_its_own() -> None:
    guarded = Guarded()
    for name, reason in (("stranger", UNKNOWN_KEY), ("n2", MEMBER_AS_CLIENT), ("meter", NOT_PERMITTED)):
        guarded.ask(name, OpenSession(60_000))
        assert guarded.count(reason) == 1


def test_rules_allow_a_part_of_the_keys_and_no_more() -> None:
    """Of one frame only the commands that may not are refused; the others are carried out."""
    guarded = Guarded()
    session = guarded.session("shop")
    commands = (
        (1, command("set", key="shop/1", value=1)),
        (2, command("set", key="prices/1", value=1)),
        (3, command("set", key="shop", value=1)),
        (4, command("batch", ops=[{"type": "set", "key": "shop/2", "value": 2}])),
        (5, command("batch", ops=[{"type": "set", "key": "other", "value": 2}])),
        (6, command("delete_prefix", prefix="")),
        (7, command("get", key="prices/1")),
        (8, command("lease_revoke", lease=1)),
        (9, b"\xc1"),
    )
    refused, results = guarded.ask("shop", Submit(session, 1, commands))
    assert (refused.code, refused.numbers) == (DENIED, (2, 3, 5, 6, 8, 9))
    assert [number for number, *_ in results.items] == [1, 4, 7]
    (answer,) = guarded.ask("admin", read({"scan": "", "limit": 10}))
    assert msgpack.unpackb(answer.items[0][2]) == [["shop/1", 1], ["shop/2", 2]]


def test_a_refused_frame_leaves_nothing_for_any_actor() -> None:
    guarded = Guarded()
    session = guarded.session()
    last = guarded.node.ledger.log.last
    (refused,) = guarded.ask("looker", Submit(session, 1, ((1, command("set", key="shop/1", value=1)),)))
    assert refused.code == DENIED
    assert guarded.node.ledger.log.last == last


def test_rules_allow_to_read_a_part_of_the_keys() -> None:
    guarded = Guarded()
    session = guarded.session()
    guarded.ask("admin", Submit(session, 1, ((1, command("set", key="prices/1", value=7)),)))
    answers = guarded.ask("looker", read("prices/1", "shop/1", {"count": ""}, {"leases": 0}))
    refused, found = answers
    assert (refused.code, refused.numbers) == (DENIED, (2, 3, 4))
    assert [number for number, *_ in found.items] == [1]


def test_a_barrier_and_a_note_of_what_was_read_tell_nothing_and_need_no_key() -> None:
    """Clients send the latter by themselves, so nobody is refused for it."""
    guarded = Guarded()
    (answer,) = guarded.ask("looker", Read("linearizable", ((1, b""),), 1000))
    assert type(answer) is ReadResults
    assert kinds(guarded.ask("meter", Read("stale", ()))) == [ReadResults]


def test_a_rule_is_worth_nothing_on_a_machine_whose_keys_nobody_knows() -> None:
    guarded = Guarded(keyed=False)
    session = guarded.session("writer")
    (refused,) = guarded.ask("shop", Submit(session, 1, ((1, command("set", key="shop/1", value=1)),)))
    assert refused.code == DENIED
    (refused,) = guarded.ask("looker", read("prices/1"))
    assert refused.code == DENIED
    answers = guarded.ask("writer", Submit(session, 1, ((2, command("set", key="shop/1", value=1)),)))
    assert kinds(answers) == [Results]


@pytest.mark.parametrize("header", [b"\x92", b"\xdc\x00\x02", b"\xdd\x00\x00\x00\x02"])
@pytest.mark.parametrize("length", [b"\xa7", b"\xd9\x07", b"\xda\x00\x07", b"\xdb\x00\x00\x00\x07"])
def test_what_is_reserved_needs_an_administrator_however_it_is_written(header: bytes, length: bytes) -> None:
    """Also from a client that may write every key."""
    guarded = Guarded()
    session = guarded.session()
    data = header + length + b"@access" + b"\x80"
    (refused,) = guarded.ask("writer", Submit(session, 1, ((1, data),)))
    assert refused.code == DENIED
    answers = guarded.ask("admin", Submit(session, 1, ((1, data),)))
    assert kinds(answers) == [Results]


def test_a_reserved_query_needs_an_administrator() -> None:
    guarded = Guarded()
    (refused,) = guarded.ask("reader", read({"@access": True}))
    assert refused.code == DENIED
    assert kinds(guarded.ask("admin", read({"@access": True}))) == [ReadResults]
    assert kinds(guarded.ask("reader", read("a key with @access in it"))) == [ReadResults]


def test_a_key_that_is_revoked_is_refused_with_the_next_frame() -> None:
    """Before its connection is ended."""
    guarded = Guarded()
    assert kinds(guarded.ask("reader", Locate(0, 0))) == [Located]
    guarded.control.take_log(AccessList(revoked=[KEYS["reader"]]))
    (refused,) = guarded.ask("reader", Locate(0, 0))
    assert refused.code == DENIED


# --- members ---------------------------------------------------------------------------------------------------------


def vote(node: OneNode) -> RequestVote:
    return RequestVote(node.ledger.term + 1, node.ledger.log.last, node.ledger.log.last_term, transfer=True)


@pytest.mark.parametrize(
    ("key", "reason"),
    [("n3", KEY_OF_ANOTHER), ("admin", CLIENT_AS_MEMBER), ("stranger", UNKNOWN_KEY), ("", UNKNOWN_KEY)],
)
def test_a_frame_that_its_senders_key_does_not_cover_is_none(key: str, reason: str) -> None:
    """The same frames with the right key are answered, so it is the key that counts. An event tells it once."""
    guarded = Guarded(3)
    node = guarded.node
    shown = KEYS.get(key, "")
    term = node.ledger.term
    for message, to in (
        (CheckPeer(7), "health"),
        (vote(node), "election"),
        (AppendEntries(term + 1, 0, 0, 0, 1, ()), "replication"),
    ):
        node.turn((node.frame("n2", to, message), "->n2", shown))
    assert (node.ledger.term, node.sent) == (term, [])
    assert guarded.count(reason) == 3
    assert [(event.peer, event.reason) for event in node.told(NodeRefused)] == [("n2", KEY)]
    node.turn((node.frame("n2", "health", CheckPeer(7)), "->n2", KEYS["n2"]))
    assert kinds([message for _, message in node.sent]) == [CheckPeerReply]


def test_an_answer_counts_only_from_the_node_that_the_link_leads_to() -> None:
    """A vote of n2 on the link to n3 is none; otherwise one member could vote for all."""
    guarded = Guarded(3)
    node = guarded.node
    node.wait(10.0)
    node.turn((node.frame("n2", "election", VoteReply(node.ledger.term, granted=True)), None, KEYS["n3"]))
    assert node.ledger.leading_term is None
    assert guarded.count(KEY_OF_ANOTHER) == 1


def test_a_greeting_with_a_wrong_key_is_answered_with_the_reason() -> None:
    """So the other node's log says what to put right; it is no reason to end."""
    guarded = Guarded(3)
    node = guarded.node
    hello = Hello("folder-n2", 1, node.peers["n2"], node.configuration.digest, node.configuration.text)
    node.turn((node.frame("n2", "membership", hello), "->n2", KEYS["n3"]))
    reply = node.last(HelloReply)
    assert reply.reason == KEY
    assert "n3" in reply.detail
    node.turn((node.frame("n2", "membership", HelloReply("folder-n2", 1, KEY, "wrong")), None, KEYS["n2"]))
    assert not node.engine.stopping


def test_without_access_control_nobody_is_asked() -> None:
    node = OneNode(1)
    assert node.engine.gate.permits is None
    node.request("", "gateway", OpenSession(60_000))
    assert node.last(SessionOpened).session


def test_status_and_members_are_answered_to_those_who_may() -> None:
    guarded = Guarded()
    assert kinds(guarded.ask("meter", GetStatus())) == [Status]
    assert kinds(guarded.ask("n3", GetMembers())) == [Members]
