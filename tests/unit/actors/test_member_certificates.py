"""Members that must prove by certificates that their keys are theirs: which frames reach the actors, and until when."""

from __future__ import annotations

from typing import Any

import pytest

from forge_consensus.actors.messages import (
    AppendEntries,
    AppendReply,
    CheckPeer,
    CheckPeerReply,
    GetMembers,
    Hello,
    HelloReply,
    Members,
    RequestVote,
    VoteReply,
)
from forge_consensus.actors.runtime import member_certificates
from forge_consensus.actors.runtime.access_control import AccessControl
from forge_consensus.actors.runtime.gate import KEY
from forge_consensus.actors.runtime.member_certificates import MADE_MAX, NODE_CHARS_MAX, MemberCertificates
from forge_consensus.actors.runtime.permits import NOT_CERTIFIED, Permits
from forge_consensus.errors import AuthenticationFailedError
from forge_consensus.events.types import NodeRefused
from forge_consensus.security.access import AccessList, Principal
from forge_consensus.security.certificates import issue, make_authority
from forge_consensus.security.claims import LASTS_MS, Claim
from forge_consensus.security.curve import KeyPair
from forge_consensus.security.statements import Signer, Verifier
from tests.worlds.one_node import OneNode

AUTHORITY, OTHERS = make_authority("tests"), make_authority("others")
SKEW_MS = 60_000
NAMES = ("n1", "n2", "n3")
KEYS = {name: KeyPair.made().public for name in (*NAMES, "admin")}
WALL_MS = 1_900_000_000_000
"""Long after the certificates of these tests begin: the node's clock is set to it."""


def signer_of(name: str, by: Any = AUTHORITY) -> Signer:
    made = issue(by, "demo", name, days=3650 - 1)
    return Signer(made.certificate, made.key)


SIGNERS = {name: signer_of(name) for name in NAMES}
VERIFIER = Verifier(AUTHORITY.certificate)


class Certified:
    """Node n1 of three, whose members prove their keys."""

    def __init__(self, verifier: Verifier | None = VERIFIER) -> None:
        self.node = OneNode(3, greet=False)
        self.certificates = MemberCertificates(SIGNERS["n1"], verifier, KEYS["n1"], SKEW_MS)
        members = [Principal(name, frozenset({"peer"}), keys=(KEYS[name],)) for name in NAMES]
        admin = Principal("admin", frozenset({"admin"}), keys=(KEYS["admin"],))
        engine = self.node.engine
        engine.access = AccessControl(KeyPair.made(), AccessList([*members, admin]), self.certificates)
        engine.gate.permits = Permits(engine.access, keyed=True)
        engine.serve_certificates()
        self.node.clock.error_ms = WALL_MS - self.node.clock.wall_ms()
        self.node.sent.clear()

    @property
    def now_ms(self) -> int:
        return self.node.clock.wall_ms()

    def later(self, milliseconds: int) -> None:
        """Set the wall clock on; nothing else happens."""
        self.node.clock.error_ms += milliseconds

    def statement(self, name: str = "n2", signer: Signer | None = None, to: str = "n1") -> bytes:
        return (signer or SIGNERS[name]).state(Claim("demo", name, to, KEYS[name]), self.now_ms)

    def request(self, message: Any, to: str, name: str = "n2", connection: str = "a", key: str = "") -> list[Any]:
        """What a member is answered, over a connection of its own."""
        self.node.sent.clear()
        self.node.turn((self.node.frame(name, to, message), connection, KEYS[key or name]))
        return [answer for place, answer in self.node.sent if place == connection]

    def check(self, statement: bytes = b"", **more: Any) -> bool:
        """Whether a check of a member is answered, which may carry a statement."""
        return [type(answer) for answer in self.request(CheckPeer(1, statement), "health", **more)] == [CheckPeerReply]

    def hello(self, statement: bytes = b"") -> Hello:
        node = self.node
        return Hello(
            "folder-n2", 1, node.peers["n2"], node.configuration.digest, node.configuration.text, statement=statement
        )

    def greeted(self) -> Certified:
        """The same, once n2 has greeted with its statement."""
        (reply,) = self.request(self.hello(self.statement()), "membership")
        assert (reply.reason, self.check()) == ("", True)
        return self

    def refusals(self) -> int:
        return self.node.engine.refusals.counts[NOT_CERTIFIED]


# --- what is let in --------------------------------------------------------------------------------------------------


def test_nothing_of_a_member_counts_before_its_statement() -> None:
    """Neither a check, nor entries, nor a vote request, nor a greeting; the key is the right one all the same."""
    certified = Certified()
    node = certified.node
    term = node.ledger.term
    for message, to in (
        (CheckPeer(7), "health"),
        (RequestVote(term + 1, 0, 0, transfer=True), "election"),
        (AppendEntries(term + 1, 0, 0, 0, 1, ()), "replication"),
    ):
        assert certified.request(message, to) == []
    assert node.ledger.term == term
    (reply,) = certified.request(certified.hello(), "membership")
    assert (type(reply), reply.reason) == (HelloReply, KEY)
    assert "has not shown" in reply.detail
    assert node.ledger.identity.boots.get("n2") is None, "no actor saw it"
    assert certified.refusals() == 4
    assert [(event.peer, event.reason) for event in node.told(NodeRefused)] == [("n2", KEY)]


def test_a_greeting_with_a_statement_opens_its_connection() -> None:
    certified = Certified().greeted()
    term = certified.node.ledger.term
    (answer,) = certified.request(AppendEntries(term + 1, 0, 0, 0, 1, ()), "replication")
    assert isinstance(answer, AppendReply)
    assert certified.refusals() == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda made: made.statement(signer=signer_of("n2", OTHERS)),
        lambda made: made.statement(signer=SIGNERS["n3"]),
        lambda made: made.statement(to="n3"),
        lambda made: made.statement("n3"),
        lambda made: b"nothing",
    ],
    ids=["other authority", "certificate of another", "for another receiver", "of another member", "no statement"],
)
def test_a_statement_that_does_not_count_opens_nothing(spoil: Any) -> None:
    certified = Certified()
    (reply,) = certified.request(certified.hello(spoil(certified)), "membership")
    assert reply.reason == KEY
    assert not certified.check()
    assert certified.node.ledger.identity.boots.get("n2") is None


def test_the_thief_of_a_key_does_not_pass_for_a_member_that_is_connected() -> None:
    """Neither on a connection of his own, nor with the id of one that belongs to another key."""
    certified = Certified().greeted()
    assert not certified.check(connection="b")
    assert not certified.check(connection="b", statement=b"made up")
    certified.certificates.bind("c", certified.certificates.bound["a"])
    assert not certified.check(connection="c", name="n3")
    assert certified.check()


def test_a_bad_statement_takes_nothing_from_a_good_one() -> None:
    certified = Certified().greeted()
    assert not certified.check(certified.statement(signer=signer_of("n2", OTHERS)))
    assert certified.check()


def test_clients_are_asked_for_no_certificate() -> None:
    """They are what their keys say."""
    certified = Certified()
    node = certified.node
    node.turn((node.frame("", "gateway", GetMembers()), "client", KEYS["admin"]))
    assert [type(answer) for place, answer in node.sent if place == "client"] == [Members]


# --- answers on links ------------------------------------------------------------------------------------------------


def reply_of(certified: Certified, name: str, statement: bytes) -> None:
    """Let a member answer the greeting on the link to it."""
    node = certified.node
    message = HelloReply(f"folder-{name}", 1, "", "", statement=statement)
    node.turn((node.frame(name, "membership", message), None, KEYS[name]))


def test_a_peer_is_sent_nothing_but_greetings_before_its_statement() -> None:
    certified = Certified()
    node = certified.node
    node.turn(notices=[node.engine.peers.link("n2", True)])
    reply_of(certified, "n2", b"")
    assert not node.engine.peers.is_greeted("n2")
    node.wait(3.0)
    assert {type(message) for to, message in node.sent if to == "n2"} == {Hello}
    reply_of(certified, "n2", certified.statement())
    assert node.engine.peers.is_greeted("n2")


def test_on_a_link_that_is_made_again_a_statement_is_asked_for_again() -> None:
    certified = Certified()
    node = certified.node
    node.turn(notices=[node.engine.peers.link("n2", True)])
    reply_of(certified, "n2", certified.statement())
    for stands in (False, True):
        node.turn(notices=[node.engine.peers.link("n2", stands)])
        vote = VoteReply(node.ledger.term, granted=True)
        before = certified.refusals()
        node.turn((node.frame("n2", "election", vote), None, KEYS["n2"]))
        assert certified.refusals() == before + 1
    reply_of(certified, "n2", certified.statement())
    assert node.engine.peers.is_greeted("n2")


# --- what is stated --------------------------------------------------------------------------------------------------


def test_greetings_checks_and_their_answers_carry_a_statement_for_their_receiver() -> None:
    certified = Certified().greeted()
    node = certified.node
    node.turn(notices=[node.engine.peers.link("n2", True)])
    reply_of(certified, "n2", certified.statement())
    certified.check()
    certified.request(certified.hello(), "membership")
    node.wait(1.0)
    found = {type(frame.message): frame for frame in node.frames if hasattr(frame.message, "statement")}
    assert set(found) == {Hello, HelloReply, CheckPeer, CheckPeerReply}
    claim = Claim("demo", "n1", "n2", KEYS["n1"])
    for frame in found.values():
        assert VERIFIER.check(frame.message.statement, claim, certified.now_ms, 0)  # type: ignore[union-attr]


def test_a_statement_is_made_anew_when_half_of_it_is_over_and_when_the_clock_went_back() -> None:
    certified = Certified()
    first = certified.certificates.statement("n2")
    certified.later(LASTS_MS // 2 - 1)
    assert certified.certificates.statement("n2") == first
    certified.later(1)
    second = certified.certificates.statement("n2")
    certified.later(-1)
    third = certified.certificates.statement("n2")
    assert len({first, second, third}) == 3


def test_names_that_somebody_made_up_cost_no_memory() -> None:
    certificates = Certified().certificates
    for number in range(3 * MADE_MAX):
        assert certificates.statement(f"x{number}")
    assert len(certificates.made) <= MADE_MAX
    assert certificates.statement("x" * (NODE_CHARS_MAX + 1)) == b""


def test_connections_cost_a_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_certificates, "BOUND_MAX", 3)
    certified = Certified().greeted()
    for number in range(5):
        assert certified.check(certified.statement(), connection=f"c{number}")
    assert list(certified.certificates.bound) == ["c2", "c3", "c4"]


# --- how it ends -----------------------------------------------------------------------------------------------------


def test_what_is_not_stated_again_ends_with_the_margin_and_its_connections_with_it() -> None:
    certified = Certified().greeted()
    certified.later(LASTS_MS + SKEW_MS)
    assert certified.check()
    assert certified.certificates.ended() == set()
    certified.later(1)
    assert not certified.check()
    assert certified.certificates.ended() == {KEYS["n2"]}
    assert certified.certificates.ended() == set(), "it is told once"
    assert certified.check(certified.statement()), "and it may come back"


def test_checks_keep_a_connection_for_as_long_as_the_certificate_lasts() -> None:
    certified = Certified().greeted()
    for _ in range(10):
        certified.later(LASTS_MS // 2)
        assert certified.check(certified.statement())
        assert certified.certificates.ended() == set()
    left = SIGNERS["n2"].ends_ms - certified.now_ms
    certified.later(left - 1000)
    assert certified.check(certified.statement())
    certified.later(1000 + SKEW_MS)
    assert certified.check()
    certified.later(1)
    assert not certified.check(certified.statement())
    assert certified.certificates.ended() == {KEYS["n2"]}


def test_a_connection_that_is_gone_ends_none_that_goes_on() -> None:
    """What was stated on it runs out, while the same key is stated anew on another one."""
    certified = Certified().greeted()
    certified.later(LASTS_MS // 2)
    assert certified.check(certified.statement(), connection="b")
    certified.later(LASTS_MS // 2 + SKEW_MS + 1)
    assert not certified.check()
    assert certified.certificates.ended() == set()
    assert certified.check(connection="b")


# --- other files -----------------------------------------------------------------------------------------------------


def test_a_renewed_certificate_is_stated_at_once_and_taken_without_a_lost_frame() -> None:
    certified = Certified().greeted()
    renewed = signer_of("n1")
    before = certified.certificates.statement("n2")
    certified.certificates.take(renewed, VERIFIER)
    after = certified.certificates.statement("n2")
    claim = Claim("demo", "n1", "n2", KEYS["n1"])
    assert before != after
    assert VERIFIER.check(after, claim, certified.now_ms, 0)
    assert certified.check(), "what n2 stated before still counts"
    assert certified.check(certified.statement(signer=signer_of("n2"))), "so does its own renewed one"
    assert certified.certificates.ended() == set()


def test_who_is_vouched_for_by_an_authority_that_is_trusted_no_more_is_out_at_once() -> None:
    certified = Certified().greeted()
    certified.certificates.take(SIGNERS["n1"], Verifier(OTHERS.certificate))
    assert not certified.check()
    assert certified.certificates.ended() == {KEYS["n2"]}
    assert certified.check(certified.statement(signer=signer_of("n2", OTHERS)))


def test_with_both_authorities_members_change_from_one_to_the_other() -> None:
    certified = Certified().greeted()
    both = Verifier(AUTHORITY.certificate + OTHERS.certificate)
    certified.certificates.take(SIGNERS["n1"], both)
    assert certified.check()
    assert certified.check(certified.statement(signer=signer_of("n2", OTHERS)))


def test_where_nobody_checks_statements_are_made_all_the_same() -> None:
    """So members get their certificates one after the other."""
    certified = Certified(verifier=None)
    (reply,) = certified.request(certified.hello(), "membership")
    assert reply.reason == ""
    assert certified.check()
    assert VERIFIER.check(reply.statement, Claim("demo", "n1", "n2", KEYS["n1"]), certified.now_ms, 0)
    certified.certificates.take(SIGNERS["n1"], None)
    assert certified.check()


def test_without_certificates_nothing_is_stated() -> None:
    node = OneNode(3)
    assert node.engine.outbox.certificates is None
    node.request("n2", "health", CheckPeer(1))
    node.wait(1.0)
    assert {getattr(frame.message, "statement", b"") for frame in node.frames} == {b""}


def test_the_clock_of_these_tests_is_within_their_certificates() -> None:
    """Otherwise they would show nothing."""
    with pytest.raises(AuthenticationFailedError):
        VERIFIER.check(
            SIGNERS["n2"].state(Claim("demo", "n2", "n1", KEYS["n2"]), 0), Claim("demo", "n2", "n1", KEYS["n2"]), 0, 0
        )
    assert SIGNERS["n2"].ends_ms > WALL_MS + 20 * LASTS_MS
