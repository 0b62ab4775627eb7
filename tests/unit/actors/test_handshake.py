"""The handshake: its messages, the peers that a node accepts, and when a refused node stops."""

from __future__ import annotations

from dataclasses import replace

import pytest

from forge_consensus.actors.raft.handshake import (
    ACCEPTED,
    CONFIGURATION,
    IDENTITY,
    STRANGERS_MAX,
    UNKNOWN,
    Handshake,
    is_fatal,
)
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.tips import Tip
from forge_consensus.storage.machines.naming import MachineName
from tests.worlds.one_node import OneNode

MEMBERS = Configuration.of({"n1": "127.0.0.1:1", "n2": "127.0.0.1:2", "n3": "127.0.0.1:3"})
TIP = Tip(3, 2, 9)
OTHERS = Configuration.of({"n1": "127.0.0.1:1", "n2": "127.0.0.1:2"})


def handshake(initial: Configuration = MEMBERS) -> Handshake:
    return Handshake(OneNode(greet=False).ledger.identity, initial, MachineName("kv"), "127.0.0.1:1")


def test_a_greeting_names_the_boot_and_the_list_of_members() -> None:
    said, identity = handshake().hello("n2", TIP), handshake().identity
    assert (said.incarnation, said.boot, said.address) == (identity.boot_token, identity.boot, "127.0.0.1:1")
    assert (said.configuration_hash, said.configuration) == (MEMBERS.digest, MEMBERS.text)


def test_another_member_with_the_same_list_is_accepted_if_it_is_admitted() -> None:
    ours = handshake()
    assert ours.judge("n2", ours.hello("n2", TIP), MEMBERS, lambda hello: "") == ACCEPTED
    assert ours.judge("n2", ours.hello("n2", TIP), MEMBERS, lambda hello: "wiped") == (IDENTITY, "wiped")
    reply = ours.reply(ACCEPTED, "n2", ours.hello("n2", TIP), TIP)
    assert (reply.reason, reply.boot, reply.tip) == ("", ours.identity.boot, TIP)


def test_another_list_of_members_is_refused_and_both_lists_are_shown() -> None:
    ours = handshake()
    hello = replace(ours.hello("n2", TIP), configuration_hash=OTHERS.digest, configuration=OTHERS.text)

    def admit(_: object) -> str:
        raise AssertionError("whoever is refused must not be noted")

    reason, detail = ours.judge("n2", hello, MEMBERS, admit)
    assert reason == CONFIGURATION
    assert MEMBERS.text in detail
    assert OTHERS.text in detail
    assert "the same list and machine" in detail  # both are in the digest, and the lists may well be equal
    itself = ours.judge("n1", ours.hello("n2", TIP), MEMBERS, admit)
    assert itself.reason == UNKNOWN
    assert "leads back to the node itself" in itself.detail
    assert not is_fatal(itself.reason, "", joined=False), "a wrong address ends nobody"
    twin = replace(ours.hello("n2", TIP), incarnation="another.draw")
    assert ours.judge("n1", twin, MEMBERS, admit).reason == IDENTITY, "another node with this one's id"


def test_nodes_that_are_no_members_are_admitted_and_the_oldest_forgotten_beyond_a_number() -> None:
    """A member whose log lags behind must hear those that were added since (dissertation 4.2.2)."""
    ours = handshake()
    for number in range(STRANGERS_MAX):
        assert ours.judge(f"s{number}", ours.hello("n2", TIP), MEMBERS, lambda _: "") == ACCEPTED
        assert ours.too_many(f"s{number}", MEMBERS, ()) == []
        ours.identity.boots[f"s{number}"] = ("token", 1)
    assert ours.too_many("s99", MEMBERS, ()) == ["s0"]
    assert ours.too_many("s99", MEMBERS, {"s0"}) == [], "one to which it connects is no stranger"
    assert ours.too_many("s3", MEMBERS, ()) == ours.too_many("n2", MEMBERS, ()) == []


def test_a_node_with_the_id_of_a_member_and_another_folder_is_refused_and_not_ended() -> None:
    ours = handshake()
    bound = replace(MEMBERS, folders=(("n2", "folder2"),))
    for members, joins, incarnation, accepted in (
        (bound, True, "folder2.draw", True),
        (bound, False, "folder2.draw", True),
        (bound, True, "other.draw", False),
        (bound, False, "other.draw", False),
        (MEMBERS, False, "other.draw", True),
        (MEMBERS, True, "other.draw", False),
    ):
        hello = replace(ours.hello("n2", TIP), incarnation=incarnation, joins=joins)
        found = ours.another_folder("n2", hello, members)
        assert (found == ACCEPTED) is accepted, (members.folders, joins, incarnation)
        if not accepted:
            assert not is_fatal(found.reason, "", joined=True)
    assert ours.another_folder("n9", replace(ours.hello("n2", TIP), joins=True), bound) == ACCEPTED


@pytest.mark.parametrize(
    ("reason", "stranger", "joined", "fatal"),
    [
        (IDENTITY, "", True, True),
        (IDENTITY, "the peer was wiped", True, False),
        (CONFIGURATION, "", False, True),
        (CONFIGURATION, "", True, False),
        ("cluster", "", False, True),
    ],
)
def test_a_refused_node_stops_only_if_running_on_could_do_harm(
    reason: str, stranger: str, joined: bool, fatal: bool
) -> None:
    assert is_fatal(reason, stranger, joined=joined) is fatal
