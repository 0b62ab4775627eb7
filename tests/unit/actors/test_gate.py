"""The gate and the codec: frames that are accepted, frames that are refused, and the answers to them."""

from __future__ import annotations

import os
import random
from typing import Any

import msgpack
import pytest

from forge_consensus.actors.codec import (
    CHECKSUM_PLACE,
    EXTENSION_BYTES_MAX,
    VERSION,
    Frame,
    decode,
    encode,
    sealed,
)
from forge_consensus.actors.messages import (
    AppendEntries,
    AppendReply,
    CheckPeer,
    CheckPeerReply,
    GetMembers,
    GetStatus,
    Hello,
    HelloReply,
    OpenSession,
    Read,
    Refused,
    RequestVote,
    Status,
    Submit,
    VoteReply,
)
from forge_consensus.actors.runtime.gate import DAMAGED, TERM_JUMP_MAX
from forge_consensus.errors import ClusterNotFoundError, IdentityError, ProtocolError
from tests.unit.actors.test_replication import follow, noop
from tests.worlds.one_node import OneNode
from tests.worlds.source_tree import ROOT

BYTES_MAX = 1 << 20
PEER = ("n2", "folder-n2", 1)
"""Sender, incarnation and boot of the peer n2, as `OneNode` knows it."""


def test_every_message_survives_the_wire() -> None:
    frame = Frame("replication", "demo", "n1", "abc", 3, 4, 9, 10**15, AppendEntries(1, 2, 3, 4, 5, (b"x", b"")))
    assert decode(encode(frame), BYTES_MAX) == frame
    submit = Frame("gateway", "", "", "", 0, 0, 1, 2, Submit(5, 1, ((1, b"a"), (2, b"b"))))
    assert decode(encode(submit), BYTES_MAX) == submit


def test_garbage_never_decodes_and_never_raises_anything_else() -> None:
    dice = random.Random(1)
    good = encode(Frame("gateway", "", "", "", 0, 0, 1, 2, Submit(5, 1, ((1, b"a"),))))
    for _ in range(3000):
        data = bytearray(good if dice.random() < 0.7 else os.urandom(dice.randrange(80)))
        for _ in range(dice.randrange(1, 4)):
            if data:
                data[dice.randrange(len(data))] = dice.randrange(256)
        if dice.random() < 0.3:
            data = data[: dice.randrange(len(data) + 1)]
        try:
            decode(bytes(data), BYTES_MAX)
        except ProtocolError:
            continue


def test_deep_nesting_and_size_are_limited() -> None:
    with pytest.raises(ProtocolError):
        decode(b"\x91" * 100_000, BYTES_MAX)
    with pytest.raises(ProtocolError, match="limit"):
        decode(b"\x00" * 11, 10)


def test_a_newer_message_with_more_fields_is_understood() -> None:
    parts = list(msgpack.unpackb(encode(Frame("health", "demo", "n2", "f", 1, 1, 1, 2, CheckPeer(7)))))
    data = sealed(msgpack.packb([*parts[:-1], "new", CHECKSUM_PLACE]))
    assert decode(data, BYTES_MAX).message == CheckPeer(7)


# --- the extension of the header -------------------------------------------------------------------------------------


def check(number: int, extension: Any) -> bytes:
    """A frame whose header has that extension, well formed or not."""
    return encode(Frame("health", "demo", "n2", "folder-n2", 1, 1, 1, 2, CheckPeer(number), extension))


def test_an_empty_extension_of_the_header_takes_one_byte() -> None:
    data = check(7, {})
    place = data.index(b"\x90")
    assert decode(data, BYTES_MAX).extension == {}
    with pytest.raises(ProtocolError, match="does not decode"):
        decode(sealed(data[:place] + data[place + 1 :]), BYTES_MAX)


@pytest.mark.parametrize("extension", [{1: 5}, {1: b"", 2: b"x" * EXTENSION_BYTES_MAX}, dict.fromkeys(range(16), 0)])
def test_an_extension_within_its_bounds_survives_the_wire(extension: Any) -> None:
    frame = Frame("health", "demo", "n2", "f", 1, 1, 1, 2, CheckPeer(7), extension)
    assert decode(encode(frame), BYTES_MAX) == frame


def test_a_node_ignores_an_extension_that_it_does_not_know() -> None:
    node = OneNode()
    boot = node.ledger.identity.boot
    node.turn((encode(Frame("health", "demo", *PEER, boot, 1, 2, CheckPeer(4), {99: b"from a newer node"})), "->n2"))
    assert node.last(CheckPeerReply).number == 4
    assert not node.engine.refusals.counts


@pytest.mark.parametrize(
    "extension",
    [
        ((1, b"x" * (EXTENSION_BYTES_MAX + 1)),),
        ((1, b"x" * EXTENSION_BYTES_MAX), (2, b"x")),
        tuple((key, 0) for key in range(17)),
        (("name", 1),),
        ((-1, 1),),
        ((1, "text"),),
        ((1, (2, 3)),),
        ((1, None),),
        ((1,),),
        (1, 2),
        None,
        b"",
        0,
    ],
)
def test_a_frame_with_an_oversized_or_malformed_extension_is_refused(extension: Any) -> None:
    parts = list(msgpack.unpackb(check(7, {})))
    parts[9] = extension
    with pytest.raises(ProtocolError, match="malformed header"):
        decode(sealed(msgpack.packb((*parts[:-1], CHECKSUM_PLACE))), BYTES_MAX)


# --- what is let in --------------------------------------------------------------------------------------------------


def test_a_frame_of_another_cluster_is_refused_and_told() -> None:
    node = OneNode()
    node.request("n2", "replication", AppendEntries(1, 1, 0, 1, 0, ()), cluster="other")
    assert not node.messages(AppendReply)
    node.request("", "gateway", GetStatus(), cluster="other")
    assert "cluster 'demo'" in node.last(Refused).text
    assert node.engine.refusals.counts["another cluster"] == 2


def test_a_client_of_before_the_cluster_was_made_anew_may_ask_which_one_it_is_and_nothing_else() -> None:
    node = OneNode()
    node.engine.ledger.identity.cluster_id = "demo~000000000002"
    for given in ("demo", "demo~000000000001"):
        node.request("", "gateway", GetStatus(), cluster=given)
        assert node.last(Status)
        for message in (Submit(1, 1, ((1, b""),)), Read("stale", ((1, b""),)), OpenSession(1000)):
            node.request("", "gateway", message, cluster=given)
            assert node.last(Refused).code == ClusterNotFoundError.code
    node.request("", "gateway", GetStatus(), cluster="other")
    assert node.last(Refused).code == ClusterNotFoundError.code


def test_a_client_reaches_only_the_gateway() -> None:
    node = OneNode()
    node.request("", "election", RequestVote(9, 9, 9))
    node.request("", "replication", AppendEntries(9, 1, 0, 1, 0, ()))
    node.request("n2", "gateway", RequestVote(9, 9, 9))
    assert node.ledger.term == 0
    assert not node.messages(VoteReply)
    node.request("", "gateway", GetStatus())
    assert node.last(Status).fields["node_id"] == "n1"


def test_a_frame_of_an_unknown_or_earlier_boot_is_answered_with_a_greeting() -> None:
    node = OneNode()
    for changed in ({"boot": 0}, {"incarnation": "wiped"}, {"to_boot": 99}):
        node.sent.clear()
        node.request("n2", "election", RequestVote(9, 9, 9), **changed)
        assert node.last(HelloReply).reason == "stranger"
    assert node.ledger.term == 0


def greeting(node: OneNode, **changed: Any) -> Hello:
    fields: dict[str, Any] = {
        "incarnation": "folder-n2",
        "boot": 1,
        "address": "x:1",
        "configuration_hash": node.configuration.digest,
        "configuration": node.configuration.text,
    }
    return Hello(**{**fields, **changed})


def test_a_wiped_folder_is_refused_for_good() -> None:
    node = OneNode()
    node.request("n2", "membership", greeting(node, incarnation="wiped"))
    reply = node.last(HelloReply)
    assert reply.reason == "identity"
    assert "wiped" in reply.detail
    again = OneNode(tables=node.tables.clone_durable(), greet=False)
    again.request("n2", "membership", greeting(again, incarnation="wiped"))
    assert again.last(HelloReply).reason == "identity"


def test_a_restored_folder_is_refused() -> None:
    node = OneNode()
    node.request("n2", "membership", greeting(node, boot=5))
    assert node.last(HelloReply).reason == ""
    node.request("n2", "membership", greeting(node, boot=4))
    assert "restored" in node.last(HelloReply).detail


def test_a_boot_is_on_disk_before_the_greeting_is_answered() -> None:
    node = OneNode()
    node.sent.clear()
    node.request("n2", "membership", greeting(node, boot=2))
    assert [to for to, _ in node.sent] == ["disk", "->n2"]


def test_differing_lists_of_members_refuse_each_other_showing_both() -> None:
    node = OneNode()
    node.request("n2", "membership", greeting(node, configuration_hash="0", configuration="n2=b:2"))
    detail = node.last(HelloReply).detail
    assert "n2=b:2" in detail
    assert node.configuration.text in detail


def test_a_node_stops_when_its_peers_do_not_recognise_it() -> None:
    node = OneNode()
    with pytest.raises(IdentityError, match="refused this node"):
        node.answer("n2", "membership", HelloReply("folder-n2", 1, "identity", "wiped"))


def test_a_node_is_not_ended_by_a_peer_that_lost_its_identity() -> None:
    node = OneNode()
    other = "another-folder"
    node.answer("n2", "membership", HelloReply(other, 9, "identity", "wiped"), incarnation=other, boot=9)
    assert node.engine.refusals.counts["greeting refused: identity"] == 1
    node.sent.clear()
    node.wait(6.0)
    assert "n2" in [to for to, _ in node.messages(Hello)]


def test_an_admitted_node_does_not_stop_when_a_newcomer_refuses_its_list() -> None:
    node = OneNode()
    follow(node, 1, noop(2, 1), commit=2)
    node.answer("n3", "membership", HelloReply("folder-n3", 1, "configuration", "another list"))


def test_a_check_is_answered() -> None:
    node = OneNode()
    node.request("n2", "health", CheckPeer(4))
    assert node.last(CheckPeerReply).number == 4


def test_an_unrequested_answer_neither_stops_the_node_nor_moves_a_boot() -> None:
    node = OneNode()
    node.request("n2", "membership", HelloReply("x", 9, "identity", "go away"))
    node.request("", "membership", HelloReply("x", 9, "identity", "go away"))
    node.request("n2", "membership", HelloReply("folder-n2", 900, "", ""), boot=900)
    assert node.ledger.identity.boots["n2"] == ("folder-n2", 1)


def test_a_frame_of_another_version_is_refused_with_both_versions_whatever_its_header_is() -> None:
    with pytest.raises(ProtocolError, match="protocol version 1, this program speaks 3"):
        decode(msgpack.packb((1, "health", "demo", "n2", "f", 1, 1, 1, 2, 71, 7)), BYTES_MAX)


def of_next_version(data: bytes) -> bytes:
    """The frame as a program of the next protocol version would send it."""
    version, *parts = msgpack.unpackb(data)
    return sealed(msgpack.packb((version + 1, *parts[:-1], CHECKSUM_PLACE)))


def test_a_node_of_another_version_that_joins_is_answered_so_that_it_says_why_it_is_refused() -> None:
    """It first asks as a client who the members are, and could not tell a node that is silent from one that is not."""
    node = OneNode()
    text = f"frame of protocol version {VERSION + 1}, this program speaks {VERSION}"
    node.turn((of_next_version(encode(Frame("gateway", "", "", "", 0, 0, 7, 2, GetMembers()))), "->client"))
    assert [(to, message.text) for to, message in node.messages(Refused)] == [("->client", text)]
    with pytest.raises(ProtocolError, match=f"version {VERSION + 1}, this program speaks {VERSION}"):
        decode(of_next_version(encode(node.frames[-1])), BYTES_MAX)
    node.turn((of_next_version(encode(node.frames[-1])), None))
    assert len(node.messages(Refused)) == 1, "an answer is not answered, so that two versions do not go on for ever"
    assert node.engine.refusals.counts == {ProtocolError.code: 2}


def test_a_damaged_frame_is_dropped_and_counted_and_the_next_one_is_answered() -> None:
    node = OneNode()
    whole = encode(Frame("health", "demo", *PEER, node.ledger.identity.boot, 1, 2, CheckPeer(4)))
    for place in range(len(whole)):
        node.turn((whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :], "->n2"))
    assert not node.messages(CheckPeerReply)
    assert node.engine.refusals.counts[DAMAGED] >= len(whole) - 4
    node.turn((whole, "->n2"))
    assert node.last(CheckPeerReply).number == 4


@pytest.mark.parametrize("message", [RequestVote((1 << 63) - 1, 9, 9), AppendEntries((1 << 63) - 1, 1, 0, 1, 0, ())])
def test_a_term_that_no_election_reaches_does_not_move_ours(message: Any) -> None:
    node = OneNode()
    before = node.ledger.term
    node.request("n2", "election" if type(message) is RequestVote else "replication", message)
    assert node.ledger.term == before
    assert node.engine.refusals.counts[ProtocolError.code] == 1
    node.request("n2", "election", RequestVote(before + TERM_JUMP_MAX, 9, 9))
    assert node.ledger.term == before + TERM_JUMP_MAX


def test_the_protocol_page_names_the_version_that_frames_carry() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    assert f"version of the protocol, now {VERSION};" in page
